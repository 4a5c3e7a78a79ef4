//! Evaluates a query in every way it has to result in the same, and compares.

use ondol_telemetry::promql::ast::{At, Expr};
use ondol_telemetry::promql::{
    Answer, Cancel, Engine, Number, ParseLimits, QueryError, Series, Value, VectorSample, parse,
};
use ondol_telemetry::series::{Histogram, Labels, SeriesSource};
use regex::Regex;

use super::notation::Slot;
use super::store::Sample;

/// What is said about the outcome beside the values.
pub(crate) enum Kind {
    Ordered,
    Fail(Wanted),
    Warn(Wanted),
    NoWarn,
    Info(Wanted),
    NoInfo,
}

pub(crate) enum Wanted {
    Anything,
    Text(String),
    Pattern(Regex),
}

impl Wanted {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Text(wanted) => wanted == text,
            Self::Pattern(pattern) => pattern.is_match(text),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Anything => "anything".to_owned(),
            Self::Text(wanted) => wanted.clone(),
            Self::Pattern(pattern) => pattern.to_string(),
        }
    }
}

impl Kind {
    pub(crate) fn parse(kind: &str, rest: &str) -> Result<Self, String> {
        let wanted = if let Some(text) = rest.strip_prefix("msg:") {
            Wanted::Text(text.trim().to_owned())
        } else if let Some(pattern) = rest.strip_prefix("regex:") {
            Wanted::Pattern(Regex::new(pattern.trim()).map_err(|error| error.to_string())?)
        } else {
            Wanted::Anything
        };
        Ok(match kind {
            "ordered" => Self::Ordered,
            "fail" => Self::Fail(wanted),
            "warn" => Self::Warn(wanted),
            "no_warn" => Self::NoWarn,
            "info" => Self::Info(wanted),
            "no_info" => Self::NoInfo,
            _ => return Err(format!("expect {kind} does not exist")),
        })
    }
}

/// A series that is expected.
pub(crate) struct Expected {
    pub(crate) labels: Labels,
    pub(crate) slots: Vec<Slot>,
}

/// What is expected of an evaluation.
pub(crate) struct Expectation {
    time: Option<i64>,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) step: i64,
    pub(crate) raw_range: bool,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) series: Vec<Expected>,
    pub(crate) scalar: Option<f64>,
    pub(crate) text: Option<String>,
}

impl Expectation {
    pub(crate) fn instant(time: i64) -> Self {
        Self {
            time: Some(time),
            ..Self::range(time, time, 1)
        }
    }

    pub(crate) fn range(start: i64, end: i64, step: i64) -> Self {
        Self {
            time: None,
            start,
            end,
            step,
            raw_range: false,
            kinds: Vec::new(),
            series: Vec::new(),
            scalar: None,
            text: None,
        }
    }

    fn failure(&self) -> Option<&Wanted> {
        self.kinds.iter().find_map(|kind| match kind {
            Kind::Fail(wanted) => Some(wanted),
            _ => None,
        })
    }

    fn ordered(&self) -> bool {
        self.kinds.iter().any(|kind| matches!(kind, Kind::Ordered))
    }
}

pub(crate) fn evaluate(
    engine: &Engine,
    source: &dyn SeriesSource,
    query: &str,
    expectation: &Expectation,
    cancel: &Cancel,
) -> Result<(), String> {
    let Some(time) = expectation.time else {
        let answer = engine.range(
            source,
            query,
            expectation.start,
            expectation.end,
            expectation.step,
            cancel,
        );
        return judge(answer, query, expectation).map(|_| ());
    };
    let mut variants = vec![(query.to_owned(), time)];
    variants.extend(pinned_variants(query, time));
    for (variant, at) in variants {
        let inside = |reason: String| format!("{variant} at {at}: {reason}");
        let answer = engine.instant(source, &variant, at, cancel);
        let Some(answer) = judge(answer, &variant, expectation).map_err(inside)? else {
            continue;
        };
        let contextual = ["start()", "end()", "range()", "step()"]
            .iter()
            .any(|word| variant.contains(word));
        if expectation.raw_range
            || expectation.text.is_some()
            || contextual
            || expectation.ordered()
        {
            continue;
        }
        let range = engine
            .range(source, &variant, at - 60_000, at + 60_000, 60_000, cancel)
            .map_err(|error| inside(format!("as a range: {error}")))?;
        let Value::Matrix(series) = range.value else {
            return Err(inside("a range results in no matrix".to_owned()));
        };
        let middle: Vec<VectorSample> = series
            .into_iter()
            .filter_map(|series| {
                let (time, value) = series.points.into_iter().find(|point| point.0 == at)?;
                Some(VectorSample {
                    labels: series.labels,
                    time,
                    value,
                })
            })
            .collect();
        let value = match answer.value {
            Value::Scalar { time, .. } => match middle.first().map(|sample| &sample.value) {
                Some(Number::Float(value)) => Value::Scalar {
                    time,
                    value: *value,
                },
                _ => return Err(inside("no scalar as a range".to_owned())),
            },
            _ => Value::Vector(middle),
        };
        compare(&value, expectation).map_err(|reason| inside(format!("as a range: {reason}")))?;
    }
    Ok(())
}

