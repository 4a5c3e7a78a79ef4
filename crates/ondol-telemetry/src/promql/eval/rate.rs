//! `rate`, `increase`, `delta`, `irate` and `idelta`.
//!
//! What a stretch lost to restarts of a counter is summed from a list of the restarts of the
//! whole series, which is made once; the stretch only moves along it.

use std::sync::Arc;

use super::super::annotations::Remark;
use super::super::ast::Extension;
use super::rate_extended::extended;
use super::window::{Remarks, Rolling, Window};
use super::{Cell, Result};
use crate::series::histogram::Sum;
use crate::series::{CounterReset, Histogram};

/// Whether a counter restarted, as far as the times since when it counts tell.
pub(super) fn restarted(previous_start: i64, previous_time: i64, start: i64, time: i64) -> bool {
    if start == 0 || start >= time || start < previous_time {
        return false;
    }
    if start > previous_time {
        return true;
    }
    // It counts since the sample before: a delta, unless since when that one counts is unknown.
    previous_start <= previous_time && previous_start != 0 && previous_start != previous_time
}

fn overlaps(previous_start: i64, previous_time: i64, start: i64) -> bool {
    start != 0 && start < previous_time && start != previous_start
}

/// Indexes that rise, looked at through a stretch that moves forward.
#[derive(Default)]
struct Marks {
    at: Vec<usize>,
    from: usize,
    to: usize,
}

impl Marks {
    /// The marks between the first (exclusive) and the last sample of the stretch.
    fn inside(&mut self, first: usize, end: usize) -> &[usize] {
        while self.at.get(self.to).is_some_and(|&mark| mark < end) {
            self.to += 1;
        }
        while self.from < self.to && self.at[self.from] <= first {
            self.from += 1;
        }
        &self.at[self.from..self.to]
    }
}

/// `rate`, `increase` and `delta`.
pub(super) struct Rate {
    counter: bool,
    per_second: bool,
    prepared: bool,
    /// Float samples before which the counter restarted.
    restarts: Marks,
    /// Float samples that count since a time before the sample before them.
    overlapping: Marks,
    /// Whether a histogram restarted against the one before, once it was looked at.
    histogram_restarts: Vec<Option<bool>>,
}

impl Rate {
    pub(super) fn new(counter: bool, per_second: bool) -> Self {
        Self {
            counter,
            per_second,
            prepared: false,
            restarts: Marks::default(),
            overlapping: Marks::default(),
            histogram_restarts: Vec::new(),
        }
    }

    fn prepare(&mut self, window: &Window<'_>) {
        self.prepared = true;
        if !self.counter {
            return;
        }
        let values = window.all_floats();
        let starts = window.has_starts();
        for at in 1..values.len() {
            let mut restart = values[at] < values[at - 1];
            if starts {
                let (before, now) = (window.float_start(at - 1), window.float_start(at));
                let (then, time) = (window.float_time(at - 1), window.float_time(at));
                restart |= restarted(before, then, now, time);
                if overlaps(before, then, now) {
                    self.overlapping.at.push(at);
                }
            }
            if restart {
                self.restarts.at.push(at);
            }
        }
    }

    fn histogram_restarted(&mut self, window: &Window<'_>, at: usize) -> bool {
        if self.histogram_restarts.len() <= at {
            self.histogram_restarts.resize(at + 1, None);
        }
        if let Some(known) = self.histogram_restarts[at] {
            return known;
        }
        let restart = restarted(
            window.histogram_start(at - 1),
            window.histogram_time(at - 1),
            window.histogram_start(at),
            window.histogram_time(at),
        ) || window
            .histogram_at(at)
            .detects_reset(window.histogram_at(at - 1));
        self.histogram_restarts[at] = Some(restart);
        restart
    }

