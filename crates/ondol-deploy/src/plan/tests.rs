//! Safety of single decisions, over random rows and sights. Sequences of them are in the
//! simulations of `crate::tests`.

use std::sync::Arc;

use ondol_spec::model::{Command as SpecCommand, Service, Strategy as Shift};
use ondol_types::{EnvironmentName, ProjectName};
use proptest::prelude::*;

use super::*;
use crate::model::{CommandState, Kind, Reason, ReleaseConfig};
use crate::routes::{ReplicaTraffic, RouteTable, Set, plan_routes};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000)
}

#[derive(Clone, Debug)]
struct Case {
    environment: Environment,
    running: Option<Rollout>,
    pending: Option<Rollout>,
    command: Option<Command>,
    replicas: Vec<Replica>,
    releases: BTreeMap<ReleaseId, Arc<Release>>,
    acked: i64,
    workloads: BTreeMap<(WorkloadId, u64), Seen>,
    counters: Option<Counters>,
    now: Timestamp,
}

fn project() -> ProjectName {
    "web".parse().unwrap()
}

fn release(name: &str, with_command: bool, want: u32) -> Release {
    let mut service = Service::new("serve");
    service.replicas.min = want;
    let spec = ondol_spec::model::Release {
        command: with_command.then(|| SpecCommand::new("migrate")),
        ..ondol_spec::model::Release::default()
    };
    Release {
        id: ReleaseId::derived(name),
        project: project(),
        environment: EnvironmentName::production(),
        number: 1,
        image: format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
        config: ReleaseConfig {
            format: 1,
            service,
            release: spec,
            secrets: Vec::new(),
            volumes: BTreeMap::new(),
            env: BTreeMap::new(),
            model: None,
        },
        secrets: BTreeMap::new(),
        model: None,
        commit: None,
        run: None,
        chain: None,
        author: String::new(),
        reason: Reason::Push,
        origin: None,
        irreversible: false,
        commanded: false,
        created_at: at(0),
        activated_at: None,
    }
}

fn rollout(
    name: &str,
    state: RolloutState,
    to: Option<ReleaseId>,
    generation: Option<i64>,
) -> Rollout {
    Rollout {
        id: RolloutId::derived(name),
        project: project(),
        environment: EnvironmentName::production(),
        number: 1,
        key: name.into(),
        kind: Kind::Deploy,
        reason: Reason::Push,
        state,
        since: at(0),
        strategy: Shift::Canary,
        from: None,
        to,
        target: None,
        phase: Phase {
            generation,
            ..Phase::default()
        },
        message: String::new(),
        failure: None,
        superseded_by: None,
        run: None,
        chain: None,
        author: String::new(),
        not_before: None,
        created_at: at(0),
        finished_at: None,
    }
}

type Raw = (usize, ReplicaState, bool, Option<i64>, Option<i64>, u8, u32);

fn replica(index: usize, raw: Raw) -> (Replica, Option<Seen>, u64) {
    let (owner, state, routed, left, out, seen, failures) = raw;
    let owner = ["old", "new", "gone"][owner];
    let id = ReplicaId::derived(&format!("r{index}"));
    let release = ReleaseId::derived(owner);
    let replica = Replica {
        id,
        project: project(),
        environment: EnvironmentName::production(),
        release,
        rollout: RolloutId::derived(owner),
        workload: Replica::workload_of(id),
        incarnation: 1,
        endpoint: Replica::endpoint_of(id, 1, release),
        state,
        since: at(0),
        address: None,
        restarts: 0,
        failures,
        fatal: false,
        next_start_at: None,
        started_at: (seen != 0).then(|| at(0)),
        detail: None,
        probes: Vec::new(),
        routed,
        left_generation: left.filter(|_| !routed),
        out_at: out.filter(|_| !routed && left.is_some()).map(at),
        created_at: at(index as i64),
    };
    let exit = Exit {
        code: Some(1),
        signal: None,
        oom: false,
        timed_out: false,
        stopped: false,
        lost: false,
        at: at(10),
        usage: ondol_workload::Usage::default(),
    };
    let sight = match seen {
        0 | 1 => None,
        2 => Some(Seen::Exited(exit)),
        _ => Some(Seen::Up),
    };
    (replica, sight, u64::from(failures % 3))
}

fn raw() -> impl Strategy<Value = Raw> {
    let state = proptest::sample::select(&ReplicaState::ALL[..6]);
    let generation = || proptest::option::of(1i64..6);
    (
        0usize..3,
        state,
        any::<bool>(),
        generation(),
        proptest::option::of(0i64..60_000),
        0u8..6,
        0u32..7,
    )
}

