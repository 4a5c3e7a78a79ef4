//! Actions: steps that Ondol carries out itself.
//!
//! The step is held by this process under a fencing number, and the hold is renewed while the
//! action works. When the process dies, the next one takes the step under a greater number and
//! repeats the action; a late writer of the old hold is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ondol_spec::model::{Approve, Spec};
use ondol_types::{Problem, StepId, StepName};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::change::Changed;
use super::launch::{Meaning, explained, meaning, pause};
use super::tasks::Key;
use crate::error::PipelineError;
use crate::log::ActionLog;
use crate::model::{Conclusion, Run, Step, StepOutcome, StepState, Work};
use crate::plan::{APPROVE_ACTION, GATHER_ACTION, NO_TESTS_ACTION, built_in};
use crate::ports::{ActionCtx, ActionOutcome};
use crate::{Inner, events, store};

/// How long an action may take to end after it was told to.
const GRACE: Duration = Duration::from_secs(30);
/// How often an action may be lost or fail for want of something before the step gives up.
const MAX_FAULTS: u32 = 4;
/// How often a step may be taken in total, so that an action that kills the process each time
/// does not do so for ever.
const MAX_TAKES: i64 = 50;

/// The most bytes that the outputs of a step may have as JSON.
const MAX_OUTPUT_BYTES: usize = 256 << 10;

impl Inner {
    /// Takes an action step for this process and sets its action going.
    pub(super) async fn take_and_act(self: &Arc<Self>, id: &StepId) -> Result<u64, PipelineError> {
        if self.tasks.is_busy(&Key::Work(*id)) {
            return Ok(0);
        }
        let until = self.config.lease;
        let taken = self
            .change(id, |run, step, now| {
                if !matches!(step.state, StepState::Ready | StepState::Running) {
                    return Ok(None);
                }
                if step.fence >= MAX_TAKES {
                    let reason = format!("it was begun {MAX_TAKES} times and never ended");
                    step.finish(Conclusion::because(StepOutcome::Error, reason), now)?;
                    return Ok(Some(vec![events::step_finished(run, step)]));
                }
                step.take(&self.holder, now.plus(until))?;
                if step.state == StepState::Ready {
                    step.begin(now)?;
                    if let Some(approval) = &step.definition.approval {
                        step.reason = Some(waiting(run, step, approval));
                    }
                    return Ok(Some(vec![events::step_started(run, step)]));
                }
                Ok(Some(Vec::new()))
            })
            .await?;
        self.reached("pipeline.action.after-claim");
        let Some((run, step)) = taken else {
            return Ok(0);
        };
        if step.state == StepState::Running {
            let inner = self.clone();
            self.tasks
                .spawn(Key::Work(*id), &self.scheduling, move |cancel| async move {
                    inner.act(run, step, cancel).await;
                });
        }
        Ok(1)
    }

