//! What is due next in one running run.

use std::collections::BTreeMap;
use std::time::Duration;

use ondol_types::{StepId, StepName, Timestamp};
use ondol_workload::Exit;

use crate::model::{
    CancelRequest, Conclusion, Join, Run, RunOutcome, Step, StepKind, StepOutcome, StepState,
};

use super::outcome::settle;

/// Beyond its timeout a step has this long until the platform steps in; the shim ends commands
/// at their timeout by itself.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What is known about the execution of a step.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Seen {
    /// A task of this process works on it.
    Busy,
    /// Nobody works on it, and no engine knows this attempt.
    Absent,
    /// Its workload is being prepared or runs.
    Alive,
    /// Its workload has ended.
    Exited(Exit),
}

/// Something that is due.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decision {
    /// It could start as soon as there is a place for it.
    Admit(StepId),
    /// Its workload is to be started, or found to have been started.
    Launch(StepId),
    /// Its workload runs although the record says that it is being started.
    Adopt(StepId),
    /// Its action is to be carried out by a task of this process.
    Act(StepId),
    /// Its attempt has ended; `None` when nobody knows how.
    Judge(StepId, Option<Exit>),
    /// It has ended without anything to look at.
    Conclude(StepId, Conclusion),
    /// Its workload is to be asked to stop.
    Stop(StepId),
    /// Its workload is to be killed, because it outlived its timeout.
    Kill(StepId),
    /// The task that works on it is to be told to stop.
    Interrupt(StepId),
    /// Nothing is left to do in the run.
    FinishRun(RunOutcome, Option<String>),
}

/// Whether an engine must be asked about a step before [`decide`].
pub(crate) fn wants_observation(step: &Step) -> bool {
    step.kind == StepKind::Command && matches!(step.state, StepState::Ready | StepState::Running)
}

/// What is due. Steps come in the order of their ordinals, and so do the decisions.
pub(crate) fn decide(
    run: &Run,
    steps: &[Step],
    seen: &BTreeMap<StepId, Seen>,
    now: Timestamp,
) -> Vec<Decision> {
    if steps.iter().all(|step| step.state == StepState::Finished) {
        let (outcome, reason) = settle(run, steps);
        return vec![Decision::FinishRun(outcome, reason)];
    }
    let absent = Seen::Absent;
    let mut matrices = Matrices::of(steps);
    steps
        .iter()
        .filter_map(|step| {
            let seen = seen.get(&step.id).unwrap_or(&absent);
            match (step.state, step.kind) {
                (StepState::Finished, _) => None,
                (StepState::Pending, _) => pending(run, step, steps, &mut matrices, now),
                (StepState::Ready, StepKind::Command) => {
                    ready_command(called_off(run, step, steps), step, seen)
                }
                (StepState::Running, StepKind::Command) => {
                    running_command(called_off(run, step, steps), step, seen, now)
                }
                (StepState::Ready | StepState::Running, StepKind::Action) => {
                    action(run.cancel.as_ref(), step, seen, now)
                }
            }
        })
        .collect()
}

/// Why a step that began is to end before its time: somebody cancelled the run, or another step
/// of its matrix failed.
pub(crate) fn called_off(run: &Run, step: &Step, steps: &[Step]) -> Option<String> {
    if let Some(cancel) = &run.cancel {
        return Some(cancel.reason.clone());
    }
    failed_beside(step, steps)
}

/// The step of the same matrix whose failure ends this one, in words.
fn failed_beside(step: &Step, steps: &[Step]) -> Option<String> {
    let of = step.definition.matrix.as_ref().filter(|of| of.fail_fast)?;
    let failed = steps.iter().find(|other| {
        other.id != step.id
            && other.ends_its_matrix()
            && other
                .definition
                .matrix
                .as_ref()
                .is_some_and(|its| its.group == of.group)
    })?;
    Some(format!(
        "`{}` failed, and `fail_fast` ends the others",
        failed.title()
    ))
}

/// How many steps of each matrix are at work, or are to be in this round.
struct Matrices<'a>(BTreeMap<&'a StepName, u32>);

impl<'a> Matrices<'a> {
    fn of(steps: &'a [Step]) -> Self {
        let mut busy = BTreeMap::new();
        for step in steps {
            let working = matches!(step.state, StepState::Ready | StepState::Running);
            if let (true, Some(of)) = (working, &step.definition.matrix) {
                *busy.entry(&of.group).or_default() += 1;
            }
        }
        Self(busy)
    }

    /// Whether there is room for one more; takes it.
    fn admits(&mut self, step: &'a Step) -> bool {
        let Some(of) = &step.definition.matrix else {
            return true;
        };
        let busy = self.0.entry(&of.group).or_default();
        let room = of.max_parallel.is_none_or(|most| *busy < most);
        *busy += u32::from(room);
        room
    }
}