fn case() -> impl Strategy<Value = Case> {
    let running = proptest::option::of(proptest::sample::select(
        RolloutState::ALL
            .iter()
            .copied()
            .filter(|state| state.is_running())
            .collect::<Vec<_>>(),
    ));
    let command = proptest::option::of(proptest::sample::select(CommandState::ALL));
    (
        (
            any::<bool>(),
            any::<bool>(),
            1u32..4,
            proptest::option::of(0i64..6),
        ),
        running,
        any::<bool>(),
        command,
        proptest::collection::vec(raw(), 0..7),
        0i64..6,
        any::<bool>(),
        0i64..200_000,
    )
        .prop_map(
            |(
                (serves, removing, want, generation),
                running,
                pending,
                command,
                raws,
                acked,
                counted,
                now,
            )| {
                let (old, new) = (release("old", false, want), release("new", true, want));
                let running = running.map(|state| rollout("new", state, Some(new.id), generation));
                let command = running
                    .as_ref()
                    .filter(|rollout| rollout.state == RolloutState::ReleaseCommand)
                    .and(command)
                    .map(|state| Command {
                        workload: Rollout::command_workload(RolloutId::derived("new")),
                        state,
                        detail: None,
                        intended_at: at(0),
                        ended_at: None,
                    });
                let mut workloads = BTreeMap::new();
                let mut counters = Counters::default();
                let mut replicas = Vec::new();
                for (index, raw) in raws.into_iter().enumerate() {
                    let (replica, seen, in_flight) = replica(index, raw);
                    if let Some(seen) = seen {
                        workloads.insert((replica.workload, 1), seen);
                    }
                    counters.replicas.insert(
                        replica.endpoint,
                        ReplicaTraffic {
                            in_flight,
                            ..ReplicaTraffic::default()
                        },
                    );
                    replicas.push(replica);
                }
                Case {
                    environment: Environment {
                        project: project(),
                        name: EnvironmentName::production(),
                        removing,
                        hold: None,
                        current: serves.then_some(old.id),
                        serving: serves.then(|| RolloutId::derived("old")),
                        replicas: None,
                        scale: None,
                        created_at: at(0),
                    },
                    running,
                    pending: pending.then(|| rollout("newer", RolloutState::Pending, None, None)),
                    command,
                    replicas,
                    releases: BTreeMap::from([(old.id, Arc::new(old)), (new.id, Arc::new(new))]),
                    acked,
                    workloads,
                    counters: counted.then_some(counters),
                    now: at(now),
                }
            },
        )
}

fn decide_case(case: &Case, busy: &BTreeSet<Effect>) -> Plan {
    let world = World {
        environment: &case.environment,
        running: case.running.as_ref(),
        pending: case.pending.as_ref(),
        held: None,
        command: case.command.as_ref(),
        replicas: case.replicas.iter().collect(),
        releases: &case.releases,
        acked: case.acked,
    };
    let sight = Sight {
        now: case.now,
        boot: at(0),
        workloads: &case.workloads,
        probes: &BTreeMap::new(),
        counters: case.counters.as_ref(),
        samples: &BTreeMap::new(),
        busy,
        limits: &Limits::default(),
        backoff: &Backoff::default(),
    };
    plan(&world, &sight)
}

/// The routing table that the rows of a case give.
fn table(case: &Case) -> RouteTable {
    let release = |id: Option<ReleaseId>| case.releases.get(&id?).map(|release| &**release);
    plan_routes(&[Set {
        environment: &case.environment,
        current: release(case.environment.current),
        rollout: case
            .running
            .as_ref()
            .and_then(|rollout| Some((rollout, release(rollout.to)?))),
        replicas: case.replicas.iter().collect(),
        releases: &case.releases,
    }])
}

/// Whether a request would be answered, as far as the rows and the engine know.
fn answering(case: &Case) -> bool {
    let named = table(case).replicas();
    case.replicas.iter().any(|replica| {
        named.contains(&replica.endpoint)
            && replica.state == ReplicaState::Ready
            && case.workloads.get(&(replica.workload, 1)) == Some(&Seen::Up)
    })
}

