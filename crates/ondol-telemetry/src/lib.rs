#![doc = include_str!("../README.md")]

mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod ingest;
mod logs;
mod metrics;
pub mod promql;
pub mod series;
pub mod tsdb;

pub use error::TelemetryError;
pub use logs::{EngineLogs, LogEntry, LogSearch, LogSource, Logs, Source, Stream};
pub use metrics::{Family, FamilyKind, MetricSource, Metrics, Sample, encode};
