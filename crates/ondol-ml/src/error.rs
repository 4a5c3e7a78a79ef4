//! What can go wrong in this room, each with its kind, a stable code and a remedy.

use std::path::{Path, PathBuf};

use ondol_types::{Classified, ErrorKind};

/// An error of training, model files, serving or the model registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MlError {
    /// A training or request table cannot be read.
    #[error("{place}: {what}")]
    Table {
        /// File, and row and column where they are known.
        place: String,
        /// What is wrong there.
        what: String,
        /// Stable code, `ml.table.…`.
        code: &'static str,
        /// What to do about it.
        hint: &'static str,
    },
    /// Data is over a ceiling.
    #[error("{what} is over the limit: {actual} > {limit}")]
    TooLarge {
        /// What was counted.
        what: String,
        /// How much there is.
        actual: u64,
        /// How much is allowed.
        limit: u64,
    },
    /// The data or the options do not allow training.
    #[error("cannot train: {what}")]
    Training {
        /// Why not.
        what: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A model file is damaged, hostile, or of a version that this build does not read.
    #[error("not a usable model file: {0}")]
    ModelFile(String),
    /// A metrics file cannot be read.
    #[error("metrics file: {0}")]
    MetricsFile(String),
    /// The `accept` expression does not compile or evaluate.
    #[error("accept: {0}")]
    Accept(String),
    /// There is no such model, version or champion.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The thing is in a state that does not allow this.
    #[error("{0}")]
    Conflict(String),
    /// An argument is out of its range.
    #[error("{0}")]
    Invalid(String),
    /// Stored bytes do not match their digest or manifest.
    #[error("{0}")]
    Corrupted(String),
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    Io {
        /// What was attempted, such as `reading`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The network side of the model server failed.
    #[error("model server")]
    Server(#[source] std::io::Error),
    /// The caller may not do this.
    #[error(transparent)]
    Denied(#[from] ondol_auth::Denied),
    /// The database or the blob store failed.
    #[error(transparent)]
    Store(#[from] ondol_store::StoreError),
    /// A worker thread or task ended without a result.
    #[error("{0}")]
    Internal(String),
}

/// Results of this room.
pub type MlResult<T> = Result<T, MlError>;

impl MlError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn training(what: impl Into<String>, hint: &'static str) -> Self {
        Self::Training {
            what: what.into(),
            hint,
        }
    }
}

impl Classified for MlError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Table { .. }
            | Self::Training { .. }
            | Self::MetricsFile(_)
            | Self::Accept(_)
            | Self::Invalid(_) => ErrorKind::InvalidInput,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::ModelFile(_) | Self::Corrupted(_) => ErrorKind::Corrupted,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::Io { .. } | Self::Server(_) => ErrorKind::Unavailable,
            Self::Denied(denied) => denied.kind(),
            Self::Store(error) => error.kind(),
            Self::Internal(_) => ErrorKind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Table { code, .. } => code,
            Self::TooLarge { .. } => "ml.data.too-large",
            Self::Training { .. } => "ml.train.impossible",
            Self::ModelFile(_) => "ml.model-file.invalid",
            Self::MetricsFile(_) => "ml.metrics-file.invalid",
            Self::Accept(_) => "ml.accept.invalid",
            Self::NotFound(_) => "ml.model.not-found",
            Self::Conflict(_) => "ml.model.conflict",
            Self::Invalid(_) => "ml.argument.invalid",
            Self::Corrupted(_) => "ml.model.corrupted",
            Self::Io { .. } => "ml.file.io",
            Self::Server(_) => "ml.server.io",
            Self::Denied(denied) => denied.code(),
            Self::Store(error) => error.code(),
            Self::Internal(_) => "internal",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Table { hint, .. } | Self::Training { hint, .. } => {
                (!hint.is_empty()).then(|| (*hint).to_owned())
            }
            Self::TooLarge { .. } => {
                Some("train on a sample, or with train.run in a program of your own".to_owned())
            }
            Self::ModelFile(_) => {
                Some("train the model again with this version of Ondol".to_owned())
            }
            Self::MetricsFile(_) => Some(
                "write a JSON object of numbers, or lines of name=value, to $ONDOL_METRICS_FILE"
                    .to_owned(),
            ),
            Self::Accept(_) => {
                Some("accept is CEL over metric names, such as accuracy >= 0.9".to_owned())
            }
            Self::Denied(denied) => denied.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}
