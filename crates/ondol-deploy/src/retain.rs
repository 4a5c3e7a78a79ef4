//! Nothing grows without a bound: releases, rollouts, logs of what has stopped, unpacked images
//! and models, and workloads that no row knows.
//!
//! It must never touch what is not this room's: only workloads with this room's label, and only
//! folders that this room made in the cache.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_types::{Problem, Timestamp};
use ondol_workload::EngineError;

use crate::error::DeployError;
use crate::execute::{ROLE, ROLE_COMMAND, ROLE_REPLICA};
use crate::model::Environment;
use crate::room::Room;
use crate::store::{self, Claim};

/// How much one tick removes of each kind and environment.
const BATCH: u32 = 50;

/// Removes what is no longer kept.
pub(crate) struct RetainLoop {
    pub(crate) room: Arc<Room>,
}

#[async_trait]
impl Reconciler for RetainLoop {
    fn name(&self) -> &'static str {
        "deploy.retention"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let environments = self
            .room
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move { Ok(store::environments(tx, None).await?) })
            })
            .await?;
        let mut report = Report {
            seen: environments.len() as u64,
            ..Report::default()
        };
        for environment in &environments {
            report.changed += self.rows(environment).await?;
        }
        report.changed += self.workloads().await?;
        report.changed += self.previews().await?;
        report.changed += self.cache(&environments).await?;
        Ok(report)
    }
}

impl RetainLoop {
    fn horizon(&self) -> Timestamp {
        self.room.clock.now().minus(self.room.config.keep_logs)
    }

