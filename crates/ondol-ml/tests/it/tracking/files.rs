//! Files of runs, and what is removed over time.

use ondol_background::Reconciler;
use ondol_ml::tracking::TrackingHousekeeping;
use ondol_store::blobs::BlobOwner;
use ondol_store::{ForgetProject, Forgotten, ProjectHold};

use super::*;

const FILES: &str = "/api/2.0/mlflow-artifacts/artifacts";

async fn collect(world: &World) {
    world.clock.advance(Duration::from_secs(7_200));
    let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(world.tracking.clone())];
    world
        .blobs
        .gc(&owners, Duration::from_secs(3_600))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_back_and_stay_where_they_belong() {
    for world in worlds().await {
        let id = world.experiment("iris", "e").await;
        let run = world.run("iris", &id, "r").await;
        let root = format!("{FILES}/{id}/{run}/artifacts");
        let large = vec![7u8; 3 << 20];
        for (path, bytes) in [
            ("model/MLmodel", b"flavors".to_vec()),
            ("model/a%20b.bin", large.clone()),
            ("notes.txt", b"hi".to_vec()),
        ] {
            let (status, answer) = world
                .send("iris", "PUT", &format!("{root}/{path}"), Body::from(bytes))
                .await;
            assert_eq!((status, answer), (StatusCode::OK, b"{}".to_vec()), "{path}");
        }
        let listed = world
            .get("iris", &format!("artifacts/list?run_id={run}"))
            .await;
        assert_eq!(
            listed,
            json!({ "root_uri": format!("mlflow-artifacts:/{id}/{run}/artifacts"), "files": [
            { "path": "model", "is_dir": true }, { "path": "notes.txt", "is_dir": false, "file_size": 2 }] })
        );
        let listed = world
            .get("iris", &format!("artifacts/list?run_id={run}&path=model"))
            .await;
        assert_eq!(
            listed["files"],
            json!([
            { "path": "model/MLmodel", "is_dir": false, "file_size": 7 }, { "path": "model/a b.bin", "is_dir": false, "file_size": large.len() }])
        );
        let (_, proxied) = world
            .send(
                "iris",
                "GET",
                &format!("{FILES}?path={id}/{run}/artifacts/model"),
                Body::empty(),
            )
            .await;
        let proxied: Value = serde_json::from_slice(&proxied).unwrap();
        assert_eq!(proxied["files"][1]["path"], "a b.bin", "names alone");
        let nothing = world
            .get(
                "iris",
                &format!("artifacts/list?run_id={run}&path=notes.txt"),
            )
            .await;
        assert_eq!(nothing.get("files"), None);

        collect(&world).await;
        let (status, back) = world
            .send(
                "iris",
                "GET",
                &format!("{root}/model/a%20b.bin"),
                Body::empty(),
            )
            .await;
        assert!(status == StatusCode::OK && back == large);
        for (who, method, path, expected) in [
            ("web", "GET", format!("{root}/notes.txt"), 404),
            ("web", "PUT", format!("{root}/notes.txt"), 404),
            ("reader", "GET", format!("{root}/notes.txt"), 200),
            ("reader", "PUT", format!("{root}/notes.txt"), 403),
            ("", "GET", format!("{root}/notes.txt"), 401),
            ("iris", "GET", format!("{root}/none"), 404),
            ("iris", "GET", format!("{root}/../../x"), 400),
            ("iris", "PUT", format!("{root}/a/%2e%2e/x"), 400),
            ("iris", "PUT", root.clone(), 400),
            (
                "iris",
                "PUT",
                format!("{FILES}/{id}/{}/artifacts/x", "0".repeat(32)),
                404,
            ),
            ("iris", "PUT", format!("{FILES}/x/y/z"), 404),
            ("iris", "DELETE", format!("{root}/model"), 200),
        ] {
            let (status, answer) = world.send(who, method, &path, Body::from("x")).await;
            assert_eq!(
                status.as_u16(),
                expected,
                "{who} {method} {path}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
        let listed = world
            .get("iris", &format!("artifacts/list?run_id={run}"))
            .await;
        assert_eq!(listed["files"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_over_the_ceiling_leaves_nothing() {
    let config = TrackingConfig {
        max_file_bytes: 1_000,
        max_files: 2,
        ..TrackingConfig::default()
    };
    for world in worlds_with(config).await {
        let id = world.experiment("iris", "e").await;
        let run = world.run("iris", &id, "r").await;
        let put = async |name: &str, size: usize| {
            let path = format!("{FILES}/{id}/{run}/artifacts/{name}");
            world
                .send("iris", "PUT", &path, Body::from(vec![1u8; size]))
                .await
                .0
                .as_u16()
        };
        assert_eq!(put("a", 1_001).await, 413);
        assert_eq!(
            world
                .get("iris", &format!("artifacts/list?run_id={run}"))
                .await
                .get("files"),
            None
        );
        assert_eq!(
            (put("a", 1_000).await, put("b", 1).await, put("c", 1).await),
            (200, 200, 400)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bin_is_emptied_after_its_time() {
    for world in worlds().await {
        let id = world.experiment("iris", "e").await;
        let (kept, deleted) = (
            world.run("iris", &id, "kept").await,
            world.run("iris", &id, "deleted").await,
        );
        for run in [&kept, &deleted] {
            let path = format!("{FILES}/{id}/{run}/artifacts/f");
            world
                .send("iris", "PUT", &path, Body::from(run.clone()))
                .await;
            let metrics: Value = (0..120)
                .map(|at| json!({ "key": format!("m{at}"), "value": 1, "timestamp": 1 }))
                .collect();
            world
                .post(
                    "iris",
                    "runs/log-batch",
                    json!({ "run_id": run, "metrics": metrics }),
                )
                .await;
        }
        world
            .post("iris", "runs/delete", json!({ "run_id": deleted }))
            .await;
        let keeping = TrackingHousekeeping::new(world.tracking.clone());
        keeping.tick().await.unwrap();
        world
            .get("iris", &format!("runs/get?run_id={deleted}"))
            .await;
        world.clock.advance(Duration::from_secs(31 * 86_400));
        assert_eq!(keeping.tick().await.unwrap().changed, 1);
        assert_eq!(keeping.tick().await.unwrap().changed, 0);
        assert_eq!(
            world
                .refused(
                    "iris",
                    "GET",
                    &format!("runs/get?run_id={deleted}"),
                    Value::Null
                )
                .await,
            missing()
        );
        collect(&world).await;
        let (status, back) = world
            .send(
                "iris",
                "GET",
                &format!("{FILES}/{id}/{kept}/artifacts/f"),
                Body::empty(),
            )
            .await;
        assert_eq!((status, back), (StatusCode::OK, kept.clone().into_bytes()));
        let digest =
            ondol_store::blobs::Hasher::digest(ondol_types::Algorithm::Blake3, deleted.as_bytes());
        assert_eq!(
            world.blobs.size(&digest).await.unwrap(),
            None,
            "its bytes are collected"
        );
        world
            .post("iris", "experiments/delete", json!({ "experiment_id": id }))
            .await;
        world.clock.advance(Duration::from_secs(31 * 86_400));
        keeping.tick().await.unwrap();
        assert_eq!(
            world
                .refused(
                    "iris",
                    "GET",
                    &format!("experiments/get?experiment_id={id}"),
                    Value::Null
                )
                .await,
            missing()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belonged_to_a_deleted_project_goes() {
    for world in worlds().await {
        let (iris, web) = (
            world.experiment("iris", "e").await,
            world.experiment("web", "e").await,
        );
        let run = world.run("iris", &iris, "r").await;
        world
            .post("iris", "registered-models/create", json!({ "name": "m" }))
            .await;
        let hold = ProjectHold {
            name: "iris".parse().unwrap(),
            seq: 1,
            by: "kim".to_owned(),
            since: world.clock.now(),
        };
        for _ in 0..2 {
            let forgotten = world.tracking.forget(&hold).await.unwrap();
            assert_eq!(forgotten, Forgotten::Entirely);
        }
        let keeping = TrackingHousekeeping::new(world.tracking.clone());
        keeping.tick().await.unwrap();
        for who in ["iris", "admin"] {
            assert_eq!(
                world
                    .refused(who, "GET", &format!("runs/get?run_id={run}"), Value::Null)
                    .await,
                missing()
            );
        }
        assert_eq!(
            world
                .refused("iris", "GET", "registered-models/get?name=m", Value::Null)
                .await,
            missing()
        );
        world
            .get("web", &format!("experiments/get?experiment_id={web}"))
            .await;
        // A project of the same name begins anew.
        world.clock.advance(Duration::from_secs(1));
        world.experiment("iris", "e").await;
        keeping.tick().await.unwrap();
        world
            .get("iris", "experiments/get-by-name?experiment_name=e")
            .await;
    }
}
