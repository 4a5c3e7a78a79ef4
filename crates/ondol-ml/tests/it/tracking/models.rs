//! Logged and registered models.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_logged_model_lives() {
    for world in worlds().await {
        let id = world.experiment("iris", "e").await;
        let run = world.run("iris", &id, "r").await;
        let new = json!({ "experiment_id": id, "name": "model", "model_type": "sk", "source_run_id": run,
            "params": [{ "key": "depth", "value": "4" }], "tags": [{ "key": "a", "value": "1" }] });
        let made = world.post("iris", "logged-models", new).await["model"].clone();
        let model = made["info"]["model_id"].as_str().unwrap().to_owned();
        assert!(model.starts_with("m-") && model.len() == 34, "{model}");
        assert_eq!(made["info"]["status"], "LOGGED_MODEL_PENDING");
        assert_eq!(
            made["info"]["artifact_uri"],
            format!("mlflow-artifacts:/{id}/models/{model}/artifacts")
        );
        let path =
            format!("/api/2.0/mlflow-artifacts/artifacts/{id}/models/{model}/artifacts/MLmodel");
        assert_eq!(
            world.send("iris", "PUT", &path, Body::from("x")).await.0,
            StatusCode::OK
        );
        let listed = world
            .get(
                "iris",
                &format!("logged-models/{model}/artifacts/directories"),
            )
            .await;
        assert_eq!(listed["files"][0]["path"], "MLmodel");
        let ready = json!({ "status": "LOGGED_MODEL_READY" });
        let ready = world
            .ask("iris", "PATCH", &format!("logged-models/{model}"), ready)
            .await;
        assert_eq!(
            world.fine("ready", ready)["model"]["info"]["status"],
            "LOGGED_MODEL_READY"
        );
        let metric = json!({ "run_id": run, "key": "acc", "value": 0.9, "timestamp": 1, "step": 2, "model_id": model, "dataset_name": "iris", "dataset_digest": "d" });
        world.post("iris", "runs/log-metric", metric).await;
        world
            .post(
                "iris",
                "runs/outputs",
                json!({ "run_id": run, "models": [{ "model_id": model, "step": 3 }] }),
            )
            .await;
        let seen = world.get("iris", &format!("runs/get?run_id={run}")).await;
        assert_eq!(
            seen["run"]["outputs"]["model_outputs"],
            json!([{ "model_id": model, "step": 3 }])
        );
        let tags = json!({ "tags": [{ "key": "b/c", "value": "2" }] });
        let tagged = world
            .ask(
                "iris",
                "PATCH",
                &format!("logged-models/{model}/tags"),
                tags,
            )
            .await;
        assert_eq!(
            world.fine("tags", tagged)["model"]["info"]["tags"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        let untagged = world
            .ask(
                "iris",
                "DELETE",
                &format!("logged-models/{model}/tags/b%2Fc"),
                Value::Null,
            )
            .await;
        world.fine("delete tag", untagged);
        let other = world
            .post("iris", "logged-models", json!({ "experiment_id": id }))
            .await["model"]["info"]["model_id"]
            .clone();
        for (body, expected) in [
            (json!({ "filter": "name = 'model'" }), 1),
            (
                json!({ "filter": "params.depth = '4' AND tags.a = '1' AND metrics.acc > 0.8" }),
                1,
            ),
            (
                json!({ "filter": "metrics.acc > 0.8", "datasets": [{ "dataset_name": "other" }] }),
                0,
            ),
            (
                json!({ "filter": "metrics.acc > 0.8", "datasets": [{ "dataset_name": "iris", "dataset_digest": "d" }] }),
                1,
            ),
            (json!({ "datasets": [{ "dataset_name": "iris" }] }), 1),
            (
                json!({ "order_by": [{ "field_name": "metrics.acc", "ascending": false, "dataset_name": "iris" }] }),
                2,
            ),
            (
                json!({ "order_by": [{ "field_name": "creation_time", "ascending": true }] }),
                2,
            ),
        ] {
            let mut body = body;
            body["experiment_ids"] = json!([id]);
            let found = world
                .post("iris", "logged-models/search", body.clone())
                .await;
            let found = found["models"].as_array().map_or(0, Vec::len);
            assert_eq!(found, expected, "{body} on {}", world.test.name);
        }
        let deleted = world
            .ask(
                "iris",
                "DELETE",
                &format!("logged-models/{}", other.as_str().unwrap()),
                Value::Null,
            )
            .await;
        world.fine("delete", deleted);
        assert_eq!(
            world
                .refused(
                    "iris",
                    "GET",
                    &format!("logged-models/{}", other.as_str().unwrap()),
                    Value::Null
                )
                .await,
            missing()
        );
        assert_eq!(
            world
                .refused("web", "GET", &format!("logged-models/{model}"), Value::Null)
                .await,
            missing()
        );
        assert_eq!(
            world
                .refused(
                    "iris",
                    "POST",
                    "logged-models",
                    json!({ "experiment_id": id, "name": "a/b" })
                )
                .await,
            invalid()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registered_model_lives() {
    for world in worlds().await {
        let id = world.experiment("iris", "e").await;
        let run = world.run("iris", &id, "r").await;
        world
            .post(
                "iris",
                "registered-models/create",
                json!({ "name": "clf", "description": "first" }),
            )
            .await;
        assert_eq!(
            world
                .refused(
                    "iris",
                    "POST",
                    "registered-models/create",
                    json!({ "name": "clf" })
                )
                .await,
            (400, "RESOURCE_ALREADY_EXISTS".to_owned())
        );
        let source = format!("runs:/{run}/model");
        for number in 1..=3 {
            let made = world
                .post(
                    "iris",
                    "model-versions/create",
                    json!({ "name": "clf", "source": source, "run_id": run }),
                )
                .await;
            assert_eq!(made["model_version"]["version"], number.to_string());
        }
        let stage = json!({ "name": "clf", "version": "1", "stage": "production", "archive_existing_versions": false });
        world
            .post("iris", "model-versions/transition-stage", stage)
            .await;
        let stage = json!({ "name": "clf", "version": "2", "stage": "Production", "archive_existing_versions": true });
        let moved = world
            .post("iris", "model-versions/transition-stage", stage)
            .await;
        assert_eq!(moved["model_version"]["current_stage"], "Production");
        world
            .post(
                "iris",
                "registered-models/alias",
                json!({ "name": "clf", "alias": "best", "version": "2" }),
            )
            .await;
        let best = world
            .get("iris", "registered-models/alias?name=clf&alias=best")
            .await["model_version"]
            .clone();
        assert_eq!(
            (&best["version"], &best["aliases"]),
            (&json!("2"), &json!(["best"]))
        );
        assert_eq!(
            world
                .refused(
                    "iris",
                    "GET",
                    "registered-models/alias?name=clf&alias=none",
                    Value::Null
                )
                .await,
            invalid()
        );
        assert_eq!(
            world
                .refused(
                    "iris",
                    "POST",
                    "registered-models/alias",
                    json!({ "name": "clf", "alias": "v1", "version": "2" })
                )
                .await,
            invalid()
        );
        let uri = world
            .get("iris", "model-versions/get-download-uri?name=clf&version=2")
            .await;
        assert_eq!(
            uri["artifact_uri"],
            format!("mlflow-artifacts:/{id}/{run}/artifacts/model")
        );
        let found =
            world.get("iris", "registered-models/get?name=clf").await["registered_model"].clone();
        assert_eq!(
            found["aliases"],
            json!([{ "alias": "best", "version": "2" }])
        );
        let latest: Vec<(&str, &str)> = found["latest_versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| {
                (
                    one["current_stage"].as_str().unwrap(),
                    one["version"].as_str().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            latest,
            [("Archived", "1"), ("Production", "2"), ("None", "3")]
        );

        world
            .post(
                "iris",
                "model-versions/set-tag",
                json!({ "name": "clf", "version": "3", "key": "ok", "value": "yes" }),
            )
            .await;
        world.post("iris", "registered-models/create", json!({ "name": "prompt", "tags": [{ "key": "mlflow.prompt.is_prompt", "value": "true" }] })).await;
        let names = async |filter: &str| {
            let filter: String = filter.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let found = world
                .get("iris", &format!("registered-models/search?filter={filter}"))
                .await;
            let found = found["registered_models"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            found
                .iter()
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            names("tags.`mlflow.prompt.is_prompt` != 'true'").await,
            ["clf"]
        );
        assert_eq!(
            names("tag.`mlflow.prompt.is_prompt` = 'true'").await,
            ["prompt"]
        );
        assert_eq!(names("name LIKE 'c%'").await, ["clf"]);
        let versions = world
            .get(
                "iris",
                "model-versions/search?filter=name%3D%27clf%27%20and%20tags.ok%3D%27yes%27",
            )
            .await;
        assert_eq!(versions["model_versions"].as_array().unwrap().len(), 1);
        let versions = world
            .get(
                "iris",
                "model-versions/search?filter=name%3D%27clf%27&max_results=2",
            )
            .await;
        assert_eq!(versions["model_versions"].as_array().unwrap().len(), 2);
        assert!(versions["next_page_token"].is_string());

        let described = world
            .ask(
                "iris",
                "PATCH",
                "registered-models/update",
                json!({ "name": "clf", "description": "second" }),
            )
            .await;
        assert_eq!(
            world.fine("update", described)["registered_model"]["description"],
            "second"
        );
        world
            .post(
                "iris",
                "registered-models/rename",
                json!({ "name": "clf", "new_name": "clf2" }),
            )
            .await;
        world
            .get("iris", "model-versions/get?name=clf2&version=1")
            .await;
        assert_eq!(
            world
                .refused("web", "GET", "registered-models/get?name=clf2", Value::Null)
                .await,
            missing()
        );
        world.get("admin", "registered-models/get?name=clf2").await;
        let deleted = world
            .ask(
                "iris",
                "DELETE",
                "model-versions/delete",
                json!({ "name": "clf2", "version": "2" }),
            )
            .await;
        world.fine("delete version", deleted);
        assert_eq!(
            world
                .refused(
                    "iris",
                    "GET",
                    "registered-models/alias?name=clf2&alias=best",
                    Value::Null
                )
                .await,
            invalid()
        );
        let deleted = world
            .ask(
                "iris",
                "DELETE",
                "registered-models/delete",
                json!({ "name": "clf2" }),
            )
            .await;
        world.fine("delete", deleted);
        assert_eq!(
            world
                .refused(
                    "iris",
                    "GET",
                    "registered-models/get?name=clf2",
                    Value::Null
                )
                .await,
            missing()
        );
    }
}
