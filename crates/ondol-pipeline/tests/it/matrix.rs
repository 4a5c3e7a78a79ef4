//! A matrix in a real run: variables, names, and what a failure does to the others.

use ondol_pipeline::model::RunOutcome;
use serde_json::json;

use crate::world::{outcomes, service, worlds};

#[tokio::test(flavor = "multi_thread")]
async fn each_combination_is_a_step_with_its_values() {
    for world in worlds().await {
        let mut spec = service(
            "echo \"on $MATRIX_OS with $MATRIX_PYTHON, $BOTH\"; echo '<testsuite><testcase name=\"a\"/></testsuite>' > $ONDOL_REPORTS/a.xml",
        );
        spec["test"]["env"] = json!({ "BOTH": "${{ matrix.os }}/${{ matrix.python }}" });
        spec["test"]["matrix"] =
            json!({ "values": { "python": ["3.12", "3.13"], "os": ["deb"] }, "max_parallel": 1 });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(
            outcomes(&detail),
            [
                "checkout:success",
                "test-deb-3.12:success",
                "test-deb-3.13:success",
                "test:success",
                "image:success",
                "deploy:success"
            ],
            "{}",
            world.name
        );
        assert_eq!(
            detail.steps[1].label.as_deref(),
            Some("test (os=deb, python=3.12)")
        );
        assert_eq!(detail.tests.len(), 2, "both are the test stage");
        let log = world.log(&detail, "test-deb-3.13").await;
        assert_eq!(log, "on deb with 3.13, deb/3.13");
        let spans: Vec<_> = detail.steps[1..3]
            .iter()
            .map(|step| (step.started_at.unwrap(), step.finished_at.unwrap()))
            .collect();
        assert!(
            spans[0].1 <= spans[1].0 || spans[1].1 <= spans[0].0,
            "one at a time"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_stops_the_others_only_when_it_is_to() {
    for world in worlds().await {
        let mut spec = service("true");
        let step = |fail_fast: bool, slow: &str| {
            json!({
                "run": format!("test $MATRIX_V != bad || exit 4; test $MATRIX_V != slow || {slow}"),
                "matrix": { "values": { "v": ["bad", "slow"] }, "fail_fast": fail_fast },
                "needs": ["checkout"], "retries": 0, "before": ["image"],
            })
        };
        spec["steps"] =
            json!({ "fast": step(true, "sleep 300"), "whole": step(false, "sleep 0.2") });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        let found = outcomes(&detail);
        for expected in [
            "fast-bad:failure",
            "fast:skipped",
            "whole-bad:failure",
            "whole-slow:success",
            "whole:skipped",
            "image:skipped",
        ] {
            assert!(
                found.contains(&expected.to_owned()),
                "{expected} of {found:?}"
            );
        }
        // It had begun, or it had not.
        let slow = found
            .iter()
            .find(|one| one.starts_with("fast-slow"))
            .unwrap();
        assert!(
            ["fast-slow:cancelled", "fast-slow:skipped"].contains(&slow.as_str()),
            "{slow}"
        );
        assert_eq!(detail.run.outcome, Some(RunOutcome::Failure));
        let reason = detail.run.reason.unwrap();
        assert!(
            reason.contains("(v=bad)` failed: exited with 4"),
            "{reason}"
        );
    }
}
