//! `changes` and `resets`: how often a series differs from, or restarted against, itself.

use super::super::ast::Extension;
use super::rate::restarted;
use super::window::{Remarks, Rolling, Window};
use super::{Cell, Result};

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
                    || window.float_time(floats.start) < window.histogram_time(histograms.start));
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
