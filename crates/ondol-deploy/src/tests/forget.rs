//! The end of a project: it drains, and then nothing of it is left.

use std::time::Duration;

use ondol_store::events::NewEvent;
use ondol_store::{ForgetProject, Forgotten, ProjectHold, StoreError};
use ondol_types::{Classified, event};

use super::fakes::image;
use super::sim::{Sim, production, sims, spec, web};
use crate::crash;

const SECOND: Duration = Duration::from_secs(1);

/// Deletes the project as the room that knows projects does.
async fn delete(sim: &Sim) -> ProjectHold {
    let web = &web();
    sim.store()
        .write::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                let deleted = NewEvent::new(event::REPOSITORY_DELETED, web).project(web);
                let (_, seq) = tx.append(deleted).await?;
                tx.hold_project(web, seq, "kim").await?;
                Ok(tx.project_hold(web).await?.unwrap())
            })
        })
        .await
        .unwrap()
}

async fn forget(sim: &Sim, hold: &ProjectHold) -> Forgotten {
    sim.process.service.forget(hold).await.unwrap()
}

async fn nothing_is_left(sim: &Sim) {
    for table in [
        "deploy_environment",
        "deploy_release",
        "deploy_rollout",
        "deploy_command",
        "deploy_replica",
        "deploy_host",
        "deploy_volume",
    ] {
        let sql = ondol_store::AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {table}"));
        let left: i64 = sim
            .store()
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.fetch_one(sql, vec![]).await?.get("n") })
            })
            .await
            .unwrap();
        assert_eq!(left, 0, "{table}");
    }
    let engine = &sim.process.room.engine;
    assert!(
        engine.list().await.unwrap().is_empty(),
        "workloads and logs"
    );
    assert!(!sim.config().volumes.join("web").exists());
    assert!(!sim.config().cache.join("models/web").exists());
}

fn with_volume() -> std::sync::Arc<ondol_spec::model::Spec> {
    spec(|spec| {
        spec.volumes
            .insert("state".parse().unwrap(), "data/state".parse().unwrap());
    })
}

#[tokio::test]
async fn a_deleted_project_drains_and_leaves_nothing() {
    for mut sim in sims().await {
        sim.live("one", 1, with_volume()).await;
        let volumes = sim.config().volumes.clone();
        assert!(volumes.join("web/state").is_dir());
        for other in ["web.preview", "website", "other"] {
            std::fs::create_dir_all(volumes.join(other)).unwrap();
        }
        std::fs::create_dir_all(sim.config().cache.join("models/web/m/1")).unwrap();
        let endpoint = sim.outside.endpoints()[0];
        sim.outside.lock().in_flight.insert(endpoint, 1);
        let hold = delete(&sim).await;
        assert!(matches!(forget(&sim, &hold).await, Forgotten::Remains(_)));
        sim.settle().await;
        assert!(sim.outside.endpoints().is_empty());
        assert_eq!(
            sim.outside.running(&image(1)).len(),
            1,
            "what is in progress is finished"
        );
        assert!(matches!(forget(&sim, &hold).await, Forgotten::Remains(_)));
        assert!(volumes.join("web/state").is_dir(), "it may still be used");
        sim.outside.lock().in_flight.clear();
        sim.pass(SECOND).await;
        assert!(sim.environment().await.is_none());
        // Nobody makes another environment while the name is held.
        let request = sim.request_of("late", 2, spec(|_| {}));
        let late = sim.process.service.request(&sim.ctx(), request).await;
        assert_eq!(late.unwrap_err().code(), "store.project.deleting");
        for _ in 0..2 {
            assert_eq!(forget(&sim, &hold).await, Forgotten::Entirely);
        }
        nothing_is_left(&sim).await;
        assert!(!volumes.join("web.preview").exists());
        assert!(volumes.join("website").exists(), "it is another project");
        assert!(volumes.join("other").exists());
        assert!(sim.process.service.followed().await.unwrap() >= hold.seq);
        let service = &sim.process.service;
        assert!(service.referenced_images().await.unwrap().is_empty());
        let removed = sim
            .events()
            .await
            .into_iter()
            .filter(|event| event.event_type == event::SERVICE_REMOVED)
            .count();
        assert_eq!(removed, 1);
        let held = &hold;
        sim.store()
            .write::<_, StoreError, _>(|tx| Box::pin(tx.release_project(held)))
            .await
            .unwrap();
        sim.forgotten();
        sim.live("again", 2, with_volume()).await;
        assert_eq!(sim.current().await.unwrap().number, 1);
        let environment = sim.environment().await.unwrap();
        assert_eq!(environment.name, production());
    }
}

#[tokio::test]
async fn a_follower_that_is_late_touches_nothing_of_the_next() {
    for mut sim in sims().await {
        sim.live("one", 1, spec(|_| {})).await;
        // This room has not read the deletion when it is asked to forget.
        let hold = delete(&sim).await;
        assert!(sim.process.service.followed().await.unwrap() < hold.seq);
        let mut rounds = 0;
        while forget(&sim, &hold).await != Forgotten::Entirely {
            assert!(rounds < 60, "it does not come to an end");
            sim.pass(SECOND).await;
            rounds += 1;
        }
        assert!(sim.process.service.followed().await.unwrap() >= hold.seq);
        nothing_is_left(&sim).await;
    }
}

#[tokio::test]
async fn a_death_on_the_way_only_delays_it() {
    for point in [crash::FORGET_DRAINED, crash::FORGET_REMOVED] {
        for mut sim in sims().await {
            sim.live("one", 1, with_volume()).await;
            let hold = delete(&sim).await;
            sim.outside.crash.arm(point, 0);
            let mut rounds = 0;
            loop {
                let (service, held) = (sim.process.service.clone(), hold.clone());
                let outcome = tokio::spawn(async move { service.forget(&held).await }).await;
                if outcome.is_err() {
                    break;
                }
                assert!(rounds < 60, "{point} was not met");
                sim.pass(SECOND).await;
                rounds += 1;
            }
            sim.restart();
            assert_eq!(forget(&sim, &hold).await, Forgotten::Entirely, "{point}");
            nothing_is_left(&sim).await;
        }
    }
}
