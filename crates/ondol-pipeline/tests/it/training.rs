//! Pushes of data.

use ondol_pipeline::ActionOutcome;
use ondol_pipeline::model::RunOutcome;
use ondol_types::Secret;
use serde_json::{Value, json};

use crate::world::{World, data_ref, name, outcomes, worlds};

fn model(train: Value) -> Value {
    let mut all = json!({ "model": "iris", "on": { "data": "iris" } });
    all.as_object_mut()
        .unwrap()
        .extend(train.as_object().unwrap().clone());
    json!({
        "test": { "run": "true" },
        "service": { "run": "ondol serve-model" },
        "data": { "iris": { "path": "data/iris.csv" } },
        "secrets": ["API_KEY", { "name": "CERT", "as": "file" }],
        "train": all,
    })
}

/// `validate` lays out the data, `evaluate` reads what training left.
fn scripts(world: &World, accepted: bool) {
    world.script("validate", |ctx| {
        let data = ctx.run.data.clone().unwrap();
        let folder = ctx.workspace.data(&data.dataset);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join("part.csv"),
            format!("version,{}\n", data.number),
        )
        .unwrap();
        Ok(ActionOutcome::Success(json!({ "rows": 1 })))
    });
    world.script("evaluate", move |ctx| {
        let model = std::fs::read_to_string(ctx.workspace.output().join("model")).unwrap();
        let metrics = std::fs::read_to_string(ctx.workspace.metrics()).unwrap();
        let outputs = json!({ "model": model, "metrics": metrics });
        Ok(if accepted {
            ActionOutcome::Success(outputs)
        } else {
            ActionOutcome::Refused {
                reason: "accuracy 0.4 is below 0.9".into(),
                outputs,
            }
        })
    });
}

const TRAIN: &str = "test \"$API_KEY $(cat $CERT_FILE)\" = 'hunter22 cert-77'; cmp data/iris.csv $ONDOL_DATA_DIR/part.csv; \
    echo \"$ONDOL_MODEL $ONDOL_DATASET\" > $ONDOL_OUTPUT_DIR/model; cat data/iris.csv >> $ONDOL_OUTPUT_DIR/model; \
    echo '{\"accuracy\": 0.97}' > $ONDOL_METRICS_FILE";

#[tokio::test(flavor = "multi_thread")]
async fn a_model_project_waits_for_data_and_then_trains_and_deploys() {
    for world in worlds().await {
        world.spec('a', model(json!({ "run": TRAIN })));
        let values = [("API_KEY", "hunter22"), ("CERT", "cert-77")];
        world
            .outside
            .lock()
            .unwrap()
            .secrets
            .extend(values.map(|(secret, value)| (name(secret), Secret::new(value.to_owned()))));
        scripts(&world, true);
        world.push('a').await;
        world.settle().await;
        let waiting = world.newest().await;
        assert_eq!(waiting.run.outcome, Some(RunOutcome::Success));
        assert_eq!(
            outcomes(&waiting),
            [
                "checkout:success",
                "test:success",
                "validate:skipped",
                "train:skipped",
                "evaluate:skipped",
                "image:success",
                "deploy:skipped"
            ]
        );
        assert!(
            waiting.run.notes[0].contains("waiting for data"),
            "{:?}",
            waiting.run.notes
        );
        world.data("iris", 4).await;
        world.settle().await;
        let trained = world.newest().await;
        assert_eq!(
            trained.run.outcome,
            Some(RunOutcome::Success),
            "{trained:?}"
        );
        assert!(
            outcomes(&trained)
                .iter()
                .all(|step| step.ends_with(":success"))
        );
        let evaluate = trained
            .steps
            .iter()
            .find(|step| step.name.as_str() == "evaluate")
            .unwrap();
        assert_eq!(
            evaluate.outputs.as_ref().unwrap()["model"],
            "iris iris\nversion,4\n"
        );
        assert_eq!(
            (trained.run.author.as_str(), trained.run.data.clone()),
            ("bob", Some(data_ref("iris", 4)))
        );
        let pushed = world.events("dev.cdeventsx.ondol-dataset").await.remove(0);
        assert_eq!(trained.run.chain, pushed.chain);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_built_in_trainer_gets_its_folders() {
    for world in worlds().await {
        let mut spec = model(json!({ "auto": { "target": "version" } }));
        spec["secrets"] = json!([]);
        world.spec('a', spec);
        scripts(&world, true);
        world.data("iris", 1).await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Success), "{detail:?}");
    }
}

