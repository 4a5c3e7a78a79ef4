//! The rows of archived segments.

use ondol_types::{Digest, ProjectName, Timestamp};

use super::Event;
use super::EventFilter;
use crate::db::{Migration, Row, Tx};
use crate::error::StoreError;
use crate::params;

pub(crate) const MIGRATION: Migration = Migration {
    number: 3,
    name: "archive of events",
    sql: "CREATE TABLE event_segment (
    first_seq BIGINT PRIMARY KEY,
    last_seq BIGINT NOT NULL UNIQUE,
    events BIGINT NOT NULL,
    raw_bytes BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    digest TEXT NOT NULL,
    projects TEXT,
    types TEXT,
    previous TEXT NOT NULL,
    checkpoint TEXT NOT NULL,
    archived_at BIGINT NOT NULL,
    verified_at BIGINT NOT NULL,
    damage TEXT,
    dropped BIGINT NOT NULL
);
CREATE INDEX event_segment_verified ON event_segment (dropped, verified_at);
",
};

/// More distinct values than these are not listed: any of them may be in the segment.
const LISTED: usize = 200;

/// An archived segment.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) events: u64,
    pub(super) raw_bytes: u64,
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    /// The projects in it, when they are few; events without one are not told.
    pub(super) projects: Option<Vec<ProjectName>>,
    /// The types in it, when they are few.
    pub(super) types: Option<Vec<String>>,
    /// The checkpoint before it.
    pub(super) previous: String,
    pub(super) checkpoint: String,
}

const COLUMNS: &str =
    "first_seq, last_seq, events, raw_bytes, bytes, digest, projects, types, previous, checkpoint";

/// Distinct values, unless they are too many.
pub(super) fn listed<T: Ord>(values: impl Iterator<Item = T>) -> Option<Vec<T>> {
    let mut all: Vec<T> = values.collect();
    all.sort();
    all.dedup();
    (all.len() <= LISTED).then_some(all)
}

impl Segment {
    /// Whether an event in it can match, as far as its row can tell.
    pub(super) fn may_match(&self, filter: &EventFilter) -> bool {
        let project = match (&filter.project, &self.projects) {
            (Some(wanted), Some(here)) => here.contains(wanted),
            _ => true,
        };
        let event_type = match (filter.plain_prefix(), &self.types) {
            (Some(prefix), Some(here)) => here.iter().any(|found| found.starts_with(&prefix)),
            _ => true,
        };
        project && event_type
    }

    fn from_row(row: &Row) -> Result<Self, StoreError> {
        Ok(Self {
            first: row.get("first_seq")?,
            last: row.get("last_seq")?,
            events: row.get("events")?,
            raw_bytes: row.get("raw_bytes")?,
            bytes: row.get("bytes")?,
            digest: row.parse("digest")?,
            projects: row.json_opt("projects")?,
            types: row.json_opt("types")?,
            previous: row.get("previous")?,
            checkpoint: row.get("checkpoint")?,
        })
    }
}

async fn segments(
    tx: &mut Tx<'_>,
    rest: &str,
    params: crate::Params,
) -> Result<Vec<Segment>, StoreError> {
    let sql = crate::AssertSqlSafe(format!("SELECT {COLUMNS} FROM event_segment {rest}"));
    tx.fetch_all(sql, params)
        .await?
        .iter()
        .map(Segment::from_row)
        .collect()
}

/// The newest segment, dropped or not: the end of the archive.
pub(super) async fn newest(tx: &mut Tx<'_>) -> Result<Option<Segment>, StoreError> {
    Ok(segments(tx, "ORDER BY first_seq DESC LIMIT 1", params![])
        .await?
        .pop())
}

/// The segment before a place, dropped or not.
pub(super) async fn before(tx: &mut Tx<'_>, first: i64) -> Result<Option<Segment>, StoreError> {
    let rest = "WHERE first_seq < $1 ORDER BY first_seq DESC LIMIT 1";
    Ok(segments(tx, rest, params![first]).await?.pop())
}

/// Readable segments that end after a place, oldest first.
pub(super) async fn readable_after(
    tx: &mut Tx<'_>,
    after: i64,
    limit: u32,
) -> Result<Vec<Segment>, StoreError> {
    let rest = "WHERE dropped = 0 AND last_seq > $1 ORDER BY first_seq LIMIT $2";
    segments(tx, rest, params![after, limit]).await
}

