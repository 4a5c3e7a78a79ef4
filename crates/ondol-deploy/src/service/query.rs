//! What people and other rooms may know of releases and rollouts.

use std::time::Duration;

use ondol_auth::{Action, Ctx};
use ondol_types::{Digest, EnvironmentName, ProjectName, RolloutId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DeployService;
use crate::error::DeployError;
use crate::model::{Command, Probe, Release, Replica, ReplicaState, Rollout};
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

impl DeployService {
    /// The place in the event log that this room has passed for good.
    ///
    /// # Errors
    /// [`DeployError::Store`].
    pub async fn followed(&self) -> Result<i64, DeployError> {
        self.room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move { Ok(store::cursor(tx, crate::follow::CURSOR).await?) })
            })
            .await
    }

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
            let (rollout, newer) = self
                .room()
                .store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        let rollout = store::rollout(tx, id)
                            .await?
                            .ok_or(DeployError::NoRollout(id))?;
                        let newer = match rollout.superseded_by.filter(|_| rollout.state.is_final())
                        {
                            Some(newer) => store::rollout(tx, newer).await?,
                            None => None,
                        };
                        Ok((rollout, newer))
                    })
                })
                .await?;
            ctx.require(Action::Read, &rollout.project)?;
            if let Some(newer) = newer {
                id = newer.id;
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

    pub(super) fn probes_of(&self, replica: &Replica) -> Vec<Probe> {
        let live = self
            .room()
            .probes()
            .get(&replica.id)
            .map(crate::model::Probes::list);
        live.filter(|probes| !probes.is_empty())
            .unwrap_or_else(|| replica.probes.clone())
    }

    /// The replicas of every project that run and have an address, for the platform itself.
    ///
    /// # Errors
    /// The database.
    pub async fn running(&self) -> Result<Vec<Replica>, DeployError> {
        let mut replicas = self
            .room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move { Ok(store::live_replicas(tx, None).await?) })
            })
            .await?;
        replicas.retain(|replica| {
            replica.address.is_some()
                && matches!(replica.state, ReplicaState::Ready | ReplicaState::Unhealthy)
        });
        Ok(replicas)
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
