//! The evaluator.
//!
//! An expression is evaluated over the whole grid of times at once, series by series: a column
//! of cells, one per time. What can be folded series by series (a selector, functions over it, an
//! aggregation around them) streams: at no time are more than one series' samples and the
//! result's columns in memory. What needs all series at once is counted against the limit on
//! samples, which an expression gives back when its result is consumed.
//!
//! Every loop over series looks at the deadline and at the cancellation.

mod absent;
mod aggregate;
mod aggregate_rank;
mod binary;
mod call;
mod column;
mod dates;
mod histogram_fn;
mod info;
mod labels_fn;
mod matching;
mod mean;
mod over_time;
mod rate;
mod rate_extended;
mod select;
mod sliding;
mod steps;
mod subquery;
mod trend;
mod window;

use std::time::Instant;

use super::annotations::{Annotations, Remark};
use super::ast::{At, BinaryOp, Duration, Expr, Range, ValueType};
use super::engine::{Cancel, Config};
use super::error::QueryError;
use super::value::{Answer, Number, Series as ResultSeries, Value, VectorSample};
use crate::series::{Labels, SeriesSource};

pub(super) use column::Grid;
use column::{Cell, Column, METADATA, broadcast, merge, same_labelset, without_metadata};

/// The times a query was asked for, in milliseconds; the step of an instant query is 0.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) step: i64,
}

type Result<T, E = QueryError> = std::result::Result<T, E>;

/// Takes the columns of a streamed expression, one after the other.
type Sink<'s, 'a> = dyn FnMut(&mut Evaluator<'a>, Column) -> Result<()> + 's;

/// One query that runs.
pub(super) struct Evaluator<'a> {
    source: &'a dyn SeriesSource,
    config: &'a Config,
    times: Times,
    cancel: &'a Cancel,
    deadline: Option<Instant>,
    annotations: Annotations,
    samples: usize,
    peak: usize,
    read: usize,
    ticks: u32,
    /// Whether selectors need to deliver only the count and the sum of histograms.
    only_sum_and_count: bool,
}

