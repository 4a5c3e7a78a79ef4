//! How samples come in: parsers of what senders send and targets answer, and the scraper.
//!
//! The parsers are pure functions from bytes to a [`Batch`](crate::series::Batch), with a ceiling
//! on everything they build: a sender can make a request fail and never make this process grow.
//!
//! - [`text`]: Prometheus text 0.0.4 and OpenMetrics 1.0.
//! - [`remote`]: remote write 1 and 2.
//! - [`otlp`]: metrics of OpenTelemetry, with their names translated and deltas added up.
//! - [`push`]: what short jobs leave behind.
//! - [`snappy`]: the block format that remote write is compressed with.
//! - [`scrape`]: asks targets and says which of them are up.

mod error;
pub mod otlp;
pub mod push;
pub mod remote;
pub mod scrape;
pub mod snappy;
pub mod text;
mod wire;

pub(crate) use wire::Writer;

pub use error::IngestError;

/// Labels of one series at most; a store may allow fewer.
pub const MAX_LABELS: usize = 256;
/// Bytes of the name or value of a label at most; a store may allow fewer.
pub const MAX_LABEL_BYTES: usize = 64 << 10;
