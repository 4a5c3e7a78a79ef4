//! Instant selectors: the last sample of each series that is not too old.

use std::collections::HashSet;

use super::super::annotations::Remark;
use super::super::ast::{Extension, Range, VectorSelector};
use super::super::error::QueryError;
use super::{Cell, Column, Evaluator, Grid, Result, Sink};
use crate::series::{
    CounterReset, Hints, Histogram, Labels, Samples, histogram::Sum, is_stale_nan,
};

/// What of a sample is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// What it says.
    Value,
    /// When it was taken, in seconds.
    Time,
    /// When it was taken, in milliseconds.
    Milliseconds,
    /// Since when it counts, in seconds; 0 when that is unknown.
    Start,
}

/// Where a selector looks: milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl<'a> Evaluator<'a> {
    /// The series of an instant selector.
    pub(super) fn select(
        &mut self,
        selector: &VectorSelector,
        grid: Grid,
        take: Take,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let offset = self.offset(selector.offset.as_ref())?;
        let times: Vec<i64> = grid
            .times()
            .map(|time| self.reference(selector.at, time) - offset)
            .collect();
        self.select_at(selector, &times, take, sink)
    }

    /// The series of a selector at these times, which rise.
    pub(super) fn select_at(
        &mut self,
        selector: &VectorSelector,
        times: &[i64],
        take: Take,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let (Some(&first), Some(&last)) = (times.first(), times.last()) else {
            return Ok(());
        };
        let lookback = self.lookback();
        let smoothed = selector.extension == Extension::Smoothed;
        let span = Span {
            start: first - lookback,
            end: if smoothed { last + lookback } else { last },
        };
        self.each_series(selector, span, None, &mut |evaluator, labels, samples| {
            let cells = if smoothed {
                evaluator.smoothed_cells(samples, times, &labels, selector.range)
            } else {
                let mut cursor = Cursor::default();
                times
                    .iter()
                    .map(|&time| cursor.cell(samples, time, lookback, take))
                    .collect()
            };
            let column = Column {
                labels,
                drop_name: false,
                cells,
            };
            if column.is_empty() {
                return Ok(());
            }
            sink(evaluator, column)
        })
    }

    /// Reads the series a selector finds, one after the other.
    pub(super) fn each_series(
        &mut self,
        selector: &VectorSelector,
        span: Span,
        function: Option<&'static str>,
        take: &mut dyn FnMut(&mut Self, Labels, &mut Samples) -> Result<()>,
    ) -> Result<()> {
        let offender = || format!("selector {selector}");
        let hints = Hints {
            step: self.times.step,
            function,
            only_sum_and_count: self.only_sum_and_count,
            max_samples: self.config.max_samples,
        };
        let only_sum_and_count = self.only_sum_and_count;
        let source = self.source;
        let mut set = source.select(&selector.matchers, span.start, span.end, &hints)?;
        let mut samples = Samples::default();
        let mut found = 0usize;
        // A label set that a store hands out twice would be two results of one name.
        let mut seen: HashSet<u64> = HashSet::new();
        loop {
            samples.clear();
            self.tick()?;
            let Some(labels) = set.next(&mut samples)? else {
                return Ok(());
            };
            found += 1;
            if found > self.config.max_series {
                return Err(QueryError::Limit {
                    offender: offender(),
                    limit: self.config.max_series,
                    what: "series",
                    setting: "max_series",
                });
            }
            debug_assert!(seen.insert(labels.hash64()), "{labels} was found twice");
            let weight = samples.weight();
            self.read += weight;
            self.charge(weight, &offender)?;
            if only_sum_and_count {
                detect_resets(&mut samples);
            }
            if !samples.is_empty() {
                take(self, labels, &mut samples)?;
            }
            self.samples = self.samples.saturating_sub(weight);
        }
    }

    /// Values between the samples before and after each time.
    fn smoothed_cells(
        &mut self,
        samples: &Samples,
        times: &[i64],
        labels: &Labels,
        range: Range,
    ) -> Vec<Cell> {
        let lookback = self.lookback();
        let mut cells = Vec::with_capacity(times.len());
        for &time in times {
            let (low, high) = (time - lookback, time + lookback);
            let inside = |at: &[i64]| {
                let from = at.partition_point(|&t| t <= low);
                let to = at.partition_point(|&t| t <= high);
                from..to
            };
            let floats = inside(&samples.floats.times);
            let histograms = inside(&samples.histograms.times);
            let name = labels.metric_name();
            if !floats.is_empty() && !histograms.is_empty() {
                self.remark(Remark::MixedFloatsHistograms(name), range);
                cells.push(Cell::Empty);
                continue;
            }
            let cell = if !floats.is_empty() {
                let at = &samples.floats.times[floats.clone()];
                let values = &samples.floats.values[floats];
                let next = at.partition_point(|&t| t <= time);
                match next.checked_sub(1) {
                    None => Cell::Empty,
                    Some(before) if is_stale_nan(values[before]) => Cell::Empty,
                    Some(before) => {
                        let left = values[before];
                        match at.get(next) {
                            Some(&later) if at[before] != time && !is_stale_nan(values[next]) => {
                                Cell::Float(
                                    left + (values[next] - left) * (time - at[before]) as f64
                                        / (later - at[before]) as f64,
                                )
                            }
                            _ => Cell::Float(left),
                        }
                    }
                }
            } else if !histograms.is_empty() {
                let at = &samples.histograms.times[histograms.clone()];
                let values = &samples.histograms.values[histograms];
                let next = at.partition_point(|&t| t <= time);
                match next.checked_sub(1) {
                    None => Cell::Empty,
                    Some(before) if is_stale_nan(values[before].sum) => Cell::Empty,
                    Some(before) => match values.get(next) {
                        Some(later)
                            if at[before] != time
                                && later.is_custom() != values[before].is_custom() =>
                        {
                            self.remark(Remark::MixedExponentialCustom(name), range);
                            Cell::Empty
                        }
                        Some(later) if at[before] != time && !is_stale_nan(later.sum) => {
                            let counter = later.counter_reset != CounterReset::Gauge
                                && values[before].counter_reset != CounterReset::Gauge;
                            match interpolate(
                                (at[before], &values[before]),
                                (at[next], later),
                                time,
                                counter,
                            ) {
                                Ok((between, reconciled)) => {
                                    for operation in reconciled {
                                        self.remark(Remark::BoundsReconciled(operation), range);
                                    }
                                    Cell::histogram(between)
                                }
                                Err(_) => {
                                    self.remark(Remark::MixedExponentialCustom(name), range);
                                    Cell::Empty
                                }
                            }
                        }
                        _ => Cell::Histogram(values[before].clone()),
                    },
                }
            } else {
                Cell::Empty
            };
            cells.push(cell);
        }
        cells
    }
}