fn cancelled(reason: &str, step: &Step) -> Decision {
    Decision::Conclude(step.id, Conclusion::because(StepOutcome::Cancelled, reason))
}

fn pending<'a>(
    run: &Run,
    step: &'a Step,
    steps: &[Step],
    matrices: &mut Matrices<'a>,
    now: Timestamp,
) -> Option<Decision> {
    if let Some(cancel) = &run.cancel {
        return Some(cancelled(&cancel.reason, step));
    }
    if let Some(reason) = failed_beside(step, steps) {
        let skipped = Conclusion::because(StepOutcome::Skipped, reason);
        return Some(Decision::Conclude(step.id, skipped));
    }
    let mut waiting = step.not_before.is_some_and(|moment| moment > now);
    for need in &step.needs {
        let Some(earlier) = steps.iter().find(|other| other.name == need.step) else {
            let reason = format!("it needs `{}`, which this run does not have", need.step);
            return Some(Decision::Conclude(
                step.id,
                Conclusion::because(StepOutcome::Error, reason),
            ));
        };
        if earlier.state != StepState::Finished {
            waiting = true;
        } else if need.join == Join::Passed && !earlier.passed() {
            let reason = blocked(earlier, steps);
            return Some(Decision::Conclude(
                step.id,
                Conclusion::because(StepOutcome::Skipped, reason),
            ));
        }
    }
    (!waiting && matrices.admits(step)).then_some(Decision::Admit(step.id))
}

/// Names the step at the root of it, not the last of a row of skipped ones.
fn blocked(earlier: &Step, steps: &[Step]) -> String {
    let mut cause = earlier;
    for _ in 0..steps.len() {
        let next = (cause.outcome == Some(StepOutcome::Skipped))
            .then(|| cause.needs.iter().filter(|need| need.join == Join::Passed))
            .and_then(|mut needs| {
                needs.find_map(|need| {
                    steps.iter().find(|other| {
                        other.name == need.step
                            && other.state == StepState::Finished
                            && !other.passed()
                    })
                })
            });
        match next {
            Some(next) => cause = next,
            None => break,
        }
    }
    let word = match cause.outcome {
        Some(StepOutcome::Failure) => "failed",
        Some(StepOutcome::TimedOut) => "ran out of time",
        Some(StepOutcome::Refused) => "refused",
        Some(StepOutcome::Cancelled) => "was cancelled",
        Some(StepOutcome::Skipped) => {
            let why = cause.reason.as_deref().unwrap_or("it had nothing to do");
            return format!("`{}` was skipped: {why}", cause.title());
        }
        _ => "could not be carried out",
    };
    format!("`{}` {word}", cause.title())
}

fn ready_command(called_off: Option<String>, step: &Step, seen: &Seen) -> Option<Decision> {
    match (seen, called_off) {
        (Seen::Busy, None) => None,
        // It may be waiting for what runs beside it.
        (Seen::Busy, Some(_)) => Some(Decision::Interrupt(step.id)),
        (Seen::Absent, Some(reason)) => Some(cancelled(&reason, step)),
        (Seen::Absent, None) => Some(Decision::Launch(step.id)),
        (Seen::Alive | Seen::Exited(_), _) => Some(Decision::Adopt(step.id)),
    }
}

fn running_command(
    called_off: Option<String>,
    step: &Step,
    seen: &Seen,
    now: Timestamp,
) -> Option<Decision> {
    match seen {
        Seen::Busy => None,
        Seen::Absent => Some(Decision::Judge(step.id, None)),
        Seen::Exited(exit) => Some(Decision::Judge(step.id, Some(exit.clone()))),
        Seen::Alive if called_off.is_some() => Some(Decision::Stop(step.id)),
        Seen::Alive => overdue(step, now).then_some(Decision::Kill(step.id)),
    }
}

fn action(
    cancel: Option<&CancelRequest>,
    step: &Step,
    seen: &Seen,
    now: Timestamp,
) -> Option<Decision> {
    match (seen, cancel) {
        (Seen::Busy, None) => overdue(step, now).then_some(Decision::Interrupt(step.id)),
        (Seen::Busy, Some(_)) => Some(Decision::Interrupt(step.id)),
        (_, Some(cancel)) => Some(cancelled(&cancel.reason, step)),
        (_, None) => Some(Decision::Act(step.id)),
    }
}

fn overdue(step: &Step, now: Timestamp) -> bool {
    step.started_at
        .is_some_and(|began| began.plus(step.definition.timeout()).plus(PATIENCE) < now)
}
