//! The blob store under ordinary use, under collection, and cut off at every step.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ondol_types::{
    Algorithm, Clock, CrashPoints, Digest, ManualClock, NoCrash, Problem, Timestamp,
};
use proptest::prelude::*;
use tokio::io::AsyncReadExt;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3_600);

fn blob(text: &str) -> (Digest, Bytes) {
    let bytes = Bytes::from(text.repeat(100));
    (Hasher::digest(Algorithm::Blake3, &bytes), bytes)
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp::from_micros(
        1_700_000_000_000_000,
    )))
}

fn open(root: &Path, clock: &Arc<ManualClock>) -> Blobs {
    Blobs::open_with(root, clock.clone(), Arc::new(NoCrash)).unwrap()
}

/// An owner of a fixed set, with something to do while it is asked.
struct Owner {
    owned: Vec<Digest>,
    pinned: Option<Timestamp>,
    meanwhile: Option<Blobs>,
    readded: Vec<(Digest, Bytes)>,
}

impl Owner {
    fn of(owned: &[Digest]) -> Self {
        Self {
            owned: owned.to_vec(),
            pinned: None,
            meanwhile: None,
            readded: Vec::new(),
        }
    }

    fn alone(self) -> Vec<Arc<dyn BlobOwner>> {
        vec![Arc::new(self)]
    }
}

#[async_trait]
impl BlobOwner for Owner {
    fn name(&self) -> &'static str {
        "test"
    }

    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem> {
        for digest in &self.owned {
            marks.add(digest);
        }
        if let Some(blobs) = &self.meanwhile {
            blobs.put_many(self.readded.clone()).await?;
            for (_, bytes) in &self.readded {
                blobs.put(Algorithm::Sha256, bytes.clone()).await?;
            }
        }
        Ok(())
    }

    async fn pinned_since(&self) -> Result<Option<Timestamp>, Problem> {
        Ok(self.pinned)
    }
}

#[tokio::test]
async fn packed_blobs_read_back_by_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let all: Vec<_> = (0..500).map(|n| blob(&format!("chunk {n} "))).collect();
    let packed = blobs.put_many(all.clone()).await.unwrap();
    assert_eq!((packed.blobs, packed.stored), (500, 500));
    let again = blobs.put_many(all.clone()).await.unwrap();
    assert_eq!((again.blobs, again.stored), (500, 0));
    assert_eq!(
        std::fs::read_dir(dir.path().join("packs")).unwrap().count(),
        1
    );

    let digests: Vec<Digest> = all.iter().map(|(digest, _)| digest.clone()).collect();
    let read = blobs.read_many(&digests, 1 << 20).await.unwrap();
    assert!(
        read.iter()
            .zip(&all)
            .all(|(read, (_, bytes))| read == bytes)
    );
    let (digest, bytes) = &all[7];
    assert_eq!(blobs.size(digest).await.unwrap(), Some(bytes.len() as u64));
    assert_eq!(blobs.read(digest, 1 << 20).await.unwrap(), bytes);
    assert!(matches!(
        blobs.read(digest, 10).await,
        Err(StoreError::TooLarge { .. })
    ));
    blobs.verify(digest).await.unwrap();
    for by_file in [true, false] {
        let mut read = Vec::new();
        let size = if by_file {
            let (mut file, size) = blobs.open_file(digest).await.unwrap();
            file.read_to_end(&mut read).await.unwrap();
            size
        } else {
            let (mut reader, size) = blobs.open_reader(digest).await.unwrap();
            reader.read_to_end(&mut read).await.unwrap();
            size
        };
        assert_eq!((read.as_slice(), size), (&bytes[..], bytes.len() as u64));
    }
    let absent = blob("absent").0;
    assert_eq!(
        blobs
            .contains_many(&[digest.clone(), absent.clone()])
            .await
            .unwrap(),
        [true, false]
    );
    assert!(matches!(
        blobs.open_file(&absent).await,
        Err(StoreError::NoBlob(_))
    ));
    assert!(matches!(
        blobs.read(&absent, 10).await,
        Err(StoreError::NoBlob(_))
    ));
}

