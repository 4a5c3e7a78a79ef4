//! The state machine of a rollout, in kamal-proxy's order: start the new, probe it outside any
//! lock until all of it is healthy, move the routes once, then let the old drain.

use ondol_spec::model::Strategy;

use super::{Cause, Effect, Plan, Record, Sight, World, shift};
use crate::model::{CommandState, Kind, Release, Replica, ReplicaState, Rollout, RolloutState};

pub(super) fn plan_rollout(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan) {
    if let Some(running) = world.running {
        if let Some(newer) = world.pending.filter(|newer| due(newer, sight, plan))
            && may_be_superseded(world, running, newer)
        {
            plan.record(Record::Supersede {
                rollout: running.id,
                from: running.state,
                by: newer.id,
            });
            return;
        }
        plan_running(world, sight, plan, running);
    } else if let Some(pending) = world.pending {
        if due(pending, sight, plan) {
            plan.effect(sight, Effect::Compose(pending.id));
        }
    } else if let Some(held) = world.held
        && world.environment.hold.is_none()
    {
        // The hold was lifted while a rollback was on its way.
        plan.record(step_to(
            held,
            RolloutState::Pending,
            0,
            "waiting for its turn",
        ));
    }
}

fn due(pending: &Rollout, sight: &Sight<'_>, plan: &mut Plan) -> bool {
    match pending.not_before {
        Some(moment) if moment > sight.now => {
            plan.look_at(moment);
            false
        }
        _ => true,
    }
}

/// A migration in the middle is not cut off, one that failed is told first, and a swap that was
/// decided is finished. A restart waits for what runs: that starts new replicas itself, and its
/// release command is not to be run again. Automation does not take a person's rollback away.
fn may_be_superseded(world: &World<'_>, running: &Rollout, newer: &Rollout) -> bool {
    let by_kind = match newer.kind {
        Kind::Restart => false,
        Kind::Deploy => running.kind != Kind::Rollback || newer.reason.is_human(),
        Kind::Rollback => true,
    };
    let by_state = match running.state {
        RolloutState::Swapping => false,
        RolloutState::ReleaseCommand => world
            .command
            .is_none_or(|command| command.state == CommandState::Succeeded),
        _ => true,
    };
    by_kind && by_state
}

fn plan_running(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan, rollout: &Rollout) {
    let Some(release) = world.release(rollout.to) else {
        fail(plan, sight, rollout, None, "its release is gone".to_owned());
        return;
    };
    match rollout.state {
        RolloutState::ReleaseCommand => plan_command(world, sight, plan, rollout, release),
        RolloutState::Starting | RolloutState::Probing => {
            plan_start(world, sight, plan, rollout, release)
        }
        RolloutState::Shifting => shift::plan_shift(world, sight, plan, rollout, release),
        RolloutState::Paused => shift::plan_pause(world, sight, plan, rollout, release),
        RolloutState::Swapping => shift::plan_swap(world, sight, plan, rollout, release),
        RolloutState::Pending
        | RolloutState::Held
        | RolloutState::Done
        | RolloutState::Failed
        | RolloutState::Aborted => {}
    }
}

pub(super) fn step_to(
    rollout: &Rollout,
    to: RolloutState,
    step: u32,
    message: impl Into<String>,
) -> Record {
    Record::Move {
        rollout: rollout.id,
        from: rollout.state,
        to,
        step,
        message: message.into(),
    }
}

pub(super) fn fail(
    plan: &mut Plan,
    sight: &Sight<'_>,
    rollout: &Rollout,
    replica: Option<&Replica>,
    message: String,
) {
    let cause = Cause {
        message,
        replica: replica.map(|replica| replica.id),
        command: false,
    };
    fail_with(plan, sight, rollout, cause);
}

fn fail_with(plan: &mut Plan, sight: &Sight<'_>, rollout: &Rollout, cause: Cause) {
    // While a failure is being recorded, another cause changes nothing.
    let failing = sight
        .busy
        .iter()
        .any(|effect| matches!(effect, Effect::Fail(id, _) if *id == rollout.id));
    if !failing {
        plan.effect(sight, Effect::Fail(rollout.id, cause));
    }
}

