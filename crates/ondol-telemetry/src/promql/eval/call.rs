//! Calls of functions: which of the others of this folder does it, and the simple ones.

use super::super::annotations::Remark;
use super::super::ast::{Expr, Extension, Range, ValueType};
use super::super::error::QueryError;
use super::super::functions::Function;
use super::over_time::{
    Edge, ExtremeOverTime, MedianDeviation, QuantileOverTime, SumOverTime, TimeOfExtreme,
    VarianceOverTime,
};
use super::rate::{Instant, Rate};
use super::select::Take;
use super::steps::Steps;
use super::trend::{Regression, Smoothing};
use super::window::Rolling;
use super::{Cell, Column, Evaluator, Grid, Result, Sink, dates, histogram_fn, labels_fn, text};
use crate::series::Labels;

/// A function over stretches, ready for a series.
fn rolling(name: &str) -> Option<Box<dyn Rolling>> {
    Some(match name {
        "rate" => Box::new(Rate::new(true, true)),
        "increase" => Box::new(Rate::new(true, false)),
        "delta" => Box::new(Rate::new(false, false)),
        "irate" => Box::new(Instant { counter: true }),
        "idelta" => Box::new(Instant { counter: false }),
        "sum_over_time" => Box::new(SumOverTime::new(false)),
        "avg_over_time" => Box::new(SumOverTime::new(true)),
        "min_over_time" => Box::new(ExtremeOverTime::new(false)),
        "max_over_time" => Box::new(ExtremeOverTime::new(true)),
        "ts_of_min_over_time" => Box::new(TimeOfExtreme { max: false }),
        "ts_of_max_over_time" => Box::new(TimeOfExtreme { max: true }),
        "stddev_over_time" => Box::new(VarianceOverTime::new(true)),
        "stdvar_over_time" => Box::new(VarianceOverTime::new(false)),
        "quantile_over_time" => Box::new(QuantileOverTime::default()),
        "mad_over_time" => Box::new(MedianDeviation),
        "count_over_time" => Box::new(Edge::Count),
        "present_over_time" => Box::new(Edge::Present),
        "first_over_time" => Box::new(Edge::First),
        "last_over_time" => Box::new(Edge::Last),
        "ts_of_first_over_time" => Box::new(Edge::TimeOfFirst),
        "ts_of_last_over_time" => Box::new(Edge::TimeOfLast),
        "changes" => Box::new(Steps::new(false)),
        "resets" => Box::new(Steps::new(true)),
        "deriv" => Box::new(Regression { predict: false }),
        "predict_linear" => Box::new(Regression { predict: true }),
        "double_exponential_smoothing" => Box::new(Smoothing),
        _ => return None,
    })
}

/// A function from numbers to numbers.
fn math(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "sqrt" => f64::sqrt,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "rad" => |value| value * std::f64::consts::PI / 180.0,
        "deg" => |value| value * 180.0 / std::f64::consts::PI,
        "sgn" => |value| {
            if value < 0.0 {
                -1.0
            } else if value > 0.0 {
                1.0
            } else {
                value
            }
        },
        _ => return None,
    })
}

/// The smaller of both; NaN when one is.
fn min(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.min(b)
    }
}

/// The larger of both; NaN when one is.
fn max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// Refuses `anchored` and `smoothed` where a function could not use them.
fn check_extension(function: &Function, args: &[Expr]) -> Result<()> {
    let extension = args.iter().find_map(|arg| match arg.unparenthesized() {
        Expr::Matrix { selector, .. } => Some(selector.extension),
        _ => None,
    });
    let (word, allowed): (&str, &[&str]) = match extension {
        Some(Extension::Anchored) => (
            "anchored",
            &["changes", "delta", "increase", "rate", "resets"],
        ),
        Some(Extension::Smoothed) => ("smoothed", &["delta", "increase", "rate"]),
        Some(Extension::None) | None => return Ok(()),
    };
    if allowed.contains(&function.name) {
        return Ok(());
    }
    Err(QueryError::Execution(format!(
        "{word} modifier can only be used with: {} - not with {}",
        allowed.join(", "),
        function.name
    )))
}

