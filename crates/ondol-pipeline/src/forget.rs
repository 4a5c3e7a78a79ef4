//! The end of a project in this room: its runs are cancelled and waited for, then they go with
//! their workloads, logs, reports and workspaces, and its caches with them.
//!
//! Nothing is removed before it has ended, and rows go last: a death in between only means that
//! the rest is found again.

use async_trait::async_trait;
use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::Problem;

use crate::error::PipelineError;
use crate::schedule::blocking;
use crate::store;
use crate::workspace::{Caches, remove_tree};
use crate::{Inner, Pipeline};

/// Runs that are removed before the others get their turn.
const RUNS_AT_ONCE: u32 = 200;

/// What a look at the rows found.
struct Left {
    /// The follower has not passed the deletion.
    behind: bool,
    active: usize,
    unclean: bool,
    finished: Vec<store::Expired>,
}

#[async_trait]
impl ForgetProject for Pipeline {
    fn name(&self) -> &'static str {
        "pipeline"
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        Ok(self.0.forget_project(hold).await?)
    }
}

impl Inner {
    async fn forget_project(&self, hold: &ProjectHold) -> Result<Forgotten, PipelineError> {
        let project = &hold.name;
        let cancelled = self
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let reason = format!("project `{project}` was deleted");
                    let active = store::active_run_ids(tx, project).await?;
                    for id in &active {
                        self.request_cancel(tx, id, "ondol", &reason).await?;
                    }
                    Ok(active)
                })
            })
            .await?;
        for run in cancelled {
            self.changed(run);
        }
        let left = self
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    Ok(Left {
                        behind: store::cursor(tx).await? < hold.seq,
                        active: store::active_run_ids(tx, project).await?.len(),
                        unclean: store::has_dirty_runs(tx, project).await?,
                        finished: store::finished_of(tx, project, RUNS_AT_ONCE).await?,
                    })
                })
            })
            .await?;
        let mut removed = 0;
        for run in &left.finished {
            removed += self.forget(run).await?;
        }
        let remains = |what: &str| Ok(Forgotten::Remains(what.to_owned()));
        if left.behind {
            self.following.wake();
            return remains("the log is not read up to the deletion");
        }
        if left.active > 0 {
            return remains(&format!("{} runs are ending", left.active));
        }
        if left.unclean {
            self.scheduling.wake();
            return remains("folders of runs are being removed");
        }
        if removed < left.finished.len() as u64 {
            return remains("logs of runs cannot be removed yet");
        }
        if removed == u64::from(RUNS_AT_ONCE) {
            return remains("more runs are to be removed");
        }
        self.reached("pipeline.forget.after-runs");
        let caches = self.config.cache.clone();
        let root = Caches::of(&caches, project).root().to_owned();
        blocking(move || remove_tree(&root)).await?;
        self.trimmed(project);
        self.deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::forget_project(tx, project).await?) })
            })
            .await?;
        Ok(Forgotten::Entirely)
    }
}
