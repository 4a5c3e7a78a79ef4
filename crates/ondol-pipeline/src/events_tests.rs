//! The documents against the shape of the CDEvents 0.5.1 schemas: allowed and required members
//! of `subject.content`, and closed lists of words.

use ondol_types::Timestamp;

use super::*;
use crate::model::{CaseResult, CaseStatus, Conclusion, Definition};

/// Allowed members, required members, and words allowed for `outcome` (empty: any text).
fn shape(event: &Draft, allowed: &[&str], required: &[&str], outcomes: &[&str]) -> Value {
    assert_eq!(
        (event.chain.as_str(), event.actor.as_str()),
        ("chain", "ann")
    );
    let content = event.content.clone();
    let members = content.as_object().unwrap();
    for name in members.keys() {
        assert!(allowed.contains(&name.as_str()), "`{name}` is not allowed");
    }
    for name in required {
        assert!(members.contains_key(*name), "`{name}` is required");
    }
    if let Some(outcome) = members.get("outcome") {
        let word = outcome.as_str().unwrap();
        assert!(outcomes.is_empty() || outcomes.contains(&word), "{word}");
    }
    content.clone()
}

const OUTCOMES: [&str; 4] = ["success", "failure", "cancel", "error"];

#[test]
fn runs_follow_the_schema_for_every_outcome() {
    let mut run = crate::model::tests_support::run();
    let both = ["pipelineName", "uri"];
    shape(&queued(None, &run, None), &both, &[], &[]);
    let begun = shape(
        &started(Some("http://127.0.0.1:7070/"), &run),
        &both,
        &both,
        &[],
    );
    assert_eq!(
        begun["uri"],
        format!("http://127.0.0.1:7070/api/v1/runs/{}", run.id)
    );
    assert!(
        shape(&started(None, &run), &both, &both, &[])["uri"]
            .as_str()
            .unwrap()
            .starts_with("urn:ondol:run:")
    );
    for outcome in RunOutcome::ALL {
        (run.outcome, run.reason) = (Some(*outcome), Some("why".into()));
        let content = shape(
            &finished(None, &run),
            &["pipelineName", "uri", "outcome", "errors"],
            &["outcome"],
            &OUTCOMES,
        );
        assert_eq!(
            content.get("errors").is_some(),
            matches!(content["outcome"].as_str(), Some("failure" | "error"))
        );
    }
}

#[test]
fn steps_follow_the_schema_for_every_outcome() {
    let run = crate::model::tests_support::run();
    let definition = Definition::action("image", std::time::Duration::from_secs(1));
    let mut step = Step::new(run.id, 1, "image".parse().unwrap(), definition, Vec::new());
    let content = shape(
        &step_started(&run, &step),
        &["taskName", "uri", "pipelineRun"],
        &["taskName", "pipelineRun"],
        &[],
    );
    assert_eq!(content["pipelineRun"], json!({ "id": run.id }));
    step.claim(Timestamp::from_micros(1)).unwrap();
    step.begin(Timestamp::from_micros(1)).unwrap();
    let outputs = json!({ "large": "x".repeat(20_000) });
    let done = Conclusion {
        outputs: Some(outputs),
        ..Conclusion::success()
    };
    step.finish(done, Timestamp::from_micros(2)).unwrap();
    for outcome in StepOutcome::ALL {
        step.outcome = Some(*outcome);
        let event = step_finished(&run, &step);
        shape(
            &event,
            &["taskName", "uri", "pipelineRun", "outcome", "errors"],
            &["outcome"],
            &[],
        );
        assert!(
            event.custom.to_string().len() < 4_000,
            "large outputs stay out of the log"
        );
    }
}

#[test]
fn suites_follow_the_schema() {
    let run = crate::model::tests_support::run();
    let step = Step::new(
        run.id,
        1,
        "test".parse().unwrap(),
        Definition::action("x", Default::default()),
        Vec::new(),
    );
    let mut report = TestReport {
        tests: 3,
        ..TestReport::default()
    };
    let allowed = ["environment", "testSuite", "outcome", "severity", "reason"];
    let content = shape(
        &tests_finished(&run, &step, &report),
        &allowed,
        &["outcome", "environment"],
        &OUTCOMES,
    );
    assert_eq!(content["outcome"], "success");
    assert_eq!(content["environment"]["id"], "pipeline");
    report.failed = 1;
    report.cases.push(CaseResult {
        name: "x".into(),
        status: CaseStatus::Failed,
        message: "m".into(),
        seconds: 0.0,
    });
    let content = shape(
        &tests_finished(&run, &step, &report),
        &allowed,
        &["outcome", "environment"],
        &OUTCOMES,
    );
    assert_eq!(
        (content["outcome"].as_str(), content["reason"].as_str()),
        (Some("failure"), Some("3 tests: 2 passed, 1 failed"))
    );
}
