//! Range selectors: for each time the samples of a stretch before it.
//!
//! Both ends of the stretch only move forward, so that a series is walked through once however
//! many times there are.

use std::ops::Range as Indexes;

use super::super::annotations::{Annotations, Remark};
use super::super::ast::{At, Expr, Extension, Range, VectorSelector};
use super::select::Span;
use super::{Cell, Column, Evaluator, Grid, Result, Sink, misplaced};
use crate::series::{Histogram, Labels, Samples, is_stale_nan};
use std::sync::Arc;

/// What functions over a stretch may look at, at one time.
pub(super) struct Window<'w> {
    samples: &'w Samples,
    /// Which float samples are in it.
    pub(super) floats: Indexes<usize>,
    /// Which histogram samples are in it.
    pub(super) histograms: Indexes<usize>,
    /// Its start, exclusive, in milliseconds.
    pub(super) start: i64,
    /// Its end, inclusive.
    pub(super) end: i64,
    /// The time of the evaluation.
    pub(super) time: i64,
    /// Scalars the function got beside the stretch.
    pub(super) params: [f64; 2],
    /// The name of the metric.
    pub(super) metric: &'w str,
    /// What is done at its ends.
    pub(super) extension: Extension,
}

impl<'w> Window<'w> {
    pub(super) fn float_times(&self) -> &'w [i64] {
        &self.samples.floats.times[self.floats.clone()]
    }

    pub(super) fn float_values(&self) -> &'w [f64] {
        &self.samples.floats.values[self.floats.clone()]
    }

    pub(super) fn histogram_times(&self) -> &'w [i64] {
        &self.samples.histograms.times[self.histograms.clone()]
    }

    pub(super) fn histogram_values(&self) -> &'w [Arc<Histogram>] {
        &self.samples.histograms.values[self.histograms.clone()]
    }

    /// All float values of the series, for functions that prepare something over all of it.
    pub(super) fn all_floats(&self) -> &'w [f64] {
        &self.samples.floats.values
    }

    /// When a float sample was taken; the index is that in the series.
    pub(super) fn float_time(&self, at: usize) -> i64 {
        self.samples.floats.times[at]
    }

    /// When a histogram sample was taken; the index is that in the series.
    pub(super) fn histogram_time(&self, at: usize) -> i64 {
        self.samples.histograms.times[at]
    }

    /// A histogram sample; the index is that in the series.
    pub(super) fn histogram_at(&self, at: usize) -> &'w Histogram {
        &self.samples.histograms.values[at]
    }

    /// Since when a float sample of the series counts; the index is that in the series.
    pub(super) fn float_start(&self, at: usize) -> i64 {
        self.samples.floats.starts.get(at).copied().unwrap_or(0)
    }

    /// Since when a histogram sample of the series counts.
    pub(super) fn histogram_start(&self, at: usize) -> i64 {
        self.samples.histograms.starts.get(at).copied().unwrap_or(0)
    }

    /// Whether samples of the series carry start times at all.
    pub(super) fn has_starts(&self) -> bool {
        !self.samples.floats.starts.is_empty() || !self.samples.histograms.starts.is_empty()
    }

    /// The length of the stretch in seconds.
    pub(super) fn seconds(&self) -> f64 {
        (self.end - self.start) as f64 / 1000.0
    }

    pub(super) fn is_mixed(&self) -> bool {
        !self.floats.is_empty() && !self.histograms.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.floats.is_empty() && self.histograms.is_empty()
    }
}

/// Remarks about one place of the query.
pub(super) struct Remarks<'r> {
    pub(super) annotations: &'r mut Annotations,
    pub(super) range: Range,
}

impl Remarks<'_> {
    pub(super) fn add(&mut self, remark: Remark<'_>) {
        self.annotations
            .add(remark.level(), remark.text(), self.range);
    }
}

/// A function over a stretch, with what it remembers between two times of one series.
pub(super) trait Rolling {
    /// The value at one time; the stretch is not empty.
    fn at(&mut self, window: &Window<'_>, remarks: &mut Remarks<'_>) -> Result<Cell>;
}

/// Where the stretches of a range expression are.
pub(super) struct Stretch {
    pub(super) window: i64,
    pub(super) offset: i64,
    pub(super) at: Option<At>,
    pub(super) extension: Extension,
}

