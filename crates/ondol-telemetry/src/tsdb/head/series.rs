//! The samples of one active series that are in no block yet.
//!
//! In-order samples go into an open stream. Late ones, within the window, wait sorted and become
//! chunks of their own, which are read after the others: where both have a time, the sample that
//! was there first counts.

use std::sync::Arc;

use crate::series::{CounterReset, Histogram};
use crate::tsdb::chunk::{
    Chunk, ChunkMeta, FloatStream, HISTOGRAM_BYTES, HistogramStream, Kind, histograms,
};

/// A stream of the head is closed at this many samples, so that reading one costs little.
const STREAM_SAMPLES: u32 = 240;
/// Late samples that wait before they become a chunk.
const LATE_SAMPLES: usize = 32;

/// What a sample says.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Float(u64),
    Histogram(Arc<Histogram>),
}

impl Value {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Histogram(a), Self::Histogram(b)) => a.equals(b),
            _ => false,
        }
    }

    /// A few bits that tell one value from another: of a histogram, its count and sum.
    fn mark(&self) -> u64 {
        match self {
            Self::Float(bits) => *bits,
            Self::Histogram(value) => {
                value.sum.to_bits() ^ value.count.to_bits().rotate_left(17) ^ 1
            }
        }
    }
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Stored,
    StoredLate,
    /// It was there already.
    Same,
    /// Another value was there already.
    Duplicate,
    TooOld,
}

#[derive(Default)]
enum Open {
    #[default]
    Nothing,
    Floats(FloatStream),
    Histograms(Box<HistogramStream>),
}

#[derive(Default)]
struct Rest {
    closed: Vec<Chunk>,
    late: Vec<(i64, i64, Value)>,
    late_closed: Vec<Chunk>,
}

/// How many chunks a flush has taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frozen {
    closed: u32,
    late: u32,
}

impl Frozen {
    pub(crate) fn is_empty(&self) -> bool {
        self.closed + self.late == 0
    }
}

pub(crate) struct SeriesData {
    /// `i64::MIN` before the first sample.
    pub(crate) last_time: i64,
    last_mark: u64,
    open: Open,
    rest: Option<Box<Rest>>,
}

impl Default for SeriesData {
    fn default() -> Self {
        Self {
            last_time: i64::MIN,
            last_mark: 0,
            open: Open::Nothing,
            rest: None,
        }
    }
}

impl SeriesData {
    pub(crate) fn append(&mut self, time: i64, start: i64, value: &Value, window: i64) -> Fate {
        if time == self.last_time && self.last_time != i64::MIN {
            return if self.last_mark == value.mark() {
                Fate::Same
            } else {
                Fate::Duplicate
            };
        }
        if time < self.last_time {
            if self.last_time.saturating_sub(time) > window {
                return Fate::TooOld;
            }
            return self.append_late(time, start, value);
        }
        match value {
            Value::Float(bits) => match &mut self.open {
                Open::Floats(stream)
                    if stream.count < STREAM_SAMPLES && (start == 0 || stream.with_starts) =>
                {
                    stream.push(time, start, *bits);
                }
                _ => {
                    self.close();
                    self.open = Open::Floats(FloatStream::new(time, start, *bits));
                }
            },
            Value::Histogram(histogram) => {
                let follows = matches!(&self.open, Open::Histograms(stream)
                    if histograms::continues(stream.last(), histogram));
                let known = |hint| {
                    if histogram.counter_reset == hint {
                        Arc::clone(histogram)
                    } else {
                        Arc::new(Histogram {
                            counter_reset: hint,
                            ..(**histogram).clone()
                        })
                    }
                };
                let histogram = match histogram.counter_reset {
                    CounterReset::Gauge => Arc::clone(histogram),
                    _ if follows => known(CounterReset::NotReset),
                    _ => known(CounterReset::Unknown),
                };
                match &mut self.open {
                    Open::Histograms(stream)
                        if stream.count < STREAM_SAMPLES
                            && stream.bytes().len() < HISTOGRAM_BYTES =>
                    {
                        stream.push(time, start, &histogram);
                    }
                    _ => {
                        self.close();
                        self.open = Open::Histograms(Box::new(HistogramStream::new(
                            time, start, &histogram,
                        )));
                    }
                }
            }
        }
        self.last_time = time;
        self.last_mark = value.mark();
        Fate::Stored
    }

