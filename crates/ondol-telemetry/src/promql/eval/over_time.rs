//! Functions that fold a stretch into one value: `sum_over_time` and its kin, `changes`,
//! `resets`, `deriv`, `predict_linear`, `double_exponential_smoothing`.
//!
//! Short stretches are folded anew each time, in the order of their samples, which is exact and
//! cheap. Long ones keep partial results that the next time goes on with, so that a query costs
//! the samples of a series once, however far its stretches overlap. Regressions, smoothing, the
//! median deviation and histograms are folded anew always.

use super::super::annotations::Remark;
use super::super::ast::Extension;
use super::super::error::QueryError;
use super::super::quantile::quantile_sorted;
use super::rate::restarted;
use super::sliding::{Extreme, Moments, SortedWindow, TwoStacks};
use super::window::{Remarks, Rolling, Window};
use super::{Cell, Result};
use crate::series::histogram::{Incompatible, Kahan, Sum};
use crate::series::{CounterReset, Histogram};

/// Stretches of at most this many samples are folded anew.
const SHORT: usize = 128;

/// `sum_over_time` and `avg_over_time`.
#[derive(Default)]
pub(super) struct SumOverTime {
    pub(super) average: bool,
    long: TwoStacks<Kahan>,
}

impl SumOverTime {
    pub(super) fn new(average: bool) -> Self {
        Self {
            average,
            long: TwoStacks::default(),
        }
    }
}

impl Rolling for SumOverTime {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if window.is_mixed() {
            remarks.add(Remark::MixedFloatsHistograms(window.metric));
            return Ok(Cell::Empty);
        }
        if window.floats.is_empty() {
            return Ok(fold_histograms(window, self.average, remarks));
        }
        let values = window.float_values();
        if values.len() > SHORT {
            let sum = self.long.over(
                window.floats.clone(),
                |at| Kahan::new(window.all_floats()[at]),
                |mut left, right| {
                    left.merge(right);
                    left
                },
            );
            if !sum.raw().is_infinite() {
                return Ok(Cell::Float(if self.average {
                    sum.divided(values.len() as f64)
                } else {
                    sum.value()
                }));
            }
        }
        Ok(Cell::Float(if self.average {
            average(values)
        } else {
            let mut sum = Kahan::default();
            for &value in values {
                sum.add(value);
            }
            if sum.raw().is_infinite() {
                sum.raw()
            } else {
                sum.value()
            }
        }))
    }
}

/// The mean: of the sum as long as that is in the range of doubles, step by step beyond.
fn average(values: &[f64]) -> f64 {
    let mut mean = Mean::new(values[0]);
    for &value in &values[1..] {
        mean.add(value);
    }
    mean.value()
}

/// A mean that grows by one value after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mean {
    count: f64,
    sum: Kahan,
    incremental: bool,
}

impl Mean {
    pub(super) fn new(value: f64) -> Self {
        Self {
            count: 1.0,
            sum: Kahan::new(value),
            incremental: false,
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let mut sum = self.sum;
            sum.add(value);
            if !sum.raw().is_infinite() {
                self.sum = sum;
                return;
            }
            self.incremental = true;
            let count = self.count - 1.0;
            self.sum = self.sum.map(|part| part / count);
        }
        let share = (self.count - 1.0) / self.count;
        self.sum = self.sum.map(|part| share * part);
        self.sum.add(value / self.count);
    }

    pub(super) fn value(&self) -> f64 {
        if self.incremental {
            self.sum.value()
        } else {
            self.sum.divided(self.count)
        }
    }
}

/// The same for histograms.
pub(super) struct HistogramMean {
    count: f64,
    sum: Sum,
    incremental: bool,
}

impl HistogramMean {
    pub(super) fn new(first: &Histogram) -> Self {
        Self {
            count: 1.0,
            sum: Sum::from(first),
            incremental: false,
        }
    }

    /// Adds one; the result says whether custom bounds were brought together.
    pub(super) fn add(&mut self, histogram: &Histogram) -> Result<bool, Incompatible> {
        self.count += 1.0;
        if !self.incremental {
            let mut sum = self.sum.clone();
            let added = sum.add(histogram)?;
            if !sum.has_overflow() {
                self.sum = sum;
                return Ok(added.bounds_reconciled);
            }
            self.incremental = true;
            let count = self.count - 1.0;
            self.sum = self.sum.clone().map(|part| part / count);
        }
        let share = (self.count - 1.0) / self.count;
        self.sum = self.sum.clone().map(|part| part * share);
        Ok(self
            .sum
            .add(&histogram.divided(self.count))?
            .bounds_reconciled)
    }

