//! A deleted project leaves this room nothing, and takes nothing of the next one of its name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::{Classified, CrashPoints, NoCrash};

use crate::world::{World, service, worlds};

async fn forget(world: &World, hold: &ProjectHold) -> Forgotten {
    world.pipeline.forget(hold).await.unwrap()
}

/// Asks until nothing remains, with the loops turning in between.
async fn forget_entirely(world: &World, hold: &ProjectHold) {
    world
        .until("the project is forgotten", async || {
            forget(world, hold).await == Forgotten::Entirely
        })
        .await;
}

async fn rows(world: &World, table: &'static str) -> i64 {
    let sql = ondol_store::AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {table}"));
    world
        .store
        .read::<_, ondol_store::StoreError, _>(|tx| {
            Box::pin(async move { tx.fetch_one(sql, vec![]).await?.get("n") })
        })
        .await
        .unwrap()
}

async fn nothing_is_left(world: &World) {
    for table in [
        "run",
        "run_spec",
        "step",
        "test_report",
        "artifact",
        "flaky_test",
        "run_project",
    ] {
        assert_eq!(rows(world, table).await, 0, "{}: {table}", world.name);
    }
    assert_eq!(world.engine.known(), 0, "workloads and their logs");
    for folder in ["workloads", "logs"] {
        let left = std::fs::read_dir(world.root.join(folder)).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{folder}");
    }
    assert!(!world.root.join("cache/web").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_logs_workloads_and_caches_go_and_numbers_begin_again() {
    for world in worlds().await {
        world.spec('a', service("echo hello"));
        world.push('a').await;
        world.settle().await;
        world.spec('b', service("sleep 60"));
        world.push('b').await;
        let before = world.engine.known();
        world
            .until("it runs", async || world.engine.known() > before)
            .await;
        let cache = world.root.join("cache/web/folders/x");
        std::fs::create_dir_all(&cache).unwrap();
        let hold = world.delete_project("web").await;
        assert_ne!(forget(&world, &hold).await, Forgotten::Entirely);
        forget_entirely(&world, &hold).await;
        nothing_is_left(&world).await;
        assert_eq!(forget(&world, &hold).await, Forgotten::Entirely, "again");
        assert!(world.pipeline.followed().await.unwrap() >= hold.seq);

        world.release_project(&hold).await;
        world.spec('a', service("true"));
        world.push('a').await;
        world.settle().await;
        let runs = world.runs().await;
        let numbers: Vec<i64> = runs.iter().map(|run| run.number).collect();
        assert_eq!(numbers, [1], "{}", world.name);
        assert_eq!(world.prune().await, 0, "a namesake keeps its own runs");
        assert_eq!(world.runs().await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_late_makes_no_run_of_a_deleted_project() {
    for world in worlds().await {
        world.spec('a', service("true"));
        // Pushed and deleted before this room has read either.
        world.push('a').await;
        let hold = world.delete_project("web").await;
        assert!(
            matches!(forget(&world, &hold).await, Forgotten::Remains(what) if what.contains("log"))
        );
        world
            .until("the log was followed", async || {
                world.pipeline.followed().await.unwrap() >= hold.seq
            })
            .await;
        assert!(world.runs().await.is_empty());
        assert_eq!(forget(&world, &hold).await, Forgotten::Entirely);
        // Nobody starts one either while the name is held.
        let refused = world
            .pipeline
            .start(&world.ctx, &hold.name)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), "store.project.deleting", "{refused}");
        assert!(world.runs().await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_that_cannot_be_removed_keeps_the_name() {
    for world in worlds().await {
        world.spec('a', service("true"));
        world.push('a').await;
        world.settle().await;
        let hold = world.delete_project("web").await;
        world.settle().await;
        let logs = world.root.join("logs");
        let aside = world.root.join("aside");
        std::fs::rename(&logs, &aside).unwrap();
        std::fs::write(&logs, "in the way").unwrap();
        assert!(world.pipeline.forget(&hold).await.is_err());
        assert_eq!(world.runs().await.len(), 1, "rows go last");
        std::fs::remove_file(&logs).unwrap();
        std::fs::rename(&aside, &logs).unwrap();
        assert_eq!(forget(&world, &hold).await, Forgotten::Entirely);
        nothing_is_left(&world).await;
    }
}

/// Ends everything at one place, once.
struct DieAt(&'static str, AtomicBool);

impl CrashPoints for DieAt {
    fn reached(&self, point: &'static str) {
        if point == self.0 {
            self.1.store(true, Ordering::SeqCst);
        }
        assert!(!self.1.load(Ordering::SeqCst), "killed at {point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_on_the_way_only_delays_it() {
    for point in ["pipeline.prune.after-files", "pipeline.forget.after-runs"] {
        for mut world in worlds().await {
            world.spec('a', service("echo hello"));
            for _ in 0..2 {
                world.push('a').await;
                world.settle().await;
            }
            let hold = world.delete_project("web").await;
            world.settle().await;
            world
                .restart(Arc::new(DieAt(point, AtomicBool::new(false))))
                .await;
            let (dying, held) = (world.pipeline.clone(), hold.clone());
            assert!(
                tokio::spawn(async move { dying.forget(&held).await })
                    .await
                    .is_err(),
                "{point}: it died"
            );
            world.restart(Arc::new(NoCrash)).await;
            forget_entirely(&world, &hold).await;
            nothing_is_left(&world).await;
        }
    }
}
