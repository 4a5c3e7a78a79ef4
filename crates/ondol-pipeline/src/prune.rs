//! Retention: runs beyond their number or age go, with their workloads, logs and reports; caches
//! are kept within their size; workspaces that belong to no run are removed.
//!
//! What lies outside the database goes first: a crash in between only means that it is tried
//! again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_types::{Classified, ErrorKind, Problem, ProjectName, RunId};

use crate::error::PipelineError;
use crate::model::RunState;
use crate::schedule::blocking;
use crate::store::{self, Expired};
use crate::workspace::{Caches, cache, remove_tree};
use crate::{Inner, Workspace};

const RUNS_PER_TICK: u32 = 50;
const PROJECTS_PER_TICK: u32 = 20;
const FOLDERS_PER_TICK: usize = 200;

pub(crate) struct Pruner {
    inner: Arc<Inner>,
    /// The project at which the next tick goes on, by name.
    place: Mutex<String>,
}

impl Pruner {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self {
            inner,
            place: Mutex::default(),
        }
    }
}

#[async_trait]
impl Reconciler for Pruner {
    fn name(&self) -> &'static str {
        "pipeline.prune"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(60)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let inner = &self.inner;
        let after = self
            .place
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let (expired, projects) = inner.find_expired(&after).await?;
        let full = expired.len() >= RUNS_PER_TICK as usize;
        let mut removed = 0;
        for run in expired.iter().take(RUNS_PER_TICK as usize) {
            removed += inner.forget(run).await?;
        }
        if !full {
            let next = projects
                .last()
                .map_or_else(String::new, ToString::to_string);
            *self.place.lock().unwrap_or_else(PoisonError::into_inner) = next;
        }
        inner.expire_flaky().await?;
        inner.trim_caches().await?;
        inner.sweep_workspaces().await?;
        inner
            .counters
            .runs_pruned
            .fetch_add(removed, Ordering::Relaxed);
        Ok(Report {
            seen: projects.len() as u64,
            changed: removed,
            note: (removed > 0).then(|| format!("{removed} old runs were deleted")),
            more: full,
        })
    }
}

impl Inner {
    async fn find_expired(
        &self,
        after: &str,
    ) -> Result<(Vec<Expired>, Vec<ProjectName>), PipelineError> {
        let oldest = self.deps.clock.now().minus(self.config.keep_age);
        let keep = self.config.keep_runs.max(1);
        self.deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let mut expired = store::forgotten(tx, RUNS_PER_TICK).await?;
                    expired.extend(store::expired_by_age(tx, oldest, RUNS_PER_TICK).await?);
                    let projects = store::projects(tx, after, PROJECTS_PER_TICK).await?;
                    for project in &projects {
                        expired.extend(
                            store::expired_by_count(tx, project, keep, RUNS_PER_TICK).await?,
                        );
                    }
                    expired.sort_by_key(|one| one.run);
                    expired.dedup_by_key(|one| one.run);
                    Ok((expired, projects))
                })
            })
            .await
    }

    /// Removes a finished run with all that it left; 0 when something of it cannot go yet.
    pub(crate) async fn forget(&self, expired: &Expired) -> Result<u64, PipelineError> {
        for workload in &expired.workloads {
            match self.deps.engine.remove(workload).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(workload.id = %workload, %error, "cannot delete the log of an old step");
                    return Ok(0);
                }
            }
        }
        let logs = self.config.logs.join(expired.run.to_string());
        blocking(move || remove_tree(&logs)).await?;
        self.reached("pipeline.prune.after-files");
        let run = &expired.run;
        self.deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::forget_run(tx, run).await?) })
            })
            .await?;
        Ok(1)
    }

    /// Forgets tests that have not wavered for as long as runs are kept.
    async fn expire_flaky(&self) -> Result<(), PipelineError> {
        let oldest = self.deps.clock.now().minus(self.config.keep_age);
        self.deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::expire_flaky(tx, oldest).await?) })
            })
            .await
    }

    /// Trims the caches that runs have used since the last time, once nothing is under way there.
    async fn trim_caches(&self) -> Result<(), PipelineError> {
        let due: Vec<ProjectName> = {
            let mut due = self.trim_due.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *due).into_iter().collect()
        };
        for project in &due {
            let idle = self
                .deps
                .store
                .read::<_, PipelineError, _>(|tx| {
                    Box::pin(
                        async move { Ok(store::active_run_ids(tx, project).await?.is_empty()) },
                    )
                })
                .await?;
            if !idle {
                self.trim_later(project);
                continue;
            }
            let (caches, most) = (
                Caches::of(&self.config.cache, project),
                self.config.cache_max_bytes,
            );
            let freed = blocking(move || Ok(cache::trim(&caches, most))).await?;
            self.counters
                .cache_bytes_freed
                .fetch_add(freed, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The caches of a project have been used.
    pub(crate) fn trim_later(&self, project: &ProjectName) {
        let mut due = self.trim_due.lock().unwrap_or_else(PoisonError::into_inner);
        due.insert(project.clone());
    }

    /// The caches of a project are gone.
    pub(crate) fn trimmed(&self, project: &ProjectName) {
        let mut due = self.trim_due.lock().unwrap_or_else(PoisonError::into_inner);
        due.remove(project);
    }

    /// Removes workspaces whose run is gone, or has finished and was cleaned.
    async fn sweep_workspaces(&self) -> Result<(), PipelineError> {
        let root = self.config.workspaces.clone();
        let found = blocking(move || {
            let Ok(entries) = std::fs::read_dir(&root) else {
                return Ok(Vec::new());
            };
            let runs = entries.flatten().filter_map(|entry| {
                let name = entry.file_name();
                name.to_str()?.strip_prefix("run-")?.parse::<RunId>().ok()
            });
            Ok(runs.take(FOLDERS_PER_TICK).collect::<Vec<RunId>>())
        })
        .await?;
        for id in found {
            let id = &id;
            let orphan = self
                .deps
                .store
                .read::<_, PipelineError, _>(|tx| {
                    Box::pin(async move {
                        let run = store::load_run(tx, id).await?;
                        Ok(match run {
                            None => true,
                            Some(run) => {
                                run.state == RunState::Finished && !store::is_dirty(tx, id).await?
                            }
                        })
                    })
                })
                .await?;
            if orphan {
                let workspace = Workspace::of(&self.config.workspaces, id);
                blocking(move || remove_tree(workspace.root())).await?;
            }
        }
        Ok(())
    }
}
