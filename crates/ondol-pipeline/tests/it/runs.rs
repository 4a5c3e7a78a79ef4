//! Pushes of code, from the event to the finished run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ondol_pipeline::ActionOutcome;
use ondol_pipeline::model::{RunOutcome, RunState, StepState};
use ondol_types::{ErrorKind, NoCrash, Problem};
use serde_json::json;

use crate::world::{commit, name, outcomes, service, worlds};

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_tested_packed_and_deployed() {
    for world in worlds().await {
        let mut spec = service(
            "echo testing $ONDOL_COMMIT; echo '<testsuite><testcase name=\"a\" time=\"1.5\"/></testsuite>' > $ONDOL_REPORTS/a.xml; touch left-behind",
        );
        spec["build"] = json!({ "install": { "run": "mkdir deps; echo one > deps/x" }, "commands": [{ "run": "cat deps/x > built" }], "cache": ["deps"] });
        spec["steps"] =
            json!({ "lint": { "run": "test -f commit && echo clean", "before": ["test"] } });
        world.spec('a', spec);
        let root = world.root.clone();
        world.script("image", move |ctx| {
            let source = ctx.workspace.source();
            assert!(source.starts_with(&root));
            assert_eq!(
                std::fs::read_to_string(source.join("built")).unwrap(),
                "one\n"
            );
            assert!(!source.join("left-behind").exists(), "tests work in a copy");
            Ok(ActionOutcome::Success(json!({ "digest": "sha256:1" })))
        });
        world.script("deploy", |ctx| {
            assert_eq!(ctx.outputs[&name("image")]["digest"], "sha256:1");
            assert!(ctx.spec.service.is_some() && ctx.fence >= 1 && ctx.deadline > ctx.clock.now());
            Ok(ActionOutcome::Success(json!({ "release": 1 })))
        });
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(
            outcomes(&detail),
            [
                "checkout:success",
                "install:success",
                "build:success",
                "lint:success",
                "test:success",
                "image:success",
                "deploy:success"
            ],
            "{}",
            world.name
        );
        assert_eq!(
            detail.run.outcome,
            Some(RunOutcome::Success),
            "{}: {detail:?}",
            world.name
        );
        assert_eq!(
            (detail.run.number, detail.run.commit.clone()),
            (1, Some(commit('a')))
        );
        assert_eq!((detail.tests[0].tests, detail.tests[0].seconds), (1, 1.5));
        assert!(
            world
                .log(&detail, "test")
                .await
                .contains(&format!("testing {}", commit('a')))
        );
        assert_eq!(world.log(&detail, "image").await, "image of web");
        assert!(
            world
                .log(&detail, "checkout")
                .await
                .contains("steps: install, build, lint, test, image, deploy")
        );
        assert!(detail.spec.is_some() && detail.explain == Some(json!({ "from": "test" })));
        assert!(world.root.join("cache/web/folders/always/deps/x").exists());
        assert!(
            world
                .engine
                .starts()
                .iter()
                .all(|(_, attempt)| *attempt == 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_run_form_one_chain() {
    for world in worlds().await {
        world.spec('a', service("true"));
        world.push('a').await;
        world.settle().await;
        let push = world.events("dev.cdeventsx.ondol-push").await.remove(0);
        let runs = world.events("dev.cdevents.pipelinerun").await;
        let words: Vec<&str> = runs
            .iter()
            .map(|event| event.event_type.split('.').nth(3).unwrap())
            .collect();
        assert_eq!(words, ["queued", "started", "finished"]);
        assert_eq!(
            runs[0].document["context"]["links"][0]["target"]["contextId"],
            json!(push.id)
        );
        assert_eq!(runs[2].document["subject"]["content"]["outcome"], "success");
        let steps = world.events("dev.cdevents.taskrun").await;
        assert_eq!(steps.len(), 8, "{steps:?}");
        for event in runs.iter().chain(&steps) {
            assert_eq!(event.chain, push.chain);
            assert_eq!(event.document["customData"]["actor"], "ann");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_test_keeps_everything_behind_it_from_running() {
    for world in worlds().await {
        world.spec(
            'a',
            service("echo '<testsuite><testcase name=\"t\"><failure message=\"1 is not 2\"/></testcase></testsuite>' > $ONDOL_REPORTS/a.xml; exit 3"),
        );
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(
            outcomes(&detail),
            [
                "checkout:success",
                "test:failure",
                "image:skipped",
                "deploy:skipped"
            ]
        );
        assert_eq!(detail.run.outcome, Some(RunOutcome::Failure));
        assert_eq!(
            detail.run.reason.as_deref(),
            Some("`test` failed: exited with 3; 1 tests: 1 failed")
        );
        assert_eq!(detail.steps[1].exit_code, Some(3));
        assert_eq!(detail.steps[3].reason.as_deref(), Some("`test` failed"));
        assert_eq!(detail.tests[0].cases[0].message, "1 is not 2");
        assert!(world.outside.lock().unwrap().acted.is_empty());
        let suites = world.events("dev.cdevents.testsuiterun").await;
        assert_eq!(
            suites[0].document["subject"]["content"]["outcome"],
            "failure"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_folder_of_a_step_is_not_named_after_it() {
    // Node's test runner takes every file of a folder named `test` for a test, servers too.
    for world in worlds().await {
        world.spec('a', service("test $(basename \"$PWD\") = work"));
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert!(outcomes(&detail).contains(&"test:success".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_without_tests_hears_of_it_on_every_run() {
    for world in worlds().await {
        world.spec('a', json!({}));
        for _ in 0..2 {
            world.push('a').await;
            world.settle().await;
            let detail = world.newest().await;
            assert_eq!(outcomes(&detail), ["checkout:success", "test:success"]);
            assert!(
                detail.run.notes[0].contains("no tests"),
                "{:?}",
                detail.run.notes
            );
            assert!(world.log(&detail, "test").await.contains("no tests"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_pushes_take_the_place_of_queued_ones_on_their_branch_only() {
    for world in worlds().await {
        world.spec(
            'a',
            service("while [ ! -e ../../../../../go ]; do sleep 0.01; done"),
        );
        world.push('a').await;
        world
            .until("the first run runs", async || {
                world.engine.starts().len() == 1
            })
            .await;
        world.push('a').await;
        world.push_to("web", "topic", Some('a')).await;
        world.push('a').await;
        world.push_to("web", "gone", Some('a')).await;
        world.push_to("web", "gone", None).await;
        world.tick().await;
        std::fs::write(world.root.join("go"), "").unwrap();
        world.settle().await;
        let runs = world.runs().await;
        let ended: Vec<_> = runs
            .iter()
            .map(|run| (run.branch.as_deref().unwrap(), run.outcome.unwrap()))
            .collect();
        use RunOutcome::{Cancelled, Success, Superseded};
        assert_eq!(
            ended,
            [
                ("main", Success),
                ("main", Superseded),
                ("topic", Success),
                ("main", Success),
                ("gone", Cancelled)
            ],
            "{}",
            world.name
        );
        assert!(
            runs[3].started_at >= runs[0].finished_at,
            "runs of a branch come one after the other"
        );
        assert_eq!(runs[4].reason.as_deref(), Some("branch `gone` was deleted"));
        let superseded = world.show(&runs[1].id).await;
        assert_eq!(outcomes(&superseded), ["checkout:cancelled"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_run_is_cancelled_by_a_push_only_where_that_is_wanted() {
    for mut world in worlds().await {
        world
            .reconfigure(|config| config.cancel_running = true)
            .await;
        world.spec('a', service("sleep 60"));
        world.push('a').await;
        world
            .until("it runs", async || world.engine.starts().len() == 1)
            .await;
        world.spec('b', service("true"));
        world.push('b').await;
        world.settle().await;
        let ended: Vec<_> = world
            .runs()
            .await
            .iter()
            .map(|run| run.outcome.unwrap())
            .collect();
        assert_eq!(ended, [RunOutcome::Superseded, RunOutcome::Success]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_stops_its_commands_and_actions() {
    for world in worlds().await {
        world.spec('a', service("sleep 60"));
        world.push('a').await;
        world
            .until("it runs", async || world.engine.starts().len() == 1)
            .await;
        let id = world.runs().await[0].id;
        world.pipeline.cancel(&world.ctx, &id).await.unwrap();
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(
            outcomes(&detail),
            [
                "checkout:success",
                "test:cancelled",
                "image:cancelled",
                "deploy:cancelled"
            ]
        );
        assert_eq!(detail.run.outcome, Some(RunOutcome::Cancelled));
        assert_eq!(detail.run.reason.as_deref(), Some("cancelled by ondol"));
        let refused = world.pipeline.cancel(&world.ctx, &id).await.unwrap_err();
        assert!(refused.to_string().contains("already finished"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_takes_too_long_is_ended() {
    for world in worlds().await {
        let mut spec = service("sleep 60");
        spec["test"]["timeout"] = json!("300ms");
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(outcomes(&detail)[1], "test:timedOut");
        assert_eq!(detail.run.outcome, Some(RunOutcome::Failure));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_are_counted_and_a_failure_that_is_allowed_does_not_count() {
    for world in worlds().await {
        let mut spec = service("true");
        let counter = world.root.join("tries");
        let flaky = format!(
            "echo x >> {0}; test $(wc -l < {0}) -ge 3",
            counter.display()
        );
        spec["steps"] = json!({
            "flaky": { "run": flaky, "retries": 2 },
            "loose": { "run": "exit 1", "allow_failure": true },
            "after": { "run": "true", "after": ["loose"] },
        });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Success), "{detail:?}");
        let flaky = detail
            .steps
            .iter()
            .find(|step| step.name.as_str() == "flaky")
            .unwrap();
        assert_eq!((flaky.attempt, flaky.faults), (3, 0));
        assert!(outcomes(&detail).contains(&"loose:failure".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_step_is_repeated_only_when_it_may_be() {
    for world in worlds().await {
        let mut spec = service("true");
        let wait = |name: &str| {
            format!(
                "while [ ! -e {}/go-{name} ]; do sleep 0.01; done",
                world.root.display()
            )
        };
        spec["steps"] = json!({
            "again": { "run": wait("again") },
            "once": { "run": wait("once"), "repeatable": false },
        });
        world.spec('a', spec);
        world.push('a').await;
        let running = async |count: usize| {
            let detail = world.newest().await;
            detail
                .steps
                .iter()
                .filter(|step| step.state == StepState::Running)
                .count()
                == count
        };
        world.until("both run", async || running(2).await).await;
        world.engine.vanish("again");
        world.engine.vanish("once");
        std::fs::write(world.root.join("go-again"), "").unwrap();
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(outcomes(&detail)[2..4], ["again:success", "once:error"]);
        assert_eq!(detail.run.outcome, Some(RunOutcome::Error));
        assert!(detail.run.reason.unwrap().contains("not `repeatable`"));
        let starts = world.engine.starts();
        assert_eq!(starts.iter().filter(|(step, _)| step == "again").count(), 2);
        assert_eq!(starts.iter().filter(|(step, _)| step == "once").count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_away_for_a_moment_is_waited_for() {
    for world in worlds().await {
        world.spec('a', service("true"));
        world.engine.refuse(1);
        let calls = Arc::new(AtomicU32::new(0));
        let counted = calls.clone();
        world.script("image", move |_| {
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 => Err(Problem::new(
                    ErrorKind::Unavailable,
                    "registry.away",
                    "the registry is away",
                )),
                _ => Ok(ActionOutcome::Success(json!({}))),
            }
        });
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Success), "{detail:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        assert_eq!((detail.steps[1].faults, detail.steps[1].attempt), (1, 2));
        assert!(
            world
                .log(&detail, "image")
                .await
                .contains("the registry is away")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_of_the_user_and_of_the_platform_are_told_apart() {
    for world in worlds().await {
        world.spec('a', json!({ "tset": "x" }));
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Failure));
        assert!(
            detail
                .run
                .reason
                .unwrap()
                .contains("ondol.yaml:3: unknown field `tset`")
        );
        world.spec('b', json!({ "steps": { "a": { "run": "x", "needs": ["b"] }, "b": { "run": "x", "needs": ["a"] } } }));
        world.push('b').await;
        world.settle().await;
        let reason = world.newest().await.run.reason.unwrap();
        assert!(reason.contains("need each other"), "{reason}");
        world.spec('c', service("true"));
        world.script("image", |_| {
            Err(Problem::new(
                ErrorKind::Internal,
                "internal",
                "a mistake of ours",
            ))
        });
        world.push('c').await;
        world.settle().await;
        assert_eq!(world.newest().await.run.outcome, Some(RunOutcome::Error));
        world.script("image", |_| {
            Ok(ActionOutcome::Failed("the image is too large".into()))
        });
        world.push('c').await;
        world.settle().await;
        assert_eq!(
            world.newest().await.run.reason.as_deref(),
            Some("`image` failed: the image is too large")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_adopts_what_runs() {
    for mut world in worlds().await {
        world.spec(
            'a',
            service("while [ ! -e ../../../../../go ]; do sleep 0.01; done"),
        );
        world.push('a').await;
        world
            .until("it runs", async || {
                world
                    .newest()
                    .await
                    .steps
                    .get(1)
                    .is_some_and(|step| step.state == StepState::Running)
            })
            .await;
        world.restart(Arc::new(NoCrash)).await;
        for _ in 0..20 {
            world.tick().await;
        }
        assert_eq!(world.newest().await.run.state, RunState::Running);
        std::fs::write(world.root.join("go"), "").unwrap();
        world.settle().await;
        assert_eq!(world.newest().await.run.outcome, Some(RunOutcome::Success));
        assert_eq!(world.engine.starts().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loops_wake_each_other_without_their_timers() {
    for world in worlds().await {
        world.spec('a', service("true"));
        let background = ondol_background::Background::new(Arc::new(ondol_types::SystemClock));
        for (reconciler, activator) in world.pipeline.reconcilers() {
            background.spawn(reconciler, activator);
        }
        let pipeline = world.pipeline.clone();
        let stop = background.stopping();
        let listening = tokio::spawn(async move { pipeline.listen(stop).await });
        world.push('a').await;
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            while world
                .runs()
                .await
                .first()
                .is_none_or(|run| run.state != RunState::Finished)
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        waited.await.unwrap();
        assert_eq!(world.newest().await.run.outcome, Some(RunOutcome::Success));
        background.stop(Duration::from_secs(5)).await;
        listening.await.unwrap();
        world.pipeline.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_waits_is_told_to_stop_and_takes_no_place() {
    for mut world in worlds().await {
        world.reconfigure(|config| config.max_steps = 1).await;
        world.spec('a', service("true"));
        world.outside.lock().unwrap().waits.insert("deploy");
        world.push('a').await;
        let acted = async || {
            world
                .outside
                .lock()
                .unwrap()
                .acted
                .contains(&"deploy".to_owned())
        };
        world.until("deploy waits", acted).await;
        world.outside.lock().unwrap().waits.clear();
        world.push_to("shop", "main", Some('a')).await;
        let shop = async || {
            let runs = world.runs().await;
            runs.get(1)
                .is_some_and(|run| run.outcome == Some(RunOutcome::Success))
        };
        world.until("another project goes on", shop).await;
        let waiting = world.runs().await[0].clone();
        assert_eq!(waiting.state, RunState::Running);
        world
            .pipeline
            .cancel(&world.ctx, &waiting.id)
            .await
            .unwrap();
        world.settle().await;
        let detail = world.show(&waiting.id).await;
        assert_eq!(outcomes(&detail)[3], "deploy:cancelled");
        assert_eq!(detail.run.outcome, Some(RunOutcome::Cancelled));
    }
}
