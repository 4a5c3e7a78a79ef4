//! Bad input and bad days.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ondol_data::chunk::ChunkRef;
use ondol_data::client::Transport;
use ondol_data::model::{CommitHead, FileEntry};
use ondol_data::wire::{Frame, encode_commit};
use ondol_data::{DatasetOwner, Key, MIGRATIONS};
use ondol_store::blobs::BlobOwner;
use ondol_store::testing::backends;
use ondol_types::{CrashPoints, ErrorKind, NoCrash};

use crate::fixture::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_table_is_refused_whole() {
    for world in worlds().await {
        for (content, code, place) in [
            (
                "a,b\n1,2\n1\n",
                "data.table.ragged",
                "data/t.csv, row 2 (line 3)",
            ),
            ("", "data.table.empty", "data/t.csv"),
            ("a,a\n1,2\n", "data.table.duplicate-column", "column `a`"),
        ] {
            let refused = world
                .push_files(&[("ok.txt", "x"), ("data/t.csv", content)])
                .await
                .unwrap_err();
            assert_eq!(
                (refused.code, refused.kind),
                (code, ErrorKind::InvalidInput),
                "{refused:?}"
            );
            assert!(refused.message.contains(place), "{refused:?}");
            assert!(refused.hint.is_some());
        }
        let folder = world.folder("binary");
        std::fs::write(folder.join("t.csv"), b"a,b\n1,\xff\xfe\n").unwrap();
        let refused = world.push(&folder).await.unwrap_err();
        assert_eq!(refused.code, "data.table.encoding");
        assert!(
            refused.message.contains("row 1") && refused.message.contains("column `b`"),
            "{refused:?}"
        );
        assert!(
            world
                .service
                .list(&world.ctx(), &world.project, "", 10)
                .await
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_cannot_be_pushed_are_named() {
    let world = worlds().await.remove(0);
    let folder = world.folder("in");
    let refused = world.push(&folder).await.unwrap_err();
    assert!(refused.message.contains("has no files"), "{refused:?}");
    std::os::unix::fs::symlink("/etc/passwd", folder.join("link")).unwrap();
    let refused = world.push(&folder).await.unwrap_err();
    assert!(
        refused.message.contains("link: is a symbolic link"),
        "{refused:?}"
    );
    let refused = world.push(&folder.join("nothing")).await.unwrap_err();
    assert!(refused.message.contains("nothing"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_manifests_and_bundles_are_refused() {
    let world = worlds().await.remove(0);
    let direct = Direct {
        world: &world,
        ctx: world.ctx(),
    };
    let session = direct.begin().await.unwrap();
    let key = Key::of(b"abc");
    let bundle = |key: Key, bytes: &'static [u8], frames: u64| {
        let mut out = Vec::new();
        Frame::Chunk {
            key,
            bytes: Bytes::from_static(bytes),
        }
        .encode(&mut out);
        Frame::End { frames }.encode(&mut out);
        Bytes::from(out)
    };
    let lying = direct
        .upload(session.id, bundle(key, b"abd", 1))
        .await
        .unwrap_err();
    assert_eq!(lying.kind, ErrorKind::Corrupted);
    for cut in [1, 20, 38] {
        let whole = bundle(key, b"abc", 1);
        let refused = direct
            .upload(session.id, whole.slice(..whole.len() - cut))
            .await
            .unwrap_err();
        assert_eq!(refused.code, "data.push.malformed", "{cut}");
    }
    assert_eq!(
        direct
            .upload(session.id, bundle(key, b"abc", 2))
            .await
            .unwrap_err()
            .code,
        "data.push.malformed"
    );
    direct
        .upload(session.id, bundle(key, b"abc", 1))
        .await
        .unwrap();

    let file = |path: &str, size, len| FileEntry {
        path: path.parse().unwrap(),
        executable: false,
        size,
        chunks: vec![ChunkRef { key, len }],
    };
    for (files, code) in [
        (vec![], "data.push.malformed"),
        (vec![file("a", 4, 3)], "data.push.file"),
        (vec![file("a", 5, 5)], "data.push.file"),
        (vec![file("a", 3, 3), file("a", 3, 3)], "data.push.file"),
        (vec![file("a/b", 3, 3), file("a", 3, 3)], "data.push.file"),
    ] {
        let manifest = encode_commit(&CommitHead::default(), &files);
        assert_eq!(
            direct.commit(session.id, manifest).await.unwrap_err().code,
            code
        );
    }
    let manifest = encode_commit(&CommitHead::default(), &[file("a", 3, 3)]);
    direct.commit(session.id, manifest).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotten_chunk_is_named_and_pushing_again_heals_it() {
    for world in worlds().await {
        let folder = world.folder("in");
        write(&folder, &[("a.txt", "aaaa"), ("dir/b.txt", "bbbbbbbb")]);
        world.push(&folder).await.unwrap();
        let packs = world.backend.dir.path().join("blobs/packs");
        for pack in std::fs::read_dir(packs).unwrap() {
            let path = pack.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(8).position(|window| window == b"bbbbbbbb") {
                bytes[at] = b'c';
                std::fs::write(path, bytes).unwrap();
            }
        }
        let dest = world.backend.dir.path().join("out");
        let refused = world
            .service
            .materialise(
                &world.ctx(),
                &world.project,
                &world.dataset,
                "latest",
                &dest,
            )
            .await
            .unwrap_err();
        let chunk = Key::of(b"bbbbbbbb").digest();
        assert!(
            refused.to_string().contains("dir/b.txt") && refused.to_string().contains(chunk.hex()),
            "{refused}"
        );
        assert!(
            !dest.exists()
                && std::fs::read_dir(world.backend.dir.path())
                    .unwrap()
                    .all(|entry| !entry
                        .unwrap()
                        .file_name()
                        .to_string_lossy()
                        .contains("partial"))
        );
        let report = world
            .service
            .verify(&world.ctx(), &world.project, &world.dataset, "latest")
            .await
            .unwrap();
        assert_eq!((report.files, report.chunks, report.bad), (2, 2, 1));
        assert_eq!(
            (report.findings[0].file.as_str(), &report.findings[0].chunk),
            ("dir/b.txt", &chunk)
        );
        let again = world.push(&folder).await.unwrap();
        assert!(!again.changed);
        let report = world
            .service
            .verify(&world.ctx(), &world.project, &world.dataset, "latest")
            .await
            .unwrap();
        assert_eq!(report.bad, 0);
        assert_eq!(world.checkout("latest").await, contents(&folder));
    }
}

/// Panics at one point, as near to a kill as a test in this process gets.
struct PanicAt(Mutex<Option<&'static str>>, Mutex<BTreeSet<&'static str>>);

impl CrashPoints for PanicAt {
    fn reached(&self, point: &'static str) {
        self.1.lock().unwrap().insert(point);
        let hit = *self.0.lock().unwrap() == Some(point);
        if hit {
            *self.0.lock().unwrap() = None;
            panic!("crash at {point}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_cut_off_anywhere_is_whole_or_absent_and_can_be_repeated() {
    for point in [
        "data.push.begun",
        "data.upload.stored",
        "store.pack.published",
        "data.upload.recorded",
        "data.commit.stored",
        "data.commit.done",
    ] {
        for backend in backends(MIGRATIONS).await {
            let crash = Arc::new(PanicAt(Mutex::new(Some(point)), Mutex::default()));
            let world = Arc::new(world(backend, crash.clone()));
            let folder = world.folder("in");
            write(&folder, &[("t.csv", "a\n1\n"), ("b.txt", "b")]);
            let cut_off = {
                let (world, folder) = (world.clone(), folder.clone());
                tokio::spawn(async move { world.push(&folder).await })
            };
            assert!(cut_off.await.is_err(), "{point} was not reached");
            // A start of the store anew, as after a kill.
            let World { backend, .. } = Arc::into_inner(world).unwrap();
            let world = crate::fixture::world(backend, Arc::new(NoCrash));
            let done = world
                .service
                .list(&world.ctx(), &world.project, "", 10)
                .await
                .unwrap();
            assert_eq!(
                done.len(),
                usize::from(point == "data.commit.done"),
                "{point}"
            );
            let pushed = world.push(&folder).await.unwrap();
            assert_eq!(
                (pushed.version.number, pushed.changed),
                (1, point != "data.commit.done"),
                "{point}"
            );
            assert_eq!(world.checkout("latest").await, contents(&folder));
            let report = world
                .service
                .verify(&world.ctx(), &world.project, &world.dataset, "latest")
                .await
                .unwrap();
            assert_eq!(report.bad, 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_keeps_every_version_and_gives_back_forgotten_ones() {
    for world in worlds().await {
        let clock = Arc::new(ondol_types::ManualClock::at(
            ondol_types::Timestamp::from_micros(1_700_000_000_000_000),
        ));
        let root = world.backend.dir.path().join("dated");
        let blobs =
            ondol_store::blobs::Blobs::open_with(&root, clock.clone(), Arc::new(NoCrash)).unwrap();
        let service = ondol_data::DataService::new(
            ondol_data::Deps {
                store: world.backend.store.clone(),
                blobs: blobs.clone(),
                clock: Arc::new(ondol_types::SystemClock),
                crash: Arc::new(NoCrash),
                projects: Arc::new(Everything),
                scratch: world.backend.dir.path().to_owned(),
            },
            ondol_data::Config::default(),
        );
        let world = World {
            blobs: blobs.clone(),
            service,
            ..world
        };
        let folder = world.folder("in");
        std::fs::write(folder.join("large.bin"), noise(2_500_000, 3)).unwrap();
        for n in 0..60 {
            write(&folder, &[(&format!("f{n}.txt"), &format!("content {n}"))]);
        }
        world.push(&folder).await.unwrap();
        std::fs::write(folder.join("large.bin"), noise(2_000_000, 4)).unwrap();
        world.push(&folder).await.unwrap();
        let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(DatasetOwner::new(
            world.backend.store.clone(),
            blobs.clone(),
        ))];
        let day = Duration::from_secs(86_400);
        clock.advance(day * 3);
        let kept = blobs.gc(&owners, day).await.unwrap();
        assert_eq!(kept.removed, 0, "{kept:?}");
        for which in ["1", "2"] {
            let report = world
                .service
                .verify(&world.ctx(), &world.project, &world.dataset, which)
                .await
                .unwrap();
            assert_eq!(report.bad, 0);
        }
        assert!(
            world
                .service
                .forget(&world.ctx(), &world.project, &world.dataset, "2")
                .await
                .is_err()
        );
        world
            .service
            .forget(&world.ctx(), &world.project, &world.dataset, "1")
            .await
            .unwrap();
        let freed = blobs.gc(&owners, day).await.unwrap();
        assert!(
            freed.removed_bytes > 2_400_000 && freed.freed_bytes > 0,
            "{freed:?}"
        );
        let report = world
            .service
            .verify(&world.ctx(), &world.project, &world.dataset, "2")
            .await
            .unwrap();
        assert_eq!(report.bad, 0);
        assert_eq!(world.checkout("latest").await, contents(&folder));
    }
}

struct Everything;

#[async_trait::async_trait]
impl ondol_data::Projects for Everything {
    async fn exists(&self, _: &ondol_types::ProjectName) -> Result<bool, ondol_types::Problem> {
        Ok(true)
    }
}

/// A file system of its own that is full after two megabytes. Needs the right to mount; where
/// that is missing the test says so.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "ondol-test"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
            {
                eprintln!("skipped: a small file system cannot be mounted here");
            }
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(self.0.path())
            .status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_on_a_full_disk_says_so_and_leaves_the_data_as_it_was() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let backend = backends(MIGRATIONS).await.remove(0);
    let world = world_at(backend, &disk.0.path().join("blobs"), Arc::new(NoCrash));
    let folder = world.folder("in");
    write(&folder, &[("a.txt", "small")]);
    world.push(&folder).await.unwrap();
    let before = contents(&folder);
    std::fs::write(folder.join("large.bin"), noise(4_000_000, 9)).unwrap();
    let refused = world.push(&folder).await.unwrap_err();
    assert_eq!(
        (refused.code, refused.kind),
        ("store.disk.full", ErrorKind::Unavailable),
        "{refused:?}"
    );
    assert!(refused.hint.unwrap().contains("disk is full"));
    assert_eq!(world.checkout("latest").await, before);
    std::fs::remove_file(folder.join("large.bin")).unwrap();
    write(&folder, &[("b.txt", "also small")]);
    assert_eq!(world.push(&folder).await.unwrap().version.number, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_project_leaves_no_data_and_no_open_push() {
    use ondol_store::{ForgetProject, Forgotten, StoreError};
    for world in worlds().await {
        world.push_files(&[("a.txt", "one")]).await.unwrap();
        let direct = Direct {
            world: &world,
            ctx: world.ctx(),
        };
        let open = direct.begin().await.unwrap();
        let project = &world.project;
        let store = &world.backend.store;
        let hold = store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.hold_project(project, 1, "kim").await?;
                    Ok(tx.project_hold(project).await?.unwrap())
                })
            })
            .await
            .unwrap();
        let late = world.push_files(&[("a.txt", "two")]).await.unwrap_err();
        assert_eq!(late.code, "store.project.deleting");
        for _ in 0..2 {
            let forgotten = ForgetProject::forget(&world.service, &hold).await.unwrap();
            assert_eq!(forgotten, Forgotten::Entirely);
        }
        for table in [
            "dataset",
            "dataset_version",
            "dataset_upload",
            "dataset_upload_part",
        ] {
            let sql = ondol_store::AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {table}"));
            let left: i64 = store
                .read::<_, StoreError, _>(|tx| {
                    Box::pin(async move { tx.fetch_one(sql, vec![]).await?.get("n") })
                })
                .await
                .unwrap();
            assert_eq!(left, 0, "{}: {table}", world.backend.name);
        }
        store
            .write::<_, StoreError, _>(|tx| Box::pin(tx.release_project(&hold)))
            .await
            .unwrap();
        // The push that began before does not end in the next project of the name.
        let end = encode_commit(
            &CommitHead {
                message: "late".to_owned(),
                parent: None,
                force: true,
            },
            &[],
        );
        let refused = direct.commit(open.id, end).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotFound, "{refused:?}");
        let pushed = world.push_files(&[("a.txt", "three")]).await.unwrap();
        assert_eq!(pushed.version.number, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datasets_versions_and_parts_have_ceilings() {
    for backend in backends(MIGRATIONS).await {
        let root = backend.dir.path().join("blobs");
        let config = ondol_data::Config {
            max_datasets: 1,
            max_versions: 2,
            max_parts: 3,
            ..ondol_data::Config::default()
        };
        let mut world = world_with(backend, &root, Arc::new(NoCrash), config);
        for text in ["one", "two"] {
            world.push_files(&[("a.txt", text)]).await.unwrap();
        }
        let refused = world.push_files(&[("a.txt", "three")]).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooLarge);
        assert!(refused.message.contains("versions"), "{refused:?}");
        assert_eq!(world.checkout("latest").await["a.txt"], b"two");
        {
            let direct = Direct {
                world: &world,
                ctx: world.ctx(),
            };
            let session = direct.begin().await.unwrap();
            for number in 0..4u8 {
                let bytes = Bytes::from(vec![number; 10]);
                let mut bundle = Vec::new();
                Frame::Chunk {
                    key: Key::of(&bytes),
                    bytes,
                }
                .encode(&mut bundle);
                Frame::End { frames: 1 }.encode(&mut bundle);
                let sent = direct.upload(session.id, bundle.into()).await;
                assert_eq!(sent.is_ok(), number < 3, "{number}: {sent:?}");
            }
        }
        world.dataset = "second".parse().unwrap();
        let refused = world.push_files(&[("a.txt", "x")]).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::TooLarge);
        assert!(refused.message.contains("datasets"), "{refused:?}");
    }
}