    /// The difference between the last and the first histogram, restarts made good.
    fn histogram_difference(
        &mut self,
        window: &Window<'_>,
        remarks: &mut Remarks<'_>,
    ) -> Option<Histogram> {
        let metric = window.metric;
        let first = window.histograms.start;
        let points = window.histogram_values();
        let (head, last) = (points.first()?, points.last()?);
        let is_gauge = |histogram: &Arc<Histogram>| histogram.counter_reset == CounterReset::Gauge;
        if self.counter && points.iter().any(is_gauge) {
            remarks.add(Remark::NotCounter(metric));
        }
        // After a restart between the first two nothing of the first one matters, not even
        // whether it could be combined with the others.
        let skip_first = self.counter && self.histogram_restarted(window, first + 1);
        let head = if skip_first { &points[1] } else { head };
        let custom = head.is_custom();
        if last.is_custom() != custom
            || (self.counter
                && points[1..points.len() - 1]
                    .iter()
                    .any(|point| point.is_custom() != custom))
        {
            remarks.add(Remark::MixedExponentialCustom(metric));
            return None;
        }
        let mut sum = Sum::from(last.as_ref());
        let mut combine = |sum: &mut Sum, other: &Histogram, subtract: bool| {
            let added = if subtract {
                sum.subtract(other)
            } else {
                sum.add(other)
            };
            match added {
                Ok(added) => {
                    if added.bounds_reconciled {
                        remarks.add(Remark::BoundsReconciled(if subtract {
                            "subtraction"
                        } else {
                            "addition"
                        }));
                    }
                    true
                }
                Err(_) => {
                    remarks.add(Remark::MixedExponentialCustom(metric));
                    false
                }
            }
        };
        if skip_first {
            let nothing = Histogram {
                schema: points[1].schema,
                zero_threshold: last.zero_threshold,
                custom_values: points[1].custom_values.clone(),
                ..Histogram::default()
            };
            if !combine(&mut sum, &nothing, true) {
                return None;
            }
        } else if !combine(&mut sum, head, true) {
            return None;
        }
        if self.counter {
            let mut overlapping = false;
            for at in first + 1..window.histograms.end {
                overlapping |= overlaps(
                    window.histogram_start(at - 1),
                    window.histogram_time(at - 1),
                    window.histogram_start(at),
                );
                let restart = self.histogram_restarted(window, at);
                if restart
                    && !(skip_first && at == first + 1)
                    && !combine(&mut sum, window.histogram_at(at - 1), false)
                {
                    return None;
                }
            }
            if overlapping {
                remarks.add(Remark::StartTimeOverlap(metric));
            }
        } else if !is_gauge(&points[0]) || !is_gauge(last) {
            remarks.add(Remark::NotGauge(metric));
        }
        let mut result = sum.finish();
        result.counter_reset = CounterReset::Gauge;
        Some(result)
    }
}

/// What changed over a stretch.
enum Change {
    Float(f64),
    Histogram(Option<Histogram>),
}

impl Rolling for Rate {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        if window.is_mixed() {
            remarks.add(Remark::MixedFloatsHistograms(window.metric));
            return Ok(Cell::Empty);
        }
        if window.extension != Extension::None {
            return Ok(extended(window, self.counter, self.per_second, remarks));
        }
        if !self.prepared {
            self.prepare(window);
        }
        let floats = !window.floats.is_empty();
        let times = if floats {
            window.float_times()
        } else {
            window.histogram_times()
        };
        let (first_time, last_time) = (times[0], times[times.len() - 1]);
        let intervals = times.len() - 1;
        let mut change = if floats {
            let values = window.float_values();
            let mut change = values[values.len() - 1] - values[0];
            if self.counter {
                let all = window.all_floats();
                for &at in self.restarts.inside(window.floats.start, window.floats.end) {
                    change += all[at - 1];
                }
                if !self
                    .overlapping
                    .inside(window.floats.start, window.floats.end)
                    .is_empty()
                {
                    remarks.add(Remark::StartTimeOverlap(window.metric));
                }
            }
            Change::Float(change)
        } else if intervals > 0 {
            match self.histogram_difference(window, remarks) {
                Some(difference) => Change::Histogram(Some(difference)),
                None => return Ok(Cell::Empty),
            }
        } else {
            Change::Histogram(None)
        };