#[tokio::test]
async fn bytes_with_another_digest_are_refused_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let wrong = (blob("a").0, blob("b").1);
    let refused = blobs.put_many(vec![blob("c"), wrong]).await;
    assert!(matches!(refused, Err(StoreError::Corrupted { .. })));
    for folder in ["packs", "incoming"] {
        assert_eq!(
            std::fs::read_dir(dir.path().join(folder)).unwrap().count(),
            0
        );
    }
    assert_eq!(blobs.contains_many(&[blob("c").0]).await.unwrap(), [false]);
}

#[tokio::test]
async fn a_lost_index_is_rebuilt_and_a_lost_pack_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<_> = (0..50).map(|n| blob(&format!("{n} "))).collect();
    let digests: Vec<Digest> = all.iter().map(|(digest, _)| digest.clone()).collect();
    Blobs::open(dir.path())
        .unwrap()
        .put_many(all.clone())
        .await
        .unwrap();
    for name in ["index.db", "index.db-wal", "index.db-shm"] {
        let _ = std::fs::remove_file(dir.path().join(name));
    }
    let rebuilt = Blobs::open(dir.path()).unwrap();
    assert_eq!(
        rebuilt.read_many(&digests, 1 << 20).await.unwrap().len(),
        50
    );
    rebuilt.index().await.unwrap();
    drop(rebuilt);
    for pack in std::fs::read_dir(dir.path().join("packs")).unwrap() {
        std::fs::remove_file(pack.unwrap().path()).unwrap();
    }
    let emptied = Blobs::open(dir.path()).unwrap();
    assert_eq!(
        emptied.contains_many(&digests).await.unwrap(),
        vec![false; 50]
    );
    emptied.put_many(all).await.unwrap();
    emptied.verify(&digests[3]).await.unwrap();
}

#[tokio::test]
async fn rotten_bytes_are_named_and_heal_by_sending_them_again() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(dir.path()).unwrap();
    let (digest, bytes) = blob("rot ");
    blobs
        .put_many(vec![(digest.clone(), bytes.clone())])
        .await
        .unwrap();
    let loose = blobs.put(Algorithm::Sha256, bytes.clone()).await.unwrap();
    assert!(!blobs.forget_corrupted(&digest).await.unwrap());
    for path in [
        pack::path(&dir.path().join("packs"), 1),
        blobs.path(&loose.digest),
    ] {
        let mut content = std::fs::read(&path).unwrap();
        *content.last_mut().unwrap() ^= 1;
        std::fs::write(&path, content).unwrap();
    }
    for digest in [&digest, &loose.digest] {
        let error = blobs.read(digest, 1 << 20).await.unwrap_err();
        assert!(error.to_string().contains(digest.hex()), "{error}");
        assert!(matches!(
            blobs.verify(digest).await,
            Err(StoreError::Corrupted { .. })
        ));
        assert!(blobs.forget_corrupted(digest).await.unwrap());
        assert_eq!(
            blobs
                .contains_many(std::slice::from_ref(digest))
                .await
                .unwrap(),
            [false]
        );
    }
    blobs.put_many(vec![(digest.clone(), bytes)]).await.unwrap();
    blobs.verify(&digest).await.unwrap();
}

