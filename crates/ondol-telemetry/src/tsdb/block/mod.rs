//! Blocks: immutable files of series, their samples and an index, each for a range of time.
//!
//! A block is published whole or not at all, and names the blocks it replaces: a start after a
//! crash between publishing and deleting deletes the rest. Blocks may overlap in time; where they
//! do, the older block's samples count. A block that is damaged is set aside under its name.

pub(crate) mod cache;
mod format;
pub(crate) mod merge;
pub(crate) mod plan;
mod reader;
mod writer;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

pub(crate) use cache::Cache;
pub(crate) use reader::{Block, Cursor};
pub(crate) use writer::{BlockWriter, name};

use super::disk::Disk;
use super::error::TsdbError;

/// What opening the blocks found.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// Sorted by age.
    pub(crate) blocks: Vec<Arc<Block>>,
    /// The newest generation of the log that is in blocks.
    pub(crate) flushed: u32,
    /// The number of the next block.
    pub(crate) next: u64,
    /// Blocks that were set aside, and why.
    pub(crate) damaged: Vec<String>,
}

/// Opens all blocks of a directory.
pub(crate) fn open(disk: &Disk, cache: &Arc<Cache>, aside: &Path) -> Result<Opened, TsdbError> {
    let names = disk
        .names()
        .map_err(|error| TsdbError::disk("list", &disk.root, error))?;
    let mut opened = Opened {
        next: 1,
        ..Opened::default()
    };
    for file in names {
        let Some(id) = writer::parse(&file) else {
            continue;
        };
        opened.next = opened.next.max(id + 1);
        match Block::open(disk.path(&file), id, Arc::clone(cache)) {
            Ok(block) => opened.blocks.push(Arc::new(block)),
            Err(error @ TsdbError::Corrupted { .. }) => {
                disk.set_aside(&file, aside)
                    .map_err(|error| TsdbError::disk("set aside", disk.path(&file), error))?;
                opened.damaged.push(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    let replaced: HashSet<u64> = opened
        .blocks
        .iter()
        .flat_map(|block| block.directory.sources.iter().copied())
        .collect();
    for block in &opened.blocks {
        opened.flushed = opened.flushed.max(block.directory.flushed);
        if replaced.contains(&block.id) {
            disk.delete(&name(block.id), "telemetry.tsdb.block.delete")
                .map_err(|error| TsdbError::disk("delete", &block.path, error))?;
        }
    }
    opened.blocks.retain(|block| !replaced.contains(&block.id));
    opened.blocks.sort_by_key(|block| block.rank());
    Ok(opened)
}

/// Any bytes as a directory, and as a list of series.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzzing(bytes: &[u8]) {
    if let Ok(directory) = format::Directory::read(bytes) {
        let again = format::Directory::read(&directory.write());
        assert_eq!(again, Ok(directory), "what was written is read");
    }
    let mut series = Vec::new();
    if format::read_runs(bytes, 1 << 16, &mut series).is_ok() {
        assert!(series.len() <= 1 << 16);
    }
}