    async fn act(self: &Arc<Self>, run: Run, step: Step, cancel: CancellationToken) {
        let work = self.work(&run, &step, cancel.clone());
        let recorded = tokio::select! {
            recorded = work => recorded,
            () = self.keep_holding(&step, &cancel) => {
                tracing::warn!(step.id = %step.id, "another process holds the step");
                return;
            }
        };
        if let Err(error) = recorded {
            tracing::warn!(step.id = %step.id, error = %Problem::from(error).chain(), "cannot record the end of an action");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Renews the hold until it is lost.
    async fn keep_holding(&self, step: &Step, cancel: &CancellationToken) {
        loop {
            tokio::time::sleep(self.config.lease / 3).await;
            let lease = self.config.lease;
            let renewed = self
                .change(&step.id, |_, current, now| {
                    if !holds(current, step) {
                        return Ok(None);
                    }
                    current.lease_until = Some(now.plus(lease));
                    Ok(Some(Vec::new()))
                })
                .await;
            match renewed {
                Ok(Some(_)) => {}
                Ok(None) => {
                    cancel.cancel();
                    return;
                }
                Err(error) => {
                    tracing::warn!(step.id = %step.id, %error, "cannot renew the hold of an action")
                }
            }
        }
    }

    async fn work(
        self: &Arc<Self>,
        run: &Run,
        step: &Step,
        cancel: CancellationToken,
    ) -> Result<(), PipelineError> {
        let name = match &step.definition.work {
            Work::Action(name) => name.as_str(),
            Work::Command(_) => "",
        };
        if name == built_in::CHECKOUT {
            let log = self.log_of(run, step);
            let result = bounded(step, &cancel, self.check_out(run, &log)).await;
            self.reached("pipeline.action.after-run");
            return self.record_checkout(step, &log, result).await;
        }
        let ctx = self.context(run, step, cancel.clone()).await?;
        let result = match (name, self.deps.actions.get(name)) {
            (NO_TESTS_ACTION, _) => {
                ctx.log.line("this project has no tests, so there is nothing that keeps a mistake from being released");
                ctx.log.line("add tests where the language expects them, or name a command under `test` in ondol.yaml");
                Bounded::Done(Ok(ActionOutcome::Success(Value::Null)))
            }
            // What it stands for has passed, or it would not have begun.
            (GATHER_ACTION, _) => Bounded::Done(Ok(ActionOutcome::Success(Value::Null))),
            // Whoever approves or refuses ends the step, and with it this hold.
            (APPROVE_ACTION, _) => {
                ctx.log.line(step.reason.as_deref().unwrap_or_default());
                let nobody = std::future::pending::<Result<ActionOutcome, Problem>>();
                match bounded(step, &cancel, nobody).await {
                    Bounded::TimedOut => {
                        let seconds = step.definition.timeout().as_secs();
                        let text = format!("nobody approved it within {seconds} s");
                        Bounded::Done(Ok(ActionOutcome::Failed(text)))
                    }
                    other => other,
                }
            }
            (_, Some(action)) => bounded(step, &cancel, action.run(&ctx)).await,
            (_, None) => {
                let problem = Problem::new(
                    ondol_types::ErrorKind::Unsupported,
                    "pipeline.action.missing",
                    format!("this installation has no action `{name}`"),
                );
                Bounded::Done(Err(problem))
            }
        };
        self.reached("pipeline.action.after-run");
        self.record_action(step, &ctx.log, result).await
    }

    pub(super) fn log_of(&self, run: &Run, step: &Step) -> ActionLog {
        ActionLog::open(
            &self.action_log(&run.id, &step.name),
            self.deps.clock.clone(),
        )
    }

    async fn context(
        &self,
        run: &Run,
        step: &Step,
        cancel: CancellationToken,
    ) -> Result<ActionCtx, PipelineError> {
        let id = &run.id;
        let (steps, spec) = self
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    Ok((
                        store::load_steps(tx, id).await?,
                        store::load_spec(tx, id).await?,
                    ))
                })
            })
            .await?;
        let spec: Spec = match spec {
            Some((spec, _)) => serde_json::from_value(spec).map_err(|error| {
                PipelineError::Elsewhere(Problem::internal(
                    "the stored specification of a run cannot be read",
                    error,
                ))
            })?,
            None => Spec::default(),
        };
        let outputs: BTreeMap<StepName, Value> = steps
            .into_iter()
            .filter_map(|step| Some((step.name, step.outputs?)))
            .collect();
        let deadline = step
            .started_at
            .unwrap_or_else(|| self.deps.clock.now())
            .plus(step.definition.timeout());
        Ok(ActionCtx {
            log: self.log_of(run, step),
            workspace: self.workspace(&run.id),
            spec: Arc::new(spec),
            outputs,
            cancel,
            deadline,
            fence: step.fence,
            clock: self.deps.clock.clone(),
            run: run.clone(),
            step: step.clone(),
        })
    }

    async fn record_action(
        &self,
        held: &Step,
        log: &ActionLog,
        result: Bounded<ActionOutcome>,
    ) -> Result<(), PipelineError> {
        let end = ending(held, result);
        say(log, &end);
        self.change(&held.id, |run, step, now| {
            if !holds(step, held) {
                return Ok(None);
            }
            apply(run, step, &end, now)
        })
        .await?;
        self.reached("pipeline.action.after-finish");
        Ok(())
    }
}

/// What people read while a step waits for one of them.
fn waiting(run: &Run, step: &Step, approval: &Approve) -> String {
    let message = approval.message.as_deref();
    let message = message.map_or(String::new(), |text| format!(": {text}"));
    format!(
        "it waits for an approval{message} (`ondol run approve {} {}`)",
        run.number, step.name
    )
}

/// Whether a step is still held as it was when the action began.
pub(super) fn holds(current: &Step, held: &Step) -> bool {
    current.state == StepState::Running
        && current.fence == held.fence
        && current.holder == held.holder
}