/// Every command of a project that trains knows where runs are tracked, unless it says so itself;
/// a project that does not train is told nothing.
#[tokio::test(flavor = "multi_thread")]
async fn commands_of_a_model_project_know_where_runs_are_tracked() {
    let told = "test \"$MLFLOW_TRACKING_URI$MLFLOW_TRACKING_TOKEN\" = ";
    for world in worlds().await {
        let mut spec = model(
            json!({ "run": format!("{told}http://tracking/webtoken-of-train\n{}",
            TRAIN.replace("test \"$API_KEY $(cat $CERT_FILE)\" = 'hunter22 cert-77'; ", "")) }),
        );
        spec["secrets"] = json!([]);
        spec["test"] = json!({ "run": format!("{told}http://tracking/webtoken-of-test") });
        world.spec('a', spec.clone());
        scripts(&world, true);
        world.data("iris", 1).await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Success), "{detail:?}");

        spec["env"] = json!({ "MLFLOW_TRACKING_URI": "http://mine" });
        spec["test"] = json!({ "run": format!("{told}http://mine") });
        spec["train"]["run"] = json!(TRAIN.replace(
            "test \"$API_KEY $(cat $CERT_FILE)\" = 'hunter22 cert-77'; ",
            ""
        ));
        world.spec('a', spec);
        world.data("iris", 2).await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Success), "{detail:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_model_is_no_failure_and_is_not_deployed() {
    for world in worlds().await {
        let mut spec = model(json!({ "run": TRAIN.split_once("; ").unwrap().1 }));
        spec["secrets"] = json!([]);
        world.spec('a', spec);
        scripts(&world, false);
        world.data("iris", 1).await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Refused), "{detail:?}");
        assert_eq!(
            detail.run.reason.as_deref(),
            Some("`evaluate` refused: accuracy 0.4 is below 0.9")
        );
        assert_eq!(
            outcomes(&detail)[4..],
            ["evaluate:refused", "image:skipped", "deploy:skipped"]
        );
        assert_eq!(
            detail.steps[6].reason.as_deref(),
            Some("`evaluate` refused")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_secret_fails_training_with_the_remedy() {
    for world in worlds().await {
        world.spec('a', model(json!({ "run": TRAIN })));
        scripts(&world, true);
        world.data("iris", 1).await;
        world.settle().await;
        let reason = world.newest().await.run.reason.unwrap();
        assert!(
            reason.contains("secret `API_KEY` is not set")
                && reason.contains("ondol secret set API_KEY"),
            "{reason}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_before_code_is_skipped_and_other_data_is_only_checked() {
    for world in worlds().await {
        world.data("iris", 1).await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(
            (detail.run.outcome, outcomes(&detail)),
            (
                Some(RunOutcome::Skipped),
                vec!["checkout:skipped".to_owned()]
            )
        );
        assert!(detail.run.reason.unwrap().contains("no code yet"));
        world.spec('a', model(json!({ "run": TRAIN })));
        scripts(&world, true);
        world.data("prices", 1).await;
        world.settle().await;
        assert_eq!(
            outcomes(&world.newest().await),
            ["checkout:success", "validate:success"]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_data_takes_the_place_of_queued_data() {
    for world in worlds().await {
        for number in 1..=3 {
            world.data("iris", number).await;
        }
        world.settle().await;
        let ended: Vec<_> = world
            .runs()
            .await
            .iter()
            .map(|run| run.outcome.unwrap())
            .collect();
        assert_eq!(
            ended,
            [
                RunOutcome::Superseded,
                RunOutcome::Superseded,
                RunOutcome::Skipped
            ]
        );
    }
}
