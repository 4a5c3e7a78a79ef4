//! Who sees and changes what.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_sees_its_own_project_and_an_administrator_everything() {
    for world in worlds().await {
        // The same name is another experiment in another project.
        let iris = world.experiment("iris", "tuning").await;
        let web = world.experiment("web", "tuning").await;
        let whole = world.experiment("admin", "tuning").await;
        let named = world.experiment("admin", "iris/nightly").await;
        assert!(iris != web && web != whole);
        let by_name = |name: &str| format!("experiments/get-by-name?experiment_name={name}");
        for (who, name, expected) in [
            ("iris", "tuning", &iris),
            ("web", "tuning", &web),
            ("admin", "tuning", &whole),
            ("iris", "iris/nightly", &named),
        ] {
            let found = world.get(who, &by_name(name)).await;
            assert_eq!(
                found["experiment"]["experiment_id"], **expected,
                "{who} {name}"
            );
        }
        assert_eq!(
            world
                .refused("web", "GET", &by_name("iris/nightly"), Value::Null)
                .await,
            missing()
        );
        // A number opens nothing.
        let run = world.run("iris", &iris, "r").await;
        for (method, path, body) in [
            (
                "GET",
                format!("experiments/get?experiment_id={iris}"),
                Value::Null,
            ),
            ("GET", format!("runs/get?run_id={run}"), Value::Null),
            (
                "GET",
                format!("metrics/get-history?run_id={run}&metric_key=a"),
                Value::Null,
            ),
            ("GET", format!("artifacts/list?run_id={run}"), Value::Null),
            (
                "POST",
                "runs/create".to_owned(),
                json!({ "experiment_id": iris }),
            ),
            (
                "POST",
                "runs/log-metric".to_owned(),
                json!({ "run_id": run, "key": "a", "value": 1, "timestamp": 1 }),
            ),
            ("POST", "runs/delete".to_owned(), json!({ "run_id": run })),
            (
                "POST",
                "experiments/delete".to_owned(),
                json!({ "experiment_id": iris }),
            ),
            (
                "POST",
                "experiments/delete".to_owned(),
                json!({ "experiment_id": whole }),
            ),
            (
                "POST",
                "logged-models".to_owned(),
                json!({ "experiment_id": iris }),
            ),
        ] {
            assert_eq!(
                world.refused("web", method, &path, body).await,
                missing(),
                "{path}"
            );
        }
        assert_eq!(
            world
                .found("web", json!({ "experiment_ids": [iris, web] }))
                .await
                .len(),
            0
        );
        assert_eq!(
            world
                .found("admin", json!({ "experiment_ids": [iris, web] }))
                .await
                .len(),
            1
        );
        let seen = |answer: Value| answer["experiments"].as_array().unwrap().len();
        assert_eq!(
            seen(world.post("web", "experiments/search", json!({})).await),
            2,
            "its own and its default"
        );
        assert_eq!(
            seen(world.post("admin", "experiments/search", json!({})).await),
            6
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_read_and_steps_log() {
    for world in worlds().await {
        let id = world.experiment("step", "iris").await;
        let run = world.run("step", &id, "r").await;
        world
            .post(
                "step",
                "runs/log-metric",
                json!({ "run_id": run, "key": "a", "value": 1, "timestamp": 1 }),
            )
            .await;
        world.get("reader", &format!("runs/get?run_id={run}")).await;
        let forbidden = (403, "PERMISSION_DENIED".to_owned());
        let metric = json!({ "run_id": run, "key": "a", "value": 2, "timestamp": 2 });
        assert_eq!(
            world
                .refused("reader", "POST", "runs/log-metric", metric)
                .await,
            forbidden
        );
        assert_eq!(
            world
                .refused(
                    "reader",
                    "POST",
                    "experiments/create",
                    json!({ "name": "x" })
                )
                .await,
            forbidden
        );
        let unknown = (401, "UNAUTHENTICATED".to_owned());
        for who in ["", "wrong"] {
            let path = format!("runs/get?run_id={run}");
            assert_eq!(world.refused(who, "GET", &path, Value::Null).await, unknown);
            assert_eq!(
                world.refused(who, "POST", "runs/search", json!({})).await,
                unknown
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_token_has_a_default_experiment() {
    for world in worlds().await {
        assert_eq!(
            world.get("admin", "experiments/get?experiment_id=0").await["experiment"]["experiment_id"],
            "0"
        );
        let own = world.get("iris", "experiments/get?experiment_id=0").await["experiment"].clone();
        assert_eq!(own["name"], "Default");
        assert_ne!(own["experiment_id"], "0");
        let made = world
            .post("iris", "runs/create", json!({ "experiment_id": "0" }))
            .await;
        assert_eq!(made["run"]["info"]["experiment_id"], own["experiment_id"]);
        assert_eq!(
            world
                .found("iris", json!({ "experiment_ids": ["0"] }))
                .await
                .len(),
            1
        );
        assert_eq!(
            world
                .found("admin", json!({ "experiment_ids": ["0"] }))
                .await
                .len(),
            0
        );
        // A token of two projects must say which.
        assert_eq!(
            world
                .refused("both", "POST", "experiments/create", json!({ "name": "x" }))
                .await,
            invalid()
        );
        assert_eq!(
            world
                .refused(
                    "both",
                    "GET",
                    "experiments/get?experiment_id=0",
                    Value::Null
                )
                .await,
            missing()
        );
        world.experiment("both", "web/x").await;
        world
            .get("web", "experiments/get-by-name?experiment_name=web/x")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_address_of_the_protocol_answers() {
    for world in worlds().await {
        for prefix in ["", "/mlflow"] {
            for api in ["/api/2.0", "/api/3.0", "/ajax-api/2.0", "/ajax-api/3.0"] {
                let path = format!("{prefix}{api}/mlflow/experiments/get?experiment_id=0");
                let (status, _) = world.send("admin", "GET", &path, Body::empty()).await;
                assert_eq!(status, StatusCode::OK, "{path}");
            }
            let (status, version) = world
                .send("", "GET", &format!("{prefix}/version"), Body::empty())
                .await;
            assert_eq!(
                (status, version),
                (StatusCode::OK, ondol_ml::tracking::http::PROTOCOL.into())
            );
        }
        assert_eq!(
            world.send("", "GET", "/mlflow/health", Body::empty()).await,
            (StatusCode::OK, b"OK".to_vec())
        );
        let info = world.get("admin", "server-info").await;
        assert_eq!(info["multipart_uploads_enabled"], false);
        let nowhere = (404, "ENDPOINT_NOT_FOUND".to_owned());
        for (method, path) in [
            ("GET", "nothing"),
            ("GET", "runs/create"),
            ("PUT", "runs/get"),
            ("POST", "gateway/endpoints"),
        ] {
            assert_eq!(
                world.refused("admin", method, path, Value::Null).await,
                nowhere,
                "{path}"
            );
        }
        let (status, _) = world
            .send(
                "admin",
                "POST",
                "/api/2.0/mlflow/runs/create",
                Body::from("[1"),
            )
            .await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
    }
}
