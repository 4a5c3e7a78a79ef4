//! What a store of series takes in and tells about itself, beside samples.
//!
//! The protocols in `http` and `ingest` know a store by these traits and by
//! [`SeriesSource`](super::SeriesSource) alone. An append is acknowledged only when it is durable,
//! and a store refuses single samples without refusing the batch: what was refused is counted by
//! reason, so that a sender can be told to give up on them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Histogram, Labels, Matcher, SourceError};

/// An observation worth looking at, usually with the id of its trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Exemplar {
    /// Its own labels.
    pub labels: Labels,
    /// What was observed.
    pub value: f64,
    /// When, milliseconds since the Unix epoch.
    pub time: i64,
}

/// What a metric is, in the words of the exposition formats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum MetricKind {
    /// Nobody said.
    #[default]
    Unknown,
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets.
    Histogram,
    /// Observations in buckets that can shrink.
    GaugeHistogram,
    /// Observations as quantiles.
    Summary,
    /// A text in its labels.
    Info,
    /// A set of states.
    StateSet,
}

impl MetricKind {
    const NAMES: [(Self, &'static str); 8] = [
        (Self::Unknown, "unknown"),
        (Self::Counter, "counter"),
        (Self::Gauge, "gauge"),
        (Self::Histogram, "histogram"),
        (Self::GaugeHistogram, "gaugehistogram"),
        (Self::Summary, "summary"),
        (Self::Info, "info"),
        (Self::StateSet, "stateset"),
    ];

    /// As the API and the exposition formats name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::NAMES
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("unknown", |(_, name)| name)
    }

    /// The kind of this name; text 0.0.4 says `untyped` for an unknown one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "untyped" {
            return Some(Self::Unknown);
        }
        Self::NAMES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(kind, _)| *kind)
    }
}

/// What is said about a metric.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Metadata {
    /// What it is.
    pub kind: MetricKind,
    /// Its unit, or nothing.
    pub unit: String,
    /// What it counts.
    pub help: String,
}

/// A sample that is a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FloatSample {
    /// Which series, an index into [`Batch::series`].
    pub series: u32,
    /// When, milliseconds since the Unix epoch.
    pub time: i64,
    /// Since when it counts, 0 when unknown.
    pub start: i64,
    /// What it says.
    pub value: f64,
}

/// A sample that is a native histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    /// Which series, an index into [`Batch::series`].
    pub series: u32,
    /// When, milliseconds since the Unix epoch.
    pub time: i64,
    /// Since when it counts, 0 when unknown.
    pub start: i64,
    /// What it says.
    pub value: Arc<Histogram>,
}

/// What is added at once. Samples name their series by its place, so that a series with many
/// samples has its labels once.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The series. One that stands here twice is one series all the same.
    pub series: Vec<Labels>,
    /// Samples that are numbers, those of one series by rising time.
    pub floats: Vec<FloatSample>,
    /// Samples that are histograms, those of one series by rising time.
    pub histograms: Vec<HistogramSample>,
    /// Exemplars with the place of their series.
    pub exemplars: Vec<(u32, Exemplar)>,
    /// What is said about metrics, by the name of their family.
    pub metadata: Vec<(Arc<str>, Metadata)>,
}

impl Batch {
    /// Adds a series and results in its place.
    pub fn add_series(&mut self, labels: Labels) -> u32 {
        let place = u32::try_from(self.series.len()).unwrap_or(u32::MAX);
        self.series.push(labels);
        place
    }

    /// Adds a number to a series.
    pub fn float(&mut self, series: u32, time: i64, value: f64) {
        self.floats.push(FloatSample {
            series,
            time,
            start: 0,
            value,
        });
    }

    /// How many samples there are, histograms included.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.floats.len() + self.histograms.len()
    }

    /// Whether there is nothing to add.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples() == 0 && self.exemplars.is_empty() && self.metadata.is_empty()
    }
}

/// Why single samples are refused. Sending them again would not help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Its series has another value at the same time.
    Duplicate,
    /// It is older than the store takes in.
    TooOld,
    /// It is further in the future than the store takes in.
    Future,
    /// Its series would be one more than there may be.
    TooManySeries,
    /// Its label set is over a ceiling or has no name.
    Labels,
    /// It is a histogram of too many buckets.
    TooLarge,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Duplicate => "duplicate sample for timestamp",
            Self::TooOld => "out of bounds: too old sample",
            Self::Future => "out of bounds: sample too far in the future",
            Self::TooManySeries => "limit of active series reached",
            Self::Labels => "invalid labels",
            Self::TooLarge => "histogram of too many buckets",
        })
    }
}

