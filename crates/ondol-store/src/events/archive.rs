//! The archive of the event log: what is old leaves the table and stays readable.
//!
//! The oldest events become a segment ([`super::segment`]) in the blob store; only in the
//! transaction that records the segment do their rows go. So at every moment each event is in
//! exactly one of both, and a death in between leaves at most a blob that nobody refers to.
//!
//! It must never take an event that a follower has not passed, and never break the chain: the
//! checkpoint of a segment is a hash over all segments before it, and when the archive is over its
//! own ceiling and gives up its oldest, the last checkpoint of those stays as the anchor of the
//! rest.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_types::{Algorithm, CrashPoints, Problem, Timestamp};

use super::rows::{self, Segment, listed};
use super::{Event, segment};
use crate::blobs::{BlobOwner, Blobs, Marks};
use crate::db::Store;
use crate::error::StoreError;

/// The most bytes of documents in one segment, before compression.
const SEGMENT_BYTES: usize = 8 << 20;
/// The most bytes that are read of a segment's blob.
pub(super) const MAX_BLOB: u64 = 4 * SEGMENT_BYTES as u64;
/// A segment that is not full is made when its oldest event is this much over its time.
const PATIENCE: Duration = Duration::from_secs(24 * 3_600);
/// Segments that one call makes, gives up or verifies at most.
const AT_ONCE: u32 = 16;

/// The places at which a test may end the process.
pub const CRASH_POINTS: &[&str] = &["store.archive.stored", "store.archive.recorded"];

/// Somebody who follows the log with a cursor.
#[async_trait]
pub trait EventFollower: Send + Sync + 'static {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// The place up to which it needs no event any more. It never goes back.
    ///
    /// # Errors
    /// Any problem keeps the archive from taking anything.
    async fn place(&self) -> Result<i64, Problem>;
}

/// How much of the log is kept, and where.
#[derive(Clone, Copy, Debug)]
pub struct ArchiveConfig {
    /// How long events stay in the database.
    pub keep: Duration,
    /// How many events stay in the database at most, apart from those that followers need.
    pub max_rows: u64,
    /// How many bytes the archive may have; its oldest segments go first.
    pub max_bytes: u64,
    /// How many segments the archive may have.
    pub max_segments: u64,
    /// How many events a full segment has.
    pub segment_events: u32,
    /// How often each segment is verified.
    pub verify_every: Duration,
}

impl Default for ArchiveConfig {
    fn default() -> Self {
        Self {
            keep: Duration::from_secs(30 * 24 * 3_600),
            max_rows: 500_000,
            max_bytes: 2 << 30,
            max_segments: 20_000,
            segment_events: 4_096,
            verify_every: Duration::from_secs(7 * 24 * 3_600),
        }
    }
}

/// What a round of archiving did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Archived {
    /// Segments that were made.
    pub segments: u64,
    /// Events that moved into them.
    pub events: u64,
    /// Segments that were given up because the archive is over its ceiling.
    pub dropped: u64,
    /// The follower that events wait for, with its place.
    pub waits_for: Option<(String, i64)>,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// What a round of verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Segments that were read.
    pub checked: u64,
    /// Segments that are damaged.
    pub damaged: u64,
    /// What is wrong with the oldest of those.
    pub damage: Option<String>,
    /// Segments that can be read.
    pub segments: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The events in them.
    pub events: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

/// The archive. Cheap to clone.
#[derive(Clone)]
pub struct EventArchive {
    store: Store,
    blobs: Blobs,
    followers: Arc<[Arc<dyn EventFollower>]>,
    crash: Arc<dyn CrashPoints>,
    config: ArchiveConfig,
}

impl EventArchive {
    /// The archive of the log in `store`. `followers` must be all: what a missing one has not
    /// read it finds no more.
    pub fn new(
        store: Store,
        blobs: Blobs,
        followers: Vec<Arc<dyn EventFollower>>,
        crash: Arc<dyn CrashPoints>,
        config: ArchiveConfig,
    ) -> Self {
        Self {
            store,
            blobs,
            followers: followers.into(),
            crash,
            config,
        }
    }

