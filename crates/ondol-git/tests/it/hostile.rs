//! Attack rows 1, 2, 4, 12 and 15: names, options, paths, permission per ref, unknown verbs.

use ondol_auth::{Grant, Role};

use crate::client::{RECEIVE, Work, git, http, packet};
use crate::server::{files, name, one_store, start};

#[tokio::test(flavor = "multi_thread")]
async fn who_may_do_what_reads_as_the_table_says() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let owner = here.developer().await;
    let work = Work::new().await;
    work.commit("a", "1").await;
    work.git(&["push", &here.url(&owner, "web"), "main"])
        .await
        .well();
    let viewer = here
        .token("eye", Grant::on(&name("web"), Role::Viewer))
        .await;
    let other = here
        .token("other", Grant::on(&name("other"), Role::Developer))
        .await;
    let wrong = format!("{}0", &owner[..owner.len() - 1]);
    let fetch = "/info/refs?service=git-upload-pack";
    let push = "/info/refs?service=git-receive-pack";
    for (token, path, status) in [
        (None, format!("/git/web.git{fetch}"), 401),
        (None, format!("/git/nothing.git{fetch}"), 401),
        (None, "/git/anything".to_owned(), 401),
        (Some("nothing"), format!("/git/web.git{fetch}"), 401),
        (Some(wrong.as_str()), format!("/git/web.git{fetch}"), 401),
        (Some(viewer.as_str()), format!("/git/web.git{fetch}"), 200),
        (Some(viewer.as_str()), format!("/git/web{fetch}"), 200),
        (Some(viewer.as_str()), format!("/git/web.git{push}"), 403),
        (Some(viewer.as_str()), format!("/git/fresh.git{push}"), 404),
        (Some(other.as_str()), format!("/git/web.git{fetch}"), 404),
        (Some(other.as_str()), format!("/git/web.git{push}"), 404),
        (Some(other.as_str()), format!("/git/other.git{fetch}"), 404),
        (Some(other.as_str()), format!("/git/other.git{push}"), 200),
        (Some(owner.as_str()), format!("/git/fresh.git{push}"), 200),
        (
            Some(owner.as_str()),
            "/git/web.git/info/refs".to_owned(),
            400,
        ),
        (
            Some(owner.as_str()),
            "/git/web.git/info/refs?service=git-shell".to_owned(),
            400,
        ),
        (Some(owner.as_str()), "/git/web.git/HEAD".to_owned(), 404),
        (
            Some(owner.as_str()),
            "/git/web.git/objects/info/packs".to_owned(),
            404,
        ),
        (
            Some(owner.as_str()),
            "/git/web.git/info/lfs/objects/batch".to_owned(),
            404,
        ),
        (
            Some(owner.as_str()),
            format!("/git/web.git{fetch}&token={owner}"),
            400,
        ),
    ] {
        let (found, answer) = http(here.address, "GET", &path, token, &[], b"").await;
        assert_eq!(found, status, "{path}: {answer}");
        let challenged = answer
            .to_ascii_lowercase()
            .contains("www-authenticate: basic");
        assert_eq!(challenged, status == 401, "{path}");
    }
    let said = work
        .git(&["push", &here.url(&viewer, "web"), "main:new"])
        .await
        .badly();
    assert!(said.err.contains("403"), "{}", said.err);
    let said = work
        .git(&["push", &here.url(&wrong, "web"), "main:new"])
        .await
        .badly();
    assert!(said.err.contains("Authentication failed"), "{}", said.err);
    let said = git(
        work.path(),
        &["ls-remote", &here.url(&owner, "no-such")],
        &[],
    )
    .await
    .badly();
    assert!(
        said.err.contains("there is no project `no-such`"),
        "{}",
        said.err
    );
    assert!(here.git.list(&here.system(), None, 10).await.unwrap().len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_would_leave_the_folder_are_no_projects() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let owner = here.developer().await;
    let before = files(&here.dir);
    for bad in [
        "../x.git",
        "%2e%2e%2fx.git",
        "..%2f..%2fetc.git",
        "%2e%2e",
        "..git",
        ".git",
        ".hooks",
        ".empty.git",
        "-x.git",
        "--upload-pack=x.git",
        "a%00b.git",
        "w%D0%B5b.git",
        "WEB.git",
        "api.git",
        "a%20b.git",
        "%ff.git",
    ] {
        for service in ["receive-pack", "upload-pack"] {
            let target = format!("/git/{bad}/info/refs?service=git-{service}");
            let (status, answer) = http(here.address, "GET", &target, Some(&owner), &[], b"").await;
            assert!((400..500).contains(&status), "{target}: {answer}");
            let target = format!("/git/{bad}/git-{service}");
            let kind = format!("application/x-git-{service}-request");
            let headers = [("Content-Type", kind.as_str())];
            let (status, answer) = http(
                here.address,
                "POST",
                &target,
                Some(&owner),
                &headers,
                b"0000",
            )
            .await;
            assert!((400..500).contains(&status), "{target}: {answer}");
        }
    }
    assert_eq!(files(&here.dir), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ref_of_a_push_is_checked_before_git_sees_it() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let owner = here.developer().await;
    let url = here.url(&owner, "web");
    let work = Work::new().await;
    let commit = work.commit("a", "1").await;
    work.git(&["push", &url, "main"]).await.well();
    let zero = "0".repeat(40);
    for bad in [
        "refs/heads/../../../escape",
        "refs/heads/--upload-pack=touch",
        "refs/heads/-x",
        "refs/heads/x.lock",
        "refs/heads/a\x1b[31mb",
        "refs/ondol/secret",
        "refs/replace/1",
        "HEAD",
        "-x",
    ] {
        // The good ref comes first: what is decided of it must not be decided of the next.
        let good = format!("{zero} {commit} refs/heads/good\0 report-status side-band-64k");
        let body = format!(
            "{}{}0000",
            packet(&good),
            packet(&format!("{zero} {commit} {bad}"))
        );
        let (status, answer) = http(
            here.address,
            "POST",
            "/git/web.git/git-receive-pack",
            Some(&owner),
            &[RECEIVE],
            body.as_bytes(),
        )
        .await;
        assert_eq!(status, 200, "{answer}");
        assert!(
            answer.contains("ng refs/heads/good another ref"),
            "{answer}"
        );
        assert!(
            !answer.contains("ok refs/") && !answer.contains('\x1b'),
            "{answer}"
        );
    }
    assert_eq!(here.pushes().await.len(), 1);
    let said = work
        .git(&["push", &url, "main:refs/pull/1/head"])
        .await
        .badly();
    assert!(said.err.contains("only refs/heads"), "{}", said.err);
    for (body, headers) in [
        ("nonsense", &[RECEIVE][..]),
        ("0001", &[RECEIVE]),
        ("0000", &[]),
        ("0000", &[("Content-Type", "text/plain")]),
        ("0000", &[RECEIVE, ("Content-Encoding", "br")]),
        ("0000", &[RECEIVE, ("Content-Encoding", "gzip")]),
    ] {
        let target = "/git/web.git/git-receive-pack";
        let (status, _) = http(
            here.address,
            "POST",
            target,
            Some(&owner),
            headers,
            body.as_bytes(),
        )
        .await;
        assert_eq!(status, 400, "{body} {headers:?}");
    }
    let (status, _) = http(
        here.address,
        "POST",
        "/git/web.git/git-receive-pack",
        Some(&owner),
        &[RECEIVE],
        b"0000",
    )
    .await;
    assert_eq!(status, 200, "the probe before a large push");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_objects_are_refused_at_the_door() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    work.commit("a", "1").await;
    let blob = work.git(&["rev-parse", "HEAD:a"]).await.well().out;
    let raw: Vec<u8> = (0..20)
        .map(|n| u8::from_str_radix(&blob[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    for evil in ["..", ".git", ".gitmodules/../x"] {
        let mut tree = format!("100644 {evil}\0").into_bytes();
        tree.extend_from_slice(&raw);
        let file = work.path().join("tree.raw");
        std::fs::write(&file, tree).unwrap();
        let tree = work
            .git(&[
                "hash-object",
                "-t",
                "tree",
                "-w",
                "--literally",
                file.to_str().unwrap(),
            ])
            .await
            .well()
            .out;
        let commit = work
            .git(&["commit-tree", "-m", "evil", tree.trim()])
            .await
            .well()
            .out;
        let target = format!("{}:refs/heads/evil", commit.trim());
        let said = work.git(&["push", &url, &target]).await.badly();
        assert!(
            said.err.contains("unpack") || said.err.contains("fsck"),
            "{}",
            said.err
        );
    }
    assert!(here.pushes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_machine_configures_git() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    work.commit("a", "1").await;
    work.git(&["push", &url, "main"]).await.well();
    let repository = here.repository("web");
    // A hook and settings that somebody put into the repository are not used.
    let marker = here.dir.join("marker");
    let hook = repository.join("hooks/pre-receive");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\ntouch '{}'\n", marker.display())).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&hook, mode).unwrap();
    let mut config = std::fs::read_to_string(repository.join("config")).unwrap();
    config.push_str("[core]\n\thooksPath = hooks\n[receive]\n\tfsckObjects = false\n");
    std::fs::write(repository.join("config"), config).unwrap();
    work.commit("a", "2").await;
    work.git(&["push", &url, "main"]).await.well();
    assert!(!marker.exists());
}
