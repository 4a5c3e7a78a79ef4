//! Experiments, runs, metrics and searches.

use std::collections::BTreeMap;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_experiment_lives() {
    for world in worlds().await {
        let id = world.experiment("admin", "first").await;
        let twice = json!({ "name": "first" });
        assert_eq!(
            world
                .refused("admin", "POST", "experiments/create", twice)
                .await,
            (400, "RESOURCE_ALREADY_EXISTS".to_owned())
        );
        let by_name = "experiments/get-by-name?experiment_name=";
        assert_eq!(
            world
                .refused("admin", "GET", &format!("{by_name}none"), Value::Null)
                .await,
            missing()
        );
        let found = world.get("admin", &format!("{by_name}first")).await;
        let created = found["experiment"]["creation_time"].as_i64().unwrap();
        let expected = json!({ "experiment": {
            "experiment_id": id, "name": "first", "artifact_location": format!("mlflow-artifacts:/{id}"),
            "lifecycle_stage": "active", "last_update_time": created, "creation_time": created,
        }});
        assert_eq!(found, expected);

        let tag = json!({ "experiment_id": id, "key": "team", "value": "한국" });
        world
            .post("admin", "experiments/set-experiment-tag", tag)
            .await;
        world
            .post(
                "admin",
                "experiments/update",
                json!({ "experiment_id": id, "new_name": "second" }),
            )
            .await;
        let run = world.run("admin", &id, "r").await;
        world
            .post(
                "admin",
                "experiments/delete",
                json!({ "experiment_id": id }),
            )
            .await;
        assert_eq!(
            world
                .refused(
                    "admin",
                    "POST",
                    "experiments/delete",
                    json!({ "experiment_id": id })
                )
                .await,
            missing()
        );
        let found = world
            .get("admin", &format!("experiments/get?experiment_id={id}"))
            .await["experiment"]
            .clone();
        assert_eq!(
            (&found["name"], &found["lifecycle_stage"]),
            (&json!("second"), &json!("deleted"))
        );
        assert_eq!(found["tags"], json!([{ "key": "team", "value": "한국" }]));
        let gone = world.get("admin", &format!("runs/get?run_id={run}")).await;
        assert_eq!(gone["run"]["info"]["lifecycle_stage"], "deleted");
        assert_eq!(
            world
                .refused(
                    "admin",
                    "POST",
                    "runs/create",
                    json!({ "experiment_id": id })
                )
                .await,
            invalid()
        );
        world
            .post(
                "admin",
                "experiments/restore",
                json!({ "experiment_id": id }),
            )
            .await;
        assert_eq!(
            world
                .found("admin", json!({ "experiment_ids": [id] }))
                .await,
            ["r"]
        );

        world.experiment("admin", "third").await;
        let names = |answer: &Value| -> Vec<String> {
            let found = answer["experiments"].as_array().unwrap();
            found
                .iter()
                .map(|one| one["name"].as_str().unwrap().to_owned())
                .collect()
        };
        let all = world
            .post(
                "admin",
                "experiments/search",
                json!({ "max_results": 10, "order_by": ["name"] }),
            )
            .await;
        assert_eq!(names(&all), ["Default", "second", "third"]);
        let filter = json!({ "filter": "tags.team = '한국' AND name LIKE 's%'" });
        assert_eq!(
            names(&world.post("admin", "experiments/search", filter).await),
            ["second"]
        );
        let filter = json!({ "filter": format!("experiment_id IN ('{id}')") });
        assert_eq!(
            names(&world.post("admin", "experiments/search", filter).await),
            ["second"]
        );
        let first = world
            .post(
                "admin",
                "experiments/search",
                json!({ "max_results": 2, "order_by": ["name"] }),
            )
            .await;
        let token = first["next_page_token"].clone();
        let rest = json!({ "max_results": 2, "order_by": ["name"], "page_token": token });
        let rest = world.post("admin", "experiments/search", rest).await;
        assert_eq!(
            (names(&first).len(), names(&rest)),
            (2, vec!["third".to_owned()])
        );
        assert_eq!(rest.get("next_page_token"), None);
        let tag = json!({ "experiment_id": id, "key": "team" });
        world
            .post("admin", "experiments/delete-experiment-tag", tag.clone())
            .await;
        assert_eq!(
            world
                .refused("admin", "POST", "experiments/delete-experiment-tag", tag)
                .await,
            missing()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_keeps_what_is_logged_to_it() {
    for world in worlds().await {
        let id = world.experiment("admin", "e").await;
        let made = world
            .post(
                "admin",
                "runs/create",
                json!({ "experiment_id": id, "user_id": "kim", "start_time": "5",
                "tags": [{ "key": "a", "value": "1" }] }),
            )
            .await;
        let info = &made["run"]["info"];
        let run = info["run_id"].as_str().unwrap().to_owned();
        let name = info["run_name"].as_str().unwrap();
        assert_eq!(name.split('-').count(), 3, "{name}");
        assert_eq!(
            (
                &info["status"],
                &info["start_time"],
                &info["user_id"],
                &info["run_uuid"]
            ),
            (&json!("RUNNING"), &json!(5), &json!("kim"), &json!(run))
        );
        assert_eq!(
            info["artifact_uri"],
            format!("mlflow-artifacts:/{id}/{run}/artifacts")
        );
        assert!(
            made["run"]["data"]["tags"]
                .as_array()
                .unwrap()
                .contains(&json!({ "key": "mlflow.runName", "value": name }))
        );

        let log = |body: Value| {
            let mut body = body;
            body["run_id"] = json!(run);
            body
        };
        for (step, value) in [
            (1, json!(0.5)),
            (3, json!(0.7)),
            (2, json!(0.9)),
            (2, json!(0.9)),
        ] {
            let body =
                log(json!({ "key": "acc", "value": value, "timestamp": 10 + step, "step": step }));
            world.post("admin", "runs/log-metric", body).await;
        }
        for (key, value) in [("nan", "NaN"), ("up", "Infinity"), ("down", "-Infinity")] {
            world
                .post(
                    "admin",
                    "runs/log-metric",
                    log(json!({ "key": key, "value": value, "timestamp": 1 })),
                )
                .await;
        }
        world
            .post(
                "admin",
                "runs/log-parameter",
                log(json!({ "key": "lr", "value": "0.1" })),
            )
            .await;
        world
            .post(
                "admin",
                "runs/log-parameter",
                log(json!({ "key": "lr", "value": "0.1" })),
            )
            .await;
        let other = log(json!({ "key": "lr", "value": "0.2" }));
        assert_eq!(
            world
                .refused("admin", "POST", "runs/log-parameter", other)
                .await,
            invalid()
        );
        world
            .post(
                "admin",
                "runs/log-parameter",
                log(json!({ "key": "long", "value": "x".repeat(7_000) })),
            )
            .await;
        world
            .post(
                "admin",
                "runs/set-tag",
                log(json!({ "key": "mlflow.runName", "value": "renamed" })),
            )
            .await;
        world
            .post("admin", "runs/delete-tag", log(json!({ "key": "a" })))
            .await;
        assert_eq!(
            world
                .refused(
                    "admin",
                    "POST",
                    "runs/delete-tag",
                    log(json!({ "key": "a" }))
                )
                .await,
            missing()
        );
        let dataset = json!({ "name": "iris", "digest": "d1", "source_type": "local", "source": "{}", "schema": "{}", "profile": "{}" });
        let inputs = json!({ "datasets": [{ "dataset": dataset, "tags": [{ "key": "mlflow.data.context", "value": "train" }] }] });
        world
            .post("admin", "runs/log-inputs", log(inputs.clone()))
            .await;
        world.post("admin", "runs/log-inputs", log(inputs)).await;
        let update = log(json!({ "status": "FINISHED", "end_time": 9 }));
        assert_eq!(
            world.post("admin", "runs/update", update).await["run_info"]["status"],
            "FINISHED"
        );

        let found = world
            .get("admin", &format!("runs/get?run_id={run}&run_uuid={run}"))
            .await["run"]
            .clone();
        assert_eq!(
            (&found["info"]["run_name"], &found["info"]["end_time"]),
            (&json!("renamed"), &json!(9))
        );
        let metrics: BTreeMap<&str, &Value> = found["data"]["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|metric| (metric["key"].as_str().unwrap(), &metric["value"]))
            .collect();
        assert_eq!(metrics["acc"], 0.7, "the greatest step is the latest");
        assert_eq!(
            (metrics["nan"], metrics["up"], metrics["down"]),
            (&json!("NaN"), &json!(f64::MAX), &json!(f64::MIN))
        );
        let params = found["data"]["params"].as_array().unwrap();
        assert_eq!(params[0]["value"].as_str().unwrap().len(), 6_000);
        assert_eq!(
            found["inputs"]["dataset_inputs"],
            json!([{ "tags": [{ "key": "mlflow.data.context", "value": "train" }], "dataset": dataset }])
        );

        let history = world
            .get(
                "admin",
                &format!("metrics/get-history?run_id={run}&metric_key=acc"),
            )
            .await;
        let steps: Vec<i64> = history["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["step"].as_i64().unwrap())
            .collect();
        assert_eq!(steps, [1, 2, 3], "an exact repetition is one point");

        for (path, body) in [
            (
                "runs/log-metric",
                json!({ "key": "a%", "value": 1, "timestamp": 1 }),
            ),
            (
                "runs/log-metric",
                json!({ "key": "../a", "value": 1, "timestamp": 1 }),
            ),
            (
                "runs/log-metric",
                json!({ "key": "a", "value": "x", "timestamp": 1 }),
            ),
            (
                "runs/log-metric",
                json!({ "key": "a", "value": 1, "timestamp": -1 }),
            ),
            ("runs/log-metric", json!({ "key": "a", "timestamp": 1 })),
            (
                "runs/log-parameter",
                json!({ "key": "k".repeat(251), "value": "" }),
            ),
            ("runs/set-tag", json!({ "value": "x" })),
            ("runs/set-tag", json!({ "key": "z", "value": "a\0b" })),
            ("runs/update", json!({ "status": "NOTHING" })),
            (
                "runs/log-batch",
                json!({ "params": [{ "key": "p", "value": "1" }, { "key": "p", "value": "2" }] }),
            ),
            (
                "runs/log-inputs",
                json!({ "datasets": [{ "dataset": { "name": "x" } }] }),
            ),
        ] {
            assert_eq!(
                world
                    .refused("admin", "POST", path, log(body.clone()))
                    .await,
                invalid(),
                "{body}"
            );
        }
        world
            .post("admin", "runs/delete", json!({ "run_id": run }))
            .await;
        let late = log(json!({ "key": "a", "value": 1, "timestamp": 1 }));
        assert_eq!(
            world
                .refused("admin", "POST", "runs/log-metric", late.clone())
                .await,
            invalid()
        );
        world
            .post("admin", "runs/restore", json!({ "run_id": run }))
            .await;
        world.post("admin", "runs/log-metric", late).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_all_or_nothing_and_bounded() {
    for world in worlds_with(TrackingConfig {
        max_points: 2_500,
        ..TrackingConfig::default()
    })
    .await
    {
        let id = world.experiment("admin", "e").await;
        let run = world.run("admin", &id, "r").await;
        let points = |key: &str, from: i64, count: i64| -> Value {
            (from..from + count).map(|step| json!({ "key": key, "value": step as f64, "timestamp": step, "step": step })).collect()
        };
        let batch = json!({ "run_id": run, "metrics": points("loss", 0, 1_000) });
        world.post("admin", "runs/log-batch", batch).await;
        let mixed: Value = (0..900)
            .map(|at| json!({ "key": format!("m{at}"), "value": 1, "timestamp": 1 }))
            .collect();
        let pairs: Value = (0..50)
            .map(|at| json!({ "key": format!("p{at}"), "value": "1" }))
            .collect();
        world
            .post(
                "admin",
                "runs/log-batch",
                json!({ "run_id": run, "metrics": mixed, "params": pairs, "tags": pairs }),
            )
            .await;
        let run_now =
            world.get("admin", &format!("runs/get?run_id={run}")).await["run"]["data"].clone();
        assert_eq!(run_now["metrics"].as_array().unwrap().len(), 901);
        assert_eq!(run_now["params"].as_array().unwrap().len(), 50);

        let changed = json!({ "run_id": run, "metrics": points("new", 0, 1), "params": [{ "key": "p1", "value": "2" }] });
        assert_eq!(
            world
                .refused("admin", "POST", "runs/log-batch", changed)
                .await,
            invalid()
        );
        assert_eq!(
            world
                .get(
                    "admin",
                    &format!("metrics/get-history?run_id={run}&metric_key=new")
                )
                .await,
            json!({})
        );
        for (metrics, pairs) in [(1_001, 0), (0, 101), (950, 51)] {
            let tags: Value = (0..pairs)
                .map(|at| json!({ "key": format!("t{at}"), "value": "1" }))
                .collect();
            let body = json!({ "run_id": run, "metrics": points("x", 0, metrics), "tags": tags });
            assert_eq!(
                world.refused("admin", "POST", "runs/log-batch", body).await,
                invalid()
            );
        }
        let large =
            json!({ "run_id": run, "tags": [{ "key": "a", "value": "x".repeat(1_000_001) }] });
        assert_eq!(
            world
                .refused("admin", "POST", "runs/log-batch", large)
                .await,
            invalid()
        );
        let beyond = json!({ "run_id": run, "metrics": points("loss", 1_000, 1_000) });
        assert_eq!(
            world
                .refused("admin", "POST", "runs/log-batch", beyond)
                .await,
            invalid(),
            "the ceiling of points"
        );

        let first = world
            .get(
                "admin",
                &format!("metrics/get-history?run_id={run}&metric_key=loss&max_results=600"),
            )
            .await;
        let token = first["next_page_token"].as_str().unwrap();
        let rest = world.get("admin", &format!("metrics/get-history?run_id={run}&metric_key=loss&max_results=600&page_token={token}")).await;
        assert_eq!(
            (
                first["metrics"].as_array().unwrap().len(),
                rest["metrics"].as_array().unwrap().len()
            ),
            (600, 400)
        );
        assert_eq!(rest["metrics"][0]["step"], 600);

        let path = format!(
            "metrics/get-history-bulk-interval?run_ids={run}&metric_key=loss&max_results=5"
        );
        let sampled = world.get("admin", &path).await;
        let steps: Vec<i64> = sampled["metrics"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["step"].as_i64().unwrap())
            .collect();
        assert_eq!(steps, [0, 249, 499, 749, 999]);
        assert_eq!(sampled["metrics"][0]["run_id"], run);
        let part = world
            .get("admin", &format!("{path}&start_step=10&end_step=12"))
            .await;
        assert_eq!(part["metrics"].as_array().unwrap().len(), 3);
        assert_eq!(
            world
                .refused(
                    "admin",
                    "GET",
                    &format!("{path}&start_step=10"),
                    Value::Null
                )
                .await,
            invalid()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_find_and_order() {
    for world in worlds().await {
        let id = world.experiment("admin", "e").await;
        let other = world.experiment("admin", "other").await;
        for (name, acc, lr, tag) in [
            ("a", Some("0.9"), "0.1", "Blue"),
            ("b", Some("0.8"), "0.2", "blue%"),
            ("c", Some("NaN"), "0.1", "red"),
            ("d", None, "0.3", ""),
        ] {
            let run = world.run("admin", &id, name).await;
            let metrics: Vec<Value> = acc
                .iter()
                .map(|value| json!({ "key": "my acc", "value": value, "timestamp": 1 }))
                .collect();
            let tags: Vec<Value> = Some(tag)
                .filter(|tag| !tag.is_empty())
                .iter()
                .map(|tag| json!({ "key": "colour", "value": tag }))
                .collect();
            world.post("admin", "runs/log-batch", json!({ "run_id": run, "metrics": metrics, "tags": tags, "params": [{ "key": "lr", "value": lr }] })).await;
            if name == "b" {
                let dataset = json!({ "name": "iris", "digest": "d1", "source_type": "local", "source": "x" });
                world.post("admin", "runs/log-inputs", json!({ "run_id": run, "datasets": [{ "dataset": dataset, "tags": [{ "key": "mlflow.data.context", "value": "train" }] }] })).await;
                world
                    .post(
                        "admin",
                        "runs/update",
                        json!({ "run_id": run, "status": "FAILED" }),
                    )
                    .await;
            }
        }
        world.run("admin", &other, "z").await;
        for (filter, expected) in [
            ("", "dcba"),
            ("metrics.`my acc` > 0.85", "a"),
            ("metrics.\"my acc\" <= 0.9", "ba"),
            ("metrics.`my acc` != 0.9", "cb"),
            ("params.lr = '0.1'", "ca"),
            ("params.lr != '0.1'", "db"),
            ("params.lr LIKE '0.%' and tags.colour ilike 'BLUE%'", "ba"),
            ("tags.colour LIKE 'blue%'", "b"),
            ("tags.colour IS NULL", "d"),
            ("tags.colour IS NOT NULL AND params.lr = '0.1'", "ca"),
            ("status = 'FAILED'", "b"),
            ("attributes.status IN ('x')", "!"),
            ("run_name = 'c'", "c"),
            ("run_name LIKE '%'", "dcba"),
            ("start_time > 0 AND end_time > 0", ""),
            ("datasets.name = 'iris' AND dataset.context = 'train'", "b"),
            ("dataset.digest IN ('d0', 'd1')", "b"),
            ("dataset.digest NOT IN ('d1')", ""),
            ("metrics.`my acc` > 0.1 OR params.lr = '1'", "!"),
        ] {
            let body = json!({ "experiment_ids": [id], "filter": filter });
            if expected == "!" {
                assert_eq!(
                    world.refused("admin", "POST", "runs/search", body).await,
                    invalid(),
                    "{filter}"
                );
            } else {
                assert_eq!(
                    world.found("admin", body).await.concat(),
                    expected,
                    "{filter} on {}",
                    world.test.name
                );
            }
        }
        for (order, expected) in [
            (json!(["metrics.`my acc` DESC"]), "abcd"),
            (json!(["metrics.`my acc` ASC"]), "bacd"),
            (json!(["params.lr", "start_time ASC"]), "acbd"),
            (json!(["tags.colour"]), "abcd"),
            (json!(["attributes.run_name desc"]), "dcba"),
            (json!(["start_time ASC"]), "abcd"),
        ] {
            let body = json!({ "experiment_ids": [id], "order_by": order });
            assert_eq!(
                world.found("admin", body).await.concat(),
                expected,
                "{order} on {}",
                world.test.name
            );
        }
        assert_eq!(
            world
                .found("admin", json!({ "experiment_ids": [id, other, "999"] }))
                .await
                .len(),
            5
        );
        assert_eq!(
            world
                .found("admin", json!({ "experiment_ids": [] }))
                .await
                .len(),
            0
        );
        let first = world
            .post(
                "admin",
                "runs/search",
                json!({ "experiment_ids": [id], "max_results": 3 }),
            )
            .await;
        let rest = json!({ "experiment_ids": [id], "max_results": 3, "page_token": first["next_page_token"] });
        assert_eq!(world.found("admin", rest).await, ["a"]);
        for wrong in [
            json!({ "max_results": 0 }),
            json!({ "max_results": 50_001 }),
            json!({ "page_token": "x" }),
            json!({ "experiment_ids": ["x"] }),
            json!({ "order_by": ["x"] }),
        ] {
            assert_eq!(
                world
                    .refused("admin", "POST", "runs/search", wrong.clone())
                    .await,
                invalid(),
                "{wrong}"
            );
        }
    }
}
