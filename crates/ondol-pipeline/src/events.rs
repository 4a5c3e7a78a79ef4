//! The CDEvents that this room appends. `subject.content` of a standard type holds only what
//! its schema allows; everything else stands in `customData`.

use ondol_store::events::NewEvent;
use ondol_types::event::EventType;
use ondol_types::{EventId, ProjectName, event};
use serde_json::{Value, json};

use crate::model::{Artifact, Run, RunOutcome, Step, StepOutcome, TestReport};

/// Where people read about a run: below the installation's own address, or a URN without one.
pub(crate) fn run_uri(base: Option<&str>, run: &Run) -> String {
    match base {
        Some(base) => format!("{}/api/v1/runs/{}", base.trim_end_matches('/'), run.id),
        None => format!("urn:ondol:run:{}", run.id),
    }
}

fn pipeline_name(run: &Run) -> String {
    format!("{}/{}", run.project, run.trigger.describe())
}

/// An event about a run, before it is handed to the log.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    event_type: EventType,
    subject: String,
    content: Value,
    custom: Value,
    project: ProjectName,
    chain: String,
    actor: String,
    cause: Option<EventId>,
}

impl Draft {
    fn new(
        event_type: EventType,
        subject: impl ToString,
        run: &Run,
        content: Value,
        custom: Value,
    ) -> Self {
        Self {
            event_type,
            subject: subject.to_string(),
            content,
            custom,
            project: run.project.clone(),
            chain: run.chain.clone(),
            actor: run.author.clone(),
            cause: None,
        }
    }

    /// Says what the step left behind, if it left anything.
    pub(crate) fn with_artifacts(mut self, artifacts: &[Artifact]) -> Self {
        if !artifacts.is_empty() {
            let bytes: u64 = artifacts.iter().map(|artifact| artifact.bytes).sum();
            self.custom["artifacts"] = json!({ "files": artifacts.len(), "bytes": bytes });
        }
        self
    }
}

impl From<Draft> for NewEvent {
    fn from(draft: Draft) -> Self {
        let event = NewEvent::new(draft.event_type, draft.subject)
            .content(draft.content)
            .custom(draft.custom)
            .project(&draft.project)
            .chain(draft.chain)
            .actor(draft.actor);
        match draft.cause {
            Some(cause) => event.caused_by(cause),
            None => event,
        }
    }
}

fn summary(run: &Run) -> Value {
    json!({
        "number": run.number,
        "trigger": run.trigger,
        "retryOf": run.retry_of,
        "commit": run.commit,
        "data": run.data,
    })
}

/// A run waits for its turn.
pub(crate) fn queued(base: Option<&str>, run: &Run, cause: Option<EventId>) -> Draft {
    let content = json!({ "pipelineName": pipeline_name(run), "uri": run_uri(base, run) });
    Draft {
        cause,
        ..Draft::new(event::RUN_QUEUED, run.id, run, content, summary(run))
    }
}

/// A run began.
pub(crate) fn started(base: Option<&str>, run: &Run) -> Draft {
    let content = json!({ "pipelineName": pipeline_name(run), "uri": run_uri(base, run) });
    Draft::new(event::RUN_STARTED, run.id, run, content, summary(run))
}

/// A run ended.
pub(crate) fn finished(base: Option<&str>, run: &Run) -> Draft {
    let outcome = match run.outcome {
        Some(RunOutcome::Success | RunOutcome::Skipped) => "success",
        Some(RunOutcome::Failure | RunOutcome::Refused) => "failure",
        Some(RunOutcome::Cancelled | RunOutcome::Superseded) => "cancel",
        Some(RunOutcome::Error) | None => "error",
    };
    let mut content = json!({ "pipelineName": pipeline_name(run), "uri": run_uri(base, run), "outcome": outcome });
    if let (true, Some(reason)) = (matches!(outcome, "failure" | "error"), &run.reason) {
        content["errors"] = json!(reason);
    }
    let mut custom = summary(run);
    custom["outcome"] = json!(run.outcome);
    custom["reason"] = json!(run.reason);
    let seconds = run
        .finished_at
        .zip(run.started_at)
        .map(|(end, start)| end.since(start).as_secs_f64());
    custom["seconds"] = json!(seconds);
    Draft::new(event::RUN_FINISHED, run.id, run, content, custom)
}

/// An attempt of a step began.
pub(crate) fn step_started(run: &Run, step: &Step) -> Draft {
    let content = json!({ "taskName": step.name, "pipelineRun": { "id": run.id } });
    let custom = json!({
        "attempt": step.attempt,
        "kind": step.kind,
        "workload": step.workload,
        "runNumber": run.number,
    });
    Draft::new(event::STEP_STARTED, step.id, run, content, custom)
}

/// A step ended.
pub(crate) fn step_finished(run: &Run, step: &Step) -> Draft {
    let outcome = match step.outcome {
        Some(StepOutcome::Success) => "success",
        Some(StepOutcome::Skipped) => "skipped",
        Some(StepOutcome::Cancelled) => "cancel",
        Some(StepOutcome::Failure | StepOutcome::TimedOut | StepOutcome::Refused) => "failure",
        Some(StepOutcome::Error) | None => "error",
    };
    let mut content =
        json!({ "taskName": step.name, "pipelineRun": { "id": run.id }, "outcome": outcome });
    if let (true, Some(reason)) = (matches!(outcome, "failure" | "error"), &step.reason) {
        content["errors"] = json!(reason);
    }
    let custom = json!({
        "attempt": step.attempt,
        "faults": step.faults,
        "outcome": step.outcome,
        "exitCode": step.exit_code,
        "reason": step.reason,
        "outputs": bounded(step.outputs.as_ref()),
        "runNumber": run.number,
    });
    Draft::new(event::STEP_FINISHED, step.id, run, content, custom)
}

/// A person decided about a step that waited for one.
pub(crate) fn decided(run: &Run, step: &Step, by: &str, approved: bool, comment: &str) -> Draft {
    let kind = if approved {
        event::APPROVAL_GIVEN
    } else {
        event::APPROVAL_REFUSED
    };
    let content = json!({ "run": run.id, "step": step.name, "by": by, "comment": comment });
    Draft {
        actor: by.to_owned(),
        ..Draft::new(kind, step.id, run, content, json!({}))
    }
}

/// Outputs as an event carries them: large ones stay in the step.
fn bounded(outputs: Option<&Value>) -> Value {
    match outputs {
        Some(outputs) if outputs.to_string().len() <= 16 * 1024 => outputs.clone(),
        Some(_) => json!({ "omitted": "larger than 16 KiB" }),
        None => Value::Null,
    }
}

/// A suite of tests ended.
pub(crate) fn tests_finished(run: &Run, step: &Step, report: &TestReport) -> Draft {
    let failed = report.failed + report.errored;
    let mut content = json!({
        "outcome": if failed > 0 { "failure" } else { "success" },
        "environment": { "id": "pipeline" },
        "testSuite": { "id": format!("{}/{}", run.project, step.name), "name": step.name },
    });
    if failed > 0 {
        content["reason"] = json!(report.describe());
    }
    let custom = json!({
        "run": run.id,
        "tests": report.tests,
        "passed": report.passed(),
        "failed": report.failed,
        "errored": report.errored,
        "skipped": report.skipped,
        "seconds": report.seconds,
    });
    Draft::new(
        event::TEST_SUITE_FINISHED,
        format!("{}-tests", step.id),
        run,
        content,
        custom,
    )
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
