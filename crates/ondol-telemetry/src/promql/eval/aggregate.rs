//! Aggregations that fold one series after the other: `sum`, `avg`, `count`, `min`, `max`,
//! `group`, `stddev`, `stdvar`. The series stream through; only the groups stay.

use std::collections::HashMap;

use super::super::annotations::Remark;
use super::super::ast::{AggregateOp, Expr, Range};
use super::mean::{HistogramMean, Mean, Spread};
use super::sliding::Extreme;
use super::{Cell, Column, Evaluator, Grid, Result, misplaced};
use crate::series::histogram::{Kahan, Sum};
use crate::series::{CounterReset, Histogram, Labels, LabelsBuilder, METRIC_NAME};

/// What `by` or `without` says.
pub(super) struct Grouping<'g> {
    pub(super) labels: &'g [String],
    pub(super) without: bool,
}

impl Grouping<'_> {
    /// The labels of the group a series belongs to.
    pub(super) fn key(&self, labels: &Labels) -> Labels {
        if self.without {
            return labels.without(|name| {
                name == METRIC_NAME || self.labels.iter().any(|label| label == name)
            });
        }
        if self.labels.is_empty() {
            return Labels::default();
        }
        let mut builder = LabelsBuilder::from_labels(labels);
        builder.retain(|name| self.labels.iter().any(|label| label == name));
        builder.build()
    }
}

/// A group at one time.
enum State {
    Empty,
    Count(f64),
    Sum(Kahan),
    Mean(Mean),
    Extreme(Extreme),
    Spread(Spread),
    Histograms(Box<Histograms>),
    /// Floats and histograms, or histograms that cannot be combined, came together.
    Broken,
}

struct Histograms {
    folded: Folded,
    reset: bool,
    not_reset: bool,
}

enum Folded {
    Sum(Sum),
    Mean(HistogramMean),
}

impl Histograms {
    fn new(histogram: &Histogram, average: bool) -> Self {
        let mut histograms = Self {
            folded: if average {
                Folded::Mean(HistogramMean::new(histogram))
            } else {
                Folded::Sum(Sum::from(histogram))
            },
            reset: false,
            not_reset: false,
        };
        histograms.note(histogram);
        histograms
    }

    fn note(&mut self, histogram: &Histogram) {
        self.reset |= histogram.counter_reset == CounterReset::Reset;
        self.not_reset |= histogram.counter_reset == CounterReset::NotReset;
    }
}

struct Group {
    labels: Labels,
    drop_name: bool,
    states: Vec<State>,
}

