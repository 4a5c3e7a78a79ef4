//! Every replica by itself: started, probed, started again after its end, drained, stopped; and
//! how many of them the current release keeps.

use std::time::Duration;

use super::{Effect, Plan, Record, Seen, Sight, World};
use crate::model::{Probes, Release, Replica, ReplicaState, RolloutState};
use crate::store::Ended;

/// A new replica is probed this often while nothing listens there yet, so that a program which
/// starts fast is seen fast.
const EAGER: Duration = Duration::from_millis(40);
const EAGER_FOR: Duration = Duration::from_secs(3);

pub(super) fn plan_replicas(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan) {
    let environment = world.environment;
    for replica in world.replicas.iter().copied() {
        let owner = Some(replica.rollout);
        let wanted =
            owner == environment.serving || owner == world.running.map(|rollout| rollout.id);
        match replica.state {
            ReplicaState::Draining => plan_drain(world, sight, plan, replica),
            ReplicaState::Stopped => {}
            ReplicaState::Standby => plan_standby(sight, plan, replica),
            _ if !wanted && carries(world, sight, replica) => {
                if let Some(release) = world.release(Some(replica.release)) {
                    plan_probe(sight, plan, replica, release);
                }
            }
            state if !wanted => {
                // What no rollout wants any more leaves: of a failed or aborted one, of the one before.
                plan.record(Record::Drain {
                    replica: replica.id,
                    incarnation: replica.incarnation,
                    from: state,
                });
            }
            _ => plan_wanted(world, sight, plan, replica),
        }
    }
    keep_count(world, sight, plan);
}

/// Whether a replica is up and answers, as far as anything here knows.
pub(super) fn answers(sight: &Sight<'_>, replica: &Replica) -> bool {
    replica.state == ReplicaState::Ready
        && sight.seen(replica) == Seen::Up
        && known(sight, replica).is_none_or(|probes| probes.failures < sight.limits.unhealthy)
}

/// Whether a replica that no rollout wants any more stays for the traffic that it has: a canary
/// that ends must not take the last answer of the environment with it. Traffic goes back only to
/// what answers.
fn carries(world: &World<'_>, sight: &Sight<'_>, replica: &Replica) -> bool {
    let up = matches!(replica.state, ReplicaState::Ready | ReplicaState::Unhealthy)
        && sight.seen(replica) == Seen::Up;
    let served = world
        .release(world.environment.current)
        .is_some_and(|current| world.wanted(current) > 0);
    if !replica.routed || !up || !served {
        return false;
    }
    let running = world
        .running
        .filter(|rollout| rollout.state.is_routed())
        .map(|rollout| rollout.id);
    let owners = [world.environment.serving, running];
    !world
        .replicas
        .iter()
        .any(|other| owners.contains(&Some(other.rollout)) && answers(sight, other))
}

/// The current release keeps as many replicas as it is to have, also while another is on its way.
fn keep_count(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan) {
    let swapping = world
        .running
        .is_some_and(|rollout| rollout.state == RolloutState::Swapping);
    let counted = [
        world
            .environment
            .serving
            .zip(world.environment.current)
            .filter(|_| !swapping),
        world
            .running
            .filter(|rollout| {
                !matches!(
                    rollout.state,
                    RolloutState::ReleaseCommand | RolloutState::Starting | RolloutState::Probing
                )
            })
            .and_then(|rollout| Some((rollout.id, rollout.to?))),
    ];
    for (rollout, release) in counted.into_iter().flatten() {
        let Some(release) = world.release(Some(release)) else {
            continue;
        };
        let want = world.wanted(release);
        let mine: Vec<&Replica> = world.of(rollout).collect();
        if (mine.len() as u32) < want {
            plan.record(Record::Add {
                rollout,
                release: release.id,
                want,
            });
        }
        drain_surplus(sight, plan, mine, want);
    }
    if let Some((rollout, release)) = world
        .running
        .and_then(|rollout| Some((rollout, world.release(rollout.to)?)))
    {
        let mine: Vec<&Replica> = world.of(rollout.id).collect();
        if matches!(
            rollout.state,
            RolloutState::Starting | RolloutState::Probing
        ) {
            drain_surplus(sight, plan, mine, world.wanted(release));
        }
    }
}