/// Readable segments that begin before a place, newest first.
pub(super) async fn readable_before(
    tx: &mut Tx<'_>,
    before: i64,
    limit: u32,
) -> Result<Vec<Segment>, StoreError> {
    let rest = "WHERE dropped = 0 AND first_seq < $1 ORDER BY first_seq DESC LIMIT $2";
    segments(tx, rest, params![before, limit]).await
}

/// Readable segments that were last verified before a moment or found damaged, the longest ago
/// first.
pub(super) async fn to_verify(
    tx: &mut Tx<'_>,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<Segment>, StoreError> {
    let rest = "WHERE dropped = 0 AND (verified_at < $1 OR damage IS NOT NULL) ORDER BY verified_at LIMIT $2";
    segments(tx, rest, params![before, limit]).await
}

/// Notes what a verification found.
pub(super) async fn note_verified(
    tx: &mut Tx<'_>,
    first: i64,
    damage: Option<&str>,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE event_segment SET verified_at = $2, damage = $3 WHERE first_seq = $1",
        params![first, now, damage],
    )
    .await?;
    Ok(())
}

/// How many readable segments are damaged, and what is wrong with the oldest of them.
pub(super) async fn damaged(tx: &mut Tx<'_>) -> Result<(u64, Option<String>), StoreError> {
    let count: u64 = tx
        .fetch_one(
            "SELECT COUNT(*) AS n FROM event_segment WHERE dropped = 0 AND damage IS NOT NULL",
            params![],
        )
        .await?
        .get("n")?;
    let first = tx
        .fetch_optional(
            "SELECT damage FROM event_segment WHERE dropped = 0 AND damage IS NOT NULL ORDER BY first_seq LIMIT 1",
            params![],
        )
        .await?
        .map(|row| row.get("damage"))
        .transpose()?;
    Ok((count, first))
}

/// Readable segments, their bytes, and the events in them.
pub(super) async fn totals(tx: &mut Tx<'_>) -> Result<(u64, u64, u64), StoreError> {
    let row = tx
        .fetch_one(
            "SELECT COUNT(*) AS n, CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes,
                    CAST(COALESCE(SUM(events), 0) AS BIGINT) AS events
             FROM event_segment WHERE dropped = 0",
            params![],
        )
        .await?;
    Ok((row.get("n")?, row.get("bytes")?, row.get("events")?))
}

/// Writes the row of a segment.
pub(super) async fn insert(tx: &mut Tx<'_>, segment: &Segment) -> Result<(), StoreError> {
    let now = tx.now();
    let json = |value: serde_json::Result<String>| value.ok();
    tx.execute(
        "INSERT INTO event_segment (first_seq, last_seq, events, raw_bytes, bytes, digest, projects, types,
             previous, checkpoint, archived_at, verified_at, dropped)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, 0)",
        params![
            segment.first,
            segment.last,
            segment.events,
            segment.raw_bytes,
            segment.bytes,
            &segment.digest,
            segment
                .projects
                .as_ref()
                .and_then(|projects| json(serde_json::to_string(projects))),
            segment
                .types
                .as_ref()
                .and_then(|types| json(serde_json::to_string(types))),
            &segment.previous,
            &segment.checkpoint,
            now,
        ],
    )
    .await?;
    Ok(())
}

/// Gives up the readable segments up to one, whose row stays as the checkpoint before the rest.
pub(super) async fn drop_until(tx: &mut Tx<'_>, first: i64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE event_segment SET dropped = 1, damage = NULL WHERE first_seq = $1",
        params![first],
    )
    .await?;
    tx.execute(
        "DELETE FROM event_segment WHERE first_seq < $1",
        params![first],
    )
    .await?;
    Ok(())
}

/// The events of a range, oldest first.
pub(super) async fn range(
    tx: &mut Tx<'_>,
    after: i64,
    until: i64,
    limit: u32,
) -> Result<Vec<Event>, StoreError> {
    tx.fetch_all(
        "SELECT seq, id, type, time, project, subject, chain, document FROM event
         WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3",
        params![after, until, limit],
    )
    .await?
    .iter()
    .map(Event::from_row)
    .collect()
}

/// How many events a range has.
pub(super) async fn count(tx: &mut Tx<'_>, first: i64, last: i64) -> Result<u64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM event WHERE seq >= $1 AND seq <= $2",
        params![first, last],
    )
    .await?
    .get("n")
}

/// Deletes the events of a range.
pub(super) async fn delete(tx: &mut Tx<'_>, first: i64, last: i64) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM event WHERE seq >= $1 AND seq <= $2",
        params![first, last],
    )
    .await
}
