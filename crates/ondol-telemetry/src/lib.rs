//! What runs, as it is seen: logs and metrics.
//!
//! This room answers from where things are today: a log from the workload that writes it, a
//! metric from the room that counts it. Both stand behind traits ([`LogSource`],
//! [`MetricSource`]), so that a store of their own can take their place without a caller
//! noticing.
//!
//! - [`Logs`]: lines of many workloads merged by time, searched by text, time and label, followed.
//! - [`Metrics`]: the families of every source in the Prometheus text format 0.0.4.
//! - [`series`]: the vocabulary of time series, and how a store of them is read.
//! - [`promql`]: the query language over such a store.

mod error;
mod logs;
mod metrics;
pub mod promql;
pub mod series;

pub use error::TelemetryError;
pub use logs::{EngineLogs, LogEntry, LogSearch, LogSource, Logs, Source, Stream};
pub use metrics::{Family, FamilyKind, MetricSource, Metrics, Sample, encode};
