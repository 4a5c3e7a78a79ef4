//! What can go wrong in the store of series.

use std::io;
use std::path::PathBuf;

use ondol_types::{Classified, ErrorKind};

/// An error of the store of series.
#[derive(Debug, thiserror::Error)]
pub enum TsdbError {
    /// The disk failed; the message names the file.
    #[error("cannot {what} {}", path.display())]
    Disk {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("{} is corrupted: expected {expected} at byte {at}", path.display())]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// What should have been there.
        expected: &'static str,
        /// Where.
        at: u64,
    },
    /// A ceiling of the head is reached; the one that has most of it is named.
    #[error(
        "the limit of {limit} active series {scope} is reached (most are {offender}); refused {refused}"
    )]
    TooManySeries {
        /// The ceiling.
        limit: usize,
        /// What it counts: of the store or of one metric.
        scope: &'static str,
        /// The metric and the job that have most of the series.
        offender: String,
        /// The series that was to be made.
        refused: String,
    },
    /// A label set over a ceiling.
    #[error("series {series}: {problem}")]
    Labels {
        /// The name of the metric, cut to a readable length.
        series: String,
        /// Which ceiling, or what is wrong.
        problem: String,
    },
    /// The store is closed, or another process has it.
    #[error("the store of series in {} is in use by another process", .0.display())]
    InUse(PathBuf),
}

impl TsdbError {
    pub(crate) fn disk(what: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Disk {
            what,
            path: path.into(),
            source,
        }
    }

    /// Whether the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

impl Classified for TsdbError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk { .. } | Self::InUse(_) => ErrorKind::Unavailable,
            Self::Corrupted { .. } => ErrorKind::Corrupted,
            Self::TooManySeries { .. } => ErrorKind::RateLimited,
            Self::Labels { .. } => ErrorKind::InvalidInput,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Disk { .. } => "telemetry.tsdb.disk",
            Self::Corrupted { .. } => "telemetry.tsdb.corrupted",
            Self::TooManySeries { .. } => "telemetry.tsdb.series",
            Self::Labels { .. } => "telemetry.tsdb.labels",
            Self::InUse(_) => "telemetry.tsdb.in_use",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Disk { .. } if self.is_disk_full() => {
                Some("free space, or lower the retention by bytes".to_owned())
            }
            Self::TooManySeries { .. } => Some(
                "drop a label that has a value per request or user, or raise the limit".to_owned(),
            ),
            Self::Corrupted { .. } => {
                Some("the file is set aside; the rest of the store goes on".to_owned())
            }
            _ => None,
        }
    }
}
