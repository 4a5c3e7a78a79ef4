//! Remarks on a result: what was ignored, what is probably a mistake.
//!
//! The wording is that of Prometheus, because alerting rules and dashboards compare it.

use std::collections::BTreeMap;

use super::ast::Range;
use super::error::position;
use super::float::format_general;

/// How grave a remark is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Warning,
    Info,
}

/// Remarks, each once. At most [`Annotations::CEILING`] are kept.
#[derive(Clone, Debug, Default)]
pub struct Annotations {
    entries: BTreeMap<(Level, String), Range>,
}

impl Annotations {
    /// How many remarks are kept.
    pub const CEILING: usize = 100;

    pub(super) fn add(&mut self, level: Level, message: String, range: Range) {
        if self.entries.len() >= Self::CEILING {
            return;
        }
        self.entries.entry((level, message)).or_insert(range);
    }

    /// Whether there is no remark.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn texts(&self, wanted: Level, query: &str) -> Vec<String> {
        self.entries
            .iter()
            .filter(|((level, _), _)| *level == wanted)
            .map(|((_, message), range)| {
                let (line, column) = position(query, range.start);
                format!("{message} ({line}:{column})")
            })
            .collect()
    }

    /// Warnings, each with its place in the query.
    #[must_use]
    pub fn warnings(&self, query: &str) -> Vec<String> {
        self.texts(Level::Warning, query)
    }

    /// Remarks that are no warnings, each with its place in the query.
    #[must_use]
    pub fn infos(&self, query: &str) -> Vec<String> {
        self.texts(Level::Info, query)
    }
}

/// Something to remark.
#[derive(Clone, Copy, Debug)]
pub(super) enum Remark<'a> {
    InvalidQuantile(f64),
    InvalidRatio(f64, f64),
    BadBucketLabel(&'a str, &'a str),
    MixedFloatsHistograms(&'a str),
    MixedFloatsHistogramsAggregation,
    MixedClassicNative(&'a str),
    NotCounter(&'a str),
    NotGauge(&'a str),
    MixedExponentialCustom(&'a str),
    IncompatibleBuckets(&'a str),
    ResetCollision(&'a str),
    BoundsReconciled(&'a str),
    PossibleNonCounter(&'a str),
    PossibleNonCounterLabel(&'a str, &'a str),
    ForcedMonotonicity(&'a str, i64, f64, f64, f64),
    IncompatibleTypes(&'a str, &'a str, &'a str),
    HistogramIgnoredInAggregation(&'a str),
    HistogramIgnoredInMixedRange(&'a str),
    QuantileNan(&'a str),
    QuantileSkewed(&'a str),
    FractionNan(&'a str),
    SortInRange,
    StartTimeOverlap(&'a str),
}

impl Remark<'_> {
    pub(super) fn level(self) -> Level {
        match self {
            Self::PossibleNonCounter(_)
            | Self::PossibleNonCounterLabel(..)
            | Self::ForcedMonotonicity(..)
            | Self::IncompatibleTypes(..)
            | Self::HistogramIgnoredInAggregation(_)
            | Self::HistogramIgnoredInMixedRange(_)
            | Self::QuantileNan(_)
            | Self::QuantileSkewed(_)
            | Self::FractionNan(_)
            | Self::BoundsReconciled(_) => Level::Info,
            _ => Level::Warning,
        }
    }

    pub(super) fn text(self) -> String {
        let named = |text: &str, metric: &str| {
            if metric.is_empty() {
                text.to_owned()
            } else {
                format!("{text} for metric name {metric:?}")
            }
        };
        let body = match self {
            Self::InvalidQuantile(q) => format!(
                "quantile value should be between 0 and 1, got {}",
                format_general(q)
            ),
            Self::InvalidRatio(ratio, to) => format!(
                "ratio value should be between -1 and 1, got {}, capping to {}",
                format_general(ratio),
                format_general(to)
            ),
            Self::BadBucketLabel(metric, label) => named(
                &format!("bucket label \"le\" is missing or has a malformed value of {label:?}"),
                metric,
            ),
            Self::MixedFloatsHistograms(metric) => {
                format!("encountered a mix of histograms and floats for metric name {metric:?}")
            }
            Self::MixedFloatsHistogramsAggregation => {
                "encountered a mix of histograms and floats for aggregation".to_owned()
            }
            Self::MixedClassicNative(metric) => named(
                "vector contains a mix of classic and native histograms",
                metric,
            ),
            Self::NotCounter(metric) => {
                format!("this native histogram metric is not a counter: {metric:?}")
            }
            Self::NotGauge(metric) => {
                format!("this native histogram metric is not a gauge: {metric:?}")
            }
            Self::MixedExponentialCustom(metric) => format!(
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {metric:?}"
            ),
            Self::IncompatibleBuckets(op) => {
                format!("incompatible bucket layout encountered for binary operator {op}")
            }
            Self::ResetCollision(operation) => {
                format!("conflicting counter resets during histogram {operation}")
            }
            Self::BoundsReconciled(operation) => {
                format!("mismatched custom buckets were reconciled during {operation}")
            }
            Self::PossibleNonCounter(metric) => format!(
                "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric:?}"
            ),
            Self::PossibleNonCounterLabel(metric, label) => format!(
                "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", got {label:?}: {metric:?}"
            ),
            Self::ForcedMonotonicity(metric, time, low, high, difference) => {
                let head = named(
                    "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)",
                    metric,
                );
                format!(
                    "{head}, from buckets {} to {}, with a max diff of {:.2} at sample ts {}",
                    format_general(low),
                    format_general(high),
                    difference,
                    jiff::Timestamp::from_millisecond(time)
                        .map_or_else(|_| time.to_string(), |time| time.to_string())
                )
            }
            Self::IncompatibleTypes(left, op, right) => format!(
                "incompatible sample types encountered for binary operator {op:?}: {left} {op} {right}"
            ),
            Self::HistogramIgnoredInAggregation(op) => {
                format!("ignored histogram in {op} aggregation")
            }
            Self::HistogramIgnoredInMixedRange(metric) => format!(
                "ignored histograms in a range containing both floats and histograms for metric name {metric:?}"
            ),
            Self::QuantileNan(metric) => named(
                "input to histogram_quantile has NaN observations, result is NaN",
                metric,
            ),
            Self::QuantileSkewed(metric) => named(
                "input to histogram_quantile has NaN observations, result is skewed higher",
                metric,
            ),
            Self::FractionNan(metric) => named(
                "input to histogram_fraction has NaN observations, which are excluded from all fractions",
                metric,
            ),
            Self::SortInRange => {
                "sort is ineffective for range queries since results are always ordered by labels"
                    .to_owned()
            }
            Self::StartTimeOverlap(metric) => format!(
                "sample has start time that overlaps with previous sample timestamp for metric {metric:?}"
            ),
        };
        match self.level() {
            Level::Warning => format!("PromQL warning: {body}"),
            Level::Info => format!("PromQL info: {body}"),
        }
    }
}
