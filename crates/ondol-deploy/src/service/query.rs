//! What people and other rooms may know of releases and rollouts.

use std::time::Duration;

use ondol_auth::{Action, Ctx};
use ondol_store::Tx;
use ondol_types::{Digest, EnvironmentName, EventId, ProjectName, RolloutId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::DeployService;
use super::request::is_older;
use crate::error::DeployError;
use crate::model::{Command, Probe, Release, Replica, ReplicaState, Rollout};
use crate::plan::{Standing, Wanted, standing};
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

/// What became of what was asked for.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The rollout that was asked for, or the last of those that took its place.
    pub rollout: Rollout,
    /// Whether what was asked for serves.
    pub standing: Standing,
}

/// A rollout of a project that the caller may not see is no rollout.
pub(super) fn visible(ctx: &Ctx, rollout: &Rollout) -> Result<(), DeployError> {
    ctx.require(Action::Read, &rollout.project)
        .map_err(|_| DeployError::NoRollout(rollout.id))
}

/// The last of those that took the place of a rollout. Superseding goes forward only, so this is
/// bounded by the number of requests.
async fn last_of(tx: &mut Tx<'_>, asked: Rollout) -> Result<Rollout, DeployError> {
    let mut last = asked;
    while let Some(newer) = last.superseded_by.filter(|_| last.state.is_final()) {
        match store::rollout(tx, newer).await? {
            Some(newer) => last = newer,
            None => break,
        }
    }
    Ok(last)
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
        visible(ctx, &rollout)?;
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

    /// Waits until it is known what became of `wanted`, which was asked for by rollout `id`, or
    /// until a person has to say how to go on; follows the rollout to those that took its place.
    /// Returns what there is when the patience is over.
    ///
    /// # Errors
    /// Not allowed; there is none.
    pub async fn follow(
        &self,
        ctx: &Ctx,
        id: RolloutId,
        wanted: &Wanted,
        patience: Duration,
    ) -> Result<Followed, DeployError> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut appended = self.room().store.appended();
        loop {
            appended.mark_unchanged();
            let (last, standing) = self
                .room()
                .store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        let asked = store::rollout(tx, id)
                            .await?
                            .ok_or(DeployError::NoRollout(id))?;
                        let last = last_of(tx, asked.clone()).await?;
                        let brings = match last.to {
                            Some(to) => store::release(tx, to).await?,
                            None => None,
                        };
                        let accepted =
                            store::accepted(tx, &asked.project, &asked.environment).await?;
                        let accepted = (accepted.image.as_ref(), accepted.model.as_ref());
                        let standing = standing(wanted, &asked, &last, brings.as_ref(), accepted);
                        Ok((last, standing))
                    })
                })
                .await?;
            visible(ctx, &last)?;
            let over = tokio::time::Instant::now() >= deadline;
            if standing != Standing::Open || over {
                return Ok(Followed {
                    rollout: last,
                    standing,
                });
            }
            tokio::select! {
                _ = appended.changed() => {}
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    /// The rollout that was asked for under a key, or the last of those that took its place, when
    /// it waits for a person.
    ///
    /// # Errors
    /// The database.
    pub async fn waits_for_person(
        &self,
        ctx: &Ctx,
        key: &str,
    ) -> Result<Option<Rollout>, DeployError> {
        let found = self
            .room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    match store::rollout_by_key(tx, key).await? {
                        Some(asked) => Ok(Some(last_of(tx, asked).await?)),
                        None => Ok(None),
                    }
                })
            })
            .await?;
        Ok(found.filter(|found| {
            found.state.waits_for_person() && ctx.require(Action::Read, &found.project).is_ok()
        }))
    }

    /// The rollouts that followed from an event, one per environment that takes it up. Waits a
    /// moment until the event was followed; `None` when it was not by then.
    ///
    /// # Errors
    /// Not allowed; the database.
    pub async fn followed_from(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        event: EventId,
        place: i64,
        patience: Duration,
    ) -> Result<Option<Vec<Rollout>>, DeployError> {
        ctx.require(Action::Read, project)?;
        let deadline = tokio::time::Instant::now() + patience;
        while self.followed().await? < place {
            if tokio::time::Instant::now() >= deadline {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let mut rollouts = Vec::new();
                    for environment in store::environments(tx, Some(project)).await? {
                        let key = crate::follow::key(event, &environment.name);
                        rollouts.extend(store::rollout_by_key(tx, &key).await?);
                    }
                    Ok(Some(rollouts))
                })
            })
            .await
    }

    /// Whether something newer than what belongs to `chain` was accepted for an environment:
    /// nothing of that chain goes there any more.
    ///
    /// # Errors
    /// Not allowed; the database.
    pub async fn is_overtaken(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &EnvironmentName,
        chain: &str,
    ) -> Result<bool, DeployError> {
        ctx.require(Action::Read, project)?;
        let accepted = self
            .room()
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move { Ok(store::accepted(tx, project, name).await?) })
            })
            .await?;
        let known = accepted.image.and_then(|image| image.chain);
        Ok(is_older(Some(chain), known.as_deref()))
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
