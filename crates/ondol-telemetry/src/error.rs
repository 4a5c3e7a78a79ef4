//! What can go wrong when something is looked at.

use ondol_auth::Denied;
use ondol_types::{Classified, ErrorKind};
use ondol_workload::EngineError;

/// An error of logs and metrics.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Not allowed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The engine could not read a log.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A moment that cannot be read.
    #[error("`{0}` is not a moment: expected RFC 3339, or an age such as 10m, 2h or 1d")]
    Moment(String),
}

impl Classified for TelemetryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(error) => error.kind(),
            Self::Engine(error) => error.kind(),
            Self::Moment(_) => ErrorKind::InvalidInput,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Denied(error) => error.code(),
            Self::Engine(error) => error.code(),
            Self::Moment(_) => "telemetry.moment",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::Moment(_) => None,
        }
    }
}
