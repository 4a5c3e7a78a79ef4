use std::time::Duration;

use ondol_background::Reconciler;
use ondol_git::{Limits, MaintenanceReconciler};
use ondol_types::{Clock, NoCrash};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::client::Work;
use crate::server::{files, name, one_store, small, start, start_with, until};

fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_over_its_ceiling_is_refused_and_leaves_nothing() {
    let backend = one_store().await;
    let limits = Limits {
        push_bytes: 100_000,
        ..small()
    };
    let here = start_with(&backend, limits, Arc::new(NoCrash)).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    let first = work.commit("a", "1").await;
    work.git(&["push", &url, "main"]).await.well();
    let before = files(&here.repository("web"));
    for size in [300_000, 3_000_000] {
        work.commit("big.bin", noise(size, size as u64)).await;
        let said = work.git(&["push", &url, "main"]).await.badly();
        assert!(
            said.err.contains("pack exceeds maximum allowed size"),
            "{size}: {}",
            said.err
        );
    }
    until("the push is closed", || async {
        here.open_pushes().await == 0
    })
    .await;
    assert_eq!(files(&here.repository("web")), before);
    let project = here.git.show(&here.system(), &name("web")).await.unwrap();
    assert_eq!(project.head.unwrap().as_str(), first);
    work.git(&["reset", "-q", "--hard", &first]).await.well();
    work.commit("a", "2").await;
    work.git(&["push", &url, "main"]).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_repository_says_so_and_lets_branches_go() {
    let backend = one_store().await;
    let limits = Limits {
        repository_bytes: 60_000,
        ..small()
    };
    let here = start_with(&backend, limits, Arc::new(NoCrash)).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    work.commit("a", noise(59_000, 7)).await;
    work.git(&["push", &url, "main", "main:other"]).await.well();
    let size = here
        .git
        .show(&here.system(), &name("web"))
        .await
        .unwrap()
        .size_bytes;
    assert!(size > 59_000, "{size}");
    work.commit("b", "1").await;
    let said = work.git(&["push", &url, "main"]).await.badly();
    assert!(said.err.contains("the repository is full"), "{}", said.err);
    assert!(
        said.err.contains("remote: repository `web` holds"),
        "{}",
        said.err
    );
    work.git(&["push", &url, ":other"]).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_have_a_ceiling() {
    let backend = one_store().await;
    let limits = Limits { refs: 3, ..small() };
    let here = start_with(&backend, limits, Arc::new(NoCrash)).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    work.commit("a", "1").await;
    work.git(&["push", &url, "main", "main:b", "main:c"])
        .await
        .well();
    let said = work.git(&["push", &url, "main:d"]).await.badly();
    assert!(said.err.contains("would have 4 refs"), "{}", said.err);
    work.commit("a", "2").await;
    work.git(&["push", &url, "main"]).await.well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_early_leaves_nothing() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let token = here.developer().await;
    let work = Work::new().await;
    let commit = work.commit("a", "1").await;
    work.git(&["push", &here.url(&token, "web"), "main"])
        .await
        .well();
    let before = files(&here.repository("web"));
    let zero = "0".repeat(40);
    let line = format!("{zero} {commit} refs/heads/cut\0 report-status side-band-64k");
    let head = format!("{}0000", crate::client::packet(&line));
    let mut stream = TcpStream::connect(here.address).await.unwrap();
    let request = format!(
        "POST /git/web.git/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/x-git-receive-pack-request\r\nContent-Length: 1000000\r\n\r\n{head}PACK\0\0\0\x02\0\0\0\x05"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    until("the push has begun", || async {
        here.open_pushes().await == 1
    })
    .await;
    until("git has a quarantine", || async {
        files(&here.repository("web")) != before
    })
    .await;
    drop(stream);
    until("the push is closed", || async {
        here.open_pushes().await == 0
    })
    .await;
    assert_eq!(files(&here.repository("web")), before);
    assert_eq!(here.pushes().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_packs_are_joined() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    for n in 0..22 {
        work.commit("a", format!("{n}")).await;
        work.git(&["push", "-q", &url, "main"]).await.well();
    }
    let packs = || {
        files(&here.repository("web"))
            .iter()
            .filter(|file| file.extension().is_some_and(|end| end == "pack"))
            .count()
    };
    assert!(packs() > 20, "small pushes stay packs");
    let maintenance = MaintenanceReconciler::new(here.git.clone());
    let report = maintenance.tick().await.unwrap();
    assert_eq!((report.seen, report.changed, report.note), (1, 1, None));
    assert!(packs() < 20);
    assert_eq!(
        maintenance.tick().await.unwrap().seen,
        0,
        "nothing was pushed since"
    );
    let clone = tempfile::tempdir().unwrap();
    crate::client::git(clone.path(), &["clone", "-q", &url, "copy"], &[])
        .await
        .well();
    let now = here.clock.now();
    assert!(now.since(now) == Duration::ZERO);
}