impl<'a> Evaluator<'a> {
    pub(super) fn stretch(&self, expr: &Expr) -> Result<Stretch> {
        let (window, offset, at, extension) = match expr {
            Expr::Matrix {
                selector, window, ..
            } => (
                window,
                selector.offset.as_ref(),
                selector.at,
                selector.extension,
            ),
            Expr::Subquery {
                window, offset, at, ..
            } => (window, offset.as_ref(), *at, Extension::None),
            _ => return Err(misplaced(expr)),
        };
        Ok(Stretch {
            window: self.duration(window, true)?,
            offset: self.offset(offset)?,
            at,
            extension,
        })
    }

    /// The ends of the stretches of an expression over a grid.
    pub(super) fn ends(&self, stretch: &Stretch, grid: Grid) -> Vec<i64> {
        grid.times()
            .map(|time| self.reference(stretch.at, time) - stretch.offset)
            .collect()
    }

    /// Applies a function over stretches to every series of a range expression.
    #[allow(
        clippy::too_many_arguments,
        reason = "what a call consists of, handed on in one place"
    )]
    pub(super) fn roll(
        &mut self,
        arg: &Expr,
        function: &'static str,
        params: &[Vec<f64>; 2],
        keep_name: bool,
        grid: Grid,
        make: &dyn Fn() -> Box<dyn Rolling>,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let range = arg.range();
        let arg = arg.unparenthesized();
        let stretch = self.stretch(arg)?;
        let ends = self.ends(&stretch, grid);
        self.each_stretch(
            arg,
            &stretch,
            &ends,
            function,
            &mut |evaluator, labels, drop_name, samples| {
                let mut roller = make();
                let mut bounds = Bounds::default();
                let mut cells = Vec::with_capacity(grid.len);
                let lookback = evaluator.lookback();
                for (at, &end) in ends.iter().enumerate() {
                    let start = end - stretch.window;
                    let (low, high) = match stretch.extension {
                        Extension::None => (start, end),
                        Extension::Anchored => (start - lookback, end),
                        Extension::Smoothed => (start - lookback, end + lookback),
                    };
                    bounds.move_to(samples, low, high);
                    let window = Window {
                        samples,
                        floats: bounds.floats.clone(),
                        histograms: bounds.histograms.clone(),
                        start,
                        end,
                        time: grid.time(at),
                        params: [
                            params[0].get(at).copied().unwrap_or(f64::NAN),
                            params[1].get(at).copied().unwrap_or(f64::NAN),
                        ],
                        metric: labels.metric_name(),
                        extension: stretch.extension,
                    };
                    cells.push(if window.is_empty() {
                        Cell::Empty
                    } else {
                        let mut remarks = Remarks {
                            annotations: &mut evaluator.annotations,
                            range,
                        };
                        roller.at(&window, &mut remarks)?
                    });
                }
                let mut column = Column {
                    labels,
                    drop_name,
                    cells,
                };
                if column.is_empty() {
                    return Ok(());
                }
                evaluator.suspect_counter(function, &column, range);
                if !keep_name {
                    evaluator.drop_name(&mut column);
                }
                sink(evaluator, column)
            },
        )
    }

    /// Remarks on rates of what its name or type says is no counter.
    fn suspect_counter(&mut self, function: &str, column: &Column, range: Range) {
        if !matches!(function, "rate" | "increase") {
            return;
        }
        let name = column.labels.metric_name();
        let floats = column
            .cells
            .iter()
            .any(|cell| matches!(cell, Cell::Float(_)));
        if name.is_empty() || !floats {
            return;
        }
        let kind = column.labels.get("__type__");
        if kind.is_empty() {
            let counts = ["_total", "_sum", "_count", "_bucket"]
                .iter()
                .any(|suffix| name.ends_with(suffix));
            if !counts {
                self.remark(Remark::PossibleNonCounter(name), range);
            }
        } else if kind != "counter" && kind != "histogram" {
            self.remark(Remark::PossibleNonCounterLabel(name, kind), range);
        }
    }

    /// Reads the series of a range expression, without the markers that end series.
    pub(super) fn each_stretch(
        &mut self,
        arg: &Expr,
        stretch: &Stretch,
        ends: &[i64],
        function: &'static str,
        take: &mut dyn FnMut(&mut Self, Labels, bool, &Samples) -> Result<()>,
    ) -> Result<()> {
        let (Some(&first), Some(&last)) = (ends.first(), ends.last()) else {
            return Ok(());
        };
        match arg {
            Expr::Matrix { selector, .. } => {
                let lookback = self.lookback();
                let (before, after) = match stretch.extension {
                    Extension::None => (0, 0),
                    Extension::Anchored => (lookback, 0),
                    Extension::Smoothed => (lookback, lookback),
                };
                let span = Span {
                    start: first - stretch.window - before,
                    end: last + after,
                };
                self.each_series(
                    selector,
                    span,
                    Some(function),
                    &mut |evaluator, labels, samples| {
                        remove_stale(samples);
                        if samples.is_empty() {
                            return Ok(());
                        }
                        take(evaluator, labels, false, samples)
                    },
                )
            }
            Expr::Subquery { .. } => self.subquery(arg, stretch, first, last, take),
            _ => Err(misplaced(arg)),
        }
    }

    /// The samples themselves of a range expression, at one time.
    pub(super) fn raw_matrix(
        &mut self,
        expr: &Expr,
        grid: Grid,
    ) -> Result<Vec<super::ResultSeries>> {
        let arg = expr.unparenthesized();
        let stretch = self.stretch(arg)?;
        let ends = self.ends(&stretch, grid);
        let Some(&end) = ends.first() else {
            return Ok(Vec::new());
        };
        let start = end - stretch.window;
        let mut found = Vec::new();
        let mut dropped = false;
        self.each_stretch(
            arg,
            &stretch,
            &ends,
            "",
            &mut |evaluator, labels, drop_name, samples| {
                let mut bounds = Bounds::default();
                bounds.move_to(samples, start, end);
                let mut points: Vec<(i64, super::Number)> = bounds
                    .floats
                    .clone()
                    .map(|at| {
                        (
                            samples.floats.times[at],
                            super::Number::Float(samples.floats.values[at]),
                        )
                    })
                    .chain(bounds.histograms.clone().map(|at| {
                        (
                            samples.histograms.times[at],
                            super::Number::Histogram(samples.histograms.values[at].clone()),
                        )
                    }))
                    .collect();
                points.sort_by_key(|point| point.0);
                if points.is_empty() {
                    return Ok(());
                }
                evaluator.charge(points.len(), &|| format!("expression {expr}"))?;
                dropped |= drop_name;
                let labels = if drop_name {
                    super::without_metadata(&labels)
                } else {
                    labels
                };
                found.push(super::ResultSeries { labels, points });
                Ok(())
            },
        )?;
        found.sort_by(|a, b| a.labels.cmp(&b.labels));
        if dropped
            && found
                .windows(2)
                .any(|pair| pair[0].labels == pair[1].labels)
        {
            return Err(super::same_labelset());
        }
        Ok(found)
    }
}

