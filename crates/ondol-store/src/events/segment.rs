//! The bytes of an archived segment of the event log.
//!
//! A segment is a zstd frame of lines of JSON: a head that names the format and the range, then
//! one event per line in the order of the log, so that `zstd -dc` and any JSON tool read it. It is
//! a blob, addressed by the digest of its compressed bytes. What chains segments is not in the
//! bytes but in their rows: the checkpoint of one is a hash over its digest, its range, and the
//! checkpoint before it.
//!
//! Reading never holds more than one line and what it answers with.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};

use bytes::Bytes;
use ondol_types::{Digest, EventId, ProjectName, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Event, EventFilter, MAX_DOCUMENT_BYTES};

/// The version of the format.
const FORMAT: u32 = 1;
const LEVEL: i32 = 9;
/// The most bytes of a line: a document with the columns beside it, all of it escaped.
const MAX_LINE: u64 = 4 * MAX_DOCUMENT_BYTES as u64;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    first: i64,
    last: i64,
    events: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    seq: i64,
    id: EventId,
    #[serde(rename = "type")]
    event_type: String,
    /// Microseconds since 1970.
    time: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    project: Option<ProjectName>,
    subject: String,
    chain: String,
    document: Value,
}

impl From<Line> for Event {
    fn from(line: Line) -> Self {
        Self {
            seq: line.seq,
            id: line.id,
            event_type: line.event_type,
            time: Timestamp::from_micros(line.time),
            project: line.project,
            subject: line.subject,
            chain: line.chain,
            document: line.document,
        }
    }
}

/// Which events of a segment, and how many.
pub(super) enum Wanted {
    /// The first so many after a place.
    After(i64, usize),
    /// The last so many before a place.
    Before(i64, usize),
}

/// The compressed bytes of some events, and how many they are uncompressed.
pub(super) fn encode(events: &[Event]) -> std::io::Result<(Bytes, u64)> {
    let (Some(first), Some(last)) = (events.first(), events.last()) else {
        return Err(std::io::Error::other("a segment without events"));
    };
    let mut out = zstd::Encoder::new(Vec::new(), LEVEL)?;
    out.include_checksum(true)?;
    let mut size = 0;
    let mut line = Vec::new();
    let head = Head {
        format: FORMAT,
        first: first.seq,
        last: last.seq,
        events: events.len() as u64,
    };
    serde_json::to_writer(&mut line, &head)?;
    for event in events {
        line.push(b'\n');
        out.write_all(&line)?;
        size += line.len() as u64;
        line.clear();
        serde_json::to_writer(
            &mut line,
            &Line {
                seq: event.seq,
                id: event.id,
                event_type: event.event_type.clone(),
                time: event.time.as_micros(),
                project: event.project.clone(),
                subject: event.subject.clone(),
                chain: event.chain.clone(),
                document: event.document.clone(),
            },
        )?;
    }
    line.push(b'\n');
    out.write_all(&line)?;
    size += line.len() as u64;
    Ok((out.finish()?.into(), size))
}

/// The lines of a segment, one at a time.
struct Lines<'a> {
    reader: BufReader<zstd::Decoder<'static, BufReader<&'a [u8]>>>,
    line: Vec<u8>,
}

impl<'a> Lines<'a> {
    fn open(bytes: &'a [u8]) -> Result<(Self, Head), String> {
        let decoder = zstd::Decoder::new(bytes).map_err(|error| error.to_string())?;
        let mut lines = Self {
            reader: BufReader::new(decoder),
            line: Vec::new(),
        };
        let head: Head = lines.next()?.ok_or("it is empty")?;
        if head.format != FORMAT {
            return Err(format!(
                "its format is {}, this build knows {FORMAT}",
                head.format
            ));
        }
        Ok((lines, head))
    }

    fn next<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, String> {
        self.line.clear();
        let read = (&mut self.reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| error.to_string())?;
        if read == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&self.line)
            .map(Some)
            .map_err(|error| format!("a line is not an event: {error}"))
    }
}

/// The events of a segment that match, in the order of the log.
pub(super) fn select(
    bytes: &[u8],
    filter: &EventFilter,
    wanted: &Wanted,
) -> Result<Vec<Event>, String> {
    let (mut lines, _) = Lines::open(bytes)?;
    let mut found = VecDeque::new();
    while let Some(line) = lines.next::<Line>()? {
        match wanted {
            Wanted::After(after, _) if line.seq <= *after => continue,
            Wanted::Before(before, _) if line.seq >= *before => break,
            _ => {}
        }
        let event = Event::from(line);
        if !filter.matches(&event) {
            continue;
        }
        found.push_back(event);
        match wanted {
            Wanted::After(_, limit) if found.len() >= *limit => break,
            Wanted::Before(_, limit) if found.len() > *limit => {
                found.pop_front();
            }
            _ => {}
        }
    }
    Ok(found.into())
}

/// Reads a segment to its end and checks that it holds exactly its range, without a gap.
pub(super) fn check(bytes: &[u8], first: i64, last: i64, events: u64) -> Result<(), String> {
    let (mut lines, head) = Lines::open(bytes)?;
    if (head.first, head.last, head.events) != (first, last, events) {
        return Err(format!(
            "its head says {} events from {} to {}",
            head.events, head.first, head.last
        ));
    }
    let (mut count, mut before) = (0, None);
    while let Some(line) = lines.next::<Line>()? {
        let follows = before.map_or(line.seq == first, |before| line.seq == before + 1);
        if !follows {
            return Err(format!("event {} does not follow", line.seq));
        }
        before = Some(line.seq);
        count += 1;
    }
    if count != events || before != Some(last) {
        return Err(format!("it ends after {count} events"));
    }
    Ok(())
}

/// The checkpoint of a segment: what proves that neither it nor anything before it was changed.
pub(super) fn checkpoint(
    previous: &str,
    digest: &Digest,
    first: i64,
    last: i64,
    events: u64,
) -> String {
    let text = format!("ondol events v1\n{previous}\n{digest}\n{first}\n{last}\n{events}\n");
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
