//! Chunks: runs of samples of one series, and how they become one course again.
//!
//! A chunk is immutable. Its kind says how its bytes are read, so that a kind can be added and
//! old ones stay readable. Where chunks overlap in time, the sample that was written first
//! counts: what could be read once never changes.

mod floats;
pub(crate) mod histograms;
mod ints;
mod packed;

use std::sync::Arc;

pub(crate) use floats::FloatStream;
pub(crate) use histograms::HistogramStream;
pub(crate) use packed::Columns;

use crate::series::{CounterReset, Histogram, Samples};
use crate::tsdb::bytes::{Corrupt, Reader, put_uvarint};

/// Samples of a chunk at rest, at most.
pub(crate) const CHUNK_SAMPLES: usize = 480;
/// Samples a chunk may claim to have when it is read.
const MOST_SAMPLES: u32 = 1 << 16;
/// Bytes a compressed chunk may claim to unfold to.
const MOST_BYTES: usize = 16 << 20;
/// A stream of histograms is closed at this size.
pub(crate) const HISTOGRAM_BYTES: usize = 16 << 10;

/// How the bytes of a chunk are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A stream of numbers.
    Floats = 1,
    /// A stream of numbers with start times.
    FloatsWithStarts = 2,
    /// Numbers at rest.
    Packed = 3,
    /// A stream of histograms.
    Histograms = 4,
    /// The same, compressed: its length, then a zstd frame.
    SmallHistograms = 5,
}

impl Kind {
    pub(crate) fn from_byte(byte: u8) -> Result<Self, Corrupt> {
        Ok(match byte {
            1 => Self::Floats,
            2 => Self::FloatsWithStarts,
            3 => Self::Packed,
            4 => Self::Histograms,
            5 => Self::SmallHistograms,
            _ => return Err(Corrupt("a known kind of chunk")),
        })
    }
}

/// What is known of a chunk without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChunkMeta {
    pub(crate) kind: Kind,
    pub(crate) min: i64,
    pub(crate) max: i64,
    pub(crate) count: u32,
}

impl ChunkMeta {
    /// Whether a sample of `start < time <= end` can be in it.
    pub(crate) fn touches(&self, start: i64, end: i64) -> bool {
        self.max > start && self.min <= end
    }
}

/// A chunk with its bytes.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    pub(crate) meta: ChunkMeta,
    pub(crate) bytes: Arc<[u8]>,
}

/// The samples of one series, in columns; start times are as many as the values.
#[derive(Default)]
pub(crate) struct Course {
    pub(crate) times: Vec<i64>,
    pub(crate) starts: Vec<i64>,
    pub(crate) values: Vec<u64>,
    pub(crate) histograms: Vec<(i64, i64, Arc<Histogram>)>,
    columns: Columns,
    unfolded: Vec<u8>,
}

#[derive(Clone)]
enum Value {
    Float(u64),
    Histogram(Arc<Histogram>),
}

impl Course {
    pub(crate) fn clear(&mut self) {
        self.times.clear();
        self.starts.clear();
        self.values.clear();
        self.histograms.clear();
    }

    /// Reads chunks into the cleared course, sorted by time, each time once. Chunks given
    /// earlier were written earlier.
    pub(crate) fn gather(&mut self, chunks: &[(ChunkMeta, &[u8])]) -> Result<(), Corrupt> {
        self.clear();
        // Stable: of chunks that begin together the one written first stays first.
        let ordered = chunks.windows(2).all(|pair| pair[0].0.max < pair[1].0.min);
        if !ordered {
            let mut ranks: Vec<(i64, usize)> = chunks
                .iter()
                .enumerate()
                .map(|(rank, (meta, _))| (meta.min, rank))
                .collect();
            ranks.sort_unstable();
            let mut at = 0;
            while at < ranks.len() {
                let mut reach = chunks[ranks[at].1].0.max;
                let mut end = at + 1;
                while end < ranks.len() && ranks[end].0 <= reach {
                    reach = reach.max(chunks[ranks[end].1].0.max);
                    end += 1;
                }
                if end - at == 1 {
                    let (meta, bytes) = chunks[ranks[at].1];
                    self.append(&meta, bytes)?;
                } else {
                    self.interleave(&ranks[at..end], chunks)?;
                }
                at = end;
            }
            return Ok(());
        }
        for (meta, bytes) in chunks.iter() {
            self.append(meta, bytes)?;
        }
        Ok(())
    }

    fn append(&mut self, meta: &ChunkMeta, bytes: &[u8]) -> Result<(), Corrupt> {
        if meta.count > MOST_SAMPLES {
            return Err(Corrupt("a chunk of fewer samples"));
        }
        match meta.kind {
            Kind::Floats | Kind::FloatsWithStarts => {
                let with_starts = meta.kind == Kind::FloatsWithStarts;
                self.columns.decode_stream(bytes, meta.count, with_starts)?;
            }
            Kind::Packed => self.columns.decode(bytes, meta.count as usize, meta.min)?,
            Kind::Histograms => {
                let histograms = &mut self.histograms;
                return histograms::decode(bytes, meta.count, &mut |time, start, value| {
                    histograms.push((time, start, value));
                });
            }
            Kind::SmallHistograms => {
                let mut reader = Reader::new(bytes);
                let length = reader.uvarint()? as usize;
                if length > MOST_BYTES {
                    return Err(Corrupt("a chunk of fewer bytes"));
                }
                self.unfolded = zstd::bulk::decompress(reader.rest(), length)
                    .map_err(|_| Corrupt("a zstd frame"))?;
                let histograms = &mut self.histograms;
                return histograms::decode(
                    &self.unfolded,
                    meta.count,
                    &mut |time, start, value| {
                        histograms.push((time, start, value));
                    },
                );
            }
        }
        self.times.extend_from_slice(&self.columns.times);
        self.values.extend_from_slice(&self.columns.values);
        self.starts.extend_from_slice(&self.columns.starts);
        self.starts.resize(self.times.len(), 0);
        Ok(())
    }

