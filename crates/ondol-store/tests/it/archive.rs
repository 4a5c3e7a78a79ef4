//! The archive of the event log: what moves, what waits, what is read, and what a death leaves.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ondol_store::blobs::{BlobOwner, Blobs};
use ondol_store::events::{
    ArchiveConfig, CRASH_POINTS, Event, EventArchive, EventFilter, EventFollower, EventLog,
    NewEvent,
};
use ondol_store::testing::{TestStore, backends_at};
use ondol_store::{StoreError, Value};
use ondol_types::{
    Clock, CrashPoints, ManualClock, NoCrash, Problem, ProjectName, Timestamp, event,
};

const HOUR: Duration = Duration::from_secs(3_600);

struct At(Arc<AtomicI64>);

#[async_trait]
impl EventFollower for At {
    fn name(&self) -> &'static str {
        "test.follow"
    }

    async fn place(&self) -> Result<i64, Problem> {
        Ok(self.0.load(Ordering::SeqCst))
    }
}

struct World {
    backend: TestStore,
    clock: Arc<ManualClock>,
    blobs: Blobs,
    follower: Arc<AtomicI64>,
    log: EventLog,
}

async fn worlds() -> Vec<World> {
    let clock = Arc::new(ManualClock::at(Timestamp::from_micros(
        1_800_000_000_000_000,
    )));
    let mut worlds = Vec::new();
    for backend in backends_at(&[], clock.clone()).await {
        let folder = backend.dir.path().join("blobs");
        let blobs = Blobs::open_with(&folder, clock.clone(), Arc::new(NoCrash)).unwrap();
        worlds.push(World {
            log: EventLog::new(backend.store.clone(), blobs.clone()),
            clock: clock.clone(),
            blobs,
            follower: Arc::new(AtomicI64::new(i64::MAX)),
            backend,
        });
    }
    worlds
}

fn config() -> ArchiveConfig {
    ArchiveConfig {
        keep: HOUR,
        segment_events: 50,
        ..ArchiveConfig::default()
    }
}

impl World {
    fn archive_with(&self, config: ArchiveConfig, crash: Arc<dyn CrashPoints>) -> EventArchive {
        let followers: Vec<Arc<dyn EventFollower>> = vec![Arc::new(At(self.follower.clone()))];
        let store = self.backend.store.clone();
        EventArchive::new(store, self.blobs.clone(), followers, crash, config)
    }

    fn archive(&self) -> EventArchive {
        self.archive_with(config(), Arc::new(NoCrash))
    }

    /// Appends events of two projects and of none, in chains of four.
    async fn append(&self, count: i64) {
        self.backend
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let from = tx.newest_event().await?;
                    for number in from..from + count {
                        let kind = match number % 2 {
                            0 => event::REPOSITORY_CREATED,
                            _ => event::TOKEN_REVOKED,
                        };
                        let mut new = NewEvent::new(kind, format!("subject-{}", number % 7))
                            .chain(format!("chain-{}", number / 4))
                            .content(serde_json::json!({ "number": number }));
                        if number % 3 > 0 {
                            let name = if number < 150 { "early" } else { "late" };
                            new = new.project(&name.parse().unwrap());
                        }
                        tx.append(new).await?;
                    }
                    Ok(())
                })
            })
            .await
            .unwrap();
    }

    async fn rows(&self, table: &'static str) -> i64 {
        let sql = ondol_store::AssertSqlSafe(format!("SELECT COUNT(*) AS n FROM {table}"));
        self.backend
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.fetch_one(sql, vec![]).await?.get("n") })
            })
            .await
            .unwrap()
    }

    async fn execute(&self, sql: &'static str, params: Vec<Value>) {
        let params = &params;
        self.backend
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.execute(sql, params.clone()).await })
            })
            .await
            .unwrap();
    }

    async fn newest(&self) -> i64 {
        self.backend
            .store
            .read::<_, StoreError, _>(|tx| Box::pin(tx.newest_event()))
            .await
            .unwrap()
    }

    /// Everything behind a place, page by page.
    async fn all_after(&self, place: i64, filter: &EventFilter, limit: u32) -> Vec<Event> {
        let (mut found, mut place, mut questions) = (Vec::new(), place, 0);
        loop {
            let page = self.log.after(place, filter, limit).await.unwrap();
            assert!(page.events.len() <= limit as usize);
            assert!(page.events.iter().all(|event| event.seq > place));
            found.extend(page.events);
            if !page.more {
                assert_eq!(page.place, self.newest().await, "all of it was seen");
                return found;
            }
            assert!(page.place > place, "every question gets somewhere");
            place = page.place;
            questions += 1;
            assert!(questions < 2_000);
        }
    }

    /// Everything before a place, page by page.
    async fn all_before(&self, place: i64, filter: &EventFilter, limit: u32) -> Vec<Event> {
        let (mut found, mut place) = (Vec::new(), place);
        loop {
            let page = self.log.before(place, filter, limit).await.unwrap();
            assert!(page.events.len() <= limit as usize);
            found.extend(page.events);
            if !page.more {
                return found;
            }
            assert!(page.place < place, "every question gets somewhere");
            place = page.place;
        }
    }
}