/// The result of work that was given a limited time.
pub(super) enum Bounded<T> {
    Done(Result<T, Problem>),
    TimedOut,
    Cancelled,
}

/// Runs an action within its timeout, and for a short while after it was told to stop.
pub(super) async fn bounded<T>(
    step: &Step,
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, Problem>>,
) -> Bounded<T> {
    let late = async {
        cancel.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = work => match result {
            // Whatever it says after it was told to stop, unless it had done its work.
            Err(_) if cancel.is_cancelled() => Bounded::Cancelled,
            result => Bounded::Done(result),
        },
        () = tokio::time::sleep(step.definition.timeout()) => Bounded::TimedOut,
        () = late => Bounded::Cancelled,
    }
}

/// How an attempt of an action ended.
pub(super) enum Ending {
    Finish(Conclusion),
    Again(String),
}

pub(super) fn ending(step: &Step, result: Bounded<ActionOutcome>) -> Ending {
    let finish = |outcome, reason: String| Ending::Finish(Conclusion::because(outcome, reason));
    if let Bounded::Done(Ok(
        ActionOutcome::Success(outputs) | ActionOutcome::Refused { outputs, .. },
    )) = &result
        && outputs.to_string().len() > MAX_OUTPUT_BYTES
    {
        let reason = format!("its outputs are larger than {} KiB", MAX_OUTPUT_BYTES >> 10);
        return finish(StepOutcome::Error, reason);
    }
    match result {
        Bounded::Done(Ok(ActionOutcome::Success(outputs))) => Ending::Finish(Conclusion {
            outputs: (!outputs.is_null()).then_some(outputs),
            ..Conclusion::success()
        }),
        Bounded::Done(Ok(ActionOutcome::Failed(reason))) => finish(StepOutcome::Failure, reason),
        Bounded::Done(Ok(ActionOutcome::Skipped(reason))) => finish(StepOutcome::Skipped, reason),
        Bounded::Done(Ok(ActionOutcome::Refused { reason, outputs })) => {
            Ending::Finish(Conclusion {
                outputs: (!outputs.is_null()).then_some(outputs),
                ..Conclusion::because(StepOutcome::Refused, reason)
            })
        }
        Bounded::Done(Err(problem)) => match meaning(problem.kind) {
            Meaning::Again if step.faults < MAX_FAULTS => Ending::Again(explained(&problem)),
            Meaning::Again | Meaning::Error => finish(StepOutcome::Error, explained(&problem)),
            Meaning::Failure => finish(StepOutcome::Failure, explained(&problem)),
        },
        Bounded::TimedOut => {
            let seconds = step.definition.timeout().as_secs();
            finish(
                StepOutcome::TimedOut,
                format!("it ran longer than its timeout of {seconds} s"),
            )
        }
        Bounded::Cancelled => finish(StepOutcome::Cancelled, "it was told to stop".to_owned()),
    }
}

/// The last line of the log of an action says how it ended.
pub(super) fn say(log: &ActionLog, end: &Ending) {
    match end {
        Ending::Finish(conclusion) => {
            if let Some(reason) = &conclusion.reason {
                log.line(format!("{}: {reason}", conclusion.outcome));
            }
        }
        Ending::Again(reason) => log.line(format!("this is tried again: {reason}")),
    }
}

pub(super) fn apply(
    run: &Run,
    step: &mut Step,
    end: &Ending,
    now: ondol_types::Timestamp,
) -> Changed {
    match end {
        Ending::Again(reason) if run.cancel.is_none() => {
            let moment = now.plus(pause(step.faults));
            step.again(moment, true, reason.clone())?;
            Ok(Some(Vec::new()))
        }
        Ending::Again(reason) => {
            step.finish(
                Conclusion::because(StepOutcome::Cancelled, reason.clone()),
                now,
            )?;
            Ok(Some(vec![events::step_finished(run, step)]))
        }
        Ending::Finish(conclusion) => {
            let mut conclusion = conclusion.clone();
            if let (StepOutcome::Cancelled, Some(cancel)) = (conclusion.outcome, &run.cancel) {
                conclusion.reason = Some(cancel.reason.clone());
            }
            step.finish(conclusion, now)?;
            Ok(Some(vec![events::step_finished(run, step)]))
        }
    }
}