#[tokio::test]
async fn old_unowned_blobs_go_and_their_space_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let blobs = open(dir.path(), &clock);
    let all: Vec<_> = (0..100).map(|n| blob(&format!("{n} "))).collect();
    let digests: Vec<Digest> = all.iter().map(|(digest, _)| digest.clone()).collect();
    blobs.put_many(all.clone()).await.unwrap();
    let kept = blobs
        .put(Algorithm::Sha256, Bytes::from_static(b"kept"))
        .await
        .unwrap();
    let lost = blobs
        .put(Algorithm::Sha256, Bytes::from_static(b"lost"))
        .await
        .unwrap();
    let mut owned = digests[..20].to_vec();
    owned.push(kept.digest.clone());

    let young = blobs.gc(&Owner::of(&owned).alone(), DAY).await.unwrap();
    assert_eq!(young.removed, 0);
    clock.advance(DAY * 2);
    let mut pinned = Owner::of(&owned);
    pinned.pinned = Some(clock.now().minus(DAY * 2));
    assert_eq!(blobs.gc(&pinned.alone(), DAY).await.unwrap().removed, 0);
    // Finding a blob is as good as storing it.
    blobs.touch_many(&digests[20..25]).await.unwrap();

    let report = blobs.gc(&Owner::of(&owned).alone(), DAY).await.unwrap();
    assert_eq!((report.removed, report.packs), (76, 1));
    assert!(report.freed_bytes > report.removed_bytes / 2);
    let here = blobs.contains_many(&digests).await.unwrap();
    assert!(here[..25].iter().all(|here| *here));
    assert!(here[25..].iter().all(|here| !here));
    blobs.read_many(&digests[..25], 1 << 20).await.unwrap();
    blobs.verify(&kept.digest).await.unwrap();
    assert_eq!(blobs.size(&lost.digest).await.unwrap(), None);
    let again = blobs.gc(&Owner::of(&owned).alone(), DAY).await.unwrap();
    assert_eq!((again.removed, again.packs), (0, 0));
    // And the store still takes what it had forgotten.
    blobs.put_many(all).await.unwrap();
    assert_eq!(
        blobs.contains_many(&digests).await.unwrap(),
        vec![true; 100]
    );
}

#[tokio::test]
async fn a_blob_stored_again_during_a_collection_survives_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let blobs = open(dir.path(), &clock);
    let all: Vec<_> = (0..40).map(|n| blob(&format!("{n} "))).collect();
    let digests: Vec<Digest> = all.iter().map(|(digest, _)| digest.clone()).collect();
    blobs.put_many(all.clone()).await.unwrap();
    for (_, bytes) in &all {
        blobs.put(Algorithm::Sha256, bytes.clone()).await.unwrap();
    }
    clock.advance(DAY * 3);
    // The owner has marked nothing yet when the blobs are stored again.
    let mut owner = Owner::of(&[]);
    owner.meanwhile = Some(blobs.clone());
    owner.readded = all[..10].to_vec();
    let report = blobs.gc(&owner.alone(), DAY).await.unwrap();
    assert_eq!(report.removed, 60);
    blobs.read_many(&digests[..10], 1 << 20).await.unwrap();
    for (_, bytes) in &all[..10] {
        blobs
            .verify(&Hasher::digest(Algorithm::Sha256, bytes))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_and_collections_race_without_losing_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let blobs = open(dir.path(), &clock);
    let all: Vec<_> = (0..200).map(|n| blob(&format!("{n} "))).collect();
    for round in 0..6 {
        blobs.put_many(all.clone()).await.unwrap();
        for (_, bytes) in &all[..30] {
            blobs.put(Algorithm::Sha256, bytes.clone()).await.unwrap();
        }
        clock.advance(DAY * 3);
        let writer = {
            let (blobs, all) = (blobs.clone(), all.clone());
            tokio::spawn(async move {
                let mut stored = Vec::new();
                for (digest, bytes) in all.iter().skip(round).step_by(7) {
                    blobs
                        .put_many(vec![(digest.clone(), bytes.clone())])
                        .await
                        .unwrap();
                    stored.push(digest.clone());
                    let loose = blobs.put(Algorithm::Sha256, bytes.clone()).await.unwrap();
                    stored.push(loose.digest);
                }
                stored
            })
        };
        let collected = blobs.gc(&Owner::of(&[]).alone(), DAY).await.unwrap();
        let stored = writer.await.unwrap();
        for digest in &stored {
            blobs.verify(digest).await.unwrap();
        }
        assert!(collected.seen > 0);
        let hold = blobs.hold().await;
        assert_eq!(hold.epoch(), blobs.epoch());
    }
}

