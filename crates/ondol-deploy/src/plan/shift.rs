//! The second half of a rollout: traffic moves, by steps or at once, and is taken back when the
//! new release does not hold.

use std::time::Duration;

use super::replicas::answers;
use super::rollout::{fail, hopeless, step_to};
use super::{Decision, Plan, Record, Sight, Stand, World, decide};
use crate::model::{Phase, Release, ReplicaState, Rollout, RolloutState};
use crate::routes::ReleaseTraffic;

fn none_ready(world: &World<'_>, rollout: &Rollout, release: &Release) -> bool {
    world.wanted(release) > 0
        && !world
            .of(rollout.id)
            .any(|replica| matches!(replica.state, ReplicaState::Ready | ReplicaState::Unhealthy))
}

/// Whether every live gateway shows the state and step.
fn shown(world: &World<'_>, rollout: &Rollout) -> bool {
    rollout
        .phase
        .generation
        .is_some_and(|generation| world.acked >= generation)
}

fn lost(
    world: &World<'_>,
    sight: &Sight<'_>,
    plan: &mut Plan,
    rollout: &Rollout,
    release: &Release,
) -> bool {
    if let Some((replica, message)) = hopeless(world, sight, rollout) {
        fail(plan, sight, rollout, Some(replica), message);
        return true;
    }
    if none_ready(world, rollout, release) {
        let replica = world.of(rollout.id).next();
        let said = replica
            .and_then(|replica| replica.detail.clone())
            .unwrap_or_default();
        fail(
            plan,
            sight,
            rollout,
            replica,
            format!("no new replica is ready any more: {said}"),
        );
        return true;
    }
    false
}

fn traffic_of(
    sight: &Sight<'_>,
    release: Option<ondol_types::ReleaseId>,
) -> Option<ReleaseTraffic> {
    let counters = sight.counters?;
    // A release that nobody asked for has no row: that is a count of zero.
    Some(
        release
            .and_then(|id| counters.releases.get(&id).cloned())
            .unwrap_or_default(),
    )
}

pub(super) fn plan_shift(
    world: &World<'_>,
    sight: &Sight<'_>,
    plan: &mut Plan,
    rollout: &Rollout,
    release: &Release,
) {
    if lost(world, sight, plan, rollout, release) {
        return;
    }
    if !shown(world, rollout) {
        swap_deadline(
            sight,
            plan,
            rollout,
            "the gateway did not acknowledge the canary's share",
        );
        return;
    }
    let canary = traffic_of(sight, rollout.to);
    let current = traffic_of(sight, world.environment.current);
    let Some(since) = rollout.phase.since else {
        let without_counters = sight.now.since(sight.since(rollout.since))
            >= release.config.release.patience.duration();
        if canary.is_some() || release.config.release.check.is_none() {
            let phase = Phase {
                step: rollout.phase.step,
                canary,
                current,
                ..Phase::default()
            };
            plan.record(Record::Measure {
                rollout: rollout.id,
                state: rollout.state,
                phase,
            });
        } else if without_counters {
            let message = "the gateway's counters cannot be read, so the canary cannot be judged";
            plan.record(step_to(
                rollout,
                RolloutState::Paused,
                rollout.phase.step,
                message,
            ));
        } else {
            plan.look_at(sight.now.plus(Duration::from_secs(1)));
        }
        return;
    };
    let zero = ReleaseTraffic::default();
    let measured = canary.zip(current).map(|(canary, current)| {
        (
            canary.since(rollout.phase.canary.as_ref().unwrap_or(&zero)),
            current.since(rollout.phase.current.as_ref().unwrap_or(&zero)),
        )
    });
    let stand = Stand {
        step: rollout.phase.step,
        since,
        now: sight.now,
        traffic: measured.as_ref().map(|(canary, current)| (canary, current)),
    };
    match decide(&release.config.release, &stand) {
        Decision::Wait { .. } => plan.look_at(sight.now.plus(Duration::from_secs(1))),
        Decision::Advance => {
            let step = rollout.phase.step + 1;
            let share = release
                .config
                .release
                .steps
                .get(step as usize)
                .copied()
                .unwrap_or(100);
            plan.record(step_to(
                rollout,
                RolloutState::Shifting,
                step,
                format!("{share} % of the traffic"),
            ));
        }
        Decision::Swap => {
            plan.record(step_to(
                rollout,
                RolloutState::Swapping,
                rollout.phase.step,
                "all traffic moves",
            ));
        }
        Decision::Pause { why } => {
            plan.record(step_to(
                rollout,
                RolloutState::Paused,
                rollout.phase.step,
                why,
            ));
        }
        Decision::Abort { why } => fail(plan, sight, rollout, None, why),
    }
}

pub(super) fn plan_pause(
    world: &World<'_>,
    sight: &Sight<'_>,
    plan: &mut Plan,
    rollout: &Rollout,
    release: &Release,
) {
    lost(world, sight, plan, rollout, release);
}

pub(super) fn plan_swap(
    world: &World<'_>,
    sight: &Sight<'_>,
    plan: &mut Plan,
    rollout: &Rollout,
    release: &Release,
) {
    if none_ready(world, rollout, release) {
        // The old replicas are all there still, and the table gives them the traffic back.
        lost(world, sight, plan, rollout, release);
        return;
    }
    // The old replicas leave at the end, so it must not be the end while nothing new answers.
    let answer =
        world.wanted(release) == 0 || world.of(rollout.id).any(|replica| answers(sight, replica));
    if !shown(world, rollout) {
        swap_deadline(
            sight,
            plan,
            rollout,
            "the gateway did not acknowledge the new routes",
        );
    } else if answer {
        plan.record(Record::Finish {
            rollout: rollout.id,
        });
    } else {
        swap_deadline(sight, plan, rollout, "no new replica answered any more");
    }
}

fn swap_deadline(sight: &Sight<'_>, plan: &mut Plan, rollout: &Rollout, what: &str) {
    let deadline = sight.since(rollout.since).plus(sight.limits.swap);
    if sight.now >= deadline {
        let message = format!("{what} within {} s", sight.limits.swap.as_secs());
        fail(plan, sight, rollout, None, message);
    } else {
        plan.look_at(deadline);
    }
}
