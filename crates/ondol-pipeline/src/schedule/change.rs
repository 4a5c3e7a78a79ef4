//! Changes of one step or run, each in a transaction of its own that looks before it writes.

use std::sync::atomic::Ordering;

use ondol_types::{StepId, Timestamp};

use crate::error::PipelineError;
use crate::events::{self, Draft};
use crate::model::{Conclusion, Run, RunOutcome, RunState, Step, StepState};
use crate::{Inner, store};

/// What a change leaves in the log; `None` when there was nothing to change after all.
pub(super) type Changed = Result<Option<Vec<Draft>>, PipelineError>;

impl Inner {
    /// Changes a step of a running run. `apply` sees the rows as they are in the transaction.
    pub(super) async fn change<F>(
        &self,
        id: &StepId,
        apply: F,
    ) -> Result<Option<(Run, Step)>, PipelineError>
    where
        F: Fn(&Run, &mut Step, Timestamp) -> Changed + Send + Sync,
    {
        let apply = &apply;
        let changed = self
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let Some(mut step) = store::load_step(tx, id).await? else {
                        return Ok(None);
                    };
                    let Some(run) = store::load_run(tx, &step.run).await? else {
                        return Ok(None);
                    };
                    if run.state != RunState::Running {
                        return Ok(None);
                    }
                    let Some(drafts) = apply(&run, &mut step, tx.now())? else {
                        return Ok(None);
                    };
                    store::save_step(tx, &step).await?;
                    for draft in drafts {
                        tx.append(draft.into()).await?;
                    }
                    Ok(Some((run, step)))
                })
            })
            .await?;
        if let Some((run, step)) = &changed {
            if step.state == StepState::Finished {
                self.counters.steps_finished.fetch_add(1, Ordering::Relaxed);
            }
            self.changed(run.id);
        }
        Ok(changed)
    }

    /// Ends a step that has nothing to look at.
    pub(super) async fn conclude(
        &self,
        id: &StepId,
        conclusion: Conclusion,
    ) -> Result<u64, PipelineError> {
        self.reached("pipeline.step.before-finish");
        let changed = self
            .change(id, |run, step, now| {
                if step.state == StepState::Finished {
                    return Ok(None);
                }
                step.finish(conclusion.clone(), now)?;
                Ok(Some(vec![events::step_finished(run, step)]))
            })
            .await?;
        self.reached("pipeline.step.after-finish");
        Ok(u64::from(changed.is_some()))
    }

    /// Records that the workload of a step has been started.
    pub(super) async fn record_start(&self, id: &StepId) -> Result<u64, PipelineError> {
        let changed = self
            .change(id, |run, step, now| {
                if step.state != StepState::Ready {
                    return Ok(None);
                }
                step.begin(now)?;
                Ok(Some(vec![events::step_started(run, step)]))
            })
            .await?;
        self.reached("pipeline.step.after-record");
        Ok(u64::from(changed.is_some()))
    }

    /// Ends a run whose steps have all ended.
    pub(super) async fn finish_run(
        &self,
        run: &Run,
        outcome: RunOutcome,
        reason: Option<String>,
    ) -> Result<u64, PipelineError> {
        self.reached("pipeline.run.before-finish");
        let (id, reason) = (&run.id, &reason);
        let finished = self
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let Some(mut run) = store::load_run(tx, id).await? else {
                        return Ok(false);
                    };
                    if run.state != RunState::Running {
                        return Ok(false);
                    }
                    run.finish(outcome, reason.clone(), tx.now())?;
                    store::save_run(tx, &run).await?;
                    tx.append(events::finished(self.base(), &run).into())
                        .await?;
                    Ok(true)
                })
            })
            .await?;
        self.reached("pipeline.run.after-finish");
        if finished {
            self.counters.runs_finished.fetch_add(1, Ordering::Relaxed);
            tracing::info!(run.id = %run.id, run.number = run.number, project = %run.project, outcome = %outcome, "run finished");
            self.changed(run.id);
        }
        Ok(u64::from(finished))
    }
}
