//! The loop over environments: load → plan → record, until there is nothing to record, then the
//! effects. A tick never waits for an effect; each wakes the loop at its end. Start-up is the
//! first tick: rows and the engine's own observations say where everything stands.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_types::{Problem, ReleaseId, ReplicaId, Timestamp, WorkloadId};
use ondol_workload::Observation;
use ondol_workload::backoff::Backoff;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::crash;
use crate::error::DeployError;
use crate::execute::Executor;
use crate::model::{Environment, ReplicaState, RolloutState};
use crate::plan::{Effect, Plan, Record, Sample, Seen, Sight, World, plan};
use crate::record::record;
use crate::room::Room;
use crate::routes::Counters;
use crate::sample::samples;
use crate::store::{self, Fleet};

/// How often records may lead to records within one tick.
const ROUNDS: usize = 12;
/// After this the engine's list is read again even when it announced no change.
const STALE: Duration = Duration::from_secs(5);
const COUNTERS: Duration = Duration::from_secs(2);

struct Sightings {
    changes: watch::Receiver<u64>,
    read: Option<(Instant, BTreeMap<WorkloadId, Observation>)>,
}

/// Makes environments as their rows say.
pub(crate) struct EnvironmentsLoop {
    room: Arc<Room>,
    executor: Executor,
    sightings: tokio::sync::Mutex<Sightings>,
    timer: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for EnvironmentsLoop {
    fn drop(&mut self) {
        if let Some(timer) = self
            .timer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            timer.abort();
        }
    }
}

struct Round {
    seen: u64,
    recorded: u64,
    begun: u64,
    next: Option<Timestamp>,
}

impl EnvironmentsLoop {
    pub(crate) fn new(room: Arc<Room>) -> Self {
        let changes = room.engine.changes();
        Self {
            executor: Executor::new(room.clone()),
            sightings: tokio::sync::Mutex::new(Sightings {
                changes,
                read: None,
            }),
            timer: Mutex::default(),
            room,
        }
    }

    async fn round(&self) -> Result<Round, DeployError> {
        let cache = &self.room.releases;
        let fleet = self
            .room
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move { Ok(store::load_fleet(tx, cache).await?) })
            })
            .await?;
        let workloads = self.look(&fleet).await?;
        let counters = self.counters(&fleet).await;
        let probes = {
            let mut probes = self.room.probes();
            probes.retain(|id, _| fleet.replicas.iter().any(|replica| replica.id == *id));
            probes.clone()
        };
        let (busy, cooled) = self.executor.busy();
        let backoff = Backoff::default();
        let samples = self.samples(&fleet);
        let sight = Sight {
            now: self.room.clock.now(),
            boot: self.room.boot,
            workloads: &workloads,
            probes: &probes,
            counters: counters.as_ref(),
            samples: &samples,
            busy: &busy,
            limits: &self.room.limits,
            backoff: &backoff,
        };
        let mut round = Round {
            seen: fleet.environments.len() as u64,
            recorded: 0,
            begun: 0,
            next: cooled,
        };
        let mut effects: Vec<Effect> = Vec::new();
        let mut failed = None;
        for (environment, made) in
            worlds(&fleet).map(|world| (world.environment, plan(&world, &sight)))
        {
            let Plan {
                records,
                effects: due,
                next,
            } = made;
            round.next = [round.next, next].into_iter().flatten().min();
            effects.extend(due);
            for change in &records {
                match self.record(environment, change).await {
                    Ok(changed) => round.recorded += u64::from(changed),
                    // One environment's trouble is not the others'.
                    Err(error) => failed = Some(error),
                }
            }
        }
        round.begun = effects.len() as u64;
        for effect in effects {
            self.executor.begin(effect);
        }
        if round.recorded > 0 {
            self.room.wake_routes();
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(round),
        }
    }

    async fn record(
        &self,
        environment: &Environment,
        change: &Record,
    ) -> Result<bool, DeployError> {
        let (before, after) = crash_points(change);
        if let Some(point) = before {
            self.room.crash.reached(point);
        }
        let place = (&environment.project, &environment.name);
        let changed = self
            .room
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move { record(tx, place, change).await })
            })
            .await?;
        if let Some(point) = after.filter(|_| changed) {
            self.room.crash.reached(point);
        }
        tracing::debug!(project = %environment.project, environment = %environment.name, deploy.record = ?change, deploy.changed = changed, "recorded");
        Ok(changed)
    }

    /// What the engine says about every replica that was started, as new as the rows.
    async fn look(&self, fleet: &Fleet) -> Result<BTreeMap<(WorkloadId, u64), Seen>, DeployError> {
        let mut sightings = self.sightings.lock().await;
        let known = |list: &BTreeMap<WorkloadId, Observation>| {
            fleet
                .replicas
                .iter()
                .filter(|replica| {
                    replica.started_at.is_some() && replica.state != ReplicaState::Failed
                })
                .all(|replica| {
                    list.get(&replica.workload)
                        .is_some_and(|found| found.incarnation == replica.incarnation)
                })
        };
        let changed = sightings.changes.has_changed().unwrap_or(true);
        let fresh = !changed
            && sightings
                .read
                .as_ref()
                .is_some_and(|(at, list)| at.elapsed() < STALE && known(list));
        if !fresh {
            sightings.changes.mark_unchanged();
            let list = self.room.engine.list().await?;
            let list = list.into_iter().map(|found| (found.id, found)).collect();
            sightings.read = Some((Instant::now(), list));
        }
        let Some((_, list)) = &sightings.read else {
            return Ok(BTreeMap::new());
        };
        let mut seen = BTreeMap::new();
        for replica in &fleet.replicas {
            if let Some(found) = list
                .get(&replica.workload)
                .filter(|found| found.incarnation == replica.incarnation)
            {
                let state = found
                    .state
                    .exit()
                    .map_or(Seen::Up, |exit| Seen::Exited(exit.clone()));
                seen.insert((replica.workload, replica.incarnation), state);
            }
        }
        Ok(seen)
    }

    /// Counters, when a decision needs them. Read after the rows: what an acknowledged table let
    /// through is in them.
    async fn counters(&self, fleet: &Fleet) -> Option<Counters> {
        let shifting = fleet
            .rollouts
            .iter()
            .any(|rollout| rollout.state == RolloutState::Shifting);
        let draining = fleet
            .replicas
            .iter()
            .any(|replica| replica.state == ReplicaState::Draining && replica.out_at.is_some());
        if !shifting && !draining {
            return None;
        }
        match tokio::time::timeout(COUNTERS, self.room.routes.counters()).await {
            Ok(Ok(counters)) => Some(counters),
            Ok(Err(problem)) => {
                tracing::warn!(error = %problem.chain(), "the gateway's counters cannot be read");
                None
            }
            Err(_) => {
                tracing::warn!(
                    timeout.seconds = COUNTERS.as_secs(),
                    "the gateway's counters take too long"
                );
                None
            }
        }
    }

    /// What is known of the load of current releases that are to be scaled by it.
    fn samples(&self, fleet: &Fleet) -> BTreeMap<ReleaseId, Vec<Sample>> {
        let scaled: Vec<ReleaseId> = fleet
            .environments
            .iter()
            .filter_map(|environment| environment.current)
            .filter(|id| {
                let release = fleet.releases.get(id);
                release.is_some_and(|release| release.config.service.replicas.target.is_some())
            })
            .collect();
        if scaled.is_empty() {
            return BTreeMap::new();
        }
        let readings = self
            .room
            .readings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut all = BTreeMap::new();
        for id in scaled {
            let replicas: Vec<ReplicaId> = fleet
                .replicas
                .iter()
                .filter(|replica| replica.release == id)
                .map(|replica| replica.id)
                .collect();
            all.insert(id, samples(readings.iter(), id, &replicas));
        }
        all
    }

    fn wake_at(&self, next: Option<Timestamp>) {
        let mut timer = self.timer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = timer.take() {
            before.abort();
        }
        let Some(next) = next else { return };
        let pause = next
            .since(self.room.clock.now())
            .max(Duration::from_millis(5));
        let activator = self.room.environments.clone();
        *timer = Some(tokio::spawn(async move {
            tokio::time::sleep(pause).await;
            activator.wake();
        }));
    }

    #[cfg(test)]
    pub(crate) fn under_way(&self) -> Vec<Effect> {
        self.executor.under_way()
    }
}

