//! How samples come in: collected, checked, stored, logged, and acknowledged when they are durable.
//!
//! All of this blocks: it is for threads that may. Samples that are refused do not hold up the
//! others; how many and why is part of the answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Tsdb;
use super::error::TsdbError;
use super::exemplar::Annexes;
use super::head::{Fate, Head, SeriesRef, Value, place, shorten};
use super::wal::record::{FloatSample, FrameWriter, HistogramSample};
use crate::series::{Exemplar, Histogram, Labels, METRIC_NAME, Metadata};

/// Samples of one frame of the log.
const FRAME_SAMPLES: usize = 50_000;
/// Histograms of one frame of the log.
const FRAME_HISTOGRAMS: usize = 400;
/// Buckets, runs and bounds of a histogram, at most.
const MOST_NUMBERS: usize = 10_000;
/// Bytes of descriptions of series of one frame of the log, about.
const FRAME_SERIES_BYTES: usize = 4 << 20;
/// Refusals that are told one by one.
const TOLD: usize = 8;
/// Times further away than this are no times.
const MOST_TIME: i64 = 1 << 60;

/// Why a sample was not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its series has another value at that time.
    Duplicate,
    /// Older than the window for late samples.
    TooOld,
    /// Further in the future than allowed.
    TooNew,
    /// A histogram of too many buckets.
    TooLarge,
    /// The series has left: its labels find or make its successor.
    Unknown,
}

/// A sample that was not stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The name of the metric, cut to a readable length.
    pub metric: String,
    /// Its time.
    pub time: i64,
}

/// What a commit did.
#[derive(Clone, Debug, Default)]
pub struct Committed {
    /// Samples that are durable now, late ones and those that were there already among them.
    pub stored: u64,
    /// Of those, histograms.
    pub histograms: u64,
    /// Of those, how many were late.
    pub late: u64,
    /// Exemplars that were kept.
    pub exemplars: u64,
    /// Samples that were refused.
    pub refused: u64,
    /// How many of them for which reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// The first few of them, and the first of each reason.
    pub refusals: Vec<Refusal>,
}

/// Collects samples for one commit.
pub struct Appender<'a> {
    tsdb: &'a Tsdb,
    samples: Vec<(SeriesRef, i64, i64, Value)>,
    exemplars: Vec<(SeriesRef, Exemplar)>,
    metadata: Vec<(String, Metadata)>,
}

impl<'a> Appender<'a> {
    pub(crate) fn new(tsdb: &'a Tsdb) -> Self {
        Self {
            tsdb,
            samples: Vec::new(),
            exemplars: Vec::new(),
            metadata: Vec::new(),
        }
    }

    /// The series with these labels, sorted by name, unique and not empty. What is answered can
    /// be kept and used again without the labels.
    ///
    /// # Errors
    /// A ceiling of series or of labels is reached.
    pub fn series(&mut self, labels: &[(&str, &str)]) -> Result<SeriesRef, TsdbError> {
        self.tsdb.head.series(labels, &self.tsdb.config)
    }

    /// The series with these labels.
    ///
    /// # Errors
    /// A ceiling of series or of labels is reached.
    pub fn series_of(&mut self, labels: &Labels) -> Result<SeriesRef, TsdbError> {
        let pairs: Vec<(&str, &str)> = labels
            .iter()
            .map(|label| (&*label.name, &*label.value))
            .collect();
        self.series(&pairs)
    }

    /// Adds a number. The start time is 0 when it is unknown.
    pub fn float(&mut self, series: SeriesRef, time: i64, start: i64, value: f64) {
        self.samples
            .push((series, time, start, Value::Float(value.to_bits())));
    }

    /// Adds a histogram. The start time is 0 when it is unknown.
    pub fn histogram(&mut self, series: SeriesRef, time: i64, start: i64, value: Arc<Histogram>) {
        self.samples
            .push((series, time, start, Value::Histogram(value)));
    }

    /// Adds an exemplar of a series.
    pub fn exemplar(&mut self, series: SeriesRef, exemplar: Exemplar) {
        self.exemplars.push((series, exemplar));
    }

    /// Says what a metric is.
    pub fn metadata(&mut self, metric: &str, metadata: Metadata) {
        self.metadata.push((metric.to_owned(), metadata));
    }

    /// How many samples there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Stores everything, and returns when it is durable.
    ///
    /// # Errors
    /// The log could not be written or synced: nothing is acknowledged. The same samples may be
    /// given again.
    pub fn commit(self) -> Result<Committed, TsdbError> {
        let tsdb = self.tsdb;
        let (upto, committed) = self.write()?;
        if let Some(upto) = upto {
            tsdb.wal.sync(upto)?;
        }
        tsdb.relieve();
        Ok(committed)
    }