impl<'a> Evaluator<'a> {
    /// The columns of a call.
    pub(super) fn call(
        &mut self,
        function: &'static Function,
        args: &[Expr],
        range: Range,
        grid: Grid,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let name = function.name;
        if let Some(arg) = args
            .iter()
            .find(|arg| arg.value_type() == ValueType::Matrix)
        {
            check_extension(function, args)?;
            if name == "absent_over_time" {
                let columns = self.absent_over_time(arg, grid)?;
                return self.hand_out(columns, sink);
            }
            let mut scalars = args
                .iter()
                .filter(|arg| arg.value_type() == ValueType::Scalar);
            let mut params: [Vec<f64>; 2] = [Vec::new(), Vec::new()];
            for param in &mut params {
                if let Some(arg) = scalars.next() {
                    *param = self.scalar(arg, grid)?;
                }
            }
            let keep_name = matches!(name, "last_over_time" | "first_over_time");
            let make = || rolling(name).unwrap_or_else(|| Box::new(Edge::Present));
            return self.roll(arg, name, &params, keep_name, grid, &make, sink);
        }
        let Some(vector) = args.first() else {
            return self.call_without_vector(name, grid, sink);
        };
        if let Some(change) = math(name) {
            return self.map_floats(vector, grid, sink, &|_, value| change(value));
        }
        match name {
            "clamp" | "clamp_min" | "clamp_max" | "round" => {
                self.call_with_bounds(name, args, grid, sink)
            }
            "minute" | "hour" | "day_of_week" | "day_of_month" | "day_of_year"
            | "days_in_month" | "month" | "year" => {
                self.map_floats(vector, grid, sink, &|_, value| dates::part(name, value))
            }
            "vector" => {
                let cells = self
                    .scalar(vector, grid)?
                    .into_iter()
                    .map(Cell::Float)
                    .collect();
                sink(
                    self,
                    Column {
                        labels: Labels::default(),
                        drop_name: false,
                        cells,
                    },
                )
            }
            "timestamp" | "start_timestamp" => self.timestamps(name, vector, grid, sink),
            "absent" => {
                let columns = self.absent(vector, grid)?;
                self.hand_out(columns, sink)
            }
            "histogram_count" | "histogram_sum" | "histogram_avg" | "histogram_stddev"
            | "histogram_stdvar" => self.histogram_values(name, vector, grid, sink),
            "histogram_quantile" | "histogram_quantiles" | "histogram_fraction" => {
                let columns = self.quantiles_of(name, args, grid)?;
                self.hand_out(columns, sink)
            }
            "label_replace" => {
                let columns = self.label_replace(args, grid)?;
                self.hand_out(columns, sink)
            }
            "label_join" => {
                let columns = self.label_join(args, grid)?;
                self.hand_out(columns, sink)
            }
            "info" => {
                let columns = self.info(args, grid)?;
                self.hand_out(columns, sink)
            }
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => {
                let columns = self.sort(name, args, range, grid)?;
                self.hand_out(columns, sink)
            }
            _ => Err(QueryError::Execution(format!(
                "function \"{name}\" cannot be evaluated here"
            ))),
        }
    }

    fn hand_out(&mut self, columns: Vec<Column>, sink: &mut Sink<'_, 'a>) -> Result<()> {
        for column in columns {
            sink(self, column)?;
        }
        Ok(())
    }

    /// Date functions without an argument, which are about the time of the evaluation.
    fn call_without_vector(
        &mut self,
        name: &str,
        grid: Grid,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let cells = grid
            .times()
            .map(|time| Cell::Float(dates::part(name, time.div_euclid(1000) as f64)))
            .collect();
        sink(
            self,
            Column {
                labels: Labels::default(),
                drop_name: false,
                cells,
            },
        )
    }

    /// Applies a function to the floats of a vector; histograms go.
    fn map_floats(
        &mut self,
        vector: &Expr,
        grid: Grid,
        sink: &mut Sink<'_, 'a>,
        change: &dyn Fn(usize, f64) -> f64,
    ) -> Result<()> {
        self.each(vector, grid, &mut |evaluator, mut column| {
            for (at, cell) in column.cells.iter_mut().enumerate() {
                *cell = match cell {
                    Cell::Float(value) => Cell::Float(change(at, *value)),
                    _ => Cell::Empty,
                };
            }
            if column.is_empty() {
                return Ok(());
            }
            evaluator.drop_name(&mut column);
            sink(evaluator, column)
        })
    }

    fn call_with_bounds(
        &mut self,
        name: &str,
        args: &[Expr],
        grid: Grid,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let params = args[1..]
            .iter()
            .map(|arg| self.scalar(arg, grid))
            .collect::<Result<Vec<Vec<f64>>>>()?;
        let param = |which: usize, at: usize| params.get(which).map(|values| values[at]);
        if name == "round" {
            return self.map_floats(&args[0], grid, sink, &|at, value| {
                let inverse = 1.0 / param(0, at).unwrap_or(1.0);
                (value * inverse + 0.5).floor() / inverse
            });
        }
        let bounds: Vec<(f64, f64)> = (0..grid.len)
            .map(|at| {
                let first = param(0, at).unwrap_or(f64::NAN);
                match name {
                    "clamp_min" => (first, f64::INFINITY),
                    "clamp_max" => (f64::NEG_INFINITY, first),
                    _ => (first, param(1, at).unwrap_or(f64::NAN)),
                }
            })
            .collect();
        self.each(&args[0], grid, &mut |evaluator, mut column| {
            for (cell, &(low, high)) in column.cells.iter_mut().zip(&bounds) {
                *cell = match cell {
                    Cell::Float(_) if high < low => Cell::Empty,
                    Cell::Float(value) => Cell::Float(max(low, min(high, *value))),
                    _ => Cell::Empty,
                };
            }
            if column.is_empty() {
                return Ok(());
            }
            evaluator.drop_name(&mut column);
            sink(evaluator, column)
        })
    }