fn crash_points(change: &Record) -> (Option<&'static str>, Option<&'static str>) {
    match change {
        Record::Ready { .. } => (Some(crash::READY_BEFORE), None),
        Record::Move {
            to: RolloutState::Swapping,
            ..
        } => (Some(crash::SWAP_BEFORE), Some(crash::SWAP_INTENDED)),
        Record::Move {
            to: RolloutState::Shifting,
            ..
        } => (None, Some(crash::SHIFT_AFTER)),
        Record::Finish { .. } => (Some(crash::FINISH_BEFORE), Some(crash::FINISH_AFTER)),
        Record::Add { .. } => (None, Some(crash::REPLICAS_ADDED)),
        Record::Drain { .. } => (None, Some(crash::DRAIN_AFTER)),
        _ => (None, None),
    }
}

/// One world per environment.
fn worlds(fleet: &Fleet) -> impl Iterator<Item = World<'_>> {
    type Key<'a> = (
        &'a ondol_types::ProjectName,
        &'a ondol_types::EnvironmentName,
    );
    let mut replicas: HashMap<Key<'_>, Vec<_>> = HashMap::new();
    for replica in &fleet.replicas {
        replicas
            .entry((&replica.project, &replica.environment))
            .or_default()
            .push(replica);
    }
    let mut rollouts: HashMap<Key<'_>, Vec<_>> = HashMap::new();
    for rollout in &fleet.rollouts {
        rollouts
            .entry((&rollout.project, &rollout.environment))
            .or_default()
            .push(rollout);
    }
    fleet.environments.iter().map(move |environment| {
        let key = (&environment.project, &environment.name);
        let of = rollouts.remove(&key).unwrap_or_default();
        let running = of
            .iter()
            .copied()
            .find(|rollout| rollout.state.is_running());
        World {
            environment,
            running,
            pending: of
                .iter()
                .copied()
                .find(|rollout| rollout.state == RolloutState::Pending),
            held: of
                .iter()
                .copied()
                .find(|rollout| rollout.state == RolloutState::Held),
            command: running.and_then(|rollout| fleet.commands.get(&rollout.id)),
            replicas: replicas.remove(&key).unwrap_or_default(),
            releases: &fleet.releases,
            acked: fleet.generations.acked,
        }
    })
}

#[async_trait]
impl Reconciler for EnvironmentsLoop {
    fn name(&self) -> &'static str {
        "deploy.environments"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(2)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let mut report = Report::default();
        for _ in 0..ROUNDS {
            let round = self.round().await?;
            report.seen = round.seen;
            report.changed += round.recorded + round.begun;
            self.wake_at(round.next);
            if round.recorded == 0 {
                return Ok(report);
            }
        }
        report.more = true;
        Ok(report)
    }
}
