//! What environments do now: what serves, what is on its way, and what it uses.

use std::collections::{BTreeMap, VecDeque};
use std::sync::PoisonError;
use std::time::Duration;

use ondol_auth::{Action, Ctx};
use ondol_store::Tx;
use ondol_types::{EnvironmentName, ProjectName, ReleaseId};
use ondol_workload::Usage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DeployService;
use crate::error::DeployError;
use crate::model::{Environment, Probe, Release, Replica, Rollout, RolloutState};
use crate::plan::{Load, bounds, judge, wanted};
use crate::room::Reading;
use crate::routes::{ReleaseTraffic, path_of};
use crate::sample::samples;
use crate::store;

/// What a release answered over the last while.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    /// Over how many seconds this was measured.
    pub seconds: f64,
    /// Requests per second.
    pub rps: f64,
    /// Requests in that time.
    pub requests: u64,
    /// Share of failed ones; absent without requests.
    pub error_rate: Option<f64>,
    /// Median duration in seconds.
    pub p50: Option<f64>,
    /// 95th percentile in seconds.
    pub p95: Option<f64>,
    /// 99th percentile in seconds.
    pub p99: Option<f64>,
    /// Requests in progress now.
    pub in_flight: u64,
    /// Processor cores in use, on average; absent while no replica was measured.
    pub cpu_cores: Option<f64>,
    /// Memory in use now, in bytes; absent while no replica was measured.
    pub memory_bytes: Option<u64>,
}

/// A replica with what it uses.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// The replica.
    pub replica: Replica,
    /// It ends soon after every start.
    pub crash_looping: bool,
    /// The newest probe results, oldest first.
    pub probes: Vec<Probe>,
    /// What it uses.
    pub usage: Option<Usage>,
}

/// How many replicas the load asks for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// The fewest.
    pub min: u32,
    /// The most.
    pub max: u32,
    /// How many there are to be.
    pub replicas: u32,
    /// What the load asks for now, or what its judgement waits for, in words.
    pub reason: String,
}

/// Everything about one environment now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentStatus {
    /// The environment.
    pub environment: Environment,
    /// The path of the gateway below which it answers.
    pub path: String,
    /// The release that serves.
    pub current: Option<Release>,
    /// Rollouts that have not ended, oldest first.
    pub open: Vec<Rollout>,
    /// The newest rollout, whatever became of it.
    pub last: Option<Rollout>,
    /// Replicas that are not stopped.
    pub replicas: Vec<ReplicaStatus>,
    /// Traffic by release, of those that have replicas.
    pub traffic: BTreeMap<ReleaseId, Traffic>,
    /// Autoscaling, when the current release names a load to scale by.
    pub scaling: Option<Scaling>,
}

impl DeployService {
    /// Everything about the environments of a project, production first.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn status(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
    ) -> Result<Vec<EnvironmentStatus>, DeployError> {
        ctx.require(Action::Read, project)?;
        let rows = self
            .room()
            .store
            .read::<_, DeployError, _>(|tx| Box::pin(async move { rows(tx, project).await }))
            .await?;
        let read: Vec<Reading> = {
            let all = self
                .room()
                .readings
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            all.iter().cloned().collect()
        };
        let ends = [read.first(), read.last()];
        let readings: Vec<Reading> = ends.into_iter().flatten().cloned().collect();
        let mut all: Vec<EnvironmentStatus> = Vec::new();
        for (environment, current, open, last, replicas) in rows {
            let scaling = self.scaling(&environment, current.as_ref(), &open, &replicas, &read);
            let mut releases: Vec<ReleaseId> =
                replicas.iter().map(|replica| replica.release).collect();
            releases.dedup();
            let traffic = releases
                .into_iter()
                .filter_map(|release| {
                    let its: Vec<&Replica> = replicas
                        .iter()
                        .filter(|replica| replica.release == release)
                        .collect();
                    Some((release, traffic(&readings, release, &its)?))
                })
                .collect();
            let mut stati = Vec::with_capacity(replicas.len());
            for replica in replicas {
                let usage = if replica.state.is_up() {
                    self.room().engine.usage(&replica.workload).await.ok()
                } else {
                    None
                };
                stati.push(ReplicaStatus {
                    crash_looping: replica.crash_looping(),
                    probes: self.probes_of(&replica),
                    usage,
                    replica,
                });
            }
            all.push(EnvironmentStatus {
                path: path_of(project, &environment.name),
                environment,
                current,
                open,
                last,
                replicas: stati,
                traffic,
                scaling,
            });
        }
        all.sort_by_key(|status| status.environment.name != EnvironmentName::production());
        Ok(all)
    }
}

