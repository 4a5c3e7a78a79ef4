//! Steps that wait for a person: who may end the waiting, and how.

use ondol_auth::{Action as Permission, Ctx};
use ondol_types::{RunId, StepName};
use serde_json::json;

use crate::error::PipelineError;
use crate::model::{Conclusion, RunState, Step, StepOutcome, StepState};
use crate::schedule::Key;
use crate::{Pipeline, events, store};

/// The longest comment that is kept, in characters.
const MAX_COMMENT: usize = 1_000;

impl Pipeline {
    /// Approves or refuses a step that waits for a person. The first word counts.
    ///
    /// # Errors
    /// There is no such run or step, it does not wait, or the principal may not deploy, or is the
    /// one who started the run where that is not enough.
    pub async fn decide_approval(
        &self,
        ctx: &Ctx,
        run: &RunId,
        name: &StepName,
        approved: bool,
        comment: &str,
    ) -> Result<Step, PipelineError> {
        self.permitted(ctx, run, Permission::Deploy).await?;
        let inner = &self.0;
        let comment: String = comment.chars().take(MAX_COMMENT).collect();
        let (by, comment) = (ctx.principal.name.as_str(), comment.as_str());
        let step = inner
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let Some(owner) = store::load_run(tx, run).await? else {
                        return Err(PipelineError::NoRun(run.to_string()));
                    };
                    let Some(mut step) = store::load_step_of(tx, run, name).await? else {
                        return Err(PipelineError::NoStep {
                            run: *run,
                            step: name.to_string(),
                        });
                    };
                    let waits = owner.state == RunState::Running
                        && owner.cancel.is_none()
                        && step.state == StepState::Running;
                    let Some(approval) = step.definition.approval.as_ref().filter(|_| waits) else {
                        return Err(PipelineError::NotWaiting {
                            run: *run,
                            step: name.to_string(),
                        });
                    };
                    if approved && approval.by_another && owner.author == by {
                        return Err(PipelineError::OwnApproval(name.to_string()));
                    }
                    let said = if comment.is_empty() {
                        String::new()
                    } else {
                        format!(": {comment}")
                    };
                    let (outcome, word) = match approved {
                        true => (StepOutcome::Success, "approved"),
                        false => (StepOutcome::Refused, "refused"),
                    };
                    let conclusion = Conclusion {
                        outputs: Some(json!({ "by": by, "comment": comment })),
                        ..Conclusion::because(outcome, format!("{word} by {by}{said}"))
                    };
                    step.finish(conclusion, tx.now())?;
                    store::save_step(tx, &step).await?;
                    tx.append(events::decided(&owner, &step, by, approved, comment).into())
                        .await?;
                    tx.append(events::step_finished(&owner, &step).into())
                        .await?;
                    Ok(step)
                })
            })
            .await?;
        inner.tasks.interrupt(&Key::Work(step.id));
        inner
            .counters
            .steps_finished
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        inner.changed(*run);
        Ok(step)
    }
}