    pub(super) fn value(&self) -> Histogram {
        if self.incremental {
            self.sum.finish()
        } else {
            let count = self.count;
            self.sum.clone().map(|part| part / count).finish()
        }
    }
}

fn fold_histograms(window: &Window<'_>, average: bool, remarks: &mut Remarks<'_>) -> Cell {
    let values = window.histogram_values();
    let seen = |hint: CounterReset| values.iter().any(|value| value.counter_reset == hint);
    let folded = if average {
        let mut mean = HistogramMean::new(&values[0]);
        values[1..]
            .iter()
            .try_fold(false, |reconciled, value| Ok(reconciled | mean.add(value)?))
            .map(|reconciled| (mean.value(), reconciled))
    } else {
        let mut sum = Sum::from(values[0].as_ref());
        values[1..]
            .iter()
            .try_fold(false, |reconciled, value| {
                Ok(reconciled | sum.add(value)?.bounds_reconciled)
            })
            .map(|reconciled| (sum.finish(), reconciled))
    };
    let folded: Result<(Histogram, bool), Incompatible> = folded;
    match folded {
        Ok((histogram, reconciled)) => {
            if seen(CounterReset::Reset) && seen(CounterReset::NotReset) {
                remarks.add(Remark::ResetCollision("aggregation"));
            }
            if reconciled {
                remarks.add(Remark::BoundsReconciled("aggregation"));
            }
            Cell::histogram(histogram)
        }
        Err(Incompatible) => {
            remarks.add(Remark::MixedExponentialCustom(window.metric));
            Cell::Empty
        }
    }
}

/// Functions that only look at how many samples there are or at the first or last of them.
#[derive(Clone, Copy)]
pub(super) enum Edge {
    Count,
    Present,
    First,
    Last,
    TimeOfFirst,
    TimeOfLast,
}

impl Rolling for Edge {
    fn at(&mut self, window: &Window<'_>, _: &mut Remarks<'_>) -> Result<Cell> {
        let (floats, histograms) = (window.float_times(), window.histogram_times());
        let seconds = |time: Option<i64>| {
            time.map_or(Cell::Empty, |time| Cell::Float(time as f64 / 1000.0))
        };
        Ok(match self {
            Self::Count => Cell::Float((floats.len() + histograms.len()) as f64),
            Self::Present => Cell::Float(1.0),
            Self::First => match (floats.first(), histograms.first()) {
                (Some(float), Some(histogram)) if float < histogram => {
                    Cell::Float(window.float_values()[0])
                }
                (_, Some(_)) => Cell::Histogram(window.histogram_values()[0].clone()),
                (Some(_), None) => Cell::Float(window.float_values()[0]),
                (None, None) => Cell::Empty,
            },
            Self::Last => match (floats.last(), histograms.last()) {
                (Some(float), Some(histogram)) if float > histogram => {
                    Cell::Float(window.float_values()[floats.len() - 1])
                }
                (_, Some(_)) => {
                    Cell::Histogram(window.histogram_values()[histograms.len() - 1].clone())
                }
                (Some(_), None) => Cell::Float(window.float_values()[floats.len() - 1]),
                (None, None) => Cell::Empty,
            },
            Self::TimeOfFirst => {
                seconds(floats.first().into_iter().chain(histograms.first()).min().copied())
            }
            Self::TimeOfLast => {
                seconds(floats.last().into_iter().chain(histograms.last()).max().copied())
            }
        })
    }
}

/// Remarks on histograms that a function over floats leaves out; `false` when nothing is left.
fn floats_only(window: &Window<'_>, remarks: &mut Remarks<'_>) -> bool {
    if window.floats.is_empty() {
        return false;
    }
    if !window.histograms.is_empty() {
        remarks.add(Remark::HistogramIgnoredInMixedRange(window.metric));
    }
    true
}

/// `min_over_time` and `max_over_time`.
pub(super) struct ExtremeOverTime {
    pub(super) max: bool,
    long: TwoStacks<Extreme>,
}

impl ExtremeOverTime {
    pub(super) fn new(max: bool) -> Self {
        Self {
            max,
            long: TwoStacks::default(),
        }
    }
}

impl Rolling for ExtremeOverTime {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if !floats_only(window, remarks) {
            return Ok(Cell::Empty);
        }
        let max = self.max;
        let better = |left: Extreme, right: Extreme| left.better(right, max);
        let values = window.float_values();
        if values.len() > SHORT {
            let found = self.long.over(
                window.floats.clone(),
                |at| Extreme(window.all_floats()[at]),
                better,
            );
            return Ok(Cell::Float(found.0));
        }
        let found = values
            .iter()
            .map(|&value| Extreme(value))
            .reduce(better)
            .unwrap_or_default();
        Ok(Cell::Float(found.0))
    }
}