    fn write(self) -> Result<(Option<u64>, Committed), TsdbError> {
        let tsdb = self.tsdb;
        let mut committed = Committed::default();
        let now = tsdb.clock.now().as_millis();
        let newest = now.saturating_add(tsdb.config.future).min(MOST_TIME);
        let oldest = tsdb
            .config
            .retention
            .map_or(-MOST_TIME, |retention| now.saturating_sub(retention));
        let index = tsdb.head.index();
        let mut floats: Vec<FloatSample> = Vec::with_capacity(self.samples.len());
        let mut histograms: Vec<HistogramSample> = Vec::new();
        let (mut first, mut last, mut stored) = (i64::MAX, i64::MIN, 0u64);
        for (shard, order) in by_shard(&self.samples).into_iter().enumerate() {
            if order.is_empty() {
                continue;
            }
            let mut data = tsdb.head.shard(shard);
            for at in order {
                let (series, time, start, value) = &self.samples[at as usize];
                let fate = if !index.is_live(*series) {
                    Err(Reason::Unknown)
                } else if *time > newest {
                    Err(Reason::TooNew)
                } else if *time < oldest {
                    Err(Reason::TooOld)
                } else if matches!(value, Value::Histogram(value) if value.weight() > MOST_NUMBERS)
                {
                    Err(Reason::TooLarge)
                } else {
                    let (_, position) = place(series.slot());
                    let window = tsdb.config.out_of_order;
                    match data.series(position).append(*time, *start, value, window) {
                        Fate::Duplicate => Err(Reason::Duplicate),
                        Fate::TooOld => Err(Reason::TooOld),
                        fate => Ok(fate),
                    }
                };
                match fate {
                    Ok(fate) => {
                        if fate != Fate::Same {
                            stored += 1;
                            first = first.min(*time);
                            last = last.max(*time);
                        }
                        committed.stored += 1;
                        committed.late += u64::from(fate == Fate::StoredLate);
                        // What is there already may come from a commit that is not durable yet,
                        // so it is logged again.
                        match value {
                            Value::Float(bits) => floats.push(FloatSample {
                                series: series.0,
                                time: *time,
                                start: *start,
                                bits: *bits,
                            }),
                            Value::Histogram(value) => {
                                committed.histograms += 1;
                                histograms.push(HistogramSample {
                                    series: series.0,
                                    time: *time,
                                    start: *start,
                                    value: Arc::clone(value),
                                });
                            }
                        }
                    }
                    Err(reason) => {
                        committed.refused += 1;
                        let count = committed.reasons.entry(reason).or_default();
                        *count += 1;
                        if *count == 1 || committed.refusals.len() < TOLD {
                            let metric = if reason == Reason::Unknown {
                                String::new()
                            } else {
                                index
                                    .pairs(series.slot())
                                    .find(|(name, _)| *name == METRIC_NAME)
                                    .map_or_else(String::new, |(_, value)| shorten(value))
                            };
                            committed.refusals.push(Refusal {
                                reason,
                                metric,
                                time: *time,
                            });
                        }
                    }
                }
            }
        }
        if stored > 0 {
            tsdb.head.stored(stored, first, last);
        }
        let mut frames = Vec::new();
        self.annexes(&index, &mut committed, &mut frames);
        for samples in floats.chunks(FRAME_SAMPLES) {
            let mut frame = FrameWriter::default();
            frame.floats(samples);
            frame.finish(&mut frames);
        }
        for samples in histograms.chunks(FRAME_HISTOGRAMS) {
            let mut frame = FrameWriter::default();
            frame.histograms(samples);
            frame.finish(&mut frames);
        }
        if frames.is_empty() {
            return Ok((None, committed));
        }
        let mut turn = tsdb.wal.turn();
        let generation = turn.generation()?;
        let mut undescribed: Vec<u64> = floats
            .iter()
            .map(|sample| sample.series)
            .chain(histograms.iter().map(|sample| sample.series))
            .filter(|&series| {
                let meta = &index.metas[SeriesRef(series).slot() as usize];
                meta.logged.load(Ordering::Relaxed) != generation
            })
            .collect();
        undescribed.sort_unstable();
        undescribed.dedup();
        let mut bytes = Vec::new();
        let mut rest = &undescribed[..];
        while !rest.is_empty() {
            let mut size = 0;
            let count = rest
                .iter()
                .take_while(|&&series| {
                    let fits = size < FRAME_SERIES_BYTES;
                    size += index
                        .pairs(SeriesRef(series).slot())
                        .map(|(name, value)| name.len() + value.len() + 2)
                        .sum::<usize>();
                    fits
                })
                .count();
            let (now, later) = rest.split_at(count);
            let mut frame = FrameWriter::default();
            frame.series(now.iter().map(|&series| {
                let slot = SeriesRef(series).slot();
                let labels = index.metas[slot as usize].labels.len();
                (series, labels, index.pairs(slot))
            }));
            frame.finish(&mut bytes);
            rest = later;
        }
        bytes.extend_from_slice(&frames);
        let upto = turn.write(&bytes)?;
        for &series in &undescribed {
            index.metas[SeriesRef(series).slot() as usize]
                .logged
                .store(generation, Ordering::Relaxed);
        }
        Ok((Some(upto), committed))
    }

    fn annexes(&self, index: &super::head::Index, committed: &mut Committed, frames: &mut Vec<u8>) {
        if self.exemplars.is_empty() && self.metadata.is_empty() {
            return;
        }
        let mut annexes = self.tsdb.annexes();
        let mut kept = Vec::new();
        for (series, exemplar) in &self.exemplars {
            if !index.is_live(*series) || !Annexes::fits(exemplar) {
                continue;
            }
            let labels = index.labels(series.slot());
            if annexes.exemplar(&labels, exemplar) {
                kept.push((labels, exemplar.clone()));
            }
        }
        committed.exemplars = kept.len() as u64;
        let changed: Vec<&(String, Metadata)> = self
            .metadata
            .iter()
            .filter(|(metric, metadata)| annexes.describe(metric, metadata))
            .collect();
        let mut frame = FrameWriter::default();
        frame.exemplars(kept.iter());
        frame.metadata(changed.iter().map(|(metric, metadata)| (metric, metadata)));
        if !frame.is_empty() {
            frame.finish(frames);
        }
    }
}

/// The places of samples by the shard of their series, each in the order it was given.
fn by_shard(samples: &[(SeriesRef, i64, i64, Value)]) -> Vec<Vec<u32>> {
    let mut shards: Vec<Vec<u32>> = (0..Head::shards())
        .map(|_| Vec::with_capacity(samples.len() / Head::shards() + 8))
        .collect();
    for (at, (series, ..)) in samples.iter().enumerate() {
        shards[place(series.slot()).0].push(at as u32);
    }
    shards
}
