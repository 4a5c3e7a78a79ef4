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

/// A suite of four tests, of which those named fail.
fn suite(failing: &str) -> String {
    format!(
        "(echo '<testsuite name=\"s\">'; for t in a b c d; do case \" {failing} \" in *\" $t \"*) echo \"<testcase name=\\\"$t\\\"><failure message=\\\"no\\\"/></testcase>\";; *) echo \"<testcase name=\\\"$t\\\"/>\";; esac; done; echo '</testsuite>') > $ONDOL_REPORTS/s.xml; test -z \"{failing}\""
    )
}

async fn flaky(world: &crate::world::World) -> Vec<(String, i64)> {
    let found = world
        .pipeline
        .flaky_tests(&world.ctx, &crate::world::name("web"), None, 100)
        .await
        .unwrap();
    found
        .into_iter()
        .map(|test| (test.name, test.times))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tests_that_waver_on_one_commit_are_counted_and_quarantine_spares_the_run() {
    for world in worlds().await {
        world.spec('a', service(&suite("b")));
        world.push('a').await;
        world.settle().await;
        assert_eq!(world.newest().await.run.outcome, Some(RunOutcome::Failure));
        assert!(flaky(&world).await.is_empty(), "{}", world.name);
        // The same commit again, and another test fails; then the same again.
        let mut spec = service(&suite("c"));
        world.spec('a', spec.clone());
        for _ in 0..2 {
            world.push('a').await;
            world.settle().await;
        }
        let expected = [("s::b".to_owned(), 1), ("s::c".to_owned(), 1)];
        assert_eq!(flaky(&world).await, expected, "{}", world.name);
        // Another commit says nothing about this one.
        spec["test"]["quarantine"] = json!(["s::c"]);
        world.spec('b', spec);
        world.push('b').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Success));
        let step = &detail.steps[1];
        assert_eq!(
            (step.exit_code, step.reason.as_deref()),
            (Some(1), Some("failures in quarantine do not count: s::c"))
        );
        assert_eq!(detail.tests[0].failed, 1, "they are shown");
        assert_eq!(flaky(&world).await, expected);
        let path: Vec<_> = detail
            .critical_path
            .iter()
            .map(|name| name.as_str())
            .collect();
        assert_eq!(path, ["checkout", "test", "image", "deploy"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_passes_tells_which_test_wavers() {
    for world in worlds().await {
        let mut spec = service("true");
        let tried = world.root.join("tried");
        let (bad, good) = (suite("d"), suite(""));
        let run = format!(
            "if test -e {0}; then {good}; else touch {0}; {bad}; fi",
            tried.display()
        );
        spec["steps"] = json!({ "unit": { "run": run, "retries": 1 } });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(
            detail.run.outcome,
            Some(RunOutcome::Success),
            "{:?}",
            detail.run.reason
        );
        assert_eq!(
            flaky(&world).await,
            [("s::d".to_owned(), 1)],
            "{}",
            world.name
        );
        assert_eq!(
            detail.tests[0].failed, 0,
            "the last attempt is what is shown"
        );
    }
}
