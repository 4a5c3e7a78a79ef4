//! A store in memory, which hands out histograms as a chunk of Prometheus would: those that
//! follow each other in one chunk are known not to have restarted.

use std::collections::BTreeMap;
use std::sync::Arc;

use ondol_telemetry::series::{
    CounterReset, Hints, Histogram, Labels, Matcher, Samples, SeriesSet, SeriesSource, SourceError,
};

#[derive(Clone)]
pub(crate) enum Sample {
    Float(f64),
    Histogram(Histogram),
}

/// A store the test files are run over.
pub(crate) trait Loaded {
    /// Forgets everything.
    fn clear(&mut self);
    /// Appends a sample; one that is not later than all others of its series is dropped.
    fn append(&mut self, labels: &Labels, time: i64, start: i64, sample: Sample);
    /// Called at the end of each load.
    fn loaded(&mut self);
    /// What queries read.
    fn source(&self) -> &dyn SeriesSource;
}

impl Loaded for Memory {
    fn clear(&mut self) {
        Memory::clear(self);
    }

    fn append(&mut self, labels: &Labels, time: i64, start: i64, sample: Sample) {
        Memory::append(self, labels, time, start, sample);
    }

    fn loaded(&mut self) {}

    fn source(&self) -> &dyn SeriesSource {
        self
    }
}

#[derive(Default)]
pub(crate) struct Memory {
    series: BTreeMap<Labels, Samples>,
}

impl Memory {
    pub(crate) fn clear(&mut self) {
        self.series.clear();
    }

    /// Appends a sample; one that is not later than all others of its series is dropped.
    pub(crate) fn append(&mut self, labels: &Labels, time: i64, start: i64, sample: Sample) {
        let samples = self.series.entry(labels.clone()).or_default();
        let last_float = samples.floats.times.last().copied();
        let last_histogram = samples.histograms.times.last().copied();
        if last_float
            .max(last_histogram)
            .is_some_and(|last| last >= time)
        {
            return;
        }
        match sample {
            Sample::Float(value) => {
                samples.push_float(time, value);
                samples.floats.starts.push(start);
            }
            Sample::Histogram(mut histogram) => {
                let same_chunk = last_histogram > last_float
                    && samples
                        .histograms
                        .values
                        .last()
                        .is_some_and(|previous| appendable(previous, &histogram));
                if histogram.counter_reset != CounterReset::Gauge {
                    histogram.counter_reset = if same_chunk {
                        CounterReset::NotReset
                    } else {
                        CounterReset::Unknown
                    };
                }
                samples.push_histogram(time, Arc::new(histogram));
                samples.histograms.starts.push(start);
            }
        }
    }
}

fn appendable(previous: &Histogram, next: &Histogram) -> bool {
    if previous.counter_reset == CounterReset::Gauge
        || previous.schema != next.schema
        || previous.zero_threshold != next.zero_threshold
        || previous.custom_values != next.custom_values
        || next.counter_reset == CounterReset::Reset
        || next.counter_reset == CounterReset::Gauge
    {
        return false;
    }
    let mut next = next.clone();
    next.counter_reset = CounterReset::Unknown;
    !next.detects_reset(previous)
}

struct Found<'a> {
    series: std::vec::IntoIter<(&'a Labels, &'a Samples)>,
    start: i64,
    end: i64,
}

impl SeriesSet for Found<'_> {
    fn next(&mut self, into: &mut Samples) -> Result<Option<Labels>, SourceError> {
        let Some((labels, samples)) = self.series.next() else {
            return Ok(None);
        };
        let inside = |times: &[i64]| {
            times.partition_point(|&time| time <= self.start)
                ..times.partition_point(|&time| time <= self.end)
        };
        let floats = inside(&samples.floats.times);
        into.floats
            .times
            .extend_from_slice(&samples.floats.times[floats.clone()]);
        into.floats
            .values
            .extend_from_slice(&samples.floats.values[floats.clone()]);
        into.floats
            .starts
            .extend_from_slice(&samples.floats.starts[floats]);
        let histograms = inside(&samples.histograms.times);
        into.histograms
            .times
            .extend_from_slice(&samples.histograms.times[histograms.clone()]);
        into.histograms
            .values
            .extend_from_slice(&samples.histograms.values[histograms.clone()]);
        into.histograms
            .starts
            .extend_from_slice(&samples.histograms.starts[histograms]);
        Ok(Some(labels.clone()))
    }
}

impl SeriesSource for Memory {
    fn select<'a>(
        &'a self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        _: &Hints,
    ) -> Result<Box<dyn SeriesSet + 'a>, SourceError> {
        let series: Vec<(&Labels, &Samples)> = self
            .series
            .iter()
            .filter(|(labels, _)| {
                matchers
                    .iter()
                    .all(|matcher| matcher.matches_labels(labels))
            })
            .collect();
        Ok(Box::new(Found {
            series: series.into_iter(),
            start,
            end,
        }))
    }
}
