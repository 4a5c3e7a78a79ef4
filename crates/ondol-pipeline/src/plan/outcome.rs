//! What the end of an attempt means for its step, and the ends of all steps for the run.

use ondol_workload::Exit;

use crate::model::{Conclusion, Run, RunOutcome, Step, StepOutcome};

/// How often an attempt may be lost to the platform before the step gives up.
pub(crate) const MAX_FAULTS: u32 = 3;

/// What follows from the end of an attempt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The step has ended.
    Done(Conclusion),
    /// Another attempt is due.
    Again {
        /// Whether the attempt was lost to the platform, not to a failure of its own.
        fault: bool,
        /// Why, for people.
        reason: String,
    },
}

/// Judges the exit of a command; `None` means that nobody knows how it ended.
pub(crate) fn judge(step: &Step, exit: Option<&Exit>, cancelled: Option<&str>) -> Verdict {
    let finish = |outcome, reason: String| {
        Verdict::Done(Conclusion {
            exit_code: exit.and_then(|exit| exit.code),
            ..Conclusion::because(outcome, reason)
        })
    };
    let Some(exit) = exit.filter(|exit| !exit.lost) else {
        return unknown(step, cancelled);
    };
    if exit.success() {
        return Verdict::Done(Conclusion {
            exit_code: exit.code,
            ..Conclusion::success()
        });
    }
    if let Some(reason) = cancelled {
        return finish(StepOutcome::Cancelled, reason.to_owned());
    }
    if exit.stopped {
        // Nobody cancelled the run: the platform was stopped together with its workloads.
        return unknown(step, cancelled);
    }
    let (outcome, reason) = if exit.timed_out {
        let seconds = step.definition.timeout().as_secs();
        (
            StepOutcome::TimedOut,
            format!("it ran longer than its timeout of {seconds} s"),
        )
    } else {
        (StepOutcome::Failure, exit.describe())
    };
    if step.attempt.saturating_sub(step.faults) <= step.definition.retries {
        return Verdict::Again {
            fault: false,
            reason,
        };
    }
    finish(outcome, reason)
}

fn unknown(step: &Step, cancelled: Option<&str>) -> Verdict {
    if let Some(reason) = cancelled {
        return Verdict::Done(Conclusion::because(StepOutcome::Cancelled, reason));
    }
    let what = "how it ended is not known: the machine or the platform stopped under it";
    if !step.repeatable {
        let reason = format!("{what}, and it is not `repeatable`");
        return Verdict::Done(Conclusion::because(StepOutcome::Error, reason));
    }
    if step.faults >= MAX_FAULTS {
        let reason = format!("{what}, {} times in a row", step.faults + 1);
        return Verdict::Done(Conclusion::because(StepOutcome::Error, reason));
    }
    Verdict::Again {
        fault: true,
        reason: what.to_owned(),
    }
}

/// The outcome of a run whose steps have all ended. A failure weighs more than a fault of the
/// platform, that more than a refusal: the person who pushed can do most about the first.
pub(crate) fn settle(run: &Run, steps: &[Step]) -> (RunOutcome, Option<String>) {
    use StepOutcome::{Cancelled, Error, Failure, Refused, TimedOut};
    let first = |outcomes: &[StepOutcome]| {
        steps.iter().find(|step| {
            !step.allow_failure
                && step
                    .outcome
                    .is_some_and(|outcome| outcomes.contains(&outcome))
        })
    };
    let said = |step: &Step, word: &str| {
        let reason = step
            .reason
            .as_deref()
            .map_or(String::new(), |reason| format!(": {reason}"));
        Some(format!("`{}` {word}{reason}", step.title()))
    };
    if let (Some(cancel), Some(_)) = (&run.cancel, first(&[Cancelled])) {
        let outcome = if cancel.superseded {
            RunOutcome::Superseded
        } else {
            RunOutcome::Cancelled
        };
        return (outcome, Some(cancel.reason.clone()));
    }
    if let Some(step) = first(&[Failure, TimedOut]) {
        return (RunOutcome::Failure, said(step, "failed"));
    }
    if let Some(step) = first(&[Error, Cancelled]) {
        return (RunOutcome::Error, said(step, "could not be carried out"));
    }
    if let Some(step) = first(&[Refused]) {
        return (RunOutcome::Refused, said(step, "refused"));
    }
    match steps.first() {
        Some(first) if first.outcome == Some(StepOutcome::Skipped) => {
            (RunOutcome::Skipped, first.reason.clone())
        }
        _ => (RunOutcome::Success, None),
    }
}

#[cfg(test)]
mod tests {
    use ondol_types::Timestamp;
    use ondol_workload::Usage;

    use super::*;
    use crate::plan::simulation::command;

    fn exit(code: Option<i32>) -> Exit {
        Exit {
            code,
            signal: None,
            oom: false,
            timed_out: false,
            stopped: false,
            lost: false,
            at: Timestamp::from_micros(0),
            usage: Usage::default(),
        }
    }

    fn outcome(verdict: Verdict) -> Option<StepOutcome> {
        match verdict {
            Verdict::Done(conclusion) => Some(conclusion.outcome),
            Verdict::Again { .. } => None,
        }
    }

    #[test]
    fn a_lost_attempt_is_repeated_only_by_permission_and_not_for_ever() {
        let mut step = command("x", &[], 0);
        step.attempt = 1;
        let lost = Exit {
            lost: true,
            ..exit(None)
        };
        assert_eq!(outcome(judge(&step, Some(&lost), None)), None);
        assert_eq!(outcome(judge(&step, None, None)), None);
        step.faults = MAX_FAULTS;
        assert_eq!(outcome(judge(&step, None, None)), Some(StepOutcome::Error));
        (step.faults, step.repeatable) = (0, false);
        assert_eq!(outcome(judge(&step, None, None)), Some(StepOutcome::Error));
        assert_eq!(
            outcome(judge(&step, Some(&exit(Some(0))), None)),
            Some(StepOutcome::Success)
        );
    }

    #[test]
    fn lost_attempts_do_not_use_up_retries() {
        let mut step = command("x", &[], 1);
        (step.attempt, step.faults) = (3, 2);
        assert_eq!(outcome(judge(&step, Some(&exit(Some(1))), None)), None);
        step.attempt = 4;
        assert_eq!(
            outcome(judge(&step, Some(&exit(Some(1))), None)),
            Some(StepOutcome::Failure)
        );
    }

    #[test]
    fn a_stop_that_nobody_asked_for_is_not_a_failure_of_the_step() {
        let mut step = command("x", &[], 0);
        step.attempt = 1;
        let stopped = Exit {
            stopped: true,
            ..exit(Some(143))
        };
        assert_eq!(outcome(judge(&step, Some(&stopped), None)), None);
        assert_eq!(
            outcome(judge(&step, Some(&stopped), Some("by ann"))),
            Some(StepOutcome::Cancelled)
        );
        let late = Exit {
            timed_out: true,
            ..exit(None)
        };
        assert_eq!(
            outcome(judge(&step, Some(&late), None)),
            Some(StepOutcome::TimedOut)
        );
    }
}
