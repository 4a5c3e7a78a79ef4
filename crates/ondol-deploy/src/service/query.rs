//! What people and other rooms may know.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use ondol_auth::{Action, Ctx};
use ondol_store::Tx;
use ondol_types::{Digest, EnvironmentName, ProjectName, ReleaseId, RolloutId, Timestamp};
use ondol_workload::Usage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DeployService;
use crate::error::DeployError;
use crate::model::{Command, Environment, Probe, Release, Replica, Rollout};
use crate::room::Reading;
use crate::routes::ReleaseTraffic;
use crate::store;

/// The most rows of one page.
const PAGE: u32 = 100;

/// Part of a list, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `before` to read on; absent at the end.
    pub next: Option<i64>,
}

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
    /// Processor cores in use, on average.
    pub cpu_cores: f64,
    /// Memory in use now, in bytes.
    pub memory_bytes: u64,
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

/// A rollout with its release command.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutView {
    /// The rollout.
    pub rollout: Rollout,
    /// Its release command, when it has one.
    pub command: Option<Command>,
    /// Probe results of its replicas, oldest first.
    pub probes: Vec<Probe>,
}

/// Everything about one environment now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvironmentStatus {
    /// The environment.
    pub environment: Environment,
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
}

impl DeployService {
    /// Releases with a number below `before`, newest first.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn releases(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<Release>, DeployError> {
        ctx.require(Action::Read, project)?;
        let limit = limit.clamp(1, PAGE);
        let items =
            self.room()
                .store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        Ok(store::releases_before(
                            tx,
                            project,
                            name,
                            before.unwrap_or(i64::MAX),
                            limit,
                        )
                        .await?)
                    })
                })
                .await?;
        let next = (items.len() as u32 == limit)
            .then(|| items.last().map(|release| release.number))
            .flatten();
        Ok(Page { items, next })
    }

    /// One release by its number.
    ///
    /// # Errors
    /// Not allowed; there is none, or no longer.
    pub async fn release(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
        number: i64,
    ) -> Result<Release, DeployError> {
        ctx.require(Action::Read, project)?;
        self.room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(
                    async move { Ok(store::release_numbered(tx, project, name, number).await?) },
                )
            })
            .await?
            .ok_or_else(|| DeployError::NoRelease {
                project: project.clone(),
                environment: name.clone(),
                number,
            })
    }

    /// Rollouts with a number below `before`, newest first.
    ///
    /// # Errors
    /// Not allowed.
    pub async fn rollouts(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Page<Rollout>, DeployError> {
        ctx.require(Action::Read, project)?;
        let limit = limit.clamp(1, PAGE);
        let items =
            self.room()
                .store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        Ok(store::rollouts_before(
                            tx,
                            project,
                            name,
                            before.unwrap_or(i64::MAX),
                            limit,
                        )
                        .await?)
                    })
                })
                .await?;
        let next = (items.len() as u32 == limit)
            .then(|| items.last().map(|rollout| rollout.number))
            .flatten();
        Ok(Page { items, next })
    }

    /// One rollout.
    ///
    /// # Errors
    /// Not allowed; there is none.
    pub async fn rollout(&self, ctx: &Ctx, id: RolloutId) -> Result<RolloutView, DeployError> {
        let (rollout, command, replicas) = self
            .room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let rollout = store::rollout(tx, id)
                        .await?
                        .ok_or(DeployError::NoRollout(id))?;
                    let command = store::command(tx, id).await?;
                    let mut replicas =
                        store::recent_replicas(tx, &rollout.project, &rollout.environment, PAGE)
                            .await?;
                    replicas.retain(|replica| replica.rollout == id);
                    Ok((rollout, command, replicas))
                })
            })
            .await?;
        ctx.require(Action::Read, &rollout.project)?;
        let mut probes: Vec<Probe> = replicas
            .iter()
            .flat_map(|replica| self.probes_of(replica))
            .collect();
        probes.sort_by_key(|probe| probe.at);
        let surplus = probes.len().saturating_sub(50);
        probes.drain(..surplus);
        Ok(RolloutView {
            rollout,
            command,
            probes,
        })
    }

    /// Waits until a rollout has ended or waits for a person, and follows it to the one that took
    /// its place. Returns what there is when the patience is over.
    ///
    /// # Errors
    /// Not allowed; there is none.
    pub async fn wait(
        &self,
        ctx: &Ctx,
        id: RolloutId,
        patience: Duration,
    ) -> Result<Rollout, DeployError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut appended = self.room().store.appended();
        let mut id = id;
        // Superseding goes forward only, so this is bounded by the number of requests.
        loop {
            appended.mark_unchanged();
            let rollout = self
                .room()
                .store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move { Ok(store::rollout(tx, id).await?) })
                })
                .await?
                .ok_or(DeployError::NoRollout(id))?;
            ctx.require(Action::Read, &rollout.project)?;
            if let Some(newer) = rollout.superseded_by.filter(|_| rollout.state.is_final()) {
                id = newer;
                continue;
            }
            if rollout.state.is_final() || rollout.state.waits_for_person() {
                return Ok(rollout);
            }
            tokio::select! {
                _ = appended.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = tokio::time::sleep_until(deadline) => return Ok(rollout),
            }
        }
    }

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
        let readings: Vec<Reading> = {
            let all = self
                .room()
                .readings
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let ends = [all.front(), all.back()];
            ends.into_iter().flatten().cloned().collect()
        };
        let mut all: Vec<EnvironmentStatus> = Vec::new();
        for (environment, current, open, last, replicas) in rows {
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
                environment,
                current,
                open,
                last,
                replicas: stati,
                traffic,
            });
        }
        all.sort_by_key(|status| status.environment.name != EnvironmentName::production());
        Ok(all)
    }

    fn probes_of(&self, replica: &Replica) -> Vec<Probe> {
        let live = self
            .room()
            .probes()
            .get(&replica.id)
            .map(crate::model::Probes::list);
        live.filter(|probes| !probes.is_empty())
            .unwrap_or_else(|| replica.probes.clone())
    }

    /// Every image that a kept release or an accepted request needs: the registry must not
    /// collect these, so that a rollback always finds its image.
    ///
    /// # Errors
    /// The database.
    pub async fn referenced_images(&self) -> Result<Vec<(ProjectName, Digest)>, DeployError> {
        self.room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let mut images = store::release_images(tx).await?;
                    images.extend(store::accepted_images(tx).await?);
                    images.sort();
                    images.dedup();
                    Ok(images)
                })
            })
            .await
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
    let memory = replicas
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
        cpu_cores: per_second(cpu),
        memory_bytes: memory,
    })
}

/// How far back readings reach.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Adds a reading and forgets those that are too old, but never the last two.
pub(crate) fn keep_reading(readings: &mut std::collections::VecDeque<Reading>, reading: Reading) {
    let now: Timestamp = reading.0;
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