/// What became of a batch. Everything in it that is not refused is durable.
#[derive(Clone, Debug, Default)]
pub struct Appended {
    /// Numbers that are in the store now.
    pub floats: usize,
    /// Histograms that are in the store now.
    pub histograms: usize,
    /// Exemplars that are in the store now.
    pub exemplars: usize,
    /// What was refused: how many, and the first one in words.
    pub refused: BTreeMap<Refusal, (usize, String)>,
}

impl Appended {
    /// Counts a refused sample; the first of its kind is described.
    pub fn refuse(&mut self, why: Refusal, describe: impl FnOnce() -> String) {
        self.refused.entry(why).or_insert_with(|| (0, describe())).0 += 1;
    }
}

/// A batch was not taken in at all. Sending it again may help.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Something under the store failed, such as a full disk.
    #[error("{0}")]
    Failed(String),
    /// The store is behind and asks to slow down.
    #[error("{0}")]
    Busy(String),
}

/// A store that takes samples in.
#[async_trait]
pub trait SeriesWriter: Send + Sync + 'static {
    /// Adds a batch; returns when what it took is durable.
    ///
    /// # Errors
    /// Nothing of the batch is acknowledged.
    async fn append(&self, batch: Batch) -> Result<Appended, AppendError>;
}

/// Which part of the index is asked.
#[derive(Clone, Copy, Debug)]
pub struct Extent<'a> {
    /// Sets of matchers: a series belongs when all of one set hold. No set means every series.
    pub sets: &'a [Vec<Matcher>],
    /// The first millisecond. A store may answer more coarsely, never with less.
    pub start: i64,
    /// The last millisecond.
    pub end: i64,
    /// At most this many results.
    pub limit: usize,
}

/// Sorted results, with whether there were more.
#[derive(Clone, Debug, Default)]
pub struct Listing<T> {
    /// The results.
    pub items: Vec<T>,
    /// Whether the limit cut some off.
    pub cut: bool,
}

/// A name and how much of it there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// A metric, a label, or `label=value`.
    pub name: String,
    /// How many series, values or bytes.
    pub value: u64,
}

/// How large a store is and what makes it so.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    /// Active series.
    pub series: u64,
    /// Distinct pairs of label and value.
    pub label_pairs: u64,
    /// Open chunks of samples.
    pub chunks: u64,
    /// The oldest sample in memory, milliseconds.
    pub min_time: i64,
    /// The newest sample in memory, milliseconds.
    pub max_time: i64,
    /// Metrics by their series, most first.
    pub by_metric: Vec<Count>,
    /// Labels by their values, most first.
    pub values_by_label: Vec<Count>,
    /// Labels by the bytes of their values, most first.
    pub bytes_by_label: Vec<Count>,
    /// Pairs `label=value` by their series, most first.
    pub by_pair: Vec<Count>,
    /// How long samples are kept, in words.
    pub retention: String,
    /// Files that were found damaged and set aside.
    pub corruptions: u64,
}

/// The exemplars of one series.
#[derive(Clone, Debug)]
pub struct SeriesExemplars {
    /// The series.
    pub labels: Labels,
    /// Its exemplars, by time.
    pub exemplars: Vec<Exemplar>,
}

/// What a store knows without reading samples. Calls may block on the disk.
pub trait SeriesIndex: Send + Sync {
    /// The series.
    ///
    /// # Errors
    /// The store failed or refuses.
    fn series(&self, extent: Extent<'_>) -> Result<Listing<Labels>, SourceError>;

    /// The names of their labels.
    ///
    /// # Errors
    /// The store failed or refuses.
    fn label_names(&self, extent: Extent<'_>) -> Result<Listing<Arc<str>>, SourceError>;

    /// The values of one of their labels.
    ///
    /// # Errors
    /// The store failed or refuses.
    fn label_values(
        &self,
        name: &str,
        extent: Extent<'_>,
    ) -> Result<Listing<Arc<str>>, SourceError>;

    /// Their exemplars; the limit counts exemplars.
    ///
    /// # Errors
    /// The store failed or refuses.
    fn exemplars(&self, extent: Extent<'_>) -> Result<Vec<SeriesExemplars>, SourceError>;

    /// What is said about one metric or about all, at most `limit` metrics.
    ///
    /// # Errors
    /// The store failed or refuses.
    fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
    ) -> Result<BTreeMap<Arc<str>, Vec<Metadata>>, SourceError>;

    /// How large the store is; lists have at most `limit` entries.
    ///
    /// # Errors
    /// The store failed or refuses.
    fn statistics(&self, limit: usize) -> Result<Statistics, SourceError>;
}
