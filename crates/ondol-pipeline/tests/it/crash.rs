//! The process dies at every named place; another one finishes the run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use ondol_pipeline::CRASH_POINTS;
use ondol_pipeline::model::{RunOutcome, RunState};
use ondol_types::{CrashPoints, NoCrash};
use serde_json::json;

use crate::world::{World, outcomes, service, worlds};

/// Panics at the nth passing of one point, and at everything after that: nothing of a dead
/// process goes on.
struct DieAt {
    point: &'static str,
    passes: AtomicU32,
    dead: AtomicBool,
}

impl DieAt {
    fn new(point: &'static str, pass: u32) -> Arc<Self> {
        Arc::new(Self {
            point,
            passes: AtomicU32::new(pass),
            dead: AtomicBool::new(false),
        })
    }

    fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

impl CrashPoints for DieAt {
    fn reached(&self, point: &'static str) {
        assert!(
            CRASH_POINTS.contains(&point),
            "`{point}` is not in the list"
        );
        if point == self.point && self.passes.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.dead.store(true, Ordering::SeqCst);
        }
        assert!(!self.is_dead(), "killed at {point}");
    }
}

/// Turns the loops of a process until it dies or the run has finished; true when it died.
async fn live(world: &World, crash: &DieAt) -> bool {
    let began = std::time::Instant::now();
    // The last point lies behind everything that can be seen from here.
    let mut patience = if crash.point == "pipeline.run.after-clean" {
        100
    } else {
        1
    };
    loop {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "{} at {}",
            world.name,
            crash.point
        );
        for (reconciler, _) in world.pipeline.reconcilers() {
            // A tick dies in a task of its own, as a process would.
            let _ = tokio::spawn(async move { reconciler.tick().await }).await;
            if crash.is_dead() {
                return true;
            }
        }
        let clean = std::fs::read_dir(world.root.join("workloads")).map_or(0, Iterator::count) == 0;
        if clean
            && world
                .runs()
                .await
                .first()
                .is_some_and(|run| run.state == RunState::Finished)
        {
            patience -= 1;
            if patience == 0 {
                return false;
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn prepare(world: &World) {
    let mut spec = service("echo tested");
    spec["build"] = json!({ "install": { "run": "touch installed" } });
    let counter = world.root.join("once");
    spec["steps"] = json!({
        "once": { "run": format!("test -f installed; echo x >> {}", counter.display()), "repeatable": false },
    });
    world.spec('a', spec);
    world.push('a').await;
}

async fn check(world: &World, crash: &DieAt) {
    let detail = world.newest().await;
    let place = format!("{} at {}: {:?}", world.name, crash.point, outcomes(&detail));
    assert_eq!(
        detail.run.outcome,
        Some(RunOutcome::Success),
        "{place} {:?}",
        detail.run.reason
    );
    assert_eq!(world.runs().await.len(), 1, "{place}");
    let once = std::fs::read_to_string(world.root.join("once")).unwrap();
    assert_eq!(once, "x\n", "{place}");
    for step in ["install", "test", "once"] {
        let starts = world
            .engine
            .starts()
            .iter()
            .filter(|(name, _)| name == step)
            .count();
        assert_eq!(starts, 1, "`{step}` {place}");
    }
    assert_eq!(world.outside.lock().unwrap().effects.len(), 2, "{place}");
    let finished = world.events("dev.cdevents.pipelinerun.finished").await;
    assert_eq!(finished.len(), 1, "{place}");
    let ended = world.events("dev.cdevents.taskrun.finished").await;
    assert_eq!(ended.len(), detail.steps.len(), "{place}");
}

/// Dies at the nth passing of a point, on both databases; tells how often it really died.
async fn die_at(point: &'static str, pass: u32) -> u32 {
    let mut died = 0;
    for mut world in worlds().await {
        prepare(&world).await;
        let crash = DieAt::new(point, pass);
        world.restart(crash.clone()).await;
        if live(&world, &crash).await {
            died += 1;
            world.restart(Arc::new(NoCrash)).await;
            assert!(!live(&world, &DieAt::new("", 0)).await);
        }
        check(&world, &crash).await;
        world.pipeline.stop().await;
    }
    died
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_reaches_its_end_however_often_and_wherever_the_process_dies() {
    let points = CRASH_POINTS.iter().filter(|point| {
        !["pipeline.prune", "pipeline.forget"]
            .iter()
            .any(|other| point.starts_with(other))
    });
    let cases: Vec<_> = points
        .flat_map(|point| [1, 3].map(|pass| (*point, pass)))
        .collect();
    let deaths: Vec<_> = stream::iter(cases)
        .map(|(point, pass)| async move { (point, pass, die_at(point, pass).await) })
        .buffer_unordered(4)
        .collect()
        .await;
    for (point, pass, died) in deaths {
        assert!(pass > 1 || died > 0, "`{point}` was never reached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_dies_between_files_and_rows_and_goes_on() {
    for mut world in worlds().await {
        world.spec('a', service("true"));
        for _ in 0..2 {
            world.push('a').await;
            world.settle().await;
        }
        let crash = DieAt::new("pipeline.prune.after-files", 1);
        world
            .reconfigure_with(crash.clone(), |config| config.keep_runs = 1)
            .await;
        let pruner = world.pipeline.reconcilers()[2].0.clone();
        let _ = tokio::spawn(async move { pruner.tick().await }).await;
        assert!(crash.is_dead());
        assert_eq!(world.runs().await.len(), 2);
        world.reconfigure(|config| config.keep_runs = 1).await;
        assert_eq!(world.prune().await, 1);
        assert_eq!(world.runs().await.len(), 1);
    }
}
