//! What can be wrong with samples that come in.

use ondol_types::{Classified, ErrorKind};

use super::wire::WireError;

/// Bytes that are not what they should be. Sending them again does not help.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IngestError {
    /// They cannot be read.
    #[error("cannot read the {what}: {reason}")]
    Malformed {
        /// What they should be.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// A line of an exposition cannot be read.
    #[error("line {line}: {reason}")]
    Line {
        /// Which, counted from 1.
        line: usize,
        /// Why not.
        reason: String,
    },
    /// There is more than may be.
    #[error("{what} is over the limit of {limit}")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The ceiling.
        limit: usize,
    },
}

impl IngestError {
    pub(super) fn malformed(what: &'static str, reason: impl Into<String>) -> Self {
        Self::Malformed {
            what,
            reason: reason.into(),
        }
    }

    pub(super) fn wire(what: &'static str) -> impl Fn(WireError) -> Self {
        move |error| Self::malformed(what, error.to_string())
    }
}

impl Classified for IngestError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Malformed { .. } | Self::Line { .. } => ErrorKind::InvalidInput,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "telemetry.ingest.malformed",
            Self::Line { .. } => "telemetry.ingest.line",
            Self::TooLarge { .. } => "telemetry.ingest.limit",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TooLarge { .. } => Some("send less at once".to_owned()),
            _ => None,
        }
    }
}