    fn interleave(
        &mut self,
        ranks: &[(i64, usize)],
        chunks: &[(ChunkMeta, &[u8])],
    ) -> Result<(), Corrupt> {
        let floats = self.times.len();
        let histograms = self.histograms.len();
        let mut samples: Vec<(i64, usize, i64, Value)> = Vec::new();
        for &(_, rank) in ranks {
            let (meta, bytes) = chunks[rank];
            self.append(&meta, bytes)?;
            for at in floats..self.times.len() {
                samples.push((
                    self.times[at],
                    rank,
                    self.starts[at],
                    Value::Float(self.values[at]),
                ));
            }
            self.times.truncate(floats);
            self.starts.truncate(floats);
            self.values.truncate(floats);
            for (time, start, value) in self.histograms.drain(histograms..) {
                samples.push((time, rank, start, Value::Histogram(value)));
            }
        }
        samples.sort_by_key(|&(time, rank, ..)| (time, rank));
        samples.dedup_by_key(|&mut (time, ..)| time);
        for (time, _, start, value) in samples {
            match value {
                Value::Float(bits) => {
                    self.times.push(time);
                    self.starts.push(start);
                    self.values.push(bits);
                }
                Value::Histogram(value) => {
                    // What was known of its neighbour in its chunk is not known of this one.
                    let value = match value.counter_reset {
                        CounterReset::NotReset => Arc::new(Histogram {
                            counter_reset: CounterReset::Unknown,
                            ..(*value).clone()
                        }),
                        _ => value,
                    };
                    self.histograms.push((time, start, value));
                }
            }
        }
        Ok(())
    }

    /// Copies what is in `start < time <= end`.
    pub(crate) fn copy_into(&self, start: i64, end: i64, into: &mut Samples) {
        let from = self.times.partition_point(|&time| time <= start);
        let to = self.times.partition_point(|&time| time <= end).max(from);
        into.floats.times.extend_from_slice(&self.times[from..to]);
        into.floats.values.extend(
            self.values[from..to]
                .iter()
                .map(|&bits| f64::from_bits(bits)),
        );
        if self.starts[from..to].iter().any(|&start| start != 0) {
            into.floats.starts.extend_from_slice(&self.starts[from..to]);
        }
        let from = self.histograms.partition_point(|&(time, ..)| time <= start);
        let to = self
            .histograms
            .partition_point(|&(time, ..)| time <= end)
            .max(from);
        for (time, start, value) in &self.histograms[from..to] {
            into.histograms.times.push(*time);
            into.histograms.starts.push(*start);
            into.histograms.values.push(Arc::clone(value));
        }
    }

    /// The samples of `from <= time < to` as chunks at rest.
    pub(crate) fn pack(&self, from: i64, to: i64, out: &mut Vec<(ChunkMeta, Vec<u8>)>) {
        let first = self.times.partition_point(|&time| time < from);
        let last = self.times.partition_point(|&time| time < to);
        let mut at = first;
        let pieces = (last.saturating_sub(first)).div_ceil(CHUNK_SAMPLES).max(1);
        let size = last.saturating_sub(first).div_ceil(pieces);
        while at < last {
            let end = (at + size).min(last);
            let starts = &self.starts[at..end];
            let starts = if starts.iter().all(|&start| start == 0) {
                &[]
            } else {
                starts
            };
            let bytes = packed::encode(&self.times[at..end], starts, &self.values[at..end]);
            out.push((
                ChunkMeta {
                    kind: Kind::Packed,
                    min: self.times[at],
                    max: self.times[end - 1],
                    count: (end - at) as u32,
                },
                bytes,
            ));
            at = end;
        }
        let first = self.histograms.partition_point(|&(time, ..)| time < from);
        let last = self.histograms.partition_point(|&(time, ..)| time < to);
        let mut stream: Option<HistogramStream> = None;
        for (time, start, value) in &self.histograms[first..last.max(first)] {
            match &mut stream {
                None => stream = Some(HistogramStream::new(*time, *start, value)),
                Some(open)
                    if open.count as usize >= CHUNK_SAMPLES
                        || open.bytes().len() > HISTOGRAM_BYTES =>
                {
                    out.push(fold(open));
                    *open = HistogramStream::new(*time, *start, value);
                }
                Some(open) => open.push(*time, *start, value),
            }
        }
        if let Some(open) = &stream {
            out.push(fold(open));
        }
        out.sort_by_key(|(meta, _)| meta.min);
    }
}

fn fold(stream: &HistogramStream) -> (ChunkMeta, Vec<u8>) {
    let mut meta = ChunkMeta {
        kind: Kind::Histograms,
        min: stream.first_time,
        max: stream.last_time(),
        count: stream.count,
    };
    let plain = stream.bytes();
    if plain.len() > 64
        && let Ok(frame) = zstd::bulk::compress(plain, 3)
        && frame.len() + 4 < plain.len()
    {
        meta.kind = Kind::SmallHistograms;
        let mut bytes = Vec::with_capacity(frame.len() + 4);
        put_uvarint(&mut bytes, plain.len() as u64);
        bytes.extend_from_slice(&frame);
        return (meta, bytes);
    }
    (meta, plain.to_vec())
}