fn plan_command(
    world: &World<'_>,
    sight: &Sight<'_>,
    plan: &mut Plan,
    rollout: &Rollout,
    release: &Release,
) {
    let Some(spec) = &release.config.release.command else {
        plan.record(step_to(rollout, RolloutState::Starting, 0, "starting"));
        return;
    };
    let starting = sight.busy.contains(&Effect::Command(rollout.id));
    match world.command.map(|command| command.state) {
        None => plan.effect(sight, Effect::Command(rollout.id)),
        Some(CommandState::Intended) if starting => {}
        Some(CommandState::Intended) => plan.effect(sight, Effect::Resolve(rollout.id)),
        Some(CommandState::Started) => plan.effect(sight, Effect::Await(rollout.id)),
        Some(CommandState::Succeeded) => {
            plan.record(step_to(
                rollout,
                RolloutState::Starting,
                0,
                "the release command succeeded; starting",
            ));
        }
        Some(state @ (CommandState::Failed | CommandState::Unknown)) => {
            let detail = world
                .command
                .and_then(|command| command.detail.clone())
                .unwrap_or_else(|| "its outcome is unknown".to_owned());
            let message = if state == CommandState::Unknown {
                format!(
                    "the outcome of the release command `{}` is unknown, and it is never repeated by itself: {detail}",
                    spec.run
                )
            } else {
                format!("the release command `{}` {detail}", spec.run)
            };
            fail_with(
                plan,
                sight,
                rollout,
                Cause {
                    message,
                    replica: None,
                    command: true,
                },
            );
        }
    }
}

/// Replicas that gave up, or ended too often.
pub(super) fn hopeless<'a>(
    world: &'a World<'_>,
    sight: &Sight<'_>,
    rollout: &Rollout,
) -> Option<(&'a Replica, String)> {
    world.of(rollout.id).find_map(|replica| {
        let said = replica.detail.clone().unwrap_or_else(|| "ended".to_owned());
        if replica.fatal {
            Some((replica, format!("a replica could not be started: {said}")))
        } else if replica.failures >= sight.limits.tries {
            Some((
                replica,
                format!(
                    "a replica ended {} times in a row: {said}",
                    replica.failures
                ),
            ))
        } else {
            None
        }
    })
}

fn plan_start(
    world: &World<'_>,
    sight: &Sight<'_>,
    plan: &mut Plan,
    rollout: &Rollout,
    release: &Release,
) {
    if let Some((replica, message)) = hopeless(world, sight, rollout) {
        fail(plan, sight, rollout, Some(replica), message);
        return;
    }
    let want = world.wanted(release);
    let mine: Vec<&Replica> = world.of(rollout.id).collect();
    if (mine.len() as u32) < want {
        plan.record(Record::Add {
            rollout: rollout.id,
            release: release.id,
            want,
        });
        return;
    }
    let since = sight.since(rollout.since);
    if rollout.state == RolloutState::Starting {
        if mine.iter().all(|replica| replica.started_at.is_some()) {
            plan.record(step_to(
                rollout,
                RolloutState::Probing,
                0,
                "waiting until every replica is ready",
            ));
        } else {
            let deadline = since.plus(sight.limits.prepare);
            if sight.now >= deadline {
                let late = mine
                    .iter()
                    .find(|replica| replica.started_at.is_none())
                    .copied();
                let message = format!(
                    "a replica could not be started within {} s",
                    sight.limits.prepare.as_secs()
                );
                fail(plan, sight, rollout, late, message);
            } else {
                plan.look_at(deadline);
            }
        }
        return;
    }
    let ready = mine
        .iter()
        .filter(|replica| replica.state == ReplicaState::Ready)
        .count();
    if ready == mine.len() {
        if is_canary(world, rollout, release) {
            plan.record(step_to(
                rollout,
                RolloutState::Shifting,
                0,
                format!("{} % of the traffic", release.config.release.steps[0]),
            ));
        } else {
            plan.record(step_to(
                rollout,
                RolloutState::Swapping,
                0,
                "all traffic moves",
            ));
        }
        return;
    }
    let patience = release.config.service.health.deadline.duration();
    let deadline = since.plus(patience);
    if sight.now >= deadline {
        let late = mine
            .iter()
            .find(|replica| replica.state != ReplicaState::Ready)
            .copied();
        let message = format!(
            "{} of {} replicas did not become ready within {} s",
            mine.len() - ready,
            mine.len(),
            patience.as_secs_f64()
        );
        fail(plan, sight, rollout, late, message);
    } else {
        plan.look_at(deadline);
    }
}

/// A canary needs a release beside it that serves.
fn is_canary(world: &World<'_>, rollout: &Rollout, release: &Release) -> bool {
    rollout.strategy == Strategy::Canary
        && world.environment.current.is_some()
        && world.environment.current != rollout.to
        && release
            .config
            .release
            .steps
            .first()
            .is_some_and(|step| *step < 100)
}
