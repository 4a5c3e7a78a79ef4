//! Writes blocks: from the chunks of the head, and from other blocks.

use std::sync::Arc;

use super::{Block, BlockWriter, Cursor};
use crate::series::Labels;
use crate::tsdb::bytes::Corrupt;
use crate::tsdb::chunk::{CHUNK_SAMPLES, Chunk, ChunkMeta, Course, Kind};
use crate::tsdb::disk::Disk;
use crate::tsdb::error::TsdbError;

/// Writes the samples of `from <= time < to` of series of the head, sorted by labels. Answers
/// whether there were any.
pub(crate) fn from_head(
    disk: &Disk,
    id: u64,
    series: &[(u32, Vec<Chunk>)],
    labels: &dyn Fn(u32) -> Labels,
    (from, to): (i64, i64),
    flushed: u32,
) -> Result<bool, TsdbError> {
    let failed = |error| TsdbError::disk("write", disk.path(&super::name(id)), error);
    let mut writer = BlockWriter::new(disk, id).map_err(failed)?;
    let mut course = Course::default();
    let mut packed = Vec::new();
    for (slot, chunks) in series {
        let chunks: Vec<(ChunkMeta, &[u8])> = chunks
            .iter()
            .filter(|chunk| chunk.meta.max >= from && chunk.meta.min < to)
            .map(|chunk| (chunk.meta, &*chunk.bytes))
            .collect();
        if chunks.is_empty() {
            continue;
        }
        course.gather(&chunks).map_err(|error| in_memory(&error))?;
        packed.clear();
        course.pack(from, to, &mut packed);
        writer.add(&labels(*slot), &packed).map_err(failed)?;
    }
    if writer.series() == 0 {
        BlockWriter::abandon(disk, id);
        return Ok(false);
    }
    writer.publish(Vec::new(), id, flushed).map_err(failed)?;
    Ok(true)
}

fn in_memory(error: &Corrupt) -> TsdbError {
    TsdbError::disk(
        "encode",
        "a chunk of the head",
        std::io::Error::other(error.0),
    )
}

/// A merge that failed, and the source that is to blame, if one is.
pub(crate) struct Failed {
    pub(crate) error: TsdbError,
    pub(crate) source: Option<u64>,
}

/// Writes the samples of these blocks as one; those that count more come first.
pub(crate) fn blocks(disk: &Disk, id: u64, sources: &[Arc<Block>]) -> Result<(), Failed> {
    let failed = |error| Failed {
        error: TsdbError::disk("write", disk.path(&super::name(id)), error),
        source: None,
    };
    let mut writer = BlockWriter::new(disk, id).map_err(failed)?;
    let mut walks = Vec::with_capacity(sources.len());
    for source in sources {
        let mut cursor = Cursor::all(source);
        let labels = cursor.next().map_err(|error| blame(error, source))?;
        walks.push((cursor, labels));
    }
    let mut course = Course::default();
    let mut packed: Vec<(ChunkMeta, Vec<u8>)> = Vec::new();
    while let Some(next) = walks
        .iter()
        .filter_map(|(_, labels)| labels.as_ref())
        .min()
        .cloned()
    {
        let mut chunks: Vec<(ChunkMeta, &[u8])> = Vec::new();
        for (cursor, labels) in &mut walks {
            if labels.as_ref() == Some(&next) {
                let source = Arc::clone(cursor.block());
                cursor
                    .chunks(i64::MIN, i64::MAX, &mut chunks)
                    .map_err(|error| blame(error, &source))?;
            }
        }
        if stays(&chunks) {
            writer.add(&next, &chunks).map_err(failed)?;
        } else if !chunks.is_empty() {
            course.gather(&chunks).map_err(|error| {
                // The checksum was right, so the bytes are what was written.
                let source = sources.first();
                Failed {
                    error: source
                        .map_or_else(|| in_memory(&error), |block| block.corrupt(error, 0)),
                    source: None,
                }
            })?;
            packed.clear();
            course.pack(i64::MIN, i64::MAX, &mut packed);
            writer.add(&next, &packed).map_err(failed)?;
        }
        for (cursor, labels) in &mut walks {
            if labels.as_ref() == Some(&next) {
                let source = Arc::clone(cursor.block());
                *labels = cursor.next().map_err(|error| blame(error, &source))?;
            }
        }
    }
    let flushed = sources
        .iter()
        .map(|block| block.directory.flushed)
        .max()
        .unwrap_or(0);
    let ids = sources.iter().map(|block| block.id).collect();
    let age = sources
        .iter()
        .map(|block| block.rank().0)
        .min()
        .unwrap_or(id);
    writer.publish(ids, age, flushed).map_err(failed)
}

fn blame(error: TsdbError, source: &Arc<Block>) -> Failed {
    let source = matches!(error, TsdbError::Corrupted { .. }).then_some(source.id);
    Failed { error, source }
}

/// Whether chunks are as good as they get: in order, apart, and full.
fn stays(chunks: &[(ChunkMeta, &[u8])]) -> bool {
    chunks.windows(2).all(|pair| pair[0].0.max < pair[1].0.min)
        && chunks.iter().all(|(meta, _)| {
            matches!(meta.kind, Kind::Packed | Kind::SmallHistograms)
                && meta.count as usize > CHUNK_SAMPLES / 2
        })
}
