//! `rate`, `increase` and `delta` over ranges that are `anchored` or `smoothed`.
//!
//! An anchored range starts with the last sample at or before its start; a smoothed one has the
//! values at both ends interpolated. Nothing is extrapolated.

use std::sync::Arc;

use super::super::annotations::Remark;
use super::super::ast::Extension;
use super::Cell;
use super::select::interpolate;
use super::window::{Remarks, Window};
use crate::series::histogram::Sum;
use crate::series::{CounterReset, Histogram};

/// The change over an extended range.
pub(super) fn extended(
    window: &Window<'_>,
    counter: bool,
    per_second: bool,
    remarks: &mut Remarks<'_>,
) -> Cell {
    let times = if window.floats.is_empty() {
        window.histogram_times()
    } else {
        window.float_times()
    };
    let Some((first, last)) = ends(window, times) else {
        return Cell::Empty;
    };
    if window.floats.is_empty() {
        histograms(window, first, last, counter, per_second, remarks)
    } else {
        let change = floats(window, first, last, counter);
        Cell::Float(if per_second {
            change / window.seconds()
        } else {
            change
        })
    }
}

/// The samples that stand for the ends: the last at or before the start (or the first after it),
/// and the first at or after the end (or the last before it).
fn ends(window: &Window<'_>, times: &[i64]) -> Option<(usize, usize)> {
    let smoothed = window.extension == Extension::Smoothed;
    let mut last = times.len().checked_sub(1)?;
    let first = times[..last]
        .partition_point(|&time| time <= window.start)
        .saturating_sub(1);
    if smoothed {
        last = times[..last].partition_point(|&time| time < window.end);
    }
    if times[last] <= window.start || (smoothed && times[first] > window.end) {
        return None;
    }
    Some((first, last))
}

fn floats(window: &Window<'_>, first: usize, last: usize, counter: bool) -> f64 {
    let (times, values) = (window.float_times(), window.float_values());
    let smoothed = window.extension == Extension::Smoothed;
    let between = |a: usize, b: usize, time: i64| {
        let (mut low, high) = (values[a], values[b]);
        if counter && high < low {
            low = 0.0;
        }
        low + (high - low) * (time - times[a]) as f64 / (times[b] - times[a]) as f64
    };
    let left = if smoothed && times[first] < window.start && first + 1 < times.len() {
        between(first, first + 1, window.start)
    } else {
        values[first]
    };
    let right = if smoothed && last > 0 && times[last] > window.end {
        between(last - 1, last, window.end)
    } else {
        values[last]
    };
    let mut change = right - left;
    if counter {
        // Restarts at the ends are part of the interpolation already.
        let from = first + usize::from(times[first] <= window.start);
        let to = (last + 1).saturating_sub(usize::from(times[last] >= window.end));
        let mut previous = left;
        for &value in values.get(from..to.max(from)).unwrap_or_default() {
            if value < previous {
                change += previous;
            }
            previous = value;
        }
        if right < previous {
            change += previous;
        }
    }
    change
}

fn histograms(
    window: &Window<'_>,
    first: usize,
    last: usize,
    counter: bool,
    per_second: bool,
    remarks: &mut Remarks<'_>,
) -> Cell {
    let (times, values) = (window.histogram_times(), window.histogram_values());
    let smoothed = window.extension == Extension::Smoothed;
    let inside = &values[first..=last.max(first)];
    let custom = values[first].is_custom();
    for value in inside {
        if value.is_custom() != custom {
            remarks.add(Remark::MixedExponentialCustom(window.metric));
            return Cell::Empty;
        }
        if counter && value.counter_reset == CounterReset::Gauge {
            remarks.add(Remark::NotCounter(window.metric));
        }
    }
    let mut between = |a: usize, b: usize, time: i64| -> Option<Histogram> {
        match interpolate(
            (times[a], &values[a]),
            (times[b], &values[b]),
            time,
            counter,
        ) {
            Ok((histogram, reconciled)) => {
                for operation in reconciled {
                    remarks.add(Remark::BoundsReconciled(operation));
                }
                Some(histogram)
            }
            Err(_) => {
                remarks.add(Remark::MixedExponentialCustom(window.metric));
                None
            }
        }
    };
    let left = if smoothed && times[first] < window.start && first + 1 < times.len() {
        between(first, first + 1, window.start)
    } else {
        Some((*values[first]).clone())
    };
    let right = if smoothed && last > 0 && times[last] > window.end {
        between(last - 1, last, window.end)
    } else {
        Some((*values[last]).clone())
    };
    let (Some(left), Some(right)) = (left, right) else {
        return Cell::Empty;
    };
    if !counter
        && [&left, &right]
            .iter()
            .any(|end| end.counter_reset != CounterReset::Gauge)
    {
        remarks.add(Remark::NotGauge(window.metric));
    }
    let mut sum = Sum::from(&right);
    let mut combined = sum.subtract(&left).map(|added| {
        if added.bounds_reconciled {
            remarks.add(Remark::BoundsReconciled("subtraction"));
        }
    });
    if counter {
        for lost in restarts(window, values, times, (first, last), (&left, &right)) {
            combined = combined.and_then(|()| {
                sum.add(lost).map(|added| {
                    if added.bounds_reconciled {
                        remarks.add(Remark::BoundsReconciled("addition"));
                    }
                })
            });
        }
    }
    if combined.is_err() {
        remarks.add(Remark::MixedExponentialCustom(window.metric));
        return Cell::Empty;
    }
    let mut result = sum.finish();
    if per_second {
        result = result.divided(window.seconds());
    }
    result.counter_reset = CounterReset::Gauge;
    Cell::histogram(result)
}

/// What was counted right before each restart between the two ends.
fn restarts<'w>(
    window: &Window<'_>,
    values: &'w [Arc<Histogram>],
    times: &[i64],
    (first, last): (usize, usize),
    (left, right): (&'w Histogram, &Histogram),
) -> Vec<&'w Histogram> {
    let smoothed = window.extension == Extension::Smoothed;
    let mut from = first + 1;
    let mut previous: &Histogram = left;
    if smoothed
        && times[first] < window.start
        && values
            .get(first + 1)
            .is_some_and(|next| next.detects_reset(&values[first]))
    {
        // The interpolation at the start has spanned this restart.
        previous = &values[first + 1];
        from += 1;
    }
    // The last sample is looked at as the right end, not as itself: it would be found to have
    // restarted against itself when its hint says so.
    if from > last {
        return Vec::new();
    }
    let mut lost = Vec::new();
    for value in &values[from..last] {
        if value.detects_reset(previous) {
            lost.push(previous);
        }
        previous = value;
    }
    if right.detects_reset(previous) {
        lost.push(previous);
    }
    lost
}
