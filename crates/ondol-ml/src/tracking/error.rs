//! What can go wrong in tracking, in the words of the protocol.

use ondol_types::{Classified, ErrorKind};

/// Error codes of the protocol, as its clients know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// An argument is missing, malformed or out of its range.
    InvalidParameterValue,
    /// The thing does not exist, or is not visible to who asks.
    ResourceDoesNotExist,
    /// The name is taken.
    ResourceAlreadyExists,
    /// The thing is in a state that does not allow this.
    InvalidState,
    /// The body is larger than what is accepted.
    RequestTooLarge,
    /// There is no such endpoint.
    EndpointNotFound,
}

impl Code {
    /// The text in `error_code`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::InvalidParameterValue => "INVALID_PARAMETER_VALUE",
            Self::ResourceDoesNotExist => "RESOURCE_DOES_NOT_EXIST",
            Self::ResourceAlreadyExists => "RESOURCE_ALREADY_EXISTS",
            Self::InvalidState => "INVALID_STATE",
            Self::RequestTooLarge => "REQUEST_TOO_LARGE",
            Self::EndpointNotFound => "ENDPOINT_NOT_FOUND",
        }
    }
}

/// An error of tracking.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrackingError {
    /// The request cannot be carried out.
    #[error("{message}")]
    Refused {
        /// Which code of the protocol.
        code: Code,
        /// What is wrong, for people.
        message: String,
    },
    /// The caller may not do this.
    #[error(transparent)]
    Denied(#[from] ondol_auth::Denied),
    /// The database or the blob store failed.
    #[error(transparent)]
    Store(#[from] ondol_store::StoreError),
    /// Another room could not answer.
    #[error("{0}")]
    Outside(ondol_types::Problem),
    /// The body ended early.
    #[error("the body could not be read: {0}")]
    Body(String),
    /// Stored bytes went away between two steps; the request can be repeated.
    #[error("{0}; send the request again")]
    Again(String),
}

/// Results of tracking.
pub type TrackingResult<T> = Result<T, TrackingError>;

impl TrackingError {
    /// An argument is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::refused(Code::InvalidParameterValue, message)
    }

    /// A thing is not there.
    pub(crate) fn missing(message: impl Into<String>) -> Self {
        Self::refused(Code::ResourceDoesNotExist, message)
    }

    /// A refusal with a code.
    pub(crate) fn refused(code: Code, message: impl Into<String>) -> Self {
        Self::Refused {
            code,
            message: message.into(),
        }
    }

    /// Whether the thing is not there or must look so.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: Code::ResourceDoesNotExist,
                ..
            }
        )
    }
}

impl Classified for TrackingError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { code, .. } => match code {
                Code::InvalidParameterValue => ErrorKind::InvalidInput,
                Code::ResourceDoesNotExist | Code::EndpointNotFound => ErrorKind::NotFound,
                Code::ResourceAlreadyExists | Code::InvalidState => ErrorKind::Conflict,
                Code::RequestTooLarge => ErrorKind::TooLarge,
            },
            Self::Denied(denied) => denied.kind(),
            Self::Store(error) => error.kind(),
            Self::Outside(problem) => problem.kind,
            Self::Body(_) => ErrorKind::InvalidInput,
            Self::Again(_) => ErrorKind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Refused { code, .. } => match code {
                Code::InvalidParameterValue => "ml.tracking.invalid",
                Code::ResourceDoesNotExist => "ml.tracking.not-found",
                Code::ResourceAlreadyExists => "ml.tracking.exists",
                Code::InvalidState => "ml.tracking.state",
                Code::RequestTooLarge => "ml.tracking.too-large",
                Code::EndpointNotFound => "ml.tracking.no-endpoint",
            },
            Self::Denied(denied) => denied.code(),
            Self::Store(error) => error.code(),
            Self::Outside(_) => "ml.tracking.outside",
            Self::Body(_) => "ml.tracking.body",
            Self::Again(_) => "ml.tracking.again",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(denied) => denied.hint(),
            Self::Store(error) => error.hint(),
            _ => None,
        }
    }
}
