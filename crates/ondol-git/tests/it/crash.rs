//! What a death at the wrong moment leaves is found at the next start.

use std::sync::Arc;

use ondol_background::Reconciler;
use ondol_types::CrashPoints;

use crate::client::Work;
use crate::server::{files, name, one_store, small, start, start_with, stores, until};

/// Ends the task that comes to a place, which is as much of a death as a test can have without
/// dying: nothing after the place is done.
struct DieAt(&'static str);

impl CrashPoints for DieAt {
    fn reached(&self, point: &'static str) {
        assert_ne!(point, self.0, "the test ends the task here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_was_durable_is_found() {
    for backend in stores().await {
        for (round, point) in ["git.receive.after-pack", "git.refs.before-commit"]
            .into_iter()
            .enumerate()
        {
            let project = format!("web{round}");
            let dying = start_with(&backend, small(), Arc::new(DieAt(point))).await;
            let url = dying.url(&dying.developer().await, &project);
            let work = Work::new().await;
            let commit = work.commit("a", &project).await;
            let said = work.git(&["push", &url, "main"]).await.well();
            assert!(
                said.err.contains("remote: the push is safe"),
                "{}",
                said.err
            );
            if point == "git.refs.before-commit" {
                assert_eq!(dying.open_pushes().await, 1, "the intent stays");
                assert!(dying.git.head(&name(&project)).await.unwrap().is_none());
            }
            drop(dying);
            let here = start(&backend).await;
            let reconciler = here.reconciler();
            reconciler.tick().await.unwrap();
            let head = here.git.head(&name(&project)).await.unwrap();
            assert_eq!(head.unwrap().as_str(), commit, "{point}");
            let last = here.pushes().await.pop().unwrap();
            assert_eq!(last.pusher, "kim", "the intent says who it was");
            assert_eq!(here.open_pushes().await, 0);
            let count = here.pushes().await.len();
            reconciler.tick().await.unwrap();
            assert_eq!(here.pushes().await.len(), count, "found once");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_never_came_to_git_is_forgotten() {
    let backend = one_store().await;
    let dying = start_with(
        &backend,
        small(),
        Arc::new(DieAt("git.receive.before-pack")),
    )
    .await;
    let url = dying.url(&dying.developer().await, "web");
    let work = Work::new().await;
    work.commit("a", "1").await;
    work.git(&["push", &url, "main"]).await.badly();
    assert!(dying.open_pushes().await > 0);
    drop(dying);
    let here = start(&backend).await;
    here.reconciler().tick().await.unwrap();
    assert_eq!(here.open_pushes().await, 0);
    assert!(here.pushes().await.is_empty());
    let url = here.url(&here.developer().await, "web");
    work.git(&["push", &url, "main"]).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_moved_by_hand_are_found() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    let commit = work.commit("a", "1").await;
    work.git(&["push", &url, "main"]).await.well();
    let repository = here.repository("web");
    let by_hand = ["update-ref", "refs/heads/by-hand", &commit];
    crate::client::git(&repository, &by_hand, &[]).await.well();
    let report = here.reconciler().tick().await.unwrap();
    assert_eq!(report.changed, 1);
    let last = here.pushes().await.pop().unwrap();
    assert_eq!(last.ref_name.as_str(), "refs/heads/by-hand");
    assert_eq!(last.pusher, "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn making_and_deleting_end_well_wherever_they_stopped() {
    let backend = one_store().await;
    for point in [
        "git.project.before-repository",
        "git.project.after-repository",
    ] {
        let dying = start_with(&backend, small(), Arc::new(DieAt(point))).await;
        let web = name("web");
        let (git, ctx) = (dying.git.clone(), dying.system());
        let making = tokio::spawn(async move { git.create_project(&ctx, &web).await });
        assert!(making.await.is_err(), "it died");
        drop(dying);
        let here = start(&backend).await;
        let web = name("web");
        let url = here.url(&here.developer().await, "web");
        let work = Work::new().await;
        work.commit("a", "1").await;
        work.git(&["push", &url, "main"]).await.well();
        here.git.delete_project(&here.system(), &web).await.unwrap();
        here.deletions(Vec::new()).tick().await.unwrap();
        assert!(!here.repository("web").exists());
        assert!(files(&here.dir.join("git/.trash")).is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_a_killed_git_do_not_block_the_next_start() {
    let backend = one_store().await;
    let first = start(&backend).await;
    let work = Work::new().await;
    work.commit("a", "1").await;
    let url = first.url(&first.developer().await, "web");
    work.git(&["push", &url, "main"]).await.well();
    let repository = first.repository("web");
    drop(first);
    std::fs::write(repository.join("refs/heads/main.lock"), "").unwrap();
    std::fs::write(repository.join("packed-refs.lock"), "").unwrap();
    std::fs::create_dir(repository.join("objects/tmp_objdir-incoming-x")).unwrap();
    let here = start(&backend).await;
    work.commit("a", "2").await;
    let url = here.url(&here.developer().await, "web");
    work.git(&["push", &url, "main"]).await.well();
    assert!(!repository.join("objects/tmp_objdir-incoming-x").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_repository_is_an_error_and_not_an_empty_one() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    work.commit("a", "1").await;
    work.git(&["push", &url, "main"]).await.well();
    std::fs::rename(here.repository("web"), here.dir.join("elsewhere")).unwrap();
    let report = here.reconciler().tick().await.unwrap();
    assert!(report.note.unwrap().contains("missing"));
    assert!(
        here.git.head(&name("web")).await.unwrap().is_some(),
        "nothing counts as deleted"
    );
    work.git(&["push", &url, "main:b"]).await.badly();
    std::fs::rename(here.dir.join("elsewhere"), here.repository("web")).unwrap();
    work.git(&["push", &url, "main:b"]).await.well();
    until("closed", || async { here.open_pushes().await == 0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_that_outlived_its_control_plane_is_waited_for() {
    let backend = one_store().await;
    let dying = start_with(
        &backend,
        small(),
        Arc::new(DieAt("git.receive.before-pack")),
    )
    .await;
    let url = dying.url(&dying.developer().await, "web");
    let work = Work::new().await;
    let commit = work.commit("a", "1").await;
    work.git(&["push", &url, "main"]).await.badly();
    let open = dying.open_pushes().await;
    drop(dying);
    let here = start(&backend).await;
    let repository = here.repository("web");
    let mut orphan = std::process::Command::new("sleep")
        .arg("600")
        .current_dir(&repository)
        .spawn()
        .unwrap();
    let reconciler = here.reconciler();
    let report = reconciler.tick().await.unwrap();
    assert!(report.note.unwrap().contains("still being received"));
    assert_eq!(here.open_pushes().await, open);
    // It moves its ref and ends.
    let copy = repository.to_str().unwrap();
    work.git(&["push", "-q", copy, "main"]).await.well();
    orphan.kill().unwrap();
    orphan.wait().unwrap();
    reconciler.tick().await.unwrap();
    assert_eq!(here.open_pushes().await, 0);
    let last = here.pushes().await.pop().unwrap();
    assert_eq!(last.new.unwrap().as_str(), commit);
    assert_eq!(last.pusher, "kim");
}