    fn append_late(&mut self, time: i64, start: i64, value: &Value) -> Fate {
        let rest = self.rest.get_or_insert_default();
        let value = match value {
            Value::Histogram(histogram) if histogram.counter_reset != CounterReset::Gauge => {
                Value::Histogram(Arc::new(Histogram {
                    counter_reset: CounterReset::Unknown,
                    ..(**histogram).clone()
                }))
            }
            value => value.clone(),
        };
        match rest.late.binary_search_by_key(&time, |&(time, ..)| time) {
            Ok(at) if rest.late[at].2.same(&value) => Fate::Same,
            Ok(_) => Fate::Duplicate,
            Err(at) => {
                rest.late.insert(at, (time, start, value));
                if rest.late.len() >= LATE_SAMPLES {
                    rest.close_late();
                }
                Fate::StoredLate
            }
        }
    }

    fn close(&mut self) {
        if let Some(chunk) = self.open_chunk() {
            self.rest.get_or_insert_default().closed.push(chunk);
        }
        self.open = Open::Nothing;
    }

    fn open_chunk(&self) -> Option<Chunk> {
        match &self.open {
            Open::Nothing => None,
            Open::Floats(stream) => Some(float_chunk(stream)),
            Open::Histograms(stream) => Some(histogram_chunk(stream)),
        }
    }

    /// Whether there is no sample that is not in a block.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.open, Open::Nothing) && self.rest.is_none()
    }

    /// The chunks that can have samples of `start < time <= end`, those written first first.
    pub(crate) fn chunks(&self, start: i64, end: i64, into: &mut Vec<Chunk>) {
        let mut take = |chunk: &Chunk| {
            if chunk.meta.touches(start, end) {
                into.push(chunk.clone());
            }
        };
        if let Some(rest) = &self.rest {
            rest.closed.iter().for_each(&mut take);
        }
        let (first, last) = match &self.open {
            Open::Nothing => (i64::MAX, i64::MIN),
            Open::Floats(stream) => (stream.first_time, stream.last_time()),
            Open::Histograms(stream) => (stream.first_time, stream.last_time()),
        };
        if last > start
            && first <= end
            && let Some(chunk) = self.open_chunk()
        {
            take(&chunk);
        }
        if let Some(rest) = &self.rest {
            rest.late_closed.iter().for_each(&mut take);
            late_chunks(&rest.late, &mut |chunk| take(&chunk));
        }
    }

    /// Whether a sample of `start < time <= end` may be here.
    pub(crate) fn touches(&self, start: i64, end: i64) -> bool {
        let open = match &self.open {
            Open::Nothing => false,
            Open::Floats(stream) => stream.last_time() > start && stream.first_time <= end,
            Open::Histograms(stream) => stream.last_time() > start && stream.first_time <= end,
        };
        open || self.rest.as_ref().is_some_and(|rest| {
            rest.closed
                .iter()
                .chain(&rest.late_closed)
                .any(|chunk| chunk.meta.touches(start, end))
                || rest
                    .late
                    .iter()
                    .any(|&(time, ..)| time > start && time <= end)
        })
    }

    /// Closes what is open. The chunks stay until [`SeriesData::forget`].
    pub(crate) fn freeze(&mut self, into: &mut Vec<Chunk>) -> Frozen {
        self.close();
        let Some(rest) = &mut self.rest else {
            return Frozen::default();
        };
        rest.close_late();
        into.extend(rest.closed.iter().chain(&rest.late_closed).cloned());
        Frozen {
            closed: rest.closed.len() as u32,
            late: rest.late_closed.len() as u32,
        }
    }

    /// Lets go of what was frozen and is in a block now.
    pub(crate) fn forget(&mut self, frozen: Frozen) {
        let Some(rest) = &mut self.rest else {
            return;
        };
        rest.closed
            .drain(..(frozen.closed as usize).min(rest.closed.len()));
        rest.late_closed
            .drain(..(frozen.late as usize).min(rest.late_closed.len()));
        if rest.closed.is_empty() && rest.late.is_empty() && rest.late_closed.is_empty() {
            self.rest = None;
        }
    }
}