/// The histogram between two, and which operations had to bring custom bounds together.
///
/// # Errors
/// They cannot be combined.
pub(super) fn interpolate(
    left: (i64, &Histogram),
    right: (i64, &Histogram),
    time: i64,
    counter: bool,
) -> Result<(Histogram, Vec<&'static str>), crate::series::histogram::Incompatible> {
    if time == left.0 {
        return Ok((left.1.clone(), Vec::new()));
    }
    if time == right.0 {
        return Ok((right.1.clone(), Vec::new()));
    }
    let fraction = (time - left.0) as f64 / (right.0 - left.0) as f64;
    if counter && right.1.detects_reset(left.1) {
        // After a restart the count rose from nothing.
        return Ok((right.1.multiplied(fraction), Vec::new()));
    }
    let mut reconciled = Vec::new();
    let mut sum = Sum::from(right.1);
    if sum.subtract(left.1)?.bounds_reconciled {
        reconciled.push("subtraction");
    }
    let mut sum = Sum::from(&sum.map(|value| value * fraction).finish());
    if sum.add(left.1)?.bounds_reconciled {
        reconciled.push("addition");
    }
    let mut between = sum.finish();
    between.counter_reset = right.1.counter_reset;
    Ok((between, reconciled))
}

/// Says of each histogram whether its count restarted, as far as the series itself tells.
fn detect_resets(samples: &mut Samples) {
    let mut previous: Option<std::sync::Arc<Histogram>> = None;
    for value in &mut samples.histograms.values {
        if is_stale_nan(value.sum) {
            continue;
        }
        let original = std::sync::Arc::clone(value);
        if let (CounterReset::Unknown, Some(previous)) = (value.counter_reset, &previous) {
            let mut known = (*original).clone();
            known.counter_reset = if original.detects_reset(previous) {
                CounterReset::Reset
            } else {
                CounterReset::NotReset
            };
            *value = std::sync::Arc::new(known);
        }
        previous = Some(original);
    }
}

/// Walks through the samples of a series as time goes on.
#[derive(Default)]
struct Cursor {
    /// Samples at or before the time looked at last.
    floats: usize,
    histograms: usize,
}

impl Cursor {
    fn cell(&mut self, samples: &Samples, time: i64, lookback: i64, take: Take) -> Cell {
        let floats = &samples.floats;
        let histograms = &samples.histograms;
        while floats.times.get(self.floats).is_some_and(|&t| t <= time) {
            self.floats += 1;
        }
        while histograms
            .times
            .get(self.histograms)
            .is_some_and(|&t| t <= time)
        {
            self.histograms += 1;
        }
        let fresh = |times: &[i64], passed: usize| {
            let at = passed.checked_sub(1)?;
            (times[at] > time - lookback).then_some(at)
        };
        let float = fresh(&floats.times, self.floats);
        let histogram = fresh(&histograms.times, self.histograms);
        let later = match (float, histogram) {
            (Some(f), Some(h)) if floats.times[f] > histograms.times[h] => (Some(f), None),
            (_, Some(h)) => (None, Some(h)),
            (f, None) => (f, None),
        };
        let (taken, start, cell) = match later {
            (Some(at), _) => {
                if is_stale_nan(floats.values[at]) {
                    return Cell::Empty;
                }
                (
                    floats.times[at],
                    floats.starts.get(at).copied().unwrap_or(0),
                    Cell::Float(floats.values[at]),
                )
            }
            (None, Some(at)) => {
                if is_stale_nan(histograms.values[at].sum) {
                    return Cell::Empty;
                }
                (
                    histograms.times[at],
                    histograms.starts.get(at).copied().unwrap_or(0),
                    Cell::Histogram(histograms.values[at].clone()),
                )
            }
            (None, None) => return Cell::Empty,
        };
        match take {
            Take::Value => cell,
            Take::Time => Cell::Float(taken as f64 / 1000.0),
            Take::Milliseconds => match cell {
                // The time of a histogram has no place in a number: whoever asks for
                // milliseconds has to refuse it.
                Cell::Histogram(_) => cell,
                _ => Cell::Float(taken as f64),
            },
            Take::Start => Cell::Float(start as f64 / 1000.0),
        }
    }
}
