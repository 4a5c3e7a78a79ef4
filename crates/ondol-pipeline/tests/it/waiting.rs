//! Runs that wait for each other, and steps that wait for a person.

use ondol_auth::{Ctx, Principal};
use ondol_pipeline::model::{RunOutcome, RunState, StepState};
use ondol_types::{Classified, ErrorKind, StepName};
use serde_json::json;

use crate::world::{World, name, outcomes, service, worlds};

/// The outcomes of all runs in their order; `-` where there is none.
async fn ends(world: &World) -> Vec<String> {
    let runs = world.runs().await;
    let word = |outcome: Option<RunOutcome>| outcome.map_or("-".to_owned(), |it| it.to_string());
    runs.iter().map(|run| word(run.outcome)).collect()
}

async fn until_running(world: &World, number: i64) {
    world
        .until("a run works", async || {
            let runs = world.runs().await;
            let run = runs.iter().find(|run| run.number == number);
            run.is_some_and(|run| run.state == RunState::Running)
        })
        .await;
    world
        .until("its step runs", async || {
            let starts = world.engine.starts().len() as i64;
            starts >= number
        })
        .await;
}

/// A first run that reads the file, and one after it that runs until `go` is there.
async fn with(world: &World, concurrency: serde_json::Value) {
    let go = world.root.join("go");
    let mut spec = service("true");
    spec["concurrency"] = concurrency.clone();
    world.spec('a', spec);
    world.push('a').await;
    world.settle().await;
    let wait = format!("until test -e {}; do sleep 0.02; done", go.display());
    let mut slow = service(&wait);
    slow["concurrency"] = concurrency;
    world.spec('b', slow);
    world.push('b').await;
    until_running(world, 2).await;
}

async fn go(world: &World) {
    std::fs::write(world.root.join("go"), "").unwrap();
    world.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_policy_does_what_it_says_to_the_runs_before() {
    let cases = [
        (
            "supersede-queued",
            ["success", "success", "superseded", "success"],
        ),
        ("keep-all", ["success", "success", "success", "success"]),
        (
            "cancel-running",
            ["success", "superseded", "superseded", "success"],
        ),
    ];
    for (policy, expected) in cases {
        for world in worlds().await {
            with(&world, json!({ "policy": policy })).await;
            world.push('a').await;
            world.push('a').await;
            world.tick().await;
            go(&world).await;
            assert_eq!(ends(&world).await, expected, "{policy} on {}", world.name);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_group_wait_for_each_other_across_branches() {
    for world in worlds().await {
        with(&world, json!({ "group": "deploy", "policy": "keep-all" })).await;
        world.push_to("web", "topic", Some('a')).await;
        world.push_to("web", "other", Some('a')).await;
        for _ in 0..5 {
            world.tick().await;
        }
        let states: Vec<RunState> = world.runs().await.iter().map(|run| run.state).collect();
        assert_eq!(
            states,
            [
                RunState::Finished,
                RunState::Running,
                RunState::Queued,
                RunState::Queued
            ],
            "{}",
            world.name
        );
        // A branch that is gone takes its own runs along, and no other.
        world.push_to("web", "other", None).await;
        world.tick().await;
        go(&world).await;
        assert_eq!(
            ends(&world).await,
            ["success", "success", "success", "cancelled"]
        );
    }
}

async fn until_waiting(world: &World) {
    world
        .until("the step waits", async || {
            let detail = world.newest().await;
            detail
                .steps
                .iter()
                .any(|step| step.name.as_str() == "ship" && step.state == StepState::Running)
        })
        .await;
}

fn shipping(by_another: bool) -> serde_json::Value {
    let mut spec = service("true");
    spec["steps"] = json!({ "ship": {
        "approve": { "message": "look at staging", "by_another": by_another }, "needs": ["image"], "before": ["release"],
    } });
    spec
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_waits_for_a_person_who_may_and_says_who_it_was() {
    for mut world in worlds().await {
        world.spec('a', shipping(false));
        world.push('a').await;
        until_waiting(&world).await;
        // A place is free for others meanwhile, and a new process waits as well.
        world
            .restart(std::sync::Arc::new(ondol_types::NoCrash))
            .await;
        world.tick().await;
        let detail = world.newest().await;
        let step = detail
            .steps
            .iter()
            .find(|step| step.name.as_str() == "ship")
            .unwrap();
        let reason = step.reason.clone().unwrap();
        assert_eq!(
            reason,
            "it waits for an approval: look at staging (`ondol run approve 1 ship`)"
        );
        let run = detail.run.id;
        let mut stranger = Ctx::system(world.ctx.clock.clone());
        stranger.principal = Principal::anonymous();
        let (ship, test): (StepName, StepName) = (name("ship"), name("test"));
        let decide = async |ctx: &Ctx, step: &StepName, yes: bool| {
            world
                .pipeline
                .decide_approval(ctx, &run, step, yes, "fine")
                .await
        };
        assert!(decide(&stranger, &ship, true).await.is_err());
        let wrong = decide(&world.ctx, &test, true).await.unwrap_err();
        assert_eq!(wrong.kind(), ErrorKind::Conflict, "{wrong}");
        decide(&world.ctx, &ship, true).await.unwrap();
        let twice = decide(&world.ctx, &ship, false).await.unwrap_err();
        assert_eq!(twice.code(), "pipeline.approval.not-waiting", "{twice}");
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(
            detail.run.outcome,
            Some(RunOutcome::Success),
            "{}",
            world.name
        );
        let given = world.events("dev.cdeventsx.ondol-approval").await;
        assert_eq!(given.len(), 1);
        let content = &given[0].document["subject"]["content"];
        assert_eq!(
            (&content["step"], &content["comment"]),
            (&json!("ship"), &json!("fine"))
        );
        assert_eq!(content["by"], json!(world.ctx.principal.name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_and_the_want_of_an_answer_end_the_run() {
    for world in worlds().await {
        world.spec('a', shipping(false));
        world.push('a').await;
        until_waiting(&world).await;
        let run = world.newest().await.run.id;
        world
            .pipeline
            .decide_approval(&world.ctx, &run, &name("ship"), false, "not today")
            .await
            .unwrap();
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Refused));
        assert!(detail.run.reason.unwrap().contains("not today"));
        let mut late = shipping(false);
        late["steps"]["ship"]["approve"]["timeout"] = json!("50ms");
        world.spec('b', late);
        world.push('b').await;
        world.settle().await;
        let detail = world.newest().await;
        assert!(outcomes(&detail).contains(&"deploy:skipped".to_owned()));
        let reason = detail.run.reason.unwrap();
        assert!(reason.contains("nobody approved it"), "{reason}");
    }
}
