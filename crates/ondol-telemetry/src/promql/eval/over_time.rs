//! Functions that fold a stretch into one value: `sum_over_time` and its kin.
//!
//! Short stretches are folded anew each time, in the order of their samples, which is exact and
//! cheap. Long ones keep partial results that the next time goes on with, so that a query costs
//! the samples of a series once, however far its stretches overlap. Regressions, smoothing, the
//! median deviation and histograms are folded anew always.

use super::super::annotations::Remark;
use super::super::quantile::quantile_sorted;
use super::mean::{HistogramMean, Spread, average};
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
        let seconds =
            |time: Option<i64>| time.map_or(Cell::Empty, |time| Cell::Float(time as f64 / 1000.0));
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
            Self::TimeOfFirst => seconds(
                floats
                    .first()
                    .into_iter()
                    .chain(histograms.first())
                    .min()
                    .copied(),
            ),
            Self::TimeOfLast => seconds(
                floats
                    .last()
                    .into_iter()
                    .chain(histograms.last())
                    .max()
                    .copied(),
            ),
        })
    }
}

/// Remarks on histograms that a function over floats leaves out; `false` when nothing is left.
pub(super) fn floats_only(window: &Window<'_>, remarks: &mut Remarks<'_>) -> bool {
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
            let at_least = if self.max {
                value >= best
            } else {
                value <= best
            };
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
        let sorted = self.sorted.over(window.floats.clone(), window.all_floats());
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