/// `ts_of_min_over_time` and `ts_of_max_over_time`: the latest of equal ones.
pub(super) struct TimeOfExtreme {
    pub(super) max: bool,
}

impl Rolling for TimeOfExtreme {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if !floats_only(window, remarks) {
            return Ok(Cell::Empty);
        }
        let (times, values) = (window.float_times(), window.float_values());
        let (mut best, mut time) = (values[0], times[0]);
        for (&value, &at) in values.iter().zip(times) {
            let at_least = if self.max { value >= best } else { value <= best };
            if at_least || best.is_nan() {
                (best, time) = (value, at);
            }
        }
        Ok(Cell::Float(time as f64 / 1000.0))
    }
}

/// `stdvar_over_time` and `stddev_over_time`.
pub(super) struct VarianceOverTime {
    pub(super) root: bool,
    long: TwoStacks<Moments>,
}

impl VarianceOverTime {
    pub(super) fn new(root: bool) -> Self {
        Self {
            root,
            long: TwoStacks::default(),
        }
    }
}

impl Rolling for VarianceOverTime {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if !floats_only(window, remarks) {
            return Ok(Cell::Empty);
        }
        let values = window.float_values();
        let variance = if values.len() > SHORT {
            self.long
                .over(
                    window.floats.clone(),
                    |at| Moments::new(window.all_floats()[at]),
                    Moments::merged,
                )
                .variance()
        } else {
            let mut spread = Spread::default();
            for &value in values {
                spread.add(value);
            }
            spread.variance()
        };
        Ok(Cell::Float(if self.root {
            variance.sqrt()
        } else {
            variance
        }))
    }
}

/// A variance that grows by one value after the other (Welford, compensated).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    count: f64,
    mean: Kahan,
    squares: Kahan,
}

impl Spread {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean.value();
        self.mean.add(delta / self.count);
        self.squares.add(delta * (value - self.mean.value()));
    }

    pub(super) fn variance(&self) -> f64 {
        self.squares.value() / self.count
    }
}

/// `quantile_over_time`.
#[derive(Default)]
pub(super) struct QuantileOverTime {
    sorted: SortedWindow,
}

impl Rolling for QuantileOverTime {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if window.floats.is_empty() {
            return Ok(Cell::Empty);
        }
        let q = window.params[0];
        if !(0.0..=1.0).contains(&q) {
            remarks.add(Remark::InvalidQuantile(q));
        }
        floats_only(window, remarks);
        let sorted = self
            .sorted
            .over(window.floats.clone(), window.all_floats());
        Ok(Cell::Float(quantile_sorted(q, sorted)))
    }
}

/// `mad_over_time`: the median of the distances from the median.
pub(super) struct MedianDeviation;

impl Rolling for MedianDeviation {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if !floats_only(window, remarks) {
            return Ok(Cell::Empty);
        }
        let mut values = window.float_values().to_vec();
        if values.iter().any(|value| value.is_nan()) {
            return Ok(Cell::Float(f64::NAN));
        }
        values.sort_by(f64::total_cmp);
        let median = quantile_sorted(0.5, &values);
        for value in &mut values {
            *value = (*value - median).abs();
        }
        values.sort_by(f64::total_cmp);
        Ok(Cell::Float(quantile_sorted(0.5, &values)))
    }
}

/// `changes` and `resets`.
pub(super) struct Steps {
    resets: bool,
    /// Float samples that differ from, or restarted against, the one before them.
    marks: Option<Vec<usize>>,
}

impl Steps {
    pub(super) fn new(resets: bool) -> Self {
        Self {
            resets,
            marks: None,
        }
    }

    fn float_step(&self, window: &Window<'_>, before: usize, now: usize) -> bool {
        let values = window.all_floats();
        let (previous, value) = (values[before], values[now]);
        if self.resets {
            value < previous
                || restarted(
                    window.float_start(before),
                    window.float_time(before),
                    window.float_start(now),
                    window.float_time(now),
                )
        } else {
            value != previous && !(value.is_nan() && previous.is_nan())
        }
    }

    fn histogram_step(&self, window: &Window<'_>, before: usize, now: usize) -> bool {
        let (previous, value) = (window.histogram_at(before), window.histogram_at(now));
        if self.resets {
            restarted(
                window.histogram_start(before),
                window.histogram_time(before),
                window.histogram_start(now),
                window.histogram_time(now),
            ) || value.detects_reset(previous)
        } else {
            !value.equals(previous)
        }
    }
}