/// Which samples are inside, as the stretch moves forward.
#[derive(Default)]
pub(super) struct Bounds {
    pub(super) floats: Indexes<usize>,
    pub(super) histograms: Indexes<usize>,
}

impl Bounds {
    /// Moves to the samples after `low` and up to `high`.
    pub(super) fn move_to(&mut self, samples: &Samples, low: i64, high: i64) {
        for (indexes, times) in [
            (&mut self.floats, &samples.floats.times),
            (&mut self.histograms, &samples.histograms.times),
        ] {
            while times.get(indexes.end).is_some_and(|&time| time <= high) {
                indexes.end += 1;
            }
            while indexes.start < indexes.end && times[indexes.start] <= low {
                indexes.start += 1;
            }
        }
    }
}

/// Removes the markers that end a series: over a stretch they say nothing.
fn remove_stale(samples: &mut Samples) {
    let floats = &mut samples.floats;
    if floats.values.iter().any(|&value| is_stale_nan(value)) {
        let keep: Vec<bool> = floats
            .values
            .iter()
            .map(|&value| !is_stale_nan(value))
            .collect();
        retain(&mut floats.times, &keep);
        retain(&mut floats.values, &keep);
        retain(&mut floats.starts, &keep);
    }
    let histograms = &mut samples.histograms;
    if histograms
        .values
        .iter()
        .any(|value| is_stale_nan(value.sum))
    {
        let keep: Vec<bool> = histograms
            .values
            .iter()
            .map(|value| !is_stale_nan(value.sum))
            .collect();
        retain(&mut histograms.times, &keep);
        retain(&mut histograms.values, &keep);
        retain(&mut histograms.starts, &keep);
    }
}

fn retain<T>(items: &mut Vec<T>, keep: &[bool]) {
    let mut at = 0;
    items.retain(|_| {
        at += 1;
        keep[at - 1]
    });
}

/// A selector without its range, for functions that look at what it selects.
pub(super) fn selector_of(expr: &Expr) -> Option<&VectorSelector> {
    match expr.unparenthesized() {
        Expr::Selector(selector) | Expr::Matrix { selector, .. } => Some(selector),
        _ => None,
    }
}
