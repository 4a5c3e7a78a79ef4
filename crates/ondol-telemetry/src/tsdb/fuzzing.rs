//! What the fuzz targets of this crate reach of the store of series.

use super::block::fuzzing;
use super::chunk::{ChunkMeta, Course, Kind};
use super::wal::record;

/// Any bytes as a chunk; what is read is written and read the same.
pub(crate) fn chunk(kind: u8, count: u32, bytes: &[u8]) {
    let Ok(kind) = Kind::from_byte(kind) else {
        return;
    };
    let meta = ChunkMeta {
        kind,
        min: 0,
        max: 0,
        count,
    };
    let mut course = Course::default();
    if course.gather(&[(meta, bytes)]).is_err() || !course.times.is_sorted_by(|a, b| a < b) {
        return;
    }
    let end = i64::MAX;
    let inside = course.times.iter().filter(|&&time| time < end).count();
    let mut packed = Vec::new();
    course.pack(i64::MIN, end, &mut packed);
    let mut again = Course::default();
    for (meta, bytes) in &packed {
        if meta.kind != Kind::Packed {
            continue;
        }
        let read = again.gather(&[(*meta, bytes)]);
        assert!(read.is_ok(), "what was packed is read");
        let at = course.times.partition_point(|&time| time < meta.min);
        let span = at..at + meta.count as usize;
        assert_eq!(again.times, course.times[span.clone()]);
        assert_eq!(again.values, course.values[span.clone()]);
        assert_eq!(again.starts, course.starts[span]);
    }
    let total: usize = packed
        .iter()
        .filter(|(meta, _)| meta.kind == Kind::Packed)
        .map(|(meta, _)| meta.count as usize)
        .sum();
    assert_eq!(total, inside);
}

/// Any bytes as a frame of the log, and as what is in a frame.
pub(crate) fn log(bytes: &[u8]) {
    if let Ok((payload, length)) = record::frame(bytes) {
        assert!(length <= bytes.len() && payload.len() < length);
        let _ = record::entry(payload);
    }
    let _ = record::entry(bytes);
}

/// Any bytes as the directory of a block, and as a list of its series.
pub(crate) fn block(bytes: &[u8]) {
    fuzzing(bytes);
}