    /// When samples were taken, or since when they count. Only a selector knows; the samples of
    /// any other expression are made at the time of the evaluation.
    fn timestamps(
        &mut self,
        name: &str,
        vector: &Expr,
        grid: Grid,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let start = name == "start_timestamp";
        if let Expr::Selector(selector) = vector.unparenthesized() {
            let take = if start { Take::Start } else { Take::Time };
            return self.select(selector, grid, take, &mut |evaluator, mut column| {
                evaluator.drop_name(&mut column);
                sink(evaluator, column)
            });
        }
        self.each(vector, grid, &mut |evaluator, mut column| {
            if start {
                return Ok(());
            }
            for (at, cell) in column.cells.iter_mut().enumerate() {
                if !cell.is_empty() {
                    *cell = Cell::Float(grid.time(at) as f64 / 1000.0);
                }
            }
            evaluator.drop_name(&mut column);
            sink(evaluator, column)
        })
    }

    fn histogram_values(
        &mut self,
        name: &str,
        vector: &Expr,
        grid: Grid,
        sink: &mut Sink<'_, 'a>,
    ) -> Result<()> {
        let only = self.only_sum_and_count;
        self.only_sum_and_count =
            matches!(name, "histogram_count" | "histogram_sum" | "histogram_avg");
        let result = self.each(vector, grid, &mut |evaluator, mut column| {
            for cell in &mut column.cells {
                *cell = match cell {
                    Cell::Histogram(histogram) => {
                        Cell::Float(histogram_fn::simple(name, histogram))
                    }
                    _ => Cell::Empty,
                };
            }
            if column.is_empty() {
                return Ok(());
            }
            evaluator.drop_name(&mut column);
            sink(evaluator, column)
        });
        self.only_sum_and_count = only;
        result
    }

    fn sort(&mut self, name: &str, args: &[Expr], range: Range, grid: Grid) -> Result<Vec<Column>> {
        if self.times.start != self.times.end {
            self.remark(Remark::SortInRange, range);
        }
        let mut columns = self.vector(&args[0], grid)?;
        let descending = name.ends_with("_desc");
        if name.starts_with("sort_by_label") {
            let labels: Vec<&str> = args[1..].iter().map(text).collect();
            labels_fn::sort_by_labels(&mut columns, &labels, descending);
            return Ok(columns);
        }
        for cell in columns.iter_mut().flat_map(|column| &mut column.cells) {
            if matches!(cell, Cell::Histogram(_)) {
                *cell = Cell::Empty;
            }
        }
        columns.retain(|column| !column.is_empty());
        let value = |column: &Column| match column.cells.first() {
            Some(Cell::Float(value)) => *value,
            _ => f64::NAN,
        };
        columns.sort_by(|a, b| {
            let (a, b) = (value(a), value(b));
            match (a.is_nan(), b.is_nan()) {
                (false, false) if descending => b.total_cmp(&a),
                (false, false) => a.total_cmp(&b),
                // NaN comes last in both directions.
                (a_nan, b_nan) => a_nan.cmp(&b_nan),
            }
        });
        Ok(columns)
    }

    /// The values of a call that results in a scalar.
    pub(super) fn scalar_call(
        &mut self,
        name: &str,
        args: &[Expr],
        grid: Grid,
    ) -> Result<Vec<f64>> {
        let constant = |value: f64| Ok(vec![value; grid.len]);
        let seconds = |milliseconds: i64| milliseconds as f64 / 1000.0;
        match (name, args) {
            ("time", _) => Ok(grid.times().map(seconds).collect()),
            ("pi", _) => constant(std::f64::consts::PI),
            ("step", _) => constant(seconds(self.times.step)),
            ("range", _) => constant(seconds(self.times.end - self.times.start)),
            ("start", _) => constant(seconds(self.times.start)),
            ("end", _) => constant(seconds(self.times.end)),
            ("min_of" | "max_of", [first, second]) => {
                let first = self.scalar(first, grid)?;
                let second = self.scalar(second, grid)?;
                let choose = if name == "min_of" { min } else { max };
                Ok(first
                    .into_iter()
                    .zip(second)
                    .map(|(a, b)| choose(a, b))
                    .collect())
            }
            ("scalar", [vector]) => {
                let mut found: Vec<Option<f64>> = vec![None; grid.len];
                let mut several = vec![false; grid.len];
                self.each(vector, grid, &mut |_, column| {
                    for (at, cell) in column.cells.iter().enumerate() {
                        if let Cell::Float(value) = cell {
                            several[at] |= found[at].is_some();
                            found[at] = Some(*value);
                        }
                    }
                    Ok(())
                })?;
                Ok(found
                    .into_iter()
                    .zip(several)
                    .map(|(value, several)| match value {
                        Some(value) if !several => value,
                        _ => f64::NAN,
                    })
                    .collect())
            }
            _ => Err(QueryError::Execution(format!(
                "function \"{name}\" cannot be evaluated here"
            ))),
        }
    }
}
