//! The named places at which a test may kill the process, in the order of a rollout.

/// A request is durable.
pub(crate) const REQUESTED: &str = "deploy.request.after";
/// A release is about to be composed.
pub(crate) const COMPOSE_BEFORE: &str = "deploy.compose.before";
/// A release was composed and its rollout has begun.
pub(crate) const COMPOSE_AFTER: &str = "deploy.compose.after";
/// The intent of a release command is durable, the command not started.
pub(crate) const COMMAND_INTENDED: &str = "deploy.command.intended";
/// A release command was started, which is not recorded yet.
pub(crate) const COMMAND_STARTED: &str = "deploy.command.started";
/// A release command has ended, which is not recorded yet.
pub(crate) const COMMAND_ENDED: &str = "deploy.command.ended";
/// Replicas are recorded, none of them started.
pub(crate) const REPLICAS_ADDED: &str = "deploy.replica.added";
/// The files of an image stand, its replica is not started.
pub(crate) const IMAGE_AFTER: &str = "deploy.image.after";
/// A replica was started, which is not recorded yet.
pub(crate) const REPLICA_STARTED: &str = "deploy.replica.started";
/// A replica is ready, which is not recorded yet.
pub(crate) const READY_BEFORE: &str = "deploy.replica.ready.before";
/// A rollout has got a share of the traffic, not routed yet.
pub(crate) const SHIFT_AFTER: &str = "deploy.shift.after";
/// A rollout is about to take all traffic.
pub(crate) const SWAP_BEFORE: &str = "deploy.swap.before";
/// The decision to swap is durable, no route has changed.
pub(crate) const SWAP_INTENDED: &str = "deploy.swap.intended";
/// A routing table is durable, no gateway has it.
pub(crate) const ROUTES_PERSISTED: &str = "deploy.routes.persisted";
/// Every live gateway has a routing table, which is not recorded yet.
pub(crate) const ROUTES_APPLIED: &str = "deploy.routes.applied";
/// The acknowledgement is recorded.
pub(crate) const ROUTES_ACKNOWLEDGED: &str = "deploy.routes.acknowledged";
/// All traffic goes to the new release, which is not recorded yet.
pub(crate) const FINISH_BEFORE: &str = "deploy.finish.before";
/// The new release is current.
pub(crate) const FINISH_AFTER: &str = "deploy.finish.after";
/// A replica drains.
pub(crate) const DRAIN_AFTER: &str = "deploy.drain.after";
/// A drained replica is about to be stopped.
pub(crate) const STOP_BEFORE: &str = "deploy.stop.before";
/// A replica was stopped, which is not recorded yet.
pub(crate) const STOP_AFTER: &str = "deploy.stop.after";
/// A rollout is about to be recorded as failed.
pub(crate) const FAIL_BEFORE: &str = "deploy.fail.before";
/// A rollout was recorded as failed.
pub(crate) const FAIL_AFTER: &str = "deploy.fail.after";
/// Events were read, what follows from them is not recorded.
pub(crate) const FOLLOW_BEFORE: &str = "deploy.follow.before";
/// Nothing of a deleted project runs any more, its files are still there.
pub(crate) const FORGET_DRAINED: &str = "deploy.forget.drained";
/// The files of a deleted project are gone, its last rows are still there.
pub(crate) const FORGET_REMOVED: &str = "deploy.forget.removed";

/// Every crash point of this room.
pub const CRASH_POINTS: &[&str] = &[
    REQUESTED,
    COMPOSE_BEFORE,
    COMPOSE_AFTER,
    COMMAND_INTENDED,
    COMMAND_STARTED,
    COMMAND_ENDED,
    REPLICAS_ADDED,
    IMAGE_AFTER,
    REPLICA_STARTED,
    READY_BEFORE,
    SHIFT_AFTER,
    SWAP_BEFORE,
    SWAP_INTENDED,
    ROUTES_PERSISTED,
    ROUTES_APPLIED,
    ROUTES_ACKNOWLEDGED,
    FINISH_BEFORE,
    FINISH_AFTER,
    DRAIN_AFTER,
    STOP_BEFORE,
    STOP_AFTER,
    FAIL_BEFORE,
    FAIL_AFTER,
    FOLLOW_BEFORE,
    FORGET_DRAINED,
    FORGET_REMOVED,
];