/// The answer when it is what was expected; nothing when a failure was expected and came.
fn judge(
    answer: Result<Answer, QueryError>,
    query: &str,
    expectation: &Expectation,
) -> Result<Option<Answer>, String> {
    let answer = match (answer, expectation.failure()) {
        (Err(error), Some(wanted)) => {
            let text = error.to_string();
            return if wanted.matches(&text) {
                Ok(None)
            } else {
                Err(format!("failed with {text:?}, not {:?}", wanted.shown()))
            };
        }
        (Err(error), None) => return Err(error.to_string()),
        (Ok(_), Some(_)) => return Err("did not fail".to_owned()),
        (Ok(answer), None) => answer,
    };
    let warnings = answer.annotations.warnings(query);
    let infos = answer.annotations.infos(query);
    remarks("warning", &warnings, expectation, |kind| match kind {
        Kind::Warn(wanted) => Some(wanted),
        _ => None,
    })?;
    remarks("info", &infos, expectation, |kind| match kind {
        Kind::Info(wanted) => Some(wanted),
        _ => None,
    })?;
    for kind in &expectation.kinds {
        match kind {
            Kind::NoWarn if !warnings.is_empty() => {
                return Err(format!("warnings: {warnings:?}"));
            }
            Kind::NoInfo if !infos.is_empty() => return Err(format!("infos: {infos:?}")),
            _ => {}
        }
    }
    compare(&answer.value, expectation)?;
    Ok(Some(answer))
}

fn remarks(
    what: &str,
    found: &[String],
    expectation: &Expectation,
    of: impl Fn(&Kind) -> Option<&Wanted>,
) -> Result<(), String> {
    let wanted: Vec<&Wanted> = expectation.kinds.iter().filter_map(of).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    for wanted in &wanted {
        if !found.iter().any(|text| wanted.matches(text)) {
            return Err(format!("no {what} {:?} among {found:?}", wanted.shown()));
        }
    }
    for text in found {
        if !wanted.iter().any(|wanted| wanted.matches(text)) {
            return Err(format!("{what} {text:?} was not expected"));
        }
    }
    Ok(())
}

fn compare(value: &Value, expectation: &Expectation) -> Result<(), String> {
    match value {
        Value::Scalar { value, .. } => match expectation.scalar {
            Some(wanted) if close(wanted, *value) => Ok(()),
            wanted => Err(format!("{value}, not {wanted:?}")),
        },
        Value::String { value, .. } => match &expectation.text {
            Some(wanted) if wanted == value => Ok(()),
            wanted => Err(format!("{value:?}, not {wanted:?}")),
        },
        Value::Vector(samples) => {
            for (at, sample) in samples.iter().enumerate() {
                let place = expectation
                    .series
                    .iter()
                    .position(|expected| expected.labels == sample.labels)
                    .ok_or_else(|| format!("{} = {:?} is too much", sample.labels, sample.value))?;
                if expectation.ordered() && place != at {
                    return Err(format!("{} is at {at}, not at {place}", sample.labels));
                }
                let slot = expectation.series[place]
                    .slots
                    .first()
                    .ok_or("no value is expected")?;
                same(slot, &sample.value).map_err(|e| format!("{}: {e}", sample.labels))?;
            }
            missing(samples.iter().map(|sample| &sample.labels), expectation)
        }
        Value::Matrix(series) => {
            if !series.is_sorted_by(|a, b| a.labels <= b.labels) {
                return Err("series are not sorted".to_owned());
            }
            for series in series {
                let expected = expectation
                    .series
                    .iter()
                    .find(|expected| expected.labels == series.labels)
                    .ok_or_else(|| {
                        format!("{} = {:?} is too much", series.labels, series.points)
                    })?;
                same_series(expected, series, expectation)
                    .map_err(|e| format!("{}: {e}", series.labels))?;
            }
            missing(series.iter().map(|series| &series.labels), expectation)
        }
    }
}

fn same_series(
    expected: &Expected,
    series: &Series,
    expectation: &Expectation,
) -> Result<(), String> {
    let mut points = series.points.iter();
    for (at, slot) in expected.slots.iter().enumerate() {
        if slot.sample.is_none() {
            continue;
        }
        let time = expectation.start + expectation.step * at as i64;
        if time > expectation.end {
            return Err("more points are expected than there are times".to_owned());
        }
        match points.next() {
            Some((found, value)) if *found == time => {
                same(slot, value).map_err(|reason| format!("at {time}: {reason}"))?;
            }
            other => {
                return Err(format!(
                    "{other:?} instead of a point at {time} in {:?}",
                    series.points
                ));
            }
        }
    }
    match points.next() {
        None => Ok(()),
        Some(point) => Err(format!("{point:?} is too much")),
    }
}

