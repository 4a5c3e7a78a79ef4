//! What is wrong with a specification, where, and what to do about it.

use std::fmt;

use ondol_types::{Classified, ErrorKind};

use crate::node::Origin;

/// Why a specification cannot be used. The text begins with the place: `ondol.yaml:4:3: …`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum SpecError {
    /// The file is over its ceiling, in bytes, depth or number of values.
    #[error("{0}")]
    TooLarge(Fault),
    /// The file is not YAML that Ondol reads.
    #[error("{0}")]
    Syntax(Fault),
    /// A key that does not exist.
    #[error("{0}")]
    UnknownKey(Fault),
    /// The same key twice.
    #[error("{0}")]
    DuplicateKey(Fault),
    /// A value of the wrong type or form, or one that is missing.
    #[error("{0}")]
    Value(Fault),
    /// Values that are fine each, and do not go together.
    #[error("{0}")]
    Meaning(Fault),
    /// Something that an administrator has to allow first.
    #[error("{0}")]
    Refused(Fault),
    /// A key of somebody else's format that Ondol knows and cannot honour.
    #[error("{0}")]
    Unsupported(Fault),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What is wrong, without the place.
    pub message: String,
    /// Where it was written.
    pub origin: Origin,
    /// The key it is about, in dots: `service.port`. Empty for the whole file.
    pub path: String,
    /// What to do.
    pub hint: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

impl SpecError {
    /// What is wrong, where.
    pub fn fault(&self) -> &Fault {
        match self {
            Self::TooLarge(fault)
            | Self::Syntax(fault)
            | Self::UnknownKey(fault)
            | Self::DuplicateKey(fault)
            | Self::Value(fault)
            | Self::Meaning(fault)
            | Self::Refused(fault)
            | Self::Unsupported(fault) => fault,
        }
    }

    /// Line and column, from 1, when the fault stands in the file.
    pub fn position(&self) -> Option<(u32, u32)> {
        match &self.fault().origin {
            Origin::File { line, column, .. } => Some((*line, *column)),
            _ => None,
        }
    }
}

impl Classified for SpecError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge(_) => ErrorKind::TooLarge,
            Self::Refused(_) => ErrorKind::Forbidden,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidInput,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "spec.file.too-large",
            Self::Syntax(_) => "spec.file.syntax",
            Self::UnknownKey(_) => "spec.key.unknown",
            Self::DuplicateKey(_) => "spec.key.duplicate",
            Self::Value(_) => "spec.value.invalid",
            Self::Meaning(_) => "spec.meaning.invalid",
            Self::Refused(_) => "spec.policy.refused",
            Self::Unsupported(_) => "spec.key.unsupported",
        }
    }

    fn hint(&self) -> Option<String> {
        self.fault().hint.clone()
    }
}
