//! The state machine of a rollout, in kamal-proxy's order: start the new, probe it outside any
//! lock until all of it is healthy, move the routes once, then let the old drain.

use std::time::Duration;

use ondol_spec::model::Strategy;

use super::{Cause, Decision, Effect, Plan, Record, Sight, Stand, World, decide};
use crate::model::{CommandState, Phase, Release, Replica, ReplicaState, Rollout, RolloutState};
use crate::routes::ReleaseTraffic;

pub(super) fn plan_rollout(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan) {
    if let Some(running) = world.running {
        if let Some(newer) = world.pending.filter(|newer| due(newer, sight, plan))
            && may_be_superseded(world, running)
        {
            plan.record(Record::Supersede {
                rollout: running.id,
                from: running.state,
                by: newer.id,
            });
            return;
        }
        plan_running(world, sight, plan, running);
    } else if let Some(pending) = world.pending.filter(|pending| due(pending, sight, plan)) {
        plan.effect(sight, Effect::Compose(pending.id));
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

/// A migration in the middle is not cut off, and a swap that was decided is finished.
fn may_be_superseded(world: &World<'_>, running: &Rollout) -> bool {
    match running.state {
        RolloutState::Swapping => false,
        RolloutState::ReleaseCommand => !world.command.is_some_and(|command| {
            matches!(
                command.state,
                CommandState::Intended | CommandState::Started
            )
        }),
        _ => true,
    }
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
        RolloutState::Shifting => plan_shift(world, sight, plan, rollout, release),
        RolloutState::Paused => plan_pause(world, sight, plan, rollout, release),
        RolloutState::Swapping => plan_swap(world, sight, plan, rollout, release),
        RolloutState::Pending
        | RolloutState::Held
        | RolloutState::Done
        | RolloutState::Failed
        | RolloutState::Aborted => {}
    }
}

fn step_to(rollout: &Rollout, to: RolloutState, step: u32, message: impl Into<String>) -> Record {
    Record::Move {
        rollout: rollout.id,
        from: rollout.state,
        to,
        step,
        message: message.into(),
    }
}

fn fail(
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
fn hopeless<'a>(
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

fn plan_shift(
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
        swap_deadline(sight, plan, rollout, "the canary's share");
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

fn plan_pause(
    world: &World<'_>,
    sight: &Sight<'_>,
    plan: &mut Plan,
    rollout: &Rollout,
    release: &Release,
) {
    lost(world, sight, plan, rollout, release);
}

fn plan_swap(
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
    if shown(world, rollout) {
        plan.record(Record::Finish {
            rollout: rollout.id,
        });
    } else {
        swap_deadline(sight, plan, rollout, "the new routes");
    }
}

fn swap_deadline(sight: &Sight<'_>, plan: &mut Plan, rollout: &Rollout, what: &str) {
    let deadline = sight.since(rollout.since).plus(sight.limits.swap);
    if sight.now >= deadline {
        let message = format!(
            "the gateway did not acknowledge {what} within {} s",
            sight.limits.swap.as_secs()
        );
        fail(plan, sight, rollout, None, message);
    } else {
        plan.look_at(deadline);
    }
}