#[tokio::test]
async fn nothing_is_swept_while_somebody_holds() {
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let blobs = open(dir.path(), &clock);
    let (digest, bytes) = blob("held ");
    blobs.put_many(vec![(digest.clone(), bytes)]).await.unwrap();
    clock.advance(DAY * 3);
    let hold = blobs.hold().await;
    let sweep = {
        let blobs = blobs.clone();
        tokio::spawn(async move { blobs.gc(&Owner::of(&[]).alone(), DAY).await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        blobs
            .touch_many(std::slice::from_ref(&digest))
            .await
            .unwrap(),
        [true]
    );
    drop(hold);
    assert_eq!(sweep.await.unwrap().unwrap().removed, 0);
    blobs.verify(&digest).await.unwrap();
}

#[tokio::test]
async fn an_owner_that_fails_stops_the_collection() {
    struct Failing;
    #[async_trait]
    impl BlobOwner for Failing {
        fn name(&self) -> &'static str {
            "failing"
        }

        async fn mark(&self, _: &mut Marks) -> Result<(), Problem> {
            Err(Problem::internal("cannot say", "broken"))
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let clock = clock();
    let blobs = open(dir.path(), &clock);
    let (digest, bytes) = blob("a");
    blobs.put_many(vec![(digest.clone(), bytes)]).await.unwrap();
    clock.advance(DAY * 3);
    let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(Owner::of(&[])), Arc::new(Failing)];
    blobs.gc(&owners, DAY).await.unwrap_err();
    blobs.verify(&digest).await.unwrap();
}

/// Panics at one point, as near to a kill as a test in this process gets.
struct PanicAt(&'static str, Mutex<BTreeSet<&'static str>>);

impl CrashPoints for PanicAt {
    fn reached(&self, point: &'static str) {
        self.1.lock().unwrap().insert(point);
        assert!(point != self.0, "crash at {point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_anywhere_the_store_opens_whole_again() {
    for point in [
        "store.pack.published",
        "store.blob.renamed",
        "store.gc.marked",
        "store.gc.swept",
        "store.gc.copied",
        "store.gc.moved",
        "store.gc.shrunk",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let clock = clock();
        let all: Vec<_> = (0..60).map(|n| blob(&format!("{n} "))).collect();
        let digests: Vec<Digest> = all.iter().map(|(digest, _)| digest.clone()).collect();
        open(dir.path(), &clock)
            .put_many(all.clone())
            .await
            .unwrap();
        clock.advance(DAY * 3);
        let crash = Arc::new(PanicAt(point, Mutex::default()));
        let blobs = Blobs::open_with(dir.path(), clock.clone(), crash.clone()).unwrap();
        let owned = digests[..5].to_vec();
        let work = {
            let (blobs, owned) = (blobs.clone(), owned.clone());
            tokio::spawn(async move {
                blobs.put_many(vec![blob("new")]).await.unwrap();
                blobs
                    .put(Algorithm::Sha256, Bytes::from_static(b"new"))
                    .await
                    .unwrap();
                blobs.gc(&Owner::of(&owned).alone(), DAY).await.unwrap();
            })
        };
        assert!(work.await.is_err(), "{point} was not reached");
        drop(blobs);
        let blobs = open(dir.path(), &clock);
        blobs.read_many(&owned, 1 << 20).await.unwrap();
        clock.advance(DAY * 3);
        blobs.gc(&Owner::of(&owned).alone(), DAY).await.unwrap();
        blobs.gc(&Owner::of(&owned).alone(), DAY).await.unwrap();
        blobs.read_many(&owned, 1 << 20).await.unwrap();
        assert_eq!(
            blobs.contains_many(&digests[5..]).await.unwrap(),
            vec![false; 55],
            "{point}"
        );
        assert_eq!(
            std::fs::read_dir(dir.path().join("packs")).unwrap().count(),
            1,
            "{point}"
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<u8>),
    Loose(u8),
    Touch(Vec<u8>),
    Own(u8),
    Disown(u8),
    Wait(u8),
    Collect,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let one = || 0u8..24;
    let some = || proptest::collection::vec(0u8..24, 1..8);
    let step = prop_oneof![
        some().prop_map(Step::Put),
        one().prop_map(Step::Loose),
        some().prop_map(Step::Touch),
        one().prop_map(Step::Own),
        one().prop_map(Step::Disown),
        (0u8..60).prop_map(Step::Wait),
        Just(Step::Collect),
        Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever happens in whatever order: what is owned, or was touched within the grace
    /// period, reads back whole.
    #[test]
    fn owned_and_young_blobs_always_read_back(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let dir = tempfile::tempdir().unwrap();
            let clock = clock();
            let mut blobs = open(dir.path(), &clock);
            let all: Vec<_> = (0..24).map(|n| blob(&format!("{n} "))).collect();
            let mut touched = vec![None::<Timestamp>; all.len()];
            let mut owned = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Put(which) => {
                        blobs.put_many(which.iter().map(|n| all[*n as usize].clone()).collect()).await.unwrap();
                        which.iter().for_each(|n| touched[*n as usize] = Some(clock.now()));
                    }
                    Step::Loose(n) => {
                        blobs.put(Algorithm::Blake3, all[n as usize].1.clone()).await.unwrap();
                        touched[n as usize] = Some(clock.now());
                    }
                    Step::Touch(which) => {
                        let digests: Vec<Digest> = which.iter().map(|n| all[*n as usize].0.clone()).collect();
                        for (n, here) in which.iter().zip(blobs.touch_many(&digests).await.unwrap()) {
                            if here { touched[*n as usize] = Some(clock.now()); }
                        }
                    }
                    Step::Own(n) => {
                        if blobs.touch_many(&[all[n as usize].0.clone()]).await.unwrap()[0] {
                            touched[n as usize] = Some(clock.now());
                            owned.insert(n);
                        }
                    }
                    Step::Disown(n) => { owned.remove(&n); }
                    Step::Wait(hours) => clock.advance(Duration::from_secs(3_600 * u64::from(hours))),
                    Step::Collect => {
                        let set: Vec<Digest> = owned.iter().map(|n| all[*n as usize].0.clone()).collect();
                        blobs.gc(&Owner::of(&set).alone(), DAY).await.unwrap();
                    }
                    Step::Reopen => blobs = open(dir.path(), &clock),
                }
                for (n, (digest, bytes)) in all.iter().enumerate() {
                    let young = touched[n].is_some_and(|at| clock.now().since(at) <= DAY);
                    if owned.contains(&(n as u8)) || young {
                        assert_eq!(&blobs.read(digest, 1 << 20).await.unwrap(), bytes);
                    }
                }
            }
        });
    }
}

/// A file system of its own that is full after a megabyte. Needs the right to mount; where that
/// is missing the test says so.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "ondol-test"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: a small file system cannot be mounted here");
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

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_half_made() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let blobs = Blobs::open(disk.0.path()).unwrap();
    let (digest, bytes) = blob("fits ");
    blobs.put_many(vec![(digest.clone(), bytes)]).await.unwrap();
    let large: Vec<_> = (0..40u32)
        .map(|n| {
            let bytes = Bytes::from(n.to_le_bytes().repeat(16_000));
            (Hasher::digest(Algorithm::Blake3, &bytes), bytes)
        })
        .collect();
    let refused = blobs.put_many(large.clone()).await.unwrap_err();
    assert!(refused.is_disk_full(), "{refused:?}");
    let all: Vec<u8> = large.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
    let refused = blobs.put(Algorithm::Sha256, all.into()).await.unwrap_err();
    assert!(refused.is_disk_full(), "{refused:?}");
    assert_eq!(
        std::fs::read_dir(disk.0.path().join("incoming"))
            .unwrap()
            .count(),
        0
    );
    let digests: Vec<Digest> = large.iter().map(|(digest, _)| digest.clone()).collect();
    assert!(
        blobs
            .contains_many(&digests)
            .await
            .unwrap()
            .iter()
            .all(|here| !here)
    );
    blobs.verify(&digest).await.unwrap();
    // Space for a little is left, and it still works.
    blobs.put_many(vec![blob("also fits ")]).await.unwrap();
}