    async fn rows(&self, environment: &Environment) -> Result<u64, DeployError> {
        let (project, name) = (&environment.project, &environment.name);
        let config = &self.room.config;
        let (horizon, keep_replicas) = (self.horizon(), config.keep_replicas);
        let expired = self
            .room
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    Ok(
                        store::old_replicas(tx, project, name, horizon, keep_replicas, BATCH)
                            .await?,
                    )
                })
            })
            .await?;
        let mut changed = 0;
        for (id, workload) in expired {
            // The log first: while the row stands, this is tried again.
            match self.room.engine.remove(&workload).await {
                Ok(()) | Err(EngineError::NotFound(_)) => {}
                Err(error) => {
                    tracing::warn!(workload.id = %workload, error = %error, "a stopped replica cannot be removed");
                    continue;
                }
            }
            self.room
                .store
                .write::<_, DeployError, _>(|tx| {
                    Box::pin(async move { Ok(store::delete_replica(tx, id).await?) })
                })
                .await?;
            changed += 1;
        }
        let (keep_releases, keep_rollouts) = (config.keep_releases, config.keep_rollouts);
        let pruned = self
            .room
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let wished = match environment.current {
                        Some(current) => store::release(tx, current)
                            .await?
                            .map_or(0, |release| release.config.release.keep + 1),
                        None => 0,
                    };
                    let keep = keep_releases.max(wished.min(200)).max(2);
                    let mut pruned = store::prune_releases(tx, project, name, keep).await?;
                    for rollout in
                        store::old_rollouts(tx, project, name, keep_rollouts.max(1), BATCH).await?
                    {
                        store::delete_rollout(tx, rollout).await?;
                        pruned += 1;
                    }
                    Ok(pruned)
                })
            })
            .await?;
        Ok(changed + pruned)
    }

    /// Workloads of this room that should not be: left by a restored backup, or by a process
    /// that died between a decision and its effect.
    async fn workloads(&self) -> Result<u64, DeployError> {
        let horizon = self.horizon();
        let mut changed = 0;
        for found in self.room.engine.list().await? {
            let id = found.id;
            let claim = match found.labels.get(ROLE).map(String::as_str) {
                Some(ROLE_REPLICA) => {
                    self.room
                        .store
                        .read::<_, DeployError, _>(|tx| {
                            Box::pin(async move { Ok(store::claim_of_replica(tx, id).await?) })
                        })
                        .await?
                }
                Some(ROLE_COMMAND) => {
                    self.room
                        .store
                        .read::<_, DeployError, _>(|tx| {
                            Box::pin(
                                async move { Ok(store::claim_of_command(tx, id, horizon).await?) },
                            )
                        })
                        .await?
                }
                _ => continue,
            };
            if claim == Claim::Wanted {
                continue;
            }
            let running = found.state.exit().is_none();
            if running {
                tracing::warn!(workload.id = %id, project = %found.project, "ending a workload that nothing wants");
                self.room.engine.kill(&id).await?;
                changed += 1;
            }
            if matches!(claim, Claim::Expired | Claim::Unknown) {
                self.room.engine.remove(&id).await?;
                changed += 1;
            }
        }
        Ok(changed)
    }

    /// Previews whose time is over leave, and what is left of those that are gone is removed:
    /// their volumes, which nothing could reach any more, and their rows.
    async fn previews(&self) -> Result<u64, DeployError> {
        let room = &self.room;
        let runs_end = room.clock.now().minus(store::RUNS_END);
        let (expired, past) = room
            .store
            .write::<_, DeployError, _>(|tx| {
                Box::pin(async move {
                    let expired = store::expired_previews(tx, BATCH).await?;
                    for preview in &expired {
                        store::set_removing(tx, &preview.project, &preview.environment).await?;
                    }
                    Ok((expired.len() as u64, store::past_previews(tx, BATCH).await?))
                })
            })
            .await?;
        if expired > 0 {
            room.wake_environments();
            room.wake_routes();
        }
        let mut changed = expired;
        for preview in &past {
            // Starters are kept out: a branch that is pushed again gets its volumes anew.
            let alone = room.unpacked.write().await;
            let gone = room
                .store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        let (project, name) = (&preview.project, &preview.environment);
                        Ok(store::environment(tx, project, name).await?.is_none())
                    })
                })
                .await?;
            if !gone {
                continue;
            }
            let volumes = room.volumes_dir(&preview.project, &preview.environment);
            match tokio::fs::remove_dir_all(&volumes).await {
                Ok(()) => changed += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(path = %volumes.display(), error = %error, "the volumes of a preview cannot be removed");
                    continue;
                }
            }
            drop(alone);
            let forgotten = room
                .store
                .write::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        let (project, name) = (&preview.project, &preview.environment);
                        Ok(store::forget_preview(tx, project, name, runs_end).await?)
                    })
                })
                .await?;
            changed += u64::from(forgotten);
        }
        Ok(changed)
    }

    /// Unpacked images and models that nothing runs or is about to run, except that of the
    /// release to which a rollback would go.
    async fn cache(&self, environments: &[Environment]) -> Result<u64, DeployError> {
        let cache = &self.room.releases;
        let images = self.room.config.cache.join("images");
        let models = self.room.config.cache.join("models");
        // Starters are kept out while the list is made and until what goes is out of their way.
        let alone = self.room.unpacked.write().await;
        let kept: BTreeSet<PathBuf> = {
            let room = &self.room;
            room.store
                .read::<_, DeployError, _>(|tx| {
                    Box::pin(async move {
                        let fleet = store::load_fleet(tx, cache).await?;
                        let mut releases: Vec<_> = fleet.releases.values().cloned().collect();
                        for environment in environments {
                            let current =
                                environment.current.and_then(|id| fleet.releases.get(&id));
                            if let Some(current) = current {
                                let (project, name) = (&environment.project, &environment.name);
                                let before =
                                    store::served_before(tx, project, name, current.base()).await?;
                                releases.extend(before.map(Arc::new));
                            }
                        }
                        let mut kept = BTreeSet::new();
                        for release in releases {
                            kept.insert(room.image_dir(&release.image));
                            kept.extend(
                                release
                                    .model
                                    .as_ref()
                                    .map(|model| room.model_dir(&release.project, model)),
                            );
                        }
                        Ok(kept)
                    })
                })
                .await?
        };
        let trash = self.room.config.cache.join("trash");
        let mut changed = 0;
        for dir in folders(&images, 1)
            .await
            .into_iter()
            .chain(folders(&models, 3).await)
        {
            if !kept.contains(&dir) && tokio::fs::create_dir_all(&trash).await.is_ok() {
                let name = format!("{}-{changed}", self.room.clock.now().as_micros());
                changed += u64::from(tokio::fs::rename(&dir, trash.join(name)).await.is_ok());
            }
        }
        drop(alone);
        if tokio::fs::try_exists(&trash).await.unwrap_or(false)
            && let Err(error) = tokio::fs::remove_dir_all(&trash).await
        {
            tracing::warn!(path = %trash.display(), error = %error, "unpacked files cannot be removed");
        }
        Ok(changed)
    }
}

/// Folders `depth` levels below `root`.
async fn folders(root: &Path, depth: u32) -> Vec<PathBuf> {
    let mut level = vec![root.to_owned()];
    for _ in 0..depth {
        let mut next = Vec::new();
        for dir in level {
            let Ok(mut entries) = tokio::fs::read_dir(&dir).await else {
                continue;
            };
            while let Ok(Some(entry)) = entries.next_entry().await {
                if entry.file_type().await.is_ok_and(|kind| kind.is_dir()) {
                    next.push(entry.path());
                }
            }
        }
        level = next;
    }
    level
}
