//! What steps leave behind is kept, can be read, and reaches the steps that ask for it.

use std::sync::Arc;
use std::time::Duration;

use ondol_pipeline::model::{Artifact, RunOutcome};
use ondol_store::ForgetProject;
use ondol_store::blobs::{BlobOwner, Blobs};
use ondol_types::{Classified, Clock, ErrorKind, ManualClock, NoCrash, SystemClock};
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::world::{World, name, outcomes, service, worlds};

async fn artifacts(world: &World, step: Option<&str>) -> Vec<Artifact> {
    let run = world.newest().await.run.id;
    let step = step.map(name);
    world
        .pipeline
        .artifacts(&world.ctx, &run, step.as_ref(), None, 100)
        .await
        .unwrap()
}

fn paths(artifacts: &[Artifact]) -> Vec<String> {
    artifacts
        .iter()
        .map(|one| format!("{}:{}", one.step, one.path))
        .collect()
}

async fn text(world: &World, step: &str, path: &str) -> String {
    let run = world.newest().await.run.id;
    let (_, mut reader) = world
        .pipeline
        .artifact(&world.ctx, &run, &name(step), &name(path))
        .await
        .unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_kept_read_and_passed_on() {
    for world in worlds().await {
        let mut spec = service("test ! -e dist && mkdir out && echo seen > out/log && exit 3");
        spec["test"]["artifacts"] = json!(["out/**"]);
        spec["steps"] = json!({
            "pack": {
                "run": "mkdir -p dist/deep; echo one > dist/a.txt; echo two > dist/deep/b.sh; chmod +x dist/deep/b.sh; ln -s /etc/passwd dist/link; head -c 700000 /dev/zero > dist/big",
                "artifacts": ["dist/**", "nothing/*"], "needs": ["checkout"], "before": ["image"],
            },
            "use": { "run": "cat dist/a.txt dist/big > both; test -x dist/deep/b.sh; test ! -e dist/link; cat out/log", "needs": ["pack"], "after": ["test"], "artifacts": ["both"] },
            "other": { "run": "test ! -e dist", "needs": ["checkout"] },
        });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        let found = outcomes(&detail);
        for step in [
            "pack:success",
            "test:failure",
            "use:success",
            "other:success",
        ] {
            assert!(found.contains(&step.to_owned()), "{step} of {found:?}");
        }
        assert_eq!(
            paths(&artifacts(&world, None).await),
            [
                "pack:dist/a.txt",
                "pack:dist/big",
                "pack:dist/deep/b.sh",
                "test:out/log",
                "use:both"
            ],
            "{}",
            world.name
        );
        assert_eq!(paths(&artifacts(&world, Some("use")).await), ["use:both"]);
        assert_eq!(text(&world, "pack", "dist/a.txt").await, "one\n");
        assert_eq!(text(&world, "use", "both").await.len(), 700_004);
        let notes = detail.run.notes.join("\n");
        assert!(notes.contains("`dist/link` is no regular file"), "{notes}");
        assert!(
            notes.contains("no file matches the artifacts `nothing/*`"),
            "{notes}"
        );
        let missing = world
            .pipeline
            .artifact(&world.ctx, &detail.run.id, &name("pack"), &name("x"))
            .await;
        assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
        let ended = world.events("dev.cdevents.taskrun.finished").await;
        let pack = ended
            .iter()
            .find(|event| event.document["subject"]["content"]["taskName"] == "pack")
            .unwrap();
        assert_eq!(
            pack.document["customData"]["artifacts"],
            json!({ "files": 3, "bytes": 700_008 })
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_laid_over_a_file_that_differs() {
    for world in worlds().await {
        let mut spec = service("true");
        let step = |run: &str, needs: &[&str]| json!({ "run": run, "needs": needs, "artifacts": ["same", "own/**", "commit"] });
        spec["steps"] = json!({
            "one": step("echo x > same; mkdir own; echo 1 > own/f", &["checkout"]),
            "two": step("echo x > same; mkdir own; echo 2 > own/f", &["checkout"]),
            "three": step("echo x > same; echo changed > commit", &["checkout"]),
            "both": { "run": "true", "needs": ["one", "two"] },
            "over": { "run": "true", "needs": ["three"] },
            "fine": { "run": "cat same", "needs": ["one"] },
        });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        let reason = |step: &str| {
            let found = detail
                .steps
                .iter()
                .find(|found| found.name.as_str() == step);
            found.unwrap().reason.clone().unwrap_or_default()
        };
        assert!(
            reason("both").contains("`own/f` of `two` differs from an artifact of `one`"),
            "{}: {}",
            world.name,
            reason("both")
        );
        assert!(
            reason("over")
                .contains("`commit` of `three` differs from something in the work directory"),
            "{}",
            reason("over")
        );
        assert!(outcomes(&detail).contains(&"fine:success".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_attempt_counts_and_too_much_fails() {
    for mut world in worlds().await {
        world
            .reconfigure(|config| config.artifact_bytes = 2 << 20)
            .await;
        let mut spec = service("true");
        let counter = world.root.join("tries");
        spec["steps"] = json!({
            "flaky": { "run": format!("echo x >> {0}; wc -l < {0} > try; test $(wc -l < {0}) -ge 2", counter.display()), "retries": 2, "artifacts": ["try"] },
            "large": { "run": "head -c 3000000 /dev/zero > big", "artifacts": ["big"] },
        });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let detail = world.newest().await;
        assert_eq!(detail.run.outcome, Some(RunOutcome::Failure));
        assert!(
            detail
                .run
                .reason
                .as_deref()
                .unwrap()
                .contains("more than 2 MiB"),
            "{:?}",
            detail.run.reason
        );
        assert_eq!(paths(&artifacts(&world, None).await), ["flaky:try"]);
        assert_eq!(text(&world, "flaky", "try").await.trim(), "2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_own_the_bytes_and_both_go_with_the_project() {
    for world in worlds().await {
        let mut spec = service("true");
        spec["steps"] = json!({ "pack": { "run": "echo kept > kept", "artifacts": ["kept"] } });
        world.spec('a', spec);
        world.push('a').await;
        world.settle().await;
        let digest = artifacts(&world, None).await.remove(0).digest;
        // Ten days later, when everything is old enough to be collected.
        let later = SystemClock.now().plus(Duration::from_secs(10 * 86_400));
        let later = Arc::new(ManualClock::at(later));
        let blobs = Blobs::open_with(&world.root.join("blobs"), later, Arc::new(NoCrash)).unwrap();
        let kept = async || {
            let found = blobs.contains_many(std::slice::from_ref(&digest)).await;
            found.unwrap()[0]
        };
        let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(world.pipeline.clone())];
        let marked = blobs
            .gc(&owners, Duration::from_secs(60))
            .await
            .unwrap()
            .marked;
        assert!(kept().await && marked == 1, "{}", world.name);
        let hold = world.delete_project("web").await;
        world
            .until("the project is forgotten", async || {
                world.pipeline.forget(&hold).await.unwrap() == ondol_store::Forgotten::Entirely
            })
            .await;
        let marked = blobs
            .gc(&owners, Duration::from_secs(60))
            .await
            .unwrap()
            .marked;
        assert_eq!(marked, 0, "{}", world.name);
        assert!(!kept().await, "{}", world.name);
    }
}
