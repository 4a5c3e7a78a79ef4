//! What people and programs ask of the pipeline.

mod approval;
mod artifacts;

use std::time::Duration;

use ondol_auth::{Action as Permission, Ctx, Denied, VisibleScope, visible_scope};
use ondol_types::{ProjectName, RunId, StepName};
use ondol_workload::LogQuery;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::broadcast;
use utoipa::ToSchema;

use crate::Pipeline;
use crate::error::PipelineError;
use crate::logs::{self, LogStream};
use crate::model::{Run, RunState, Step, TestReport, Trigger};
use crate::plan::critical_path;
use crate::store::{self, ListQuery, NewRun};

/// The most runs of one page.
pub(crate) const MAX_PAGE: u32 = 200;
/// The most projects that a list without a project looks at, for principals who see only some.
const MAX_PROJECTS: usize = 200;

/// Which runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only of this project.
    pub project: Option<ProjectName>,
    /// Only in this state.
    pub state: Option<RunState>,
    /// Only of this branch; needs a project.
    pub branch: Option<String>,
}

/// Runs, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunPage {
    /// The runs.
    pub runs: Vec<Run>,
    /// Cursor of the next page, when there may be one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// A run with everything in it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunDetail {
    /// The run.
    pub run: Run,
    /// Its steps in order.
    pub steps: Vec<Step>,
    /// What tests reported.
    pub tests: Vec<TestReport>,
    /// The steps of which each waited for the one before it, up to the one that ended last.
    pub critical_path: Vec<StepName>,
    /// The effective specification, once the code was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub spec: Option<Value>,
    /// Where each effective value came from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub explain: Option<Value>,
}

/// Tells when a run may have changed.
#[derive(Debug)]
pub struct RunWatch {
    run: RunId,
    changes: broadcast::Receiver<RunId>,
}

impl RunWatch {
    pub(crate) fn new(run: RunId, changes: broadcast::Receiver<RunId>) -> Self {
        Self { run, changes }
    }

    /// Waits until the run may have changed; false when `patience` passed without a sign. A
    /// watcher that was too slow is told at once, because it may have missed something.
    pub async fn wait(&mut self, patience: Duration) -> bool {
        let change = async {
            loop {
                match self.changes.recv().await {
                    Ok(run) if run == self.run => return,
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
                }
            }
        };
        tokio::time::timeout(patience, change).await.is_ok()
    }
}