fn missing<'l>(
    found: impl Iterator<Item = &'l Labels>,
    expectation: &Expectation,
) -> Result<(), String> {
    let found: Vec<&Labels> = found.collect();
    match expectation
        .series
        .iter()
        .find(|expected| !found.contains(&&expected.labels))
    {
        Some(expected) if expected.slots.iter().any(|slot| slot.sample.is_some()) => {
            Err(format!("{} is missing", expected.labels))
        }
        _ => Ok(()),
    }
}

fn same(slot: &Slot, value: &Number) -> Result<(), String> {
    match (&slot.sample, value) {
        (Some(Sample::Float(wanted)), Number::Float(value)) if close(*wanted, *value) => Ok(()),
        (Some(Sample::Histogram(wanted)), Number::Histogram(value)) => {
            same_histogram(wanted, value, slot.hint)
        }
        (Some(Sample::Float(wanted)), value) => Err(format!("{value:?}, not {wanted}")),
        (wanted, value) => Err(format!(
            "{value:?}, not {}",
            if wanted.is_some() {
                "a histogram"
            } else {
                "nothing"
            }
        )),
    }
}

fn same_histogram(wanted: &Histogram, value: &Histogram, hint: bool) -> Result<(), String> {
    let (a, b) = (wanted.compacted(), value.compacted());
    let sides = |a: &ondol_telemetry::series::Buckets, b: &ondol_telemetry::series::Buckets| {
        a.counts().len() == b.counts().len()
            && a.iter()
                .zip(b.iter())
                .all(|(x, y)| x.0 == y.0 && close(x.1, y.1))
    };
    let same = a.schema == b.schema
        && close(a.count, b.count)
        && close(a.sum, b.sum)
        && (!a.is_custom() || a.custom_values == b.custom_values)
        && a.zero_threshold == b.zero_threshold
        && close(a.zero_count, b.zero_count)
        && sides(&a.positive, &b.positive)
        && sides(&a.negative, &b.negative)
        && (!hint || a.counter_reset == b.counter_reset);
    if same {
        Ok(())
    } else {
        Err(format!("{b:?}, not {a:?}"))
    }
}

/// Whether two numbers differ by at most a millionth.
fn close(a: f64, b: f64) -> bool {
    if a.to_bits() == b.to_bits() || a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < 1e-6 * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < 1e-6
}

/// Functions whose result depends on the time even when all selectors are pinned to one.
const UNSAFE: [&str; 16] = [
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

/// The query with every selector pinned to its time results in the same at any other time.
fn pinned_variants(query: &str, time: i64) -> Vec<(String, i64)> {
    let Ok(mut expr) = parse(query, ParseLimits::default()) else {
        return Vec::new();
    };
    if !pin(&mut expr, time, false) {
        return Vec::new();
    }
    let pinned = expr.to_string();
    let times = if time == 0 {
        vec![-1000, 0, 1000]
    } else {
        vec![-10 * time, 0, time / 5, time, 10 * time]
    };
    times
        .into_iter()
        .map(|time| (pinned.clone(), time))
        .collect()
}

fn pin(expr: &mut Expr, time: i64, inside_pinned: bool) -> bool {
    match expr {
        Expr::Number { .. } | Expr::String { .. } => true,
        Expr::Selector(selector) | Expr::Matrix { selector, .. } => {
            if !inside_pinned && selector.at.is_none() {
                selector.at = Some(At::Time(time));
            }
            true
        }
        Expr::Subquery { expr, at, .. } => {
            if !inside_pinned && at.is_none() {
                *at = Some(At::Time(time));
            }
            pin(expr, time, true)
        }
        Expr::Call { function, args, .. } => {
            let safe = !UNSAFE.contains(&function.name);
            // The second argument of info only names labels.
            let count = if function.name == "info" {
                1
            } else {
                args.len()
            };
            args.iter_mut()
                .take(count)
                .fold(safe, |safe, arg| pin(arg, time, inside_pinned) && safe)
        }
        Expr::Aggregate { expr, param, .. } => {
            let param = param
                .as_mut()
                .is_none_or(|param| pin(param, time, inside_pinned));
            pin(expr, time, inside_pinned) && param
        }
        Expr::Unary { expr, .. } | Expr::Paren { expr, .. } => pin(expr, time, inside_pinned),
        Expr::Binary { lhs, rhs, .. } => {
            let left = pin(lhs, time, inside_pinned);
            pin(rhs, time, inside_pinned) && left
        }
    }
}