impl<'a> Evaluator<'a> {
    pub(super) fn aggregate(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<Column>> {
        let Expr::Aggregate {
            op,
            expr: inner,
            param,
            grouping,
            without,
            ..
        } = expr
        else {
            return Err(misplaced(expr));
        };
        let grouping = Grouping {
            labels: grouping,
            without: *without,
        };
        match op {
            AggregateOp::Sum
            | AggregateOp::Avg
            | AggregateOp::Count
            | AggregateOp::Min
            | AggregateOp::Max
            | AggregateOp::Group
            | AggregateOp::Stddev
            | AggregateOp::Stdvar => self.fold(*op, inner, &grouping, grid),
            _ => {
                let Some(param) = param else {
                    return Err(misplaced(expr));
                };
                self.rank(*op, inner, param, &grouping, grid)
            }
        }
    }

    fn fold(
        &mut self,
        op: AggregateOp,
        inner: &Expr,
        grouping: &Grouping<'_>,
        grid: Grid,
    ) -> Result<Vec<Column>> {
        let range = inner.range();
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        // A state takes about as much as four samples.
        let weight = grid.len * 4;
        self.each(inner, grid, &mut |evaluator, column| {
            let key = grouping.key(&column.labels);
            let at = match places.get(&key) {
                Some(&at) => at,
                None => {
                    evaluator.charge(weight, &|| format!("aggregation of {inner}"))?;
                    places.insert(key.clone(), groups.len());
                    groups.push(Group {
                        labels: key,
                        drop_name: false,
                        states: (0..grid.len).map(|_| State::Empty).collect(),
                    });
                    groups.len() - 1
                }
            };
            let group = &mut groups[at];
            group.drop_name |= column.drop_name;
            for (state, cell) in group.states.iter_mut().zip(&column.cells) {
                match cell {
                    Cell::Empty => {}
                    Cell::Float(value) => evaluator.fold_float(op, state, *value, range),
                    Cell::Histogram(histogram) => evaluator.fold_histogram(
                        op,
                        state,
                        histogram,
                        column.labels.metric_name(),
                        range,
                    ),
                }
            }
            Ok(())
        })?;
        let mut columns = Vec::with_capacity(groups.len());
        for group in groups {
            let cells: Vec<Cell> = group
                .states
                .into_iter()
                .map(|state| self.folded(op, state, range))
                .collect();
            let column = Column {
                labels: group.labels,
                drop_name: group.drop_name,
                cells,
            };
            if !column.is_empty() {
                columns.push(column);
            }
        }
        Ok(columns)
    }

    fn fold_float(&mut self, op: AggregateOp, state: &mut State, value: f64, range: Range) {
        match (op, &mut *state) {
            (_, State::Broken) => {}
            (AggregateOp::Group, _) => *state = State::Count(1.0),
            (AggregateOp::Count, State::Count(count)) => *count += 1.0,
            (AggregateOp::Count, _) => *state = State::Count(1.0),
            (AggregateOp::Sum, State::Sum(sum)) => sum.add(value),
            (AggregateOp::Avg, State::Mean(mean)) => mean.add(value),
            (AggregateOp::Sum | AggregateOp::Avg, State::Histograms(_)) => {
                self.remark(Remark::MixedFloatsHistogramsAggregation, range);
                *state = State::Broken;
            }
            (AggregateOp::Sum, _) => *state = State::Sum(Kahan::new(value)),
            (AggregateOp::Avg, _) => *state = State::Mean(Mean::new(value)),
            (AggregateOp::Min | AggregateOp::Max, State::Extreme(best)) => {
                *best = best.better(Extreme(value), op == AggregateOp::Max);
            }
            (AggregateOp::Min | AggregateOp::Max, _) => *state = State::Extreme(Extreme(value)),
            (AggregateOp::Stddev | AggregateOp::Stdvar, State::Spread(spread)) => {
                spread.add(value);
            }
            _ => {
                let mut spread = Spread::default();
                spread.add(value);
                *state = State::Spread(spread);
            }
        }
    }

    fn fold_histogram(
        &mut self,
        op: AggregateOp,
        state: &mut State,
        histogram: &Histogram,
        metric: &str,
        range: Range,
    ) {
        match (op, &mut *state) {
            (_, State::Broken) => {}
            (AggregateOp::Group, _) => *state = State::Count(1.0),
            (AggregateOp::Count, State::Count(count)) => *count += 1.0,
            (AggregateOp::Count, _) => *state = State::Count(1.0),
            (AggregateOp::Sum | AggregateOp::Avg, State::Empty) => {
                *state =
                    State::Histograms(Box::new(Histograms::new(histogram, op == AggregateOp::Avg)));
            }
            (AggregateOp::Sum | AggregateOp::Avg, State::Histograms(histograms)) => {
                histograms.note(histogram);
                let added = match &mut histograms.folded {
                    Folded::Sum(sum) => sum.add(histogram).map(|added| added.bounds_reconciled),
                    Folded::Mean(mean) => mean.add(histogram),
                };
                match added {
                    Ok(true) => self.remark(Remark::BoundsReconciled("aggregation"), range),
                    Ok(false) => {}
                    Err(_) => {
                        self.remark(Remark::MixedExponentialCustom(metric), range);
                        *state = State::Broken;
                    }
                }
            }
            (AggregateOp::Sum | AggregateOp::Avg, _) => {
                self.remark(Remark::MixedFloatsHistogramsAggregation, range);
                *state = State::Broken;
            }
            _ => self.remark(Remark::HistogramIgnoredInAggregation(op.as_str()), range),
        }
    }

    fn folded(&mut self, op: AggregateOp, state: State, range: Range) -> Cell {
        match state {
            State::Empty | State::Broken => Cell::Empty,
            State::Count(count) => Cell::Float(count),
            State::Sum(sum) => Cell::Float(if sum.raw().is_infinite() {
                sum.raw()
            } else {
                sum.value()
            }),
            State::Mean(mean) => Cell::Float(mean.value()),
            State::Extreme(best) => Cell::Float(best.0),
            State::Spread(spread) => {
                let variance = spread.variance();
                Cell::Float(if op == AggregateOp::Stddev {
                    variance.sqrt()
                } else {
                    variance
                })
            }
            State::Histograms(histograms) => {
                if histograms.reset && histograms.not_reset {
                    self.remark(Remark::ResetCollision("aggregation"), range);
                }
                Cell::histogram(match histograms.folded {
                    Folded::Sum(sum) => sum.finish(),
                    Folded::Mean(mean) => mean.value(),
                })
            }
        }
    }
}
