//! Reads the log after a start.
//!
//! A frame that is not whole at the end of a generation is what a crash or a full disk left of a
//! commit that was never acknowledged: it is cut. A frame that is damaged with whole frames after
//! it was acknowledged: the file is kept aside under its name for whoever wants to look, the
//! damage is reported, and everything that can be read is read.

use std::fs::{self, OpenOptions};
use std::path::Path;

use super::record::{self, Entry, HEADER, MARKER};
use super::{delete_upto, parse};
use crate::tsdb::disk::Disk;
use crate::tsdb::error::TsdbError;

/// What a replay found.
#[derive(Debug, Default)]
pub(crate) struct Replayed {
    /// The newest generation that is there.
    pub(crate) newest: u32,
    /// Bytes read.
    pub(crate) bytes: u64,
    /// Files with damage, and what was expected where.
    pub(crate) damaged: Vec<String>,
}

/// Reads every generation after `flushed`, frame by frame; those up to it are deleted.
pub(crate) fn replay(
    disk: &Disk,
    flushed: u32,
    aside: &Path,
    take: &mut dyn FnMut(Entry),
) -> Result<Replayed, TsdbError> {
    let mut found = Replayed {
        newest: flushed,
        ..Replayed::default()
    };
    delete_upto(disk, flushed)?;
    let names = disk
        .names()
        .map_err(|error| TsdbError::disk("list", &disk.root, error))?;
    for name in names {
        let Some(generation) = parse(&name) else {
            continue;
        };
        found.newest = found.newest.max(generation);
        let path = disk.path(&name);
        let bytes = fs::read(&path).map_err(|error| TsdbError::disk("read", &path, error))?;
        found.bytes += bytes.len() as u64;
        let mut at = 0usize;
        let mut damage: Option<(usize, &'static str)> = None;
        let mut whole = 0usize;
        while at < bytes.len() {
            let parsed = record::frame(&bytes[at..])
                .and_then(|(payload, length)| Ok((record::entry(payload)?, length)));
            match parsed {
                Ok((entry, length)) => {
                    take(entry);
                    at += length;
                    whole = at;
                }
                Err(expected) => {
                    let Some(next) = next_frame(&bytes, at + 1) else {
                        break;
                    };
                    damage.get_or_insert((at, expected.0));
                    at = next;
                }
            }
        }
        if let Some((place, expected)) = damage {
            found
                .damaged
                .push(format!("{name}: expected {expected} at byte {place}"));
            // A copy: the original is replayed again until its samples are in a block.
            fs::create_dir_all(aside)
                .and_then(|()| fs::copy(&path, aside.join(&name)).map(|_| ()))
                .map_err(|error| TsdbError::disk("set aside", &path, error))?;
        }
        if whole < bytes.len() {
            disk.steps
                .before("telemetry.tsdb.wal.repair")
                .and_then(|()| OpenOptions::new().write(true).open(&path))
                .and_then(|file| {
                    file.set_len(whole as u64)?;
                    file.sync_all()
                })
                .map_err(|error| TsdbError::disk("cut the torn end of", &path, error))?;
        }
    }
    Ok(found)
}

/// Where the next whole frame begins.
fn next_frame(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while at + HEADER <= bytes.len() {
        let step = bytes[at..]
            .windows(MARKER.len())
            .position(|window| window == MARKER)?;
        at += step;
        if record::frame(&bytes[at..]).is_ok() {
            return Some(at);
        }
        at += 1;
    }
    None
}