/// What a record makes of the rows that decide routes.
fn apply(case: &mut Case, record: &Record) {
    let (id, state) = match record {
        Record::Drain { replica, .. } => (*replica, ReplicaState::Draining),
        Record::Failed { replica, .. } => (*replica, ReplicaState::Failed),
        Record::Restart { replica, .. } => (*replica, ReplicaState::Starting),
        Record::Finish { .. } => {
            let rollout = case.running.take().unwrap();
            case.environment.current = rollout.to;
            case.environment.serving = Some(rollout.id);
            return;
        }
        Record::Supersede { .. } => {
            case.running = None;
            return;
        }
        Record::Move { to, .. } => {
            if let Some(running) = &mut case.running {
                running.state = *to;
            }
            return;
        }
        _ => return,
    };
    for replica in &mut case.replicas {
        if replica.id == id {
            replica.state = state;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_that_runs_is_stopped_before_it_is_out_and_quiet(case in case()) {
        for effect in decide_case(&case, &BTreeSet::new()).effects {
            let Effect::Stop(id) = effect else { continue };
            let replica = case.replicas.iter().find(|replica| replica.id == id).unwrap();
            prop_assert_eq!(replica.state, ReplicaState::Draining);
            let up = case.workloads.get(&(replica.workload, 1)) == Some(&Seen::Up);
            if !up {
                continue;
            }
            prop_assert!(replica.is_out(case.acked), "a gateway may still know it");
            if let Some(out_at) = replica.out_at {
                let over = case.now.since(out_at) >= Duration::from_secs(30);
                let quiet = case.counters.as_ref().is_some_and(|counters| counters.replicas[&replica.endpoint].in_flight == 0);
                prop_assert!(over || quiet);
            }
        }
    }

    #[test]
    fn a_release_command_is_begun_only_when_none_is_known(case in case()) {
        for effect in decide_case(&case, &BTreeSet::new()).effects {
            if let Effect::Command(_) = effect {
                prop_assert!(case.command.is_none());
            }
        }
    }

    #[test]
    fn the_swap_is_recorded_only_after_every_gateway_has_it(case in case()) {
        for record in decide_case(&case, &BTreeSet::new()).records {
            if let Record::Finish { .. } = record {
                let running = case.running.as_ref().unwrap();
                prop_assert_eq!(running.state, RolloutState::Swapping);
                prop_assert!(running.phase.generation.is_some_and(|generation| generation <= case.acked));
            }
        }
    }

    #[test]
    fn serving_replicas_leave_only_when_there_are_too_many(mut case in case()) {
        case.environment.removing = false;
        case.environment.current = Some(ReleaseId::derived("old"));
        case.environment.serving = Some(RolloutId::derived("old"));
        let plan = decide_case(&case, &BTreeSet::new());
        let serving: Vec<&Replica> = case
            .replicas
            .iter()
            .filter(|replica| Some(replica.rollout) == case.environment.serving && replica.state.is_wanted())
            .collect();
        let leaving = plan
            .records
            .iter()
            .filter(|record| matches!(record, Record::Drain { replica, .. } if serving.iter().any(|its| its.id == *replica)))
            .count();
        let want = case.releases[&case.environment.current.unwrap()].config.service.replicas.min as usize;
        prop_assert!(leaving <= serving.len().saturating_sub(want));
    }

    #[test]
    fn a_restart_supersedes_nothing_that_runs(mut case in case()) {
        if let Some(pending) = &mut case.pending {
            pending.kind = Kind::Restart;
        }
        for record in decide_case(&case, &BTreeSet::new()).records {
            prop_assert!(!matches!(record, Record::Supersede { .. }), "{record:?}");
        }
    }

    #[test]
    fn a_rollback_gives_way_to_people_alone(mut case in case()) {
        if let (Some(pending), Some(running)) = (&mut case.pending, &mut case.running) {
            pending.reason = Reason::Secret;
            running.kind = Kind::Rollback;
        }
        for record in decide_case(&case, &BTreeSet::new()).records {
            prop_assert!(!matches!(record, Record::Supersede { .. }), "{record:?}");
        }
    }

    #[test]
    fn a_swap_and_a_running_command_are_never_superseded(case in case()) {
        for record in decide_case(&case, &BTreeSet::new()).records {
            if let Record::Supersede { from, .. } = record {
                prop_assert_ne!(from, RolloutState::Swapping);
                if from == RolloutState::ReleaseCommand {
                    let begun = case.command.as_ref().is_some_and(|command| command.state != CommandState::Succeeded);
                    prop_assert!(!begun, "what failed is told before anything takes its place");
                }
            }
        }
    }

    #[test]
    fn the_last_replica_that_answers_keeps_its_traffic(mut case in case()) {
        case.environment.removing = false;
        case.environment.current = Some(ReleaseId::derived("old"));
        case.environment.serving = Some(RolloutId::derived("old"));
        for (index, replica) in case.replicas.iter_mut().enumerate() {
            replica.address = Some(([127, 0, 0, 1], 20_000 + index as u16).into());
            if matches!(replica.state, ReplicaState::Ready | ReplicaState::Unhealthy) {
                replica.started_at = Some(at(0));
            }
        }
        let named = table(&case).replicas();
        for replica in &mut case.replicas {
            replica.routed = named.contains(&replica.endpoint);
        }
        let answered = answering(&case);
        let plan = decide_case(&case, &BTreeSet::new());
        for record in &plan.records {
            apply(&mut case, record);
        }
        prop_assert!(!answered || answering(&case), "{plan:#?}");
    }

    #[test]
    fn what_is_under_way_is_not_begun_again(case in case()) {
        let first = decide_case(&case, &BTreeSet::new()).effects;
        let busy: BTreeSet<Effect> = first.into_iter().collect();
        for again in decide_case(&case, &busy).effects {
            prop_assert!(!busy.contains(&again), "{again:?}");
        }
    }
}
