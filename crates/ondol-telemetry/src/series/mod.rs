//! The vocabulary of time series: what a series is called, what it holds, how it is chosen and
//! how a store hands it out.
//!
//! The query language reads series through [`SeriesSource`] and nothing else, so that a mutable
//! head, compressed blocks and a remote store look the same to it. Nothing here knows about
//! queries.
//!
//! - [`Labels`]: an interned, sorted label set. A label with an empty value is an absent label.
//! - [`Samples`]: the samples of one series in columns; floats and native histograms apart.
//! - [`Histogram`]: a native histogram, exponential (schemas −4 to 8) or with custom bounds.
//! - [`Matcher`]: one condition on a label.
//! - [`SeriesSource`], [`SeriesSet`]: how a store is read.
//! - [`SeriesWriter`], [`SeriesIndex`]: how it is written, and what it knows without its samples.

pub mod histogram;
mod labels;
mod matcher;
mod samples;
mod source;
mod store;

pub use histogram::{Bucket, Buckets, CounterReset, Histogram, Span};
pub(crate) use labels::valid_label_name;
pub use labels::{Interner, Label, Labels, LabelsBuilder, METRIC_NAME, valid_metric_name};
pub use matcher::{Matcher, MatcherError, Operation};
pub(crate) use matcher::{Quoted, anchored};
pub use samples::{FloatColumn, HistogramColumn, STALE_NAN, Samples, is_stale_nan};
pub use source::{Hints, SeriesSet, SeriesSource, SourceError};
pub use store::{
    AppendError, Appended, Batch, Count, Exemplar, Extent, FloatSample, HistogramSample, Listing,
    Metadata, MetricKind, Refusal, SeriesExemplars, SeriesIndex, SeriesWriter, Statistics,
};
