//! Reading the whole log: from the archive where a place lies there, from the table otherwise.
//!
//! Which segments there are and what the table holds is read in one snapshot, so an event that
//! moves into the archive meanwhile is neither skipped nor seen twice. A question reads a bounded
//! number of segments; when they do not hold enough, the answer says where to go on.

use ondol_types::Digest;

use super::archive::MAX_BLOB;
use super::rows::{self, Segment};
use super::segment::{self, Wanted};
use super::{Event, EventFilter};
use crate::blobs::Blobs;
use crate::db::Store;
use crate::error::StoreError;

/// Segments that one question reads at most.
const SEGMENTS: usize = 8;
/// Segments whose rows one question looks at; most of them have nothing that matches.
const ROWS: u32 = 256;
/// How often a question is asked anew because the archive gave up what it was about to read.
const ATTEMPTS: u32 = 3;
const MAX_LIMIT: u32 = 10_000;

/// Some events of the log.
#[derive(Clone, Debug)]
pub struct EventPage {
    /// The events, in the order asked for.
    pub events: Vec<Event>,
    /// How far the log was looked through: where the next question goes on.
    pub place: i64,
    /// Whether there is more at `place`.
    pub more: bool,
}

/// The event log with its archive. Cheap to clone.
#[derive(Clone)]
pub struct EventLog {
    store: Store,
    blobs: Blobs,
}

/// One snapshot of where events are.
struct Sight {
    segments: Vec<Segment>,
    live: Vec<Event>,
    newest: i64,
}

impl EventLog {
    /// The log in `store`, whose archive is in `blobs`.
    pub fn new(store: Store, blobs: Blobs) -> Self {
        Self { store, blobs }
    }

    /// Events after a place, oldest first, at most `limit`. A place before the oldest event that
    /// is kept stands for that.
    ///
    /// # Errors
    /// Those of the database and of the blob store; a damaged segment is an error and not a gap.
    pub async fn after(
        &self,
        place: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let limit = limit.clamp(1, MAX_LIMIT);
        let mut attempt = 1;
        loop {
            match self.try_after(place, filter, limit).await {
                Err(StoreError::NoBlob(_)) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    /// Events before a place, newest first, at most `limit`; `i64::MAX` begins at the end.
    ///
    /// # Errors
    /// As [`EventLog::after`].
    pub async fn before(
        &self,
        place: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let limit = limit.clamp(1, MAX_LIMIT);
        let mut attempt = 1;
        loop {
            match self.try_before(place, filter, limit).await {
                Err(StoreError::NoBlob(_)) if attempt < ATTEMPTS => attempt += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_after(
        &self,
        place: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let sight = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let segments = rows::readable_after(tx, place, ROWS).await?;
                    let live = match segments.len() as u32 {
                        ROWS => Vec::new(),
                        _ => tx.events_after(place, filter, limit).await?,
                    };
                    let newest = tx.newest_event().await?;
                    Ok(Sight {
                        segments,
                        live,
                        newest,
                    })
                })
            })
            .await?;
        let limit = limit as usize;
        let whole = sight.segments.len() < ROWS as usize;
        let mut page = EventPage {
            events: Vec::new(),
            place,
            more: true,
        };
        let mut read = 0;
        for found in &sight.segments {
            if found.may_match(filter) {
                if read == SEGMENTS {
                    return Ok(page);
                }
                read += 1;
                let wanted = Wanted::After(place, limit - page.events.len());
                page.events
                    .extend(self.select(found, filter, wanted).await?);
            }
            if page.events.len() >= limit {
                page.place = page.events.last().map_or(found.last, |last| last.seq);
                return Ok(page);
            }
            page.place = found.last;
        }
        if whole {
            let room = limit - page.events.len();
            page.events.extend(sight.live.into_iter().take(room));
            page.more = page.events.len() >= limit;
            page.place = match page.events.last() {
                Some(last) if page.more => last.seq,
                _ => sight.newest.max(place),
            };
        }
        Ok(page)
    }

    async fn try_before(
        &self,
        place: i64,
        filter: &EventFilter,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let (events, segments) = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let live = tx.events_before(place, filter, limit).await?;
                    let segments = match live.len() as u32 >= limit {
                        true => Vec::new(),
                        false => rows::readable_before(tx, place, ROWS).await?,
                    };
                    Ok((live, segments))
                })
            })
            .await?;
        let limit = limit as usize;
        let whole = segments.len() < ROWS as usize;
        let mut page = EventPage {
            place: events.last().map_or(place, |last| last.seq),
            more: true,
            events,
        };
        if page.events.len() >= limit {
            return Ok(page);
        }
        let mut read = 0;
        for found in &segments {
            if found.may_match(filter) {
                if read == SEGMENTS {
                    return Ok(page);
                }
                read += 1;
                let wanted = Wanted::Before(place, limit - page.events.len());
                let selected = self.select(found, filter, wanted).await?;
                page.events.extend(selected.into_iter().rev());
            }
            if page.events.len() >= limit {
                page.place = page.events.last().map_or(found.first, |last| last.seq);
                return Ok(page);
            }
            page.place = found.first;
        }
        page.more = !whole;
        Ok(page)
    }

    async fn select(
        &self,
        found: &Segment,
        filter: &EventFilter,
        wanted: Wanted,
    ) -> Result<Vec<Event>, StoreError> {
        let digest: &Digest = &found.digest;
        let bytes = self.blobs.read(digest, MAX_BLOB).await?;
        let filter = filter.clone();
        let damaged = |problem: String| StoreError::Archive {
            first: found.first,
            last: found.last,
            problem,
        };
        tokio::task::spawn_blocking(move || segment::select(&bytes, &filter, &wanted))
            .await
            .map_err(|error| damaged(error.to_string()))?
            .map_err(damaged)
    }
}