fn drain_surplus(sight: &Sight<'_>, plan: &mut Plan, mut mine: Vec<&Replica>, want: u32) {
    let surplus = mine.len().saturating_sub(want as usize);
    if surplus == 0 {
        return;
    }
    let worth = |replica: &Replica| match replica.state {
        ReplicaState::Failed => 0,
        ReplicaState::Starting => 1,
        ReplicaState::Unhealthy => 2,
        // It is about to be one of those above.
        _ if !answers(sight, replica) => 0,
        _ => 3,
    };
    mine.sort_by_key(|replica| {
        (
            worth(replica),
            std::cmp::Reverse((replica.created_at, replica.id)),
        )
    });
    for replica in mine.into_iter().take(surplus) {
        plan.record(Record::Drain {
            replica: replica.id,
            incarnation: replica.incarnation,
            from: replica.state,
        });
    }
}

fn plan_wanted(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan, replica: &Replica) {
    if replica.state == ReplicaState::Failed {
        let due = replica.next_start_at.unwrap_or(sight.now);
        let served = world.environment.serving == Some(replica.rollout);
        if replica.fatal && !served {
            // Its rollout fails at this. A release that served before is tried again and again.
        } else if sight.now >= due {
            plan.record(Record::Restart {
                replica: replica.id,
                incarnation: replica.incarnation,
            });
        } else {
            plan.look_at(due);
        }
        return;
    }
    let Some(started_at) = replica.started_at else {
        plan.effect(sight, Effect::Start(replica.id, replica.incarnation));
        return;
    };
    match sight.seen(replica) {
        Seen::Up => {}
        Seen::Exited(exit) => {
            let ran = exit.at.since(started_at);
            let detail = exit.describe();
            plan.record(ended(sight, replica, ran, detail));
            return;
        }
        Seen::Missing => {
            plan.record(ended(
                sight,
                replica,
                Duration::ZERO,
                "the engine does not know it any more".to_owned(),
            ));
            return;
        }
    }
    let Some(release) = world.release(Some(replica.release)) else {
        return;
    };
    plan_probe(sight, plan, replica, release);
}

fn ended(sight: &Sight<'_>, replica: &Replica, ran: Duration, detail: String) -> Record {
    let failures = sight.backoff.failures_after(replica.failures, ran);
    let ended = Ended {
        failures,
        fatal: false,
        next_start_at: sight.now.plus(sight.backoff.delay(failures)),
        detail,
        probes: known(sight, replica).map(Probes::list).unwrap_or_default(),
        incarnation: replica.incarnation,
    };
    Record::Failed {
        replica: replica.id,
        incarnation: replica.incarnation,
        from: replica.state,
        ended,
    }
}

fn known<'a>(sight: &'a Sight<'_>, replica: &Replica) -> Option<&'a Probes> {
    sight
        .probes
        .get(&replica.id)
        .filter(|probes| probes.incarnation == replica.incarnation)
}