    /// Moves what is old into the archive and keeps the archive within its ceiling.
    ///
    /// # Errors
    /// Those of a follower, of the database and of the blob store. Repeating is always safe.
    pub async fn round(&self) -> Result<Archived, Problem> {
        let mut done = Archived::default();
        let mut floor = i64::MAX;
        let mut slowest = None;
        for follower in self.followers.iter() {
            let place = follower.place().await?;
            if place < floor {
                floor = place;
                slowest = Some(follower.name());
            }
        }
        while done.segments < u64::from(AT_ONCE) {
            match self.next(floor).await? {
                Next::Due(previous, events) => {
                    let Some(count) = self.archive(previous, events).await? else {
                        break;
                    };
                    done.segments += 1;
                    done.events += count;
                }
                Next::Waits => {
                    done.waits_for = slowest.map(|name| (name.to_owned(), floor));
                    break;
                }
                Next::Nothing => break,
            }
        }
        done.dropped = self.give_up().await?;
        done.more = done.segments == u64::from(AT_ONCE) || done.dropped == u64::from(AT_ONCE);
        Ok(done)
    }

    /// What the next segment would be.
    async fn next(&self, floor: i64) -> Result<Next, StoreError> {
        let config = &self.config;
        let (previous, newest, events) = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let previous = rows::newest(tx).await?;
                    let after = previous.as_ref().map_or(0, |segment| segment.last);
                    let limit = config.segment_events.clamp(1, 10_000);
                    let events = rows::range(tx, after, i64::MAX, limit).await?;
                    Ok((previous, tx.newest_event().await?, events))
                })
            })
            .await?;
        let horizon = self.store.clock().now().minus(config.keep);
        let surplus = newest.saturating_sub(i64::try_from(config.max_rows).unwrap_or(i64::MAX));
        let old = |event: &Event| event.time < horizon || event.seq <= surplus;
        let due = events.iter().take_while(|event| old(event)).count();
        let mut taken = Vec::new();
        let mut bytes = 0;
        let mut waits = false;
        for event in events.into_iter().take(due) {
            if event.seq > floor {
                waits = true;
                break;
            }
            bytes += event.document.to_string().len();
            if bytes > SEGMENT_BYTES && !taken.is_empty() {
                break;
            }
            taken.push(event);
        }
        let full = taken.len() as u32 >= config.segment_events.clamp(1, 10_000)
            || bytes > SEGMENT_BYTES
            || taken
                .first()
                .is_some_and(|oldest| oldest.time < horizon.minus(PATIENCE));
        Ok(match full {
            true => Next::Due(previous, taken),
            false if waits => Next::Waits,
            false => Next::Nothing,
        })
    }

    /// Makes one segment; `None` when somebody else was faster.
    async fn archive(
        &self,
        previous: Option<Segment>,
        events: Vec<Event>,
    ) -> Result<Option<u64>, StoreError> {
        let (Some(first), Some(last)) = (
            events.first().map(|event| event.seq),
            events.last().map(|event| event.seq),
        ) else {
            return Ok(None);
        };
        let damaged = |problem: String| StoreError::Archive {
            first,
            last,
            problem,
        };
        let count = events.len() as u64;
        let projects = listed(events.iter().filter_map(|event| event.project.clone()));
        let types = listed(events.iter().map(|event| event.event_type.clone()));
        // What is about to be deleted is read back from its new form first.
        let encoded = tokio::task::spawn_blocking(move || {
            let (bytes, raw) = segment::encode(&events).map_err(|error| error.to_string())?;
            segment::check(&bytes, first, last, count)?;
            Ok::<_, String>((bytes, raw))
        });
        let (bytes, raw_bytes) = encoded
            .await
            .map_err(|error| damaged(error.to_string()))?
            .map_err(damaged)?;
        let blob = self.blobs.put(Algorithm::Blake3, bytes).await?;
        self.crash.reached("store.archive.stored");
        let before = previous.as_ref().map_or("", |before| &before.checkpoint);
        let segment = &Segment {
            first,
            last,
            events: count,
            raw_bytes,
            bytes: blob.size,
            checkpoint: segment::checkpoint(before, &blob.digest, first, last, count),
            previous: before.to_owned(),
            digest: blob.digest.clone(),
            projects,
            types,
        };
        let hold = self.blobs.hold().await;
        if self
            .blobs
            .touch_many(std::slice::from_ref(&blob.digest))
            .await?
            != [true]
        {
            return Err(StoreError::NoBlob(blob.digest));
        }
        let recorded = self
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let end = rows::newest(tx).await?;
                    let end = end.as_ref().map_or("", |end| &end.checkpoint);
                    let here = rows::count(tx, segment.first, segment.last).await?;
                    if end != segment.previous || here != segment.events {
                        return Ok(false);
                    }
                    rows::insert(tx, segment).await?;
                    rows::delete(tx, segment.first, segment.last).await?;
                    Ok(true)
                })
            })
            .await?;
        drop(hold);
        self.crash.reached("store.archive.recorded");
        Ok(recorded.then_some(count))
    }

    /// Gives up the oldest segments while the archive is over its ceiling.
    async fn give_up(&self) -> Result<u64, StoreError> {
        let config = &self.config;
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let (mut segments, mut bytes, _) = rows::totals(tx).await?;
                    let mut dropped = 0;
                    for oldest in rows::readable_after(tx, 0, AT_ONCE).await? {
                        if segments <= config.max_segments && bytes <= config.max_bytes {
                            break;
                        }
                        rows::drop_until(tx, oldest.first).await?;
                        segments -= 1;
                        bytes -= oldest.bytes.min(bytes);
                        dropped += 1;
                    }
                    Ok(dropped)
                })
            })
            .await
    }

    /// Reads segments whose turn it is, from their bytes to their place in the chain, and tells
    /// how the archive stands. A damaged one is read again each time, so that a restored blob is
    /// noticed.
    ///
    /// # Errors
    /// Those of the database, and of the blob store when it does not answer.
    pub async fn verify(&self) -> Result<Verified, Problem> {
        let before = self.store.clock().now().minus(self.config.verify_every);
        self.verify_older(before).await
    }

    /// Verifies segments that were not verified since `before`.
    ///
    /// # Errors
    /// As [`EventArchive::verify`].
    pub async fn verify_older(&self, before: Timestamp) -> Result<Verified, Problem> {
        let due = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let mut due = Vec::new();
                    for segment in rows::to_verify(tx, before, AT_ONCE).await? {
                        let predecessor = rows::before(tx, segment.first).await?;
                        due.push((segment, predecessor));
                    }
                    Ok(due)
                })
            })
            .await?;
        let mut outcome = Verified {
            more: due.len() as u32 == AT_ONCE,
            ..Verified::default()
        };
        for (segment, predecessor) in &due {
            let damage = &self.examine(segment, predecessor.as_ref()).await?;
            if let Some(damage) = damage {
                tracing::error!(events.first = segment.first, events.last = segment.last, events.damage = %damage, "an archived segment is damaged");
            }
            let first = segment.first;
            self.store
                .write::<_, StoreError, _>(|tx| {
                    Box::pin(async move { rows::note_verified(tx, first, damage.as_deref()).await })
                })
                .await?;
            outcome.checked += 1;
        }
        let (damaged, totals) = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { Ok((rows::damaged(tx).await?, rows::totals(tx).await?)) })
            })
            .await?;
        (outcome.damaged, outcome.damage) = damaged;
        (outcome.segments, outcome.bytes, outcome.events) = totals;
        // Damaged ones are due again at once; they must not make the loop spin.
        outcome.more &= outcome.damaged < u64::from(AT_ONCE);
        Ok(outcome)
    }

    /// What is wrong with a segment, if anything is.
    async fn examine(
        &self,
        segment: &Segment,
        predecessor: Option<&Segment>,
    ) -> Result<Option<String>, StoreError> {
        let Segment {
            first,
            last,
            events,
            ..
        } = *segment;
        let wrong = |what: String| Ok(Some(format!("events {first} to {last}: {what}")));
        let chained = match predecessor {
            Some(before) => before.checkpoint == segment.previous && before.last + 1 == first,
            None => segment.previous.is_empty(),
        };
        if !chained {
            return wrong("the segment does not follow the one before it".to_owned());
        }
        let expected = segment::checkpoint(&segment.previous, &segment.digest, first, last, events);
        if expected != segment.checkpoint {
            return wrong("the checkpoint does not belong to the segment".to_owned());
        }
        let bytes = match self.blobs.read(&segment.digest, MAX_BLOB).await {
            Ok(bytes) => bytes,
            Err(
                error @ (StoreError::NoBlob(_)
                | StoreError::Corrupted { .. }
                | StoreError::TooLarge { .. }),
            ) => return wrong(error.to_string()),
            Err(error) => return Err(error),
        };
        let checked =
            tokio::task::spawn_blocking(move || segment::check(&bytes, first, last, events)).await;
        match checked {
            Ok(Ok(())) => Ok(None),
            Ok(Err(problem)) => wrong(problem),
            Err(error) => wrong(error.to_string()),
        }
    }
}

enum Next {
    /// These events, behind this segment.
    Due(Option<Segment>, Vec<Event>),
    /// Old events that a follower has not passed.
    Waits,
    Nothing,
}

#[async_trait]
impl BlobOwner for EventArchive {
    fn name(&self) -> &'static str {
        "events"
    }

    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem> {
        let mut after = 0;
        loop {
            let page = self
                .store
                .read::<_, StoreError, _>(|tx| Box::pin(rows::readable_after(tx, after, 1_000)))
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.last;
            page.iter().for_each(|segment| marks.add(&segment.digest));
        }
    }
}