impl DeployService {
    fn scaling(
        &self,
        environment: &Environment,
        current: Option<&Release>,
        open: &[Rollout],
        replicas: &[Replica],
        read: &[Reading],
    ) -> Option<Scaling> {
        let release = current.filter(|current| current.config.service.replicas.target.is_some())?;
        let its: Vec<_> = replicas
            .iter()
            .filter(|replica| replica.release == release.id)
            .map(|replica| replica.id)
            .collect();
        let samples = samples(read.iter(), release.id, &its);
        let load = Load {
            now: self.room().clock.now(),
            release: release.id,
            asked: environment.replicas,
            rollout: open
                .iter()
                .find(|rollout| rollout.state != RolloutState::Held)
                .map(|rollout| rollout.number),
            samples: &samples,
        };
        let service = &release.config.service;
        let (min, max) = bounds(service);
        let reason = match judge(service, environment.scale.as_ref(), &load) {
            Ok((_, words)) => words,
            Err(waits) => format!("waits: {waits}"),
        };
        Some(Scaling {
            min,
            max,
            replicas: environment
                .replicas
                .unwrap_or_else(|| wanted(service, environment.scale.as_ref())),
            reason,
        })
    }
}

type Rows = (
    Environment,
    Option<Release>,
    Vec<Rollout>,
    Option<Rollout>,
    Vec<Replica>,
);

async fn rows(tx: &mut Tx<'_>, project: &ProjectName) -> Result<Vec<Rows>, DeployError> {
    let mut all = Vec::new();
    for environment in store::environments(tx, Some(project)).await? {
        let place = (project, &environment.name);
        let current = match environment.current {
            Some(current) => store::release(tx, current).await?,
            None => None,
        };
        let open = store::open_rollouts(tx, Some(place)).await?;
        let last = store::rollouts_before(tx, project, &environment.name, i64::MAX, 1)
            .await?
            .pop();
        let replicas = store::live_replicas(tx, Some(place)).await?;
        all.push((environment, current, open, last, replicas));
    }
    Ok(all)
}

/// The difference between the oldest and the newest reading.
fn traffic(readings: &[Reading], release: ReleaseId, replicas: &[&Replica]) -> Option<Traffic> {
    let [(begun, first, used_first), .., (ended, last, used_last)] = readings else {
        return None;
    };
    let seconds = ended.since(*begun).as_secs_f64();
    let zero = ReleaseTraffic::default();
    let counted = last.releases.get(&release).unwrap_or(&zero);
    let difference = counted.since(first.releases.get(&release).unwrap_or(&zero));
    let cpu: f64 = replicas
        .iter()
        .filter_map(|replica| {
            let after = used_last.get(&replica.id)?.cpu_seconds;
            let before = used_first
                .get(&replica.id)
                .map_or(0.0, |usage| usage.cpu_seconds);
            // A restart counts from zero again.
            Some(if after >= before {
                after - before
            } else {
                after
            })
        })
        .sum();
    let measured = replicas
        .iter()
        .any(|replica| used_last.contains_key(&replica.id));
    let memory: u64 = replicas
        .iter()
        .filter_map(|replica| used_last.get(&replica.id))
        .map(|usage| usage.memory_bytes)
        .sum();
    let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
    Some(Traffic {
        seconds,
        rps: per_second(difference.requests as f64),
        requests: difference.requests,
        error_rate: difference.error_rate(),
        p50: difference.durations.quantile(0.5),
        p95: difference.durations.quantile(0.95),
        p99: difference.durations.quantile(0.99),
        in_flight: difference.in_flight,
        // The sum of nothing is minus zero.
        cpu_cores: measured.then(|| per_second(cpu + 0.0)),
        memory_bytes: measured.then_some(memory),
    })
}

/// How far back readings reach.
const WINDOW: Duration = Duration::from_secs(60);

/// Adds a reading and forgets those that are too old, but never the last two.
pub(crate) fn keep_reading(readings: &mut VecDeque<Reading>, reading: Reading) {
    let now = reading.0;
    readings.push_back(reading);
    while readings.len() > 2
        && readings
            .front()
            .is_some_and(|(at, ..)| now.since(*at) > WINDOW)
    {
        readings.pop_front();
    }
    while readings.len() > 32 {
        readings.pop_front();
    }
}