fn plan_probe(sight: &Sight<'_>, plan: &mut Plan, replica: &Replica, release: &Release) {
    let probes = known(sight, replica);
    let list = || probes.map(Probes::list).unwrap_or_default();
    let (successes, failures) = probes.map_or((0, 0), |probes| (probes.successes, probes.failures));
    let last = probes.and_then(Probes::last);
    match replica.state {
        // An answer counts for the state it was asked in.
        ReplicaState::Starting | ReplicaState::Unhealthy
            if successes > 0 && last.is_some_and(|probe| probe.at >= replica.since) =>
        {
            plan.record(Record::Ready {
                replica: replica.id,
                incarnation: replica.incarnation,
                probes: list(),
            });
            return;
        }
        ReplicaState::Ready if failures >= sight.limits.unhealthy => {
            let detail = last.map_or_else(|| "does not answer".to_owned(), ToString::to_string);
            plan.record(Record::Unhealthy {
                replica: replica.id,
                incarnation: replica.incarnation,
                probes: list(),
                detail,
            });
            return;
        }
        ReplicaState::Unhealthy
            if sight.now.since(sight.since(replica.since)) >= sight.limits.recycle =>
        {
            plan.effect(sight, Effect::Recycle(replica.id, replica.incarnation));
            return;
        }
        _ => {}
    }
    let health = &release.config.service.health;
    let pause = match replica.state {
        ReplicaState::Ready if failures == 0 => health.interval.duration().max(sight.limits.watch),
        ReplicaState::Starting
            if last.is_none_or(|probe| probe.status.is_none())
                && replica
                    .started_at
                    .is_some_and(|at| sight.now.since(at) < EAGER_FOR) =>
        {
            health.interval.duration().min(EAGER)
        }
        _ => health.interval.duration().max(EAGER),
    };
    let due = last.map_or(sight.now, |probe| probe.at.plus(pause));
    if sight.now >= due {
        plan.effect(sight, Effect::Probe(replica.id, replica.incarnation));
    } else {
        plan.look_at(due);
    }
}

fn plan_standby(sight: &Sight<'_>, plan: &mut Plan, replica: &Replica) {
    if sight.seen(replica) != Seen::Up {
        plan.record(Record::Drain {
            replica: replica.id,
            incarnation: replica.incarnation,
            from: replica.state,
        });
    }
}

/// A replica stops only when every live gateway has a table without it and it has nothing in
/// progress, or its time is over.
fn plan_drain(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan, replica: &Replica) {
    let starting = sight
        .busy
        .iter()
        .any(|effect| matches!(effect, Effect::Start(id, _) if *id == replica.id));
    if starting {
        return;
    }
    let gone = replica.started_at.is_some() && sight.seen(replica) != Seen::Up;
    if !gone && !replica.is_out(world.acked) {
        // The acknowledgement wakes this room.
        return;
    }
    if let Some(out_at) = replica.out_at.filter(|_| !gone) {
        let service = world
            .release(Some(replica.release))
            .map(|release| &release.config.service);
        let patience = service.map_or(Duration::from_secs(30), |service| {
            service
                .drain
                .duration()
                .max(service.websocket_grace.duration())
        });
        let deadline = out_at.plus(patience);
        let quiet = sight.counters.is_some_and(|counters| {
            counters
                .replicas
                .get(&replica.endpoint)
                .is_none_or(|traffic| traffic.in_flight == 0 && traffic.tunnels == 0)
        });
        if !quiet && sight.now < deadline {
            plan.look_at(deadline.min(sight.now.plus(sight.limits.look)));
            return;
        }
    }
    plan.effect(sight, Effect::Stop(replica.id));
}

/// An environment on its way out: everything leaves, then its rows.
pub(super) fn plan_removal(world: &World<'_>, sight: &Sight<'_>, plan: &mut Plan) {
    for rollout in world
        .running
        .into_iter()
        .chain(world.pending)
        .chain(world.held)
    {
        plan.record(Record::Move {
            rollout: rollout.id,
            from: rollout.state,
            to: RolloutState::Aborted,
            step: rollout.phase.step,
            message: "the environment is being removed".to_owned(),
        });
    }
    for replica in world.replicas.iter().copied() {
        if replica.state == ReplicaState::Draining {
            plan_drain(world, sight, plan, replica);
        } else {
            plan.record(Record::Drain {
                replica: replica.id,
                incarnation: replica.incarnation,
                from: replica.state,
            });
        }
    }
    let idle = world.replicas.is_empty() && world.running.is_none() && world.pending.is_none();
    if idle {
        plan.record(Record::Removed);
    }
}