impl Rolling for Steps {
    fn at(&mut self, window: &Window<'_>, _: &mut Remarks<'_>) -> Result<Cell> {
        let (mut floats, mut histograms) = (window.floats.clone(), window.histograms.clone());
        if window.extension == Extension::Anchored {
            // The last sample at or before the start is the first that counts.
            let after_floats =
                floats.start + window.float_times().partition_point(|&t| t <= window.start);
            let after_histograms = histograms.start
                + window
                    .histogram_times()
                    .partition_point(|&t| t <= window.start);
            if after_floats == floats.end && after_histograms == histograms.end {
                return Ok(Cell::Empty);
            }
            let anchor_float = (after_floats > floats.start).then(|| after_floats - 1);
            let anchor_histogram =
                (after_histograms > histograms.start).then(|| after_histograms - 1);
            let float_is_later = match (anchor_float, anchor_histogram) {
                (Some(float), Some(histogram)) => {
                    window.float_time(float) >= window.histogram_time(histogram)
                }
                (float, _) => float.is_some(),
            };
            floats.start = after_floats - usize::from(float_is_later);
            histograms.start =
                after_histograms - usize::from(anchor_histogram.is_some() && !float_is_later);
        }
        if histograms.is_empty() {
            if self.marks.is_none() {
                let marks = (1..window.all_floats().len())
                    .filter(|&at| self.float_step(window, at - 1, at))
                    .collect();
                self.marks = Some(marks);
            }
            let marks = self.marks.as_deref().unwrap_or_default();
            let inside = marks.partition_point(|&at| at < floats.end)
                - marks.partition_point(|&at| at <= floats.start);
            return Ok(Cell::Float(inside as f64));
        }
        let mut steps = 0usize;
        // Which column the sample before is in, and where.
        let mut previous: Option<(bool, usize)> = None;
        while !floats.is_empty() || !histograms.is_empty() {
            let is_float = !floats.is_empty()
                && (histograms.is_empty()
                    || window.float_time(floats.start)
                        < window.histogram_time(histograms.start));
            let at = if is_float {
                floats.next()
            } else {
                histograms.next()
            };
            let Some(at) = at else { break };
            if let Some((was_float, before)) = previous {
                let step = match (was_float, is_float) {
                    (true, true) => self.float_step(window, before, at),
                    (false, false) => self.histogram_step(window, before, at),
                    _ => true,
                };
                steps += usize::from(step);
            }
            previous = Some((is_float, at));
        }
        Ok(Cell::Float(steps as f64))
    }
}

/// `deriv` and `predict_linear`: least squares.
pub(super) struct Regression {
    pub(super) predict: bool,
}

impl Rolling for Regression {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if !floats_only(window, remarks) || window.floats.len() < 2 {
            return Ok(Cell::Empty);
        }
        let (times, values) = (window.float_times(), window.float_values());
        let origin = if self.predict { window.time } else { times[0] };
        let (slope, intercept) = regression(times, values, origin);
        Ok(Cell::Float(if self.predict {
            slope * window.params[0] + intercept
        } else {
            slope
        }))
    }
}

fn regression(times: &[i64], values: &[f64], origin: i64) -> (f64, f64) {
    let first = values[0];
    if values.iter().all(|&value| value == first) {
        return if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        };
    }
    let [mut x, mut y, mut xy, mut xx] = [Kahan::default(); 4];
    for (&time, &value) in times.iter().zip(values) {
        let seconds = (time - origin) as f64 / 1000.0;
        x.add(seconds);
        y.add(value);
        xy.add(seconds * value);
        xx.add(seconds * seconds);
    }
    let n = values.len() as f64;
    let [x, y, xy, xx] = [x, y, xy, xx].map(|sum| sum.value());
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

/// `double_exponential_smoothing`.
pub(super) struct Smoothing;

impl Rolling for Smoothing {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        let [smoothing, trend] = window.params;
        for (name, factor) in [("smoothing", smoothing), ("trend", trend)] {
            if factor <= 0.0 || factor >= 1.0 {
                return Err(QueryError::Execution(format!(
                    "invalid {name} factor. Expected: 0 < {}f < 1, got: {factor:.6}",
                    &name[..1]
                )));
            }
        }
        if !floats_only(window, remarks) || window.floats.len() < 2 {
            return Ok(Cell::Empty);
        }
        let values = window.float_values();
        let mut level = values[0];
        let mut slope = values[1] - values[0];
        let mut before = 0.0;
        for (at, &value) in values.iter().enumerate().skip(1) {
            if at > 1 {
                slope = trend * (level - before) + (1.0 - trend) * slope;
            }
            let next = smoothing * value + (1.0 - smoothing) * (level + slope);
            before = level;
            level = next;
        }
        Ok(Cell::Float(level))
    }
}