impl<'a> Evaluator<'a> {
    pub(super) fn new(
        source: &'a dyn SeriesSource,
        config: &'a Config,
        times: Times,
        cancel: &'a Cancel,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            source,
            config,
            times,
            cancel,
            deadline,
            annotations: Annotations::default(),
            samples: 0,
            peak: 0,
            read: 0,
            ticks: 0,
            only_sum_and_count: false,
        }
    }

    pub(super) fn run_instant(mut self, expr: &Expr, grid: Grid) -> Result<Answer> {
        let time = grid.start;
        let value = match expr.value_type() {
            ValueType::Scalar => Value::Scalar {
                time,
                value: self
                    .scalar(expr, grid)?
                    .first()
                    .copied()
                    .unwrap_or(f64::NAN),
            },
            ValueType::String => Value::String {
                time,
                value: text(expr).to_owned(),
            },
            ValueType::Matrix => Value::Matrix(self.raw_matrix(expr, grid)?),
            ValueType::Vector => {
                let columns = self.vector(expr, grid)?;
                let mut columns = self.finish(columns)?;
                if !keeps_order(expr) {
                    columns.sort_by(|a, b| a.labels.cmp(&b.labels));
                }
                Value::Vector(
                    columns
                        .into_iter()
                        .filter_map(|mut column| {
                            let value = number(std::mem::take(column.cells.first_mut()?))?;
                            Some(VectorSample {
                                labels: column.labels,
                                time,
                                value,
                            })
                        })
                        .collect(),
                )
            }
        };
        Ok(self.answer(value))
    }

    pub(super) fn run_range(mut self, expr: &Expr, grid: Grid) -> Result<Answer> {
        let columns = match expr.value_type() {
            ValueType::Scalar => vec![Column {
                labels: Labels::default(),
                drop_name: false,
                cells: self
                    .scalar(expr, grid)?
                    .into_iter()
                    .map(Cell::Float)
                    .collect(),
            }],
            _ => {
                let columns = self.vector(expr, grid)?;
                self.finish(columns)?
            }
        };
        let mut series: Vec<ResultSeries> = columns
            .into_iter()
            .map(|column| ResultSeries {
                labels: column.labels,
                points: column
                    .cells
                    .into_iter()
                    .enumerate()
                    .filter_map(|(at, cell)| Some((grid.time(at), number(cell)?)))
                    .collect(),
            })
            .filter(|series| !series.points.is_empty())
            .collect();
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(self.answer(Value::Matrix(series)))
    }

    fn answer(self, value: Value) -> Answer {
        Answer {
            value,
            annotations: self.annotations,
            peak_samples: self.peak,
            read_samples: self.read,
        }
    }

    /// Drops the names that are to go, and brings together what is one series then.
    fn finish(&mut self, mut columns: Vec<Column>) -> Result<Vec<Column>> {
        let mut dropped = false;
        for column in &mut columns {
            if column.drop_name {
                dropped = true;
                column.labels = without_metadata(&column.labels);
                column.drop_name = false;
            }
        }
        if dropped || columns.len() > 1 {
            return merge(columns);
        }
        Ok(columns)
    }

    fn remark(&mut self, remark: Remark<'_>, range: Range) {
        self.annotations.add(remark.level(), remark.text(), range);
    }

    /// Looks whether the query still may run. Called for every series.
    fn tick(&mut self) -> Result<()> {
        self.ticks = self.ticks.wrapping_add(1);
        if self.ticks % 64 != 1 {
            return Ok(());
        }
        if self.cancel.is_canceled() {
            return Err(QueryError::Canceled("expression evaluation"));
        }
        if self
            .deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
        {
            return Err(QueryError::Timeout("expression evaluation"));
        }
        Ok(())
    }

    /// Counts samples that are now in memory.
    fn charge(&mut self, samples: usize, offender: &dyn Fn() -> String) -> Result<()> {
        self.samples = self.samples.saturating_add(samples);
        self.peak = self.peak.max(self.samples);
        if self.samples > self.config.max_samples {
            return Err(QueryError::Limit {
                offender: offender(),
                limit: self.config.max_samples,
                what: "samples in memory",
                setting: "max_samples",
            });
        }
        Ok(())
    }

    /// Refuses a grid whose columns alone would be over the limit.
    fn check_grid(&self, grid: Grid, offender: &dyn Fn() -> String) -> Result<()> {
        if grid.len <= self.config.max_samples {
            return Ok(());
        }
        Err(QueryError::Limit {
            offender: offender(),
            limit: self.config.max_samples,
            what: "samples in memory",
            setting: "max_samples",
        })
    }

    /// The columns of an expression, all of them.
    fn vector(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<Column>> {
        let before = self.samples;
        self.tick()?;
        let columns = if grid.len > 1 && is_invariant(expr) {
            let columns = self.vector_of(expr, Grid::single(grid.start))?;
            broadcast(columns, grid.len)
        } else {
            self.vector_of(expr, grid)?
        };
        self.samples = before;
        self.charge(columns.iter().map(Column::weight).sum(), &|| {
            format!("expression {expr}")
        })?;
        Ok(columns)
    }

    fn vector_of(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<Column>> {
        match expr {
            Expr::Paren { expr, .. } => self.vector_of(expr, grid),
            Expr::Call { .. } | Expr::Selector(_) | Expr::Unary { .. } => self.collect(expr, grid),
            Expr::Aggregate { .. } => self.aggregate(expr, grid),
            Expr::Binary { lhs, rhs, .. } => {
                if lhs.value_type() == ValueType::Scalar || rhs.value_type() == ValueType::Scalar {
                    self.collect(expr, grid)
                } else {
                    self.vector_binary(expr, grid)
                }
            }
            Expr::Number { .. }
            | Expr::String { .. }
            | Expr::Matrix { .. }
            | Expr::Subquery { .. } => Err(misplaced(expr)),
        }
    }

    fn collect(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<Column>> {
        let mut columns = Vec::new();
        self.each_of(expr, grid, &mut |evaluator, column| {
            evaluator.charge(column.weight(), &|| format!("expression {expr}"))?;
            columns.push(column);
            Ok(())
        })?;
        Ok(columns)
    }

    /// Hands the columns of an expression to `sink`, one after the other.
    fn each(&mut self, expr: &Expr, grid: Grid, sink: &mut Sink<'_, 'a>) -> Result<()> {
        if grid.len > 1 && is_invariant(expr) {
            return self.replay(expr, grid, sink);
        }
        self.each_of(expr, grid, sink)
    }

    /// Evaluates all columns and hands them out. What the sink keeps it charges itself.
    fn replay(&mut self, expr: &Expr, grid: Grid, sink: &mut Sink<'_, 'a>) -> Result<()> {
        let before = self.samples;
        let columns = self.vector(expr, grid)?;
        let held = self.samples.saturating_sub(before);
        for column in columns {
            sink(self, column)?;
        }
        self.samples = self.samples.saturating_sub(held);
        Ok(())
    }

    fn each_of(&mut self, expr: &Expr, grid: Grid, sink: &mut Sink<'_, 'a>) -> Result<()> {
        match expr {
            Expr::Paren { expr, .. } => self.each(expr, grid, sink),
            Expr::Selector(selector) => self.select(selector, grid, select::Take::Value, sink),
            Expr::Call {
                function,
                args,
                range,
            } => self.call(function, args, *range, grid, sink),
            Expr::Unary { negative, expr, .. } => {
                let negative = *negative;
                self.each(expr, grid, &mut |evaluator, mut column| {
                    if negative {
                        for cell in &mut column.cells {
                            *cell = match std::mem::take(cell) {
                                Cell::Float(value) => Cell::Float(-value),
                                Cell::Histogram(histogram) => {
                                    Cell::histogram(histogram.multiplied(-1.0))
                                }
                                Cell::Empty => Cell::Empty,
                            };
                        }
                        evaluator.drop_name(&mut column);
                    }
                    sink(evaluator, column)
                })
            }
            Expr::Binary { lhs, rhs, .. }
                if lhs.value_type() == ValueType::Scalar
                    || rhs.value_type() == ValueType::Scalar =>
            {
                self.scalar_binary_each(expr, grid, sink)
            }
            _ => self.replay(expr, grid, sink),
        }
    }

    /// The values of a scalar expression over the grid.
    fn scalar(&mut self, expr: &Expr, grid: Grid) -> Result<Vec<f64>> {
        match expr {
            Expr::Number { value, .. } => Ok(vec![*value; grid.len]),
            Expr::Paren { expr, .. } => self.scalar(expr, grid),
            Expr::Unary { negative, expr, .. } => {
                let mut values = self.scalar(expr, grid)?;
                if *negative {
                    for value in &mut values {
                        *value = -*value;
                    }
                }
                Ok(values)
            }
            Expr::Binary { op, lhs, rhs, .. } => {
                let left = self.scalar(lhs, grid)?;
                let right = self.scalar(rhs, grid)?;
                Ok(left
                    .into_iter()
                    .zip(right)
                    .map(|(left, right)| binary::scalar_op(*op, left, right))
                    .collect())
            }
            Expr::Call { function, args, .. } => self.scalar_call(function.name, args, grid),
            _ => Err(misplaced(expr)),
        }
    }

    /// Marks a column, or strips it, as a function does whose result is another metric.
    fn drop_name(&self, column: &mut Column) {
        if self.config.delayed_name_removal {
            column.drop_name = true;
        } else {
            column.labels = without_metadata(&column.labels);
        }
    }

    /// A duration in milliseconds.
    fn duration(&self, duration: &Duration, positive: bool) -> Result<i64> {
        let seconds = self.seconds(duration);
        let milliseconds = (seconds * 1000.0).round();
        if milliseconds.is_nan() || milliseconds.abs() >= 9e15 {
            return Err(QueryError::Execution(
                "duration expression is out of range".to_owned(),
            ));
        }
        if positive && milliseconds <= 0.0 {
            return Err(QueryError::Execution(format!(
                "duration must be greater than 0, got {duration}"
            )));
        }
        Ok(milliseconds as i64)
    }

    fn seconds(&self, duration: &Duration) -> f64 {
        match duration {
            Duration::Seconds(seconds, _) => *seconds,
            Duration::Step => self.times.step as f64 / 1000.0,
            Duration::Range => (self.times.end - self.times.start) as f64 / 1000.0,
            Duration::Negated(inner) => -self.seconds(inner),
            Duration::Paren(inner) => self.seconds(inner),
            Duration::Binary(op, left, right) => {
                binary::scalar_op(*op, self.seconds(left), self.seconds(right))
            }
            Duration::Min(first, second) => self.seconds(first).min(self.seconds(second)),
            Duration::Max(first, second) => self.seconds(first).max(self.seconds(second)),
        }
    }

    /// The time, before the offset, at which a selector with this modifier is evaluated.
    fn reference(&self, at: Option<At>, time: i64) -> i64 {
        match at {
            None => time,
            Some(At::Time(time)) => time,
            Some(At::Start) => self.times.start,
            Some(At::End) => self.times.end,
        }
    }

    fn offset(&self, offset: Option<&Duration>) -> Result<i64> {
        offset.map_or(Ok(0), |offset| self.duration(offset, false))
    }

    fn lookback(&self) -> i64 {
        self.config.lookback.as_millis() as i64
    }
}

/// The text of a string expression.
fn text(expr: &Expr) -> &str {
    match expr.unparenthesized() {
        Expr::String { value, .. } => value,
        _ => "",
    }
}

fn number(cell: Cell) -> Option<Number> {
    match cell {
        Cell::Empty => None,
        Cell::Float(value) => Some(Number::Float(value)),
        Cell::Histogram(histogram) => Some(Number::Histogram(histogram)),
    }
}

fn misplaced(expr: &Expr) -> QueryError {
    QueryError::Execution(format!("{expr} cannot be evaluated here"))
}

/// Functions that depend on the time of the evaluation even when their arguments do not.
const TIME_DEPENDENT: [&str; 16] = [
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "end",
    "hour",
    "minute",
    "month",
    "predict_linear",
    "range",
    "start",
    "start_timestamp",
    "step",
    "time",
    "timestamp",
    "year",
];

/// Whether an expression results in the same at all times.
fn is_invariant(expr: &Expr) -> bool {
    match expr {
        Expr::Number { .. } | Expr::String { .. } => true,
        Expr::Selector(selector) | Expr::Matrix { selector, .. } => selector.at.is_some(),
        Expr::Subquery { at, .. } => at.is_some(),
        Expr::Call { function, args, .. } => {
            !TIME_DEPENDENT.contains(&function.name)
                && match function.name {
                    // Its second argument only names labels.
                    "info" => args.first().is_some_and(is_invariant),
                    _ => args.iter().all(is_invariant),
                }
        }
        _ => expr.children().into_iter().all(is_invariant),
    }
}

/// Whether the order of an instant result has a meaning.
fn keeps_order(expr: &Expr) -> bool {
    match expr.unparenthesized() {
        Expr::Call { function, .. } => function.name.starts_with("sort"),
        Expr::Aggregate { op, .. } => matches!(
            op,
            super::ast::AggregateOp::TopK | super::ast::AggregateOp::BottomK
        ),
        _ => false,
    }
}

/// What an operator leaves of two values, for use outside of vectors.
fn compare(op: BinaryOp, left: f64, right: f64) -> bool {
    match op {
        BinaryOp::Equal => left == right,
        BinaryOp::NotEqual => left != right,
        BinaryOp::Less => left < right,
        BinaryOp::LessEqual => left <= right,
        BinaryOp::Greater => left > right,
        BinaryOp::GreaterEqual => left >= right,
        _ => false,
    }
}