impl Rest {
    fn close_late(&mut self) {
        let closed = &mut self.late_closed;
        late_chunks(&self.late, &mut |chunk| closed.push(chunk));
        self.late = Vec::new();
    }
}

fn float_chunk(stream: &FloatStream) -> Chunk {
    Chunk {
        meta: ChunkMeta {
            kind: if stream.with_starts {
                Kind::FloatsWithStarts
            } else {
                Kind::Floats
            },
            min: stream.first_time,
            max: stream.last_time(),
            count: stream.count,
        },
        bytes: Arc::from(stream.bytes()),
    }
}

fn histogram_chunk(stream: &HistogramStream) -> Chunk {
    Chunk {
        meta: ChunkMeta {
            kind: Kind::Histograms,
            min: stream.first_time,
            max: stream.last_time(),
            count: stream.count,
        },
        bytes: Arc::from(stream.bytes()),
    }
}

/// Sorted samples as chunks: one of the numbers, one of the histograms.
fn late_chunks(samples: &[(i64, i64, Value)], take: &mut dyn FnMut(Chunk)) {
    let mut floats: Option<FloatStream> = None;
    let mut histograms: Option<HistogramStream> = None;
    for (time, start, value) in samples {
        match value {
            Value::Float(bits) => match &mut floats {
                Some(stream) if *start == 0 || stream.with_starts => {
                    stream.push(*time, *start, *bits);
                }
                open => {
                    if let Some(stream) = open.take() {
                        take(float_chunk(&stream));
                    }
                    *open = Some(FloatStream::new(*time, *start, *bits));
                }
            },
            Value::Histogram(value) => match &mut histograms {
                Some(stream) => stream.push(*time, *start, value),
                open => *open = Some(HistogramStream::new(*time, *start, value)),
            },
        }
    }
    if let Some(stream) = &floats {
        take(float_chunk(stream));
    }
    if let Some(stream) = &histograms {
        take(histogram_chunk(stream));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tsdb::chunk::Course;

    fn read(data: &SeriesData) -> Vec<(i64, f64)> {
        let mut chunks = Vec::new();
        data.chunks(i64::MIN, i64::MAX, &mut chunks);
        let borrowed: Vec<_> = chunks
            .iter()
            .map(|chunk| (chunk.meta, &*chunk.bytes))
            .collect();
        let mut course = Course::default();
        course.gather(&borrowed).unwrap();
        course
            .times
            .iter()
            .copied()
            .zip(course.values.iter().map(|&bits| f64::from_bits(bits)))
            .collect()
    }

    #[test]
    fn late_samples_fill_gaps_and_never_replace() {
        let mut data = SeriesData::default();
        let mut append =
            |time: i64, value: f64| data.append(time, 0, &Value::Float(value.to_bits()), 100);
        assert_eq!(append(1000, 1.0), Fate::Stored);
        assert_eq!(append(1000, 1.0), Fate::Same);
        assert_eq!(append(1000, 2.0), Fate::Duplicate);
        assert_eq!(append(1100, 3.0), Fate::Stored);
        assert_eq!(append(1050, 2.0), Fate::StoredLate);
        assert_eq!(append(1050, 2.5), Fate::Duplicate);
        assert_eq!(append(1000, 9.0), Fate::StoredLate);
        assert_eq!(append(999, 9.0), Fate::TooOld);
        let expected = [(1000, 1.0), (1050, 2.0), (1100, 3.0)];
        assert_eq!(read(&data), expected);
        let mut taken = Vec::new();
        let frozen = data.freeze(&mut taken);
        assert_eq!(read(&data), expected);
        assert_eq!(data.append(1200, 0, &Value::Float(0), 100), Fate::Stored);
        data.forget(frozen);
        assert_eq!(read(&data), [(1200, 0.0)]);
    }
}