impl Pipeline {
    /// Runs that match, newest first. `before` is the cursor of the page before.
    ///
    /// # Errors
    /// The principal may not read the project; a branch is given without a project.
    pub async fn list_runs(
        &self,
        ctx: &Ctx,
        filter: &RunFilter,
        before: Option<i64>,
        limit: u32,
    ) -> Result<RunPage, PipelineError> {
        let projects = self.scope(ctx, filter)?;
        let limit = limit.clamp(1, MAX_PAGE);
        let projects = projects.as_deref();
        let mut runs = self
            .0
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let query = ListQuery {
                        projects,
                        state: filter.state,
                        branch: filter.branch.as_deref(),
                        before: before.unwrap_or(i64::MAX),
                        limit: limit + 1,
                    };
                    Ok(store::list_runs(tx, query).await?)
                })
            })
            .await?;
        let more = runs.len() > limit as usize;
        runs.truncate(limit as usize);
        let next = if more {
            runs.last().map(|run| run.seq)
        } else {
            None
        };
        Ok(RunPage { runs, next })
    }

    /// The projects that a list may show; `None` means all.
    fn scope(
        &self,
        ctx: &Ctx,
        filter: &RunFilter,
    ) -> Result<Option<Vec<ProjectName>>, PipelineError> {
        if let Some(project) = &filter.project {
            ctx.require(Permission::Read, project)?;
            return Ok(Some(vec![project.clone()]));
        }
        authenticated(ctx)?;
        if filter.branch.is_some() {
            return Err(PipelineError::Filter(
                "a branch can only be asked for together with its project".to_owned(),
            ));
        }
        match visible_scope(&ctx.principal, Permission::Read, ctx.clock.now()) {
            VisibleScope::Everything => Ok(None),
            VisibleScope::Projects(projects) if projects.len() > MAX_PROJECTS => {
                let many = projects.len();
                Err(PipelineError::Filter(format!(
                    "you see {many} projects: name the one whose runs you want"
                )))
            }
            VisibleScope::Projects(projects) => Ok(Some(projects)),
        }
    }

    /// One run with its steps, test results and notes.
    ///
    /// # Errors
    /// There is no such run, or the principal may not know of it.
    pub async fn show_run(&self, ctx: &Ctx, id: &RunId) -> Result<RunDetail, PipelineError> {
        self.permitted(ctx, id, Permission::Read).await?;
        let detail = self
            .0
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let Some(run) = store::load_run(tx, id).await? else {
                        return Ok(None);
                    };
                    let (spec, explain) = store::load_spec(tx, id).await?.unzip();
                    let steps = store::load_steps(tx, id).await?;
                    let tests = store::load_reports(tx, id).await?;
                    Ok(Some(RunDetail {
                        run,
                        critical_path: critical_path(&steps),
                        steps,
                        tests,
                        spec,
                        explain,
                    }))
                })
            })
            .await?;
        detail.ok_or_else(|| PipelineError::NoRun(id.to_string()))
    }

    /// The run of a project with a number.
    ///
    /// # Errors
    /// There is no such run, or the principal may not know of it.
    pub async fn find_run(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        number: i64,
    ) -> Result<Run, PipelineError> {
        ctx.require(Permission::Read, project)?;
        let found = self
            .0
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::load_run_by_number(tx, project, number).await?) })
            })
            .await?;
        found.ok_or_else(|| PipelineError::NoRun(format!("{number} of project `{project}`")))
    }

    /// The run, when the principal may do this with it.
    pub(crate) async fn permitted(
        &self,
        ctx: &Ctx,
        id: &RunId,
        action: Permission,
    ) -> Result<Run, PipelineError> {
        authenticated(ctx)?;
        let found = self
            .0
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::load_run(tx, id).await?) })
            })
            .await?;
        let run = found.ok_or_else(|| PipelineError::NoRun(id.to_string()))?;
        match ctx.require(action, &run.project) {
            Ok(()) => Ok(run),
            // A run of somebody else reads like one that does not exist.
            Err(Denied::Invisible(_)) => Err(PipelineError::NoRun(id.to_string())),
            Err(denied) => Err(denied.into()),
        }
    }

    /// The log of a step, also while it waits to begin when `query.follow` is set.
    ///
    /// # Errors
    /// There is no such run or step, or the principal may not know of it.
    pub async fn logs(
        &self,
        ctx: &Ctx,
        run: &RunId,
        step: &StepName,
        query: LogQuery,
    ) -> Result<LogStream, PipelineError> {
        self.permitted(ctx, run, Permission::Read).await?;
        let found = self.step_of(run, step).await?;
        Ok(logs::stream(self.0.clone(), found, query))
    }

    async fn step_of(&self, run: &RunId, step: &StepName) -> Result<Step, PipelineError> {
        let found = self
            .0
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::load_step_of(tx, run, step).await?) })
            })
            .await?;
        found.ok_or_else(|| PipelineError::NoStep {
            run: *run,
            step: step.to_string(),
        })
    }

    /// Ends a run: at once when it is queued, otherwise as soon as its steps have stopped.
    ///
    /// # Errors
    /// There is no such run, it has finished, or the principal may not.
    pub async fn cancel(&self, ctx: &Ctx, id: &RunId) -> Result<Run, PipelineError> {
        self.permitted(ctx, id, Permission::Push).await?;
        let inner = &self.0;
        let reason = format!("cancelled by {}", ctx.principal.name);
        let (by, reason) = (ctx.principal.name.as_str(), reason.as_str());
        let cancelled = inner
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let done = inner.request_cancel(tx, id, by, reason).await?;
                    Ok(if done {
                        store::load_run(tx, id).await?
                    } else {
                        None
                    })
                })
            })
            .await?;
        inner.changed(*id);
        cancelled.ok_or(PipelineError::Finished(*id))
    }

    /// Queues a new run with the trigger and commit of one that has finished.
    ///
    /// # Errors
    /// There is no such run, it has not finished, or the principal may not.
    pub async fn retry(&self, ctx: &Ctx, id: &RunId) -> Result<Run, PipelineError> {
        let earlier = self.permitted(ctx, id, Permission::Push).await?;
        if earlier.state != RunState::Finished {
            return Err(PipelineError::Unfinished(*id));
        }
        let earlier = &earlier;
        self.queue_run(
            ctx,
            |new| NewRun {
                trigger: earlier.trigger.clone(),
                retry_of: Some(earlier.id),
                commit: earlier.commit.clone(),
                chain: earlier.chain.clone(),
                project: earlier.project.clone(),
                ..new
            },
            &earlier.project,
            &earlier.trigger,
        )
        .await
    }

    /// Queues a run of the default branch as it is now.
    ///
    /// # Errors
    /// The project has no code, or the principal may not.
    pub async fn start(&self, ctx: &Ctx, project: &ProjectName) -> Result<Run, PipelineError> {
        ctx.require(Permission::Push, project)?;
        let sources = &self.0.deps.sources;
        let head = sources
            .head(project)
            .await
            .map_err(PipelineError::Elsewhere)?;
        let commit = head.ok_or_else(|| PipelineError::NoCode(project.to_string()))?;
        let ref_name = sources
            .default_branch(project)
            .await
            .map_err(PipelineError::Elsewhere)?;
        let trigger = Trigger::Manual {
            ref_name,
            commit,
            default_branch: true,
        };
        self.queue_run(ctx, |new| new, project, &trigger).await
    }

    async fn queue_run<F>(
        &self,
        ctx: &Ctx,
        adjust: F,
        project: &ProjectName,
        trigger: &Trigger,
    ) -> Result<Run, PipelineError>
    where
        F: Fn(NewRun) -> NewRun + Send + Sync,
    {
        let inner = &self.0;
        let (author, adjust) = (ctx.principal.name.as_str(), &adjust);
        let run = inner
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let id = crate::follow::new_id(tx.now());
                    let concurrency = crate::follow::concurrency(tx, project, trigger).await?;
                    let new = NewRun {
                        id,
                        project: project.clone(),
                        trigger: trigger.clone(),
                        retry_of: None,
                        commit: trigger.commit().cloned(),
                        lane: crate::follow::lane(trigger, &concurrency),
                        chain: id.to_string(),
                        author: author.to_owned(),
                    };
                    inner.make_run(tx, adjust(new), None).await
                })
            })
            .await?;
        inner.changed(run.id);
        Ok(run)
    }

    /// Watches a run. Look at it after this call, then wait: nothing is missed in between.
    ///
    /// # Errors
    /// There is no such run, or the principal may not know of it.
    pub async fn watch(&self, ctx: &Ctx, id: &RunId) -> Result<RunWatch, PipelineError> {
        let watch = RunWatch::new(*id, self.0.changes.subscribe());
        self.permitted(ctx, id, Permission::Read).await?;
        Ok(watch)
    }
}

fn authenticated(ctx: &Ctx) -> Result<(), PipelineError> {
    let now = ctx.clock.now();
    let expired = ctx.principal.expires_at.is_some_and(|end| end <= now);
    if !ctx.principal.is_authenticated() || expired {
        return Err(Denied::Unauthenticated.into());
    }
    Ok(())
}