        let mut to_start = (first_time - window.start) as f64 / 1000.0;
        let mut to_end = (window.end - last_time) as f64 / 1000.0;
        let mut sampled = (last_time - first_time) as f64 / 1000.0;
        let average = if intervals > 0 {
            sampled / intervals as f64
        } else {
            0.0
        };
        // A gap of more than this means that the series does not cover the whole stretch.
        let threshold = average * 1.1;
        let counts_since = if floats {
            window.float_start(window.floats.start)
        } else {
            window.histogram_start(window.histograms.start)
        };
        if self.counter
            && counts_since != 0
            && counts_since > window.start
            && counts_since < first_time
        {
            // The first sample counts from zero since a time inside the stretch.
            to_start = 0.0;
            sampled = (last_time - counts_since) as f64 / 1000.0;
            match &mut change {
                Change::Float(change) => *change += window.float_values()[0],
                Change::Histogram(difference) => {
                    let first = window.histogram_values()[0].as_ref();
                    match difference {
                        None => {
                            let mut alone = first.clone();
                            alone.counter_reset = CounterReset::Gauge;
                            *difference = Some(alone);
                        }
                        Some(so_far) => {
                            let mut sum = Sum::from(&*so_far);
                            let Ok(added) = sum.add(first) else {
                                remarks.add(Remark::MixedExponentialCustom(window.metric));
                                return Ok(Cell::Empty);
                            };
                            if added.bounds_reconciled {
                                remarks.add(Remark::BoundsReconciled("addition"));
                            }
                            *so_far = sum.finish();
                        }
                    }
                }
            }
        } else if intervals == 0 {
            return Ok(Cell::Empty);
        } else {
            if to_start >= threshold {
                to_start = average / 2.0;
            }
            if self.counter {
                // A counter is never below zero, so its start is not extrapolated beyond that.
                let to_zero = match &change {
                    Change::Float(change) if *change > 0.0 && window.float_values()[0] >= 0.0 => {
                        sampled * (window.float_values()[0] / change)
                    }
                    Change::Histogram(Some(difference))
                        if difference.count > 0.0 && window.histogram_values()[0].count >= 0.0 =>
                    {
                        sampled * (window.histogram_values()[0].count / difference.count)
                    }
                    _ => to_start,
                };
                if to_zero < to_start {
                    to_start = to_zero;
                }
            }
        }
        if to_end >= threshold {
            to_end = average / 2.0;
        }
        let mut factor = if sampled == 0.0 {
            1.0
        } else {
            (sampled + to_start + to_end) / sampled
        };
        if self.per_second {
            factor /= window.seconds();
        }
        Ok(match change {
            Change::Float(change) => Cell::Float(change * factor),
            Change::Histogram(Some(difference)) => Cell::histogram(difference.multiplied(factor)),
            Change::Histogram(None) => Cell::Empty,
        })
    }
}

/// `irate` and `idelta`: the last two samples.
pub(super) struct Instant {
    pub(super) counter: bool,
}

enum Last<'w> {
    Float(f64),
    Histogram(&'w Histogram),
}

impl Rolling for Instant {
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell> {
        let mut last: Vec<(i64, i64, Last<'_>)> = Vec::with_capacity(4);
        for at in window.floats.clone().rev().take(2) {
            last.push((
                window.float_time(at),
                window.float_start(at),
                Last::Float(window.all_floats()[at]),
            ));
        }
        for at in window.histograms.clone().rev().take(2) {
            last.push((
                window.histogram_time(at),
                window.histogram_start(at),
                Last::Histogram(window.histogram_at(at)),
            ));
        }
        last.sort_by_key(|sample| std::cmp::Reverse(sample.0));
        let [
            (time, start, now),
            (previous_time, previous_start, previous),
            ..,
        ] = last.as_slice()
        else {
            return Ok(Cell::Empty);
        };
        if time == previous_time {
            return Ok(Cell::Empty);
        }
        let seconds = (time - previous_time) as f64 / 1000.0;
        let restart = restarted(*previous_start, *previous_time, *start, *time);
        match (previous, now) {
            (Last::Float(previous), Last::Float(now)) => {
                let change = if self.counter && (now < previous || restart) {
                    *now
                } else {
                    now - previous
                };
                Ok(Cell::Float(if self.counter {
                    change / seconds
                } else {
                    change
                }))
            }
            (Last::Histogram(previous), Last::Histogram(now)) => {
                let gauges = [previous, now]
                    .into_iter()
                    .filter(|histogram| histogram.counter_reset == CounterReset::Gauge)
                    .count();
                if self.counter && gauges > 0 {
                    remarks.add(Remark::NotCounter(window.metric));
                }
                if !self.counter && gauges < 2 {
                    remarks.add(Remark::NotGauge(window.metric));
                }
                let mut sum = Sum::from(*now);
                if !(self.counter && (restart || now.detects_reset(previous))) {
                    let Ok(added) = sum.subtract(previous) else {
                        remarks.add(Remark::MixedExponentialCustom(window.metric));
                        return Ok(Cell::Empty);
                    };
                    if added.bounds_reconciled {
                        remarks.add(Remark::BoundsReconciled("subtraction"));
                    }
                }
                let mut result = sum.finish();
                result.counter_reset = CounterReset::Gauge;
                Ok(Cell::histogram(if self.counter {
                    result.divided(seconds)
                } else {
                    result
                }))
            }
            _ => {
                remarks.add(Remark::MixedFloatsHistograms(window.metric));
                Ok(Cell::Empty)
            }
        }
    }
}
