use ondol_auth::{Grant, Role};
use ondol_git::{EntryKind, Settings};
use ondol_types::event;

use crate::client::{Work, git};
use crate::server::{name, one_store, start, stores};

#[tokio::test(flavor = "multi_thread")]
async fn a_first_push_makes_the_project_and_its_facts() {
    for backend in stores().await {
        let here = start(&backend).await;
        let token = here.developer().await;
        let url = here.url(&token, "web");
        let work = Work::new().await;
        let first = work.commit("app.py", "print('one')\n").await;

        work.git(&["push", "--dry-run", &url, "main"]).await.well();
        assert!(
            !here.git.exists(&name("web")).await.unwrap(),
            "looking changes nothing"
        );

        let said = work.git(&["push", &url, "main"]).await.well();
        for line in [
            "remote: refs/heads/main by kim chained true",
            "remote: tame[31m this",
            "remote: second line",
            "remote: verdict: live",
        ] {
            assert!(said.err.contains(line), "{line} in {}", said.err);
        }
        assert!(!said.err.contains('\x1b') && !said.err.contains("the push is safe"));
        let project = here.git.show(&here.system(), &name("web")).await.unwrap();
        assert_eq!(project.head.unwrap().as_str(), first);
        assert_eq!(project.created_by, "kim");
        assert!(project.size_bytes > 0 && project.pushed_at.is_some());
        let types: Vec<_> = here
            .events("dev.cdevents")
            .await
            .into_iter()
            .filter(|event| event.project.is_some())
            .map(|event| event.event_type)
            .collect();
        assert_eq!(
            types,
            [
                event::REPOSITORY_CREATED,
                event::PUSH_RECEIVED,
                event::BRANCH_CREATED
            ]
        );
        let pushes = here.pushes().await;
        assert_eq!(pushes[0].new.as_ref().unwrap().as_str(), first);
        assert!(pushes[0].default_branch && pushes[0].old.is_none());
        assert_eq!(pushes[0].pusher, "kim");
        assert_eq!(here.open_pushes().await, 0);

        let again = work.git(&["push", &url, "main"]).await.well();
        assert!(again.err.contains("up-to-date"), "{}", again.err);
        let second = work.commit("app.py", "print('two')\n").await;
        work.git(&[
            "push",
            "-o",
            "preview",
            &url,
            "main",
            "HEAD:refs/heads/feature/x",
        ])
        .await
        .well();
        work.git(&["tag", "-a", "v1", "-m", "one"]).await.well();
        work.git(&["push", &url, "v1"]).await.well();
        work.git(&["push", &url, ":feature/x"]).await.well();
        let pushes = here.pushes().await;
        let moved: Vec<_> = pushes
            .iter()
            .map(|push| {
                (
                    push.ref_name.as_str(),
                    push.new.is_some(),
                    push.default_branch,
                )
            })
            .collect();
        assert_eq!(
            moved,
            [
                ("refs/heads/main", true, true),
                ("refs/heads/main", true, true),
                ("refs/heads/feature/x", true, false),
                ("refs/tags/v1", true, false),
                ("refs/heads/feature/x", false, false),
            ]
        );
        assert_eq!(pushes[1].old.as_ref().unwrap().as_str(), first);
        let events = here.events(event::PUSH_RECEIVED).await;
        assert_eq!(
            events[1].document["customData"]["pushOptions"],
            serde_json::json!(["preview"])
        );
        let branches = here.events("dev.cdevents.branch").await;
        assert_eq!(branches.len(), 3);
        assert_eq!(branches[2].event_type, event::BRANCH_DELETED);
        assert_eq!(branches[2].chain, events[4].id.to_string());

        let clone = tempfile::tempdir().unwrap();
        let trace = git(
            clone.path(),
            &["clone", "-q", &url, "copy"],
            &[("GIT_TRACE_PACKET", "1")],
        )
        .await
        .well();
        assert!(
            trace.err.contains("< version 2"),
            "protocol version 2 is spoken"
        );
        let text = std::fs::read_to_string(clone.path().join("copy/app.py")).unwrap();
        assert_eq!(text, "print('two')\n");
        for version in ["0", "1", "2"] {
            let setting = format!("protocol.version={version}");
            let said = git(clone.path(), &["-c", &setting, "ls-remote", &url], &[])
                .await
                .well();
            assert!(said.out.contains(&second) && said.out.contains("refs/tags/v1"));
        }
        let shallow = ["clone", "-q", "--depth=1", &url, "shallow"];
        git(clone.path(), &shallow, &[]).await.well();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_of_the_default_branch_is_kept_unless_allowed() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    let first = work.commit("a", "1").await;
    let second = work.commit("a", "2").await;
    work.git(&["push", &url, "main", "main:feature"])
        .await
        .well();
    work.git(&["reset", "-q", "--hard", &first]).await.well();
    let other = work.commit("a", "3").await;
    let said = work.git(&["push", "--force", &url, "main"]).await.badly();
    assert!(said.err.contains("non-fast-forward"), "{}", said.err);
    work.git(&["push", "--force", &url, "main:feature"])
        .await
        .well();
    let said = work.git(&["push", &url, ":main"]).await.badly();
    assert!(said.err.contains("main"), "{}", said.err);
    let project = here.git.show(&here.system(), &name("web")).await.unwrap();
    assert_eq!(project.head.unwrap().as_str(), second);
    let allowed = Settings {
        allow_force_push: Some(true),
        ..Settings::default()
    };
    here.git
        .configure(&here.system(), &name("web"), &allowed)
        .await
        .unwrap();
    work.git(&["push", "--force", &url, "main"]).await.well();
    let project = here.git.show(&here.system(), &name("web")).await.unwrap();
    assert_eq!(project.head.unwrap().as_str(), other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_by_another_name_becomes_the_default() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    let commit = work.commit("a", "1").await;
    work.git(&["push", &url, "main:master"]).await.well();
    let project = here.git.show(&here.system(), &name("web")).await.unwrap();
    assert_eq!(project.default_branch, "master");
    assert_eq!(project.head.unwrap().as_str(), commit);
    assert!(here.pushes().await[0].default_branch);
    let clone = tempfile::tempdir().unwrap();
    git(clone.path(), &["clone", "-q", &url, "copy"], &[])
        .await
        .well();
    assert!(clone.path().join("copy/a").exists(), "HEAD follows");
    work.git(&["push", &url, "main:next"]).await.well();
    let settings = Settings {
        default_branch: Some("next".to_owned()),
        ..Settings::default()
    };
    let project = here
        .git
        .configure(&here.system(), &name("web"), &settings)
        .await
        .unwrap();
    assert_eq!(project.default_branch, "next");
    let head = std::fs::read_to_string(here.repository("web").join("HEAD")).unwrap();
    assert_eq!(head, "ref: refs/heads/next\n");
    let missing = Settings {
        default_branch: Some("nowhere".to_owned()),
        ..Settings::default()
    };
    let error = here
        .git
        .configure(&here.system(), &name("web"), &missing)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_pushes_stream_and_pack_bodies_arrive_whole() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    let noise: Vec<u8> = (0..6_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ (n >> 7) as u8)
        .collect();
    let mut state = 88_172_645_463_325_252u64;
    let noise: Vec<u8> = noise
        .iter()
        .map(|byte| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            byte ^ state as u8
        })
        .collect();
    work.commit("noise.bin", &noise).await;
    let said = git(
        work.path(),
        &["push", &url, "main"],
        &[("GIT_CURL_VERBOSE", "1")],
    )
    .await
    .well();
    assert!(
        said.err.contains("Transfer-Encoding: chunked"),
        "git streams what is over its buffer"
    );
    let clone = tempfile::tempdir().unwrap();
    git(clone.path(), &["clone", "-q", &url, "copy"], &[])
        .await
        .well();
    assert_eq!(
        std::fs::read(clone.path().join("copy/noise.bin")).unwrap(),
        noise
    );

    // Many common commits make git pack its negotiation.
    for n in 0..40 {
        work.commit("n", format!("{n}")).await;
    }
    work.git(&["push", &url, "main"]).await.well();
    let other = Work::new().await;
    for n in 0..300 {
        let args = ["commit", "-q", "--allow-empty", "-m"];
        let message = format!("other {n}");
        other.git(&[&args[..], &[&message]].concat()).await.well();
    }
    let said = git(
        other.path(),
        &["-c", "protocol.version=0", "fetch", &url, "main"],
        &[("GIT_CURL_VERBOSE", "1")],
    )
    .await
    .well();
    assert!(
        said.err.contains("Content-Encoding: gzip"),
        "git packs its negotiation"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_and_files_can_be_read() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let url = here.url(&here.developer().await, "web");
    let work = Work::new().await;
    work.commit("README.md", "# one\n").await;
    work.write("src/deep/app.py", "print()\n");
    std::os::unix::fs::symlink("/etc/passwd", work.path().join("link")).unwrap();
    let head = work.commit_all("second\n\nwith a body").await;
    work.git(&["push", &url, "main"]).await.well();
    let (ctx, web) = (here.system(), name("web"));
    for revision in ["main", "refs/heads/main", &head, &head[..9]] {
        let found = here.git.resolve(&ctx, &web, revision).await.unwrap();
        assert_eq!(found.as_str(), head, "{revision}");
    }
    for bad in [
        "nowhere",
        "--all",
        "main~1",
        "HEAD",
        "@{u}",
        "",
        "main^{tree}",
    ] {
        assert!(here.git.resolve(&ctx, &web, bad).await.is_err(), "{bad}");
    }
    let head = head.parse().unwrap();
    let log = here.git.log(&ctx, &web, &head, 0, 10).await.unwrap();
    let subjects: Vec<_> = log.iter().map(|commit| commit.subject()).collect();
    assert_eq!(subjects, ["second", "README.md"]);
    assert_eq!(log[0].author, "Kim");
    assert_eq!(log[0].message, "second\n\nwith a body");
    assert_eq!(log[0].parents, [log[1].id.clone()]);
    let read = async |path: &str, limit| {
        here.git
            .read_file(&ctx, &web, &head, &path.parse().unwrap(), limit)
            .await
    };
    assert_eq!(read("src/deep/app.py", 100).await.unwrap(), b"print()\n");
    assert!(read("src/deep/app.py", 3).await.is_err());
    for missing in ["src", "nothing", "link", "src/deep/app.py/x"] {
        assert!(read(missing, 100).await.is_err(), "{missing}");
    }
    let root = here.git.tree(&ctx, &web, &head, None).await.unwrap();
    let shown: Vec<_> = root
        .iter()
        .map(|entry| (entry.path.as_str(), entry.kind))
        .collect();
    assert_eq!(
        shown,
        [
            ("README.md", EntryKind::File),
            ("link", EntryKind::Link),
            ("src", EntryKind::Folder)
        ]
    );
    let deep = "src/deep".parse().unwrap();
    let entries = here.git.tree(&ctx, &web, &head, Some(&deep)).await.unwrap();
    assert_eq!(entries[0].path.as_str(), "src/deep/app.py");
    let unknown = "0123456789012345678901234567890123456789".parse().unwrap();
    assert!(here.git.commit(&ctx, &web, &unknown).await.is_err());
    assert!(here.git.tree(&ctx, &web, &unknown, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushes_to_one_ref_one_wins() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let token = here.token("ci", Grant::everywhere(Role::Developer)).await;
    let url = here.url(&token, "web");
    let work = Work::new().await;
    work.commit("a", "base").await;
    work.git(&["push", &url, "main"]).await.well();
    let mut rivals = Vec::new();
    for n in 0..4 {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["clone", "-q", &url, "."], &[])
            .await
            .well();
        std::fs::write(dir.path().join("a"), format!("rival {n}")).unwrap();
        git(dir.path(), &["commit", "-qam", "rival"], &[])
            .await
            .well();
        rivals.push(dir);
    }
    let args = &["push", url.as_str(), "HEAD:main"];
    let pushes = rivals.iter().map(|rival| git(rival.path(), args, &[]));
    let outcomes = futures_util::future::join_all(pushes).await;
    let won = outcomes.iter().filter(|said| said.ok).count();
    assert_eq!(
        won,
        1,
        "{:?}",
        outcomes.iter().map(|said| &said.err).collect::<Vec<_>>()
    );
    assert_eq!(here.pushes().await.len(), 2);
    assert_eq!(here.open_pushes().await, 0);
}
