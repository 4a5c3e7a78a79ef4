use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use ondol_git::CheckoutLimits;

use crate::client::Work;
use crate::server::{Installation, files, name, one_store, start};

async fn pushed(here: &Installation, work: &Work, refspec: &str) {
    let url = here.url(&here.developer().await, "web");
    work.git(&["push", "-q", "--force", &url, refspec])
        .await
        .well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_becomes_files_and_nothing_leads_out() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let work = Work::new().await;
    work.write("app/main.py", "print()\n");
    work.write("한글/파일 이름.txt", "ok\r\n");
    // Attributes and filters of the repository do nothing.
    work.write(
        ".gitattributes",
        "* text eol=crlf\n*.py export-ignore filter=evil\n",
    );
    let run = work.write("run.sh", "#!/bin/sh\n");
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o755)).unwrap();
    symlink("app/main.py", work.path().join("good")).unwrap();
    symlink("../app", work.path().join("app/up")).unwrap();
    symlink("/etc/passwd", work.path().join("absolute")).unwrap();
    symlink("../../../etc/passwd", work.path().join("app/out")).unwrap();
    work.git(&["config", "core.autocrlf", "false"]).await.well();
    work.git(&["add", "-A"]).await.well();
    let module = "160000,0123456789012345678901234567890123456789,vendor/module";
    work.git(&["update-index", "--add", "--cacheinfo", module])
        .await
        .well();
    work.git(&["commit", "-q", "-m", "all"]).await.well();
    let head = work.head().await;
    pushed(&here, &work, "main").await;
    let target = tempfile::tempdir().unwrap();
    let dest = target.path().join("deep/src");
    let commit = head.parse().unwrap();
    let limits = CheckoutLimits::default();
    let done = here
        .git
        .checkout(&name("web"), &commit, &dest, &limits)
        .await
        .unwrap();
    assert_eq!(done.files, 8);
    assert_eq!(
        std::fs::read_to_string(dest.join("app/main.py")).unwrap(),
        "print()\n"
    );
    assert_eq!(
        std::fs::read_to_string(dest.join("한글/파일 이름.txt")).unwrap(),
        "ok\n",
        "what is stored, although the attributes ask for other line ends"
    );
    let mode = |file: &str| {
        std::fs::metadata(dest.join(file))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("run.sh") & 0o100, mode("app/main.py") & 0o111),
        (0o100, 0)
    );
    assert_eq!(
        std::fs::read_link(dest.join("good")).unwrap().to_str(),
        Some("app/main.py")
    );
    assert!(dest.join("app/up").is_symlink());
    let neutral: Vec<_> = done.neutralised.iter().map(|path| path.as_str()).collect();
    assert_eq!(neutral, ["absolute", "app/out"]);
    assert!(!dest.join("absolute").is_symlink());
    assert_eq!(
        std::fs::read_to_string(dest.join("absolute")).unwrap(),
        "/etc/passwd"
    );
    assert_eq!(done.submodules[0].as_str(), "vendor/module");
    assert!(dest.join("vendor/module").is_dir());
    assert!(!dest.join(".git").exists());

    let again = here
        .git
        .checkout(&name("web"), &commit, &dest, &limits)
        .await;
    assert!(again.unwrap_err().to_string().contains("exists already"));
    let missing = "0123456789012345678901234567890123456789".parse().unwrap();
    let elsewhere = target.path().join("x");
    assert!(
        here.git
            .checkout(&name("web"), &missing, &elsewhere, &limits)
            .await
            .is_err()
    );
    for small in [
        CheckoutLimits {
            bytes: 10,
            ..limits
        },
        CheckoutLimits { files: 3, ..limits },
        CheckoutLimits {
            time: Duration::ZERO,
            ..limits
        },
    ] {
        let error = here
            .git
            .checkout(&name("web"), &commit, &elsewhere, &small)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("cannot be checked out"),
            "{error}"
        );
        assert!(!elsewhere.exists());
    }
    assert_eq!(
        std::fs::read_dir(target.path()).unwrap().count(),
        1,
        "nothing half-made"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_that_git_would_not_make_is_refused() {
    let backend = one_store().await;
    let here = start(&backend).await;
    let work = Work::new().await;
    work.commit("a", "1").await;
    pushed(&here, &work, "main").await;
    // Past the door: objects written straight into the repository, as a bug of ours might let.
    let repository = here.repository("web");
    let git = async |args: &[&str]| {
        let said = crate::client::git(&repository, args, &[]).await.well();
        said.out.trim().to_owned()
    };
    let blob = git(&["rev-parse", "main:a"]).await;
    let raw: Vec<u8> = (0..20)
        .map(|n| u8::from_str_radix(&blob[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let entry = |mode: &str, name: &str, id: &[u8]| {
        let mut bytes = format!("{mode} {name}\0").into_bytes();
        bytes.extend_from_slice(id);
        bytes
    };
    let folder = here.dir.join("raw");
    let tree = async |bytes: Vec<u8>| {
        std::fs::write(&folder, bytes).unwrap();
        git(&[
            "hash-object",
            "-t",
            "tree",
            "-w",
            "--literally",
            folder.to_str().unwrap(),
        ])
        .await
    };
    let inner = tree(entry("100644", "passwd", &raw)).await;
    let inner_raw: Vec<u8> = (0..20)
        .map(|n| u8::from_str_radix(&inner[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let link = work.path().join("target");
    std::fs::write(&link, "/tmp").unwrap();
    let link = git(&["hash-object", "-w", link.to_str().unwrap()]).await;
    let link_raw: Vec<u8> = (0..20)
        .map(|n| u8::from_str_radix(&link[2 * n..2 * n + 2], 16).unwrap())
        .collect();
    let outside = tempfile::tempdir().unwrap();
    for bytes in [
        entry("100644", "..", &raw),
        entry("40000", "..", &inner_raw),
        entry("40000", ".git", &inner_raw),
        entry("40000", ".GiT", &inner_raw),
        // A link and a folder of one name: the folder's file must not go through the link.
        [
            entry("120000", "x", &link_raw),
            entry("40000", "x", &inner_raw),
        ]
        .concat(),
        [
            entry("40000", "x", &inner_raw),
            entry("120000", "x", &link_raw),
        ]
        .concat(),
        [entry("100644", "x", &raw), entry("100644", "x", &raw)].concat(),
    ] {
        let tree = tree(bytes).await;
        let commit = git(&[
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@x",
            "commit-tree",
            "-m",
            "evil",
            &tree,
        ])
        .await;
        let dest = outside.path().join("src");
        let refused = here
            .git
            .checkout(
                &name("web"),
                &commit.parse().unwrap(),
                &dest,
                &CheckoutLimits::default(),
            )
            .await;
        assert!(refused.is_err(), "{tree}: {refused:?}");
        assert!(files(outside.path()).is_empty());
    }
    assert!(!std::path::Path::new("/tmp/passwd").exists());
}