fn filters() -> Vec<EventFilter> {
    let of = |name: &str| EventFilter {
        project: Some(name.parse::<ProjectName>().unwrap()),
        ..EventFilter::default()
    };
    vec![
        EventFilter::default(),
        of("early"),
        of("late"),
        of("nobody"),
        EventFilter {
            type_prefix: Some("dev.cdevents.repository".to_owned()),
            ..EventFilter::default()
        },
        EventFilter {
            type_prefix: Some("dev.cdevents.nothing".to_owned()),
            ..EventFilter::default()
        },
        EventFilter {
            chain: Some("chain-30".to_owned()),
            ..EventFilter::default()
        },
        EventFilter {
            subject: Some("subject-3".to_owned()),
            ..of("early")
        },
    ]
}

fn texts(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .map(|event| serde_json::to_string(event).unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn archived_events_are_read_like_the_others() {
    for world in worlds().await {
        let archive = world.archive();
        assert_eq!(archive.round().await.unwrap().segments, 0, "nothing is old");
        world.append(1_020).await;
        let mut expected = Vec::new();
        for filter in filters() {
            expected.push(texts(&world.all_after(0, &filter, 10_000).await));
        }
        assert_eq!(expected[0].len(), 1_020);
        assert!(expected[3].is_empty() && expected[5].is_empty());
        assert_eq!(expected[6].len(), 4);
        world.clock.advance(2 * HOUR);
        let mut moved = 0;
        loop {
            let done = archive.round().await.unwrap();
            moved += done.events;
            if !done.more {
                break;
            }
        }
        assert_eq!(moved, 1_000, "what does not fill a segment waits");
        assert_eq!(world.rows("event").await, 20);
        assert_eq!(world.rows("event_segment").await, 20);
        for (filter, expected) in filters().iter().zip(&expected) {
            for limit in [7, 400] {
                let found = texts(&world.all_after(0, filter, limit).await);
                assert_eq!(found, *expected, "{} {filter:?}", world.backend.name);
                let mut found = texts(&world.all_before(i64::MAX, filter, limit).await);
                found.reverse();
                assert_eq!(found, *expected, "{} {filter:?}", world.backend.name);
            }
        }
        for place in [1, 49, 50, 51, 500, 999, 1_000, 1_001, 1_019, 1_020] {
            let all = EventFilter::default();
            let found = texts(&world.all_after(place, &all, 100).await);
            assert_eq!(found, expected[0][place as usize..], "after {place}");
            let mut found = texts(&world.all_before(place, &all, 100).await);
            found.reverse();
            assert_eq!(found, expected[0][..place as usize - 1], "before {place}");
        }
        // The rest goes when it is long over its time.
        world.clock.advance(25 * HOUR);
        assert_eq!(archive.round().await.unwrap().events, 20);
        assert_eq!(world.rows("event").await, 0);
        world.append(3).await;
        let everything = world.all_after(0, &EventFilter::default(), 500).await;
        assert_eq!(everything.len(), 1_023);
        assert_eq!(texts(&everything[..1_020]), expected[0]);
        let verified = archive.verify_older(world.clock.now()).await.unwrap();
        assert_eq!((verified.segments, verified.events), (21, 1_020));
        assert_eq!(verified.damaged, 0, "{:?}", verified.damage);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_never_overtaken() {
    for world in worlds().await {
        world.append(400).await;
        world.clock.advance(100 * HOUR);
        let archive = world.archive();
        world.follower.store(0, Ordering::SeqCst);
        let done = archive.round().await.unwrap();
        assert_eq!(done.events, 0);
        assert_eq!(done.waits_for, Some(("test.follow".to_owned(), 0)));
        for place in [1, 49, 50, 120, 399] {
            world.follower.store(place, Ordering::SeqCst);
            while archive.round().await.unwrap().more {}
            let left = world
                .backend
                .store
                .read::<_, StoreError, _>(|tx| {
                    Box::pin(
                        async move { tx.events_after(place, &EventFilter::default(), 1_000).await },
                    )
                })
                .await
                .unwrap();
            assert_eq!(
                left.len() as i64,
                400 - place,
                "it still finds all behind {place}"
            );
        }
        world.follower.store(400, Ordering::SeqCst);
        while archive.round().await.unwrap().more {}
        assert_eq!(world.rows("event").await, 0);
        assert_eq!(
            world.all_after(0, &EventFilter::default(), 70).await.len(),
            400
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_rows_move_before_their_time() {
    for world in worlds().await {
        world.append(380).await;
        let config = ArchiveConfig {
            max_rows: 100,
            ..config()
        };
        let archive = world.archive_with(config, Arc::new(NoCrash));
        while archive.round().await.unwrap().more {}
        assert_eq!(world.rows("event").await, 130);
        world.append(20).await;
        while archive.round().await.unwrap().more {}
        assert_eq!(world.rows("event").await, 100);
        assert_eq!(
            world.all_after(0, &EventFilter::default(), 33).await.len(),
            400
        );
    }
}

struct DieAt(&'static str);

impl CrashPoints for DieAt {
    fn reached(&self, point: &'static str) {
        assert_ne!(point, self.0, "the test ends the task here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_at_any_place_loses_and_doubles_nothing() {
    for world in worlds().await {
        for point in CRASH_POINTS {
            world.append(130).await;
            let all = EventFilter::default();
            let expected = texts(&world.all_after(0, &all, 1_000).await);
            world.clock.advance(2 * HOUR);
            let dying = world.archive_with(config(), Arc::new(DieAt(point)));
            assert!(
                tokio::spawn(async move { dying.round().await })
                    .await
                    .is_err()
            );
            assert_eq!(
                texts(&world.all_after(0, &all, 60).await),
                expected,
                "{point}"
            );
            let archive = world.archive();
            while archive.round().await.unwrap().more {}
            archive.round().await.unwrap();
            assert_eq!(
                texts(&world.all_after(0, &all, 60).await),
                expected,
                "{point}"
            );
            let verified = archive.verify_older(world.clock.now()).await.unwrap();
            assert_eq!(verified.damaged, 0, "{point}: {:?}", verified.damage);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_stay_when_their_segment_cannot_be_stored() {
    for world in worlds().await {
        world.append(60).await;
        world.clock.advance(2 * HOUR);
        let incoming = world.backend.dir.path().join("blobs/incoming");
        std::fs::remove_dir_all(&incoming).unwrap();
        std::fs::write(&incoming, "in the way").unwrap();
        let archive = world.archive();
        assert!(archive.round().await.is_err());
        assert_eq!(world.rows("event").await, 60);
        assert_eq!(world.rows("event_segment").await, 0);
        std::fs::remove_file(&incoming).unwrap();
        std::fs::create_dir(&incoming).unwrap();
        assert_eq!(archive.round().await.unwrap().events, 50);
        assert_eq!(
            world.all_after(0, &EventFilter::default(), 9).await.len(),
            60
        );
    }
}

/// The largest blob.
fn some_blob(root: &Path) -> std::path::PathBuf {
    let mut open = vec![root.join("blake3")];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.file_type().unwrap().is_dir() {
                true => open.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn verification_finds_what_was_changed() {
    for world in worlds().await {
        world.append(300).await;
        world.clock.advance(2 * HOUR);
        let archive = world.archive();
        while archive.round().await.unwrap().more {}
        let verify = async || archive.verify_older(world.clock.now()).await.unwrap();
        world.clock.advance(HOUR);
        let fine = verify().await;
        assert_eq!((fine.checked, fine.damaged, fine.segments), (6, 0, 6));
        assert_eq!(archive.verify().await.unwrap().checked, 0, "it is not due");

        // A byte of a blob.
        let path = some_blob(&world.backend.dir.path().join("blobs"));
        let good = std::fs::read(&path).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        world.clock.advance(HOUR);
        let found = verify().await;
        assert_eq!(found.damaged, 1);
        assert!(found.damage.unwrap().starts_with("events "));
        let mut place = 0;
        let refused = loop {
            match world.log.after(place, &EventFilter::default(), 50).await {
                Ok(page) if page.more => place = page.place,
                Ok(_) => panic!("damaged bytes were handed out"),
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::Corrupted { .. }), "{refused}");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            archive.verify().await.unwrap().damaged,
            1,
            "it is looked at again"
        );
        std::fs::write(&path, &good).unwrap();
        let healed = archive.verify().await.unwrap();
        assert_eq!((healed.damaged, healed.damage), (0, None));

        // A row: one that was taken out, and one that was changed.
        world
            .execute(
                "UPDATE event_segment SET events = 49 WHERE first_seq = 101",
                vec![],
            )
            .await;
        world.clock.advance(HOUR);
        let found = verify().await;
        assert_eq!(found.damaged, 1);
        assert!(found.damage.unwrap().contains("checkpoint"));
        world
            .execute("DELETE FROM event_segment WHERE first_seq = 101", vec![])
            .await;
        world.clock.advance(HOUR);
        let found = verify().await;
        assert_eq!(found.damaged, 1);
        let damage = found.damage.unwrap();
        assert!(damage.starts_with("events 151 to 200"), "{damage}");
        assert!(damage.contains("does not follow"), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_over_its_ceiling_gives_up_the_oldest_and_stays_whole() {
    for world in worlds().await {
        world.append(500).await;
        world.clock.advance(2 * HOUR);
        while world.archive().round().await.unwrap().more {}
        let small = ArchiveConfig {
            max_segments: 3,
            ..config()
        };
        let archive = world.archive_with(small, Arc::new(NoCrash));
        let done = archive.round().await.unwrap();
        assert_eq!((done.segments, done.dropped), (0, 7));
        assert_eq!(archive.round().await.unwrap().dropped, 0);
        assert_eq!(
            world.rows("event_segment").await,
            4,
            "one stays as the anchor"
        );
        let left = world.all_after(0, &EventFilter::default(), 40).await;
        assert_eq!((left[0].seq, left.len()), (351, 150));
        assert_eq!(
            world
                .all_before(i64::MAX, &EventFilter::default(), 40)
                .await
                .len(),
            150
        );
        // The collection takes what was given up, and only that.
        world.clock.advance(100 * HOUR);
        let owners: Vec<Arc<dyn BlobOwner>> = vec![Arc::new(archive.clone())];
        let report = world.blobs.gc(&owners, HOUR).await.unwrap();
        assert_eq!((report.marked, report.removed), (3, 7));
        let verified = archive.verify_older(world.clock.now()).await.unwrap();
        assert_eq!(
            (verified.segments, verified.damaged),
            (3, 0),
            "{:?}",
            verified.damage
        );
        // The chain goes on behind the anchor even when nothing else is left.
        let tiny = ArchiveConfig {
            max_bytes: 0,
            ..config()
        };
        let archive = world.archive_with(tiny, Arc::new(NoCrash));
        assert_eq!(archive.round().await.unwrap().dropped, 3);
        assert_eq!(world.rows("event_segment").await, 1);
        world.append(50).await;
        world.clock.advance(2 * HOUR);
        assert_eq!(world.archive().round().await.unwrap().segments, 1);
        let verified = world
            .archive()
            .verify_older(world.clock.now())
            .await
            .unwrap();
        assert_eq!(
            (verified.segments, verified.damaged),
            (1, 0),
            "{:?}",
            verified.damage
        );
        assert_eq!(
            world.all_after(0, &EventFilter::default(), 40).await[0].seq,
            501
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_beside_the_archive_miss_nothing() {
    for world in worlds().await {
        world.append(600).await;
        world.clock.advance(2 * HOUR);
        let archive = world.archive();
        let archiving = tokio::spawn(async move { while archive.round().await.unwrap().more {} });
        let numbers: Vec<i64> = (1..=600).collect();
        loop {
            let ended = archiving.is_finished();
            let found = world.all_after(0, &EventFilter::default(), 90).await;
            let seen: Vec<i64> = found.iter().map(|event| event.seq).collect();
            assert_eq!(seen, numbers);
            let mut found = world
                .all_before(i64::MAX, &EventFilter::default(), 90)
                .await;
            found.reverse();
            let seen: Vec<i64> = found.iter().map(|event| event.seq).collect();
            assert_eq!(seen, numbers);
            if ended {
                break;
            }
        }
        archiving.await.unwrap();
        assert_eq!(world.rows("event").await, 0);
    }
}
