//! What can go wrong between a header and a decision.

use std::path::PathBuf;

use ondol_store::StoreError;
use ondol_types::{Classified, ErrorKind, ProjectName, SecretName, Timestamp, TokenId};

use crate::model::Denied;

/// An error of tokens, secrets or the permission decision.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The decision was no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// What was shown is not a token that opens anything. It does not say whether the id exists.
    #[error("the credentials are not valid: {0}")]
    BadCredentials(&'static str),
    /// The token was right once.
    #[error("this token expired at {0}")]
    Expired(Timestamp),
    /// Too many wrong credentials from one address.
    #[error("too many failed attempts from this address; try again in {seconds} s")]
    TooManyFailures {
        /// When to try again, in seconds.
        seconds: u64,
    },
    /// No token has this id, or the caller may not know.
    #[error("there is no token {0}")]
    NoToken(TokenId),
    /// A token cannot be made as asked.
    #[error("the token cannot be made: {0}")]
    InvalidToken(String),
    /// The project has no such secret.
    #[error("project `{project}` has no secret `{name}`")]
    NoSecret {
        /// Whose.
        project: ProjectName,
        /// Which.
        name: SecretName,
    },
    /// A version that is not kept.
    #[error("secret `{name}` of project `{project}` has no version {version}")]
    NoSecretVersion {
        /// Whose.
        project: ProjectName,
        /// Which.
        name: SecretName,
        /// Which version.
        version: i64,
    },
    /// A value that cannot be kept secret, or cannot be given to a program.
    #[error("secret `{name}` cannot have this value: {problem}")]
    UnfitSecret {
        /// Which.
        name: SecretName,
        /// Why, without the value.
        problem: &'static str,
        /// What to do instead.
        hint: &'static str,
    },
    /// More secrets than a project may have.
    #[error("project `{project}` already has {limit} secrets")]
    TooManySecrets {
        /// Whose.
        project: ProjectName,
        /// The ceiling.
        limit: i64,
    },
    /// The stored bytes were sealed with a key that this installation does not have.
    #[error(
        "secret `{name}` of project `{project}` was sealed with a root key that is not in {path}"
    )]
    ForeignKey {
        /// Whose.
        project: ProjectName,
        /// Which.
        name: SecretName,
        /// The key file.
        path: PathBuf,
    },
    /// The stored bytes were changed.
    #[error("secret `{name}` of project `{project}` does not open: its stored bytes were changed")]
    Tampered {
        /// Whose.
        project: ProjectName,
        /// Which.
        name: SecretName,
    },
    /// A key or token file is not readable as one.
    #[error("{path} is not a valid {what}: {problem}")]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The database or the disk.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Classified for AuthError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(denied) => denied.kind(),
            Self::BadCredentials(_) | Self::Expired(_) => ErrorKind::Unauthenticated,
            Self::TooManyFailures { .. } => ErrorKind::RateLimited,
            Self::NoToken(_) | Self::NoSecret { .. } | Self::NoSecretVersion { .. } => {
                ErrorKind::NotFound
            }
            Self::InvalidToken(_) | Self::UnfitSecret { .. } => ErrorKind::InvalidInput,
            Self::TooManySecrets { .. } => ErrorKind::TooLarge,
            Self::ForeignKey { .. } | Self::Tampered { .. } | Self::BadFile { .. } => {
                ErrorKind::Corrupted
            }
            Self::Store(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::BadCredentials(_) => "auth.credentials.invalid",
            Self::Expired(_) => "auth.token.expired",
            Self::TooManyFailures { .. } => "auth.rate-limited",
            Self::NoToken(_) => "auth.token.missing",
            Self::InvalidToken(_) => "auth.token.invalid",
            Self::NoSecret { .. } => "auth.secret.missing",
            Self::NoSecretVersion { .. } => "auth.secret.version-missing",
            Self::UnfitSecret { .. } => "auth.secret.unfit",
            Self::TooManySecrets { .. } => "auth.secret.too-many",
            Self::ForeignKey { .. } => "auth.secret.foreign-key",
            Self::Tampered { .. } => "auth.secret.tampered",
            Self::BadFile { .. } => "auth.file.invalid",
            Self::Store(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(denied) => denied.hint(),
            Self::BadCredentials(_) => {
                Some("log in with `ondol login`, or set ONDOL_TOKEN to a valid token".to_owned())
            }
            Self::Expired(_) => Some("make a new one with `ondol token create`".to_owned()),
            Self::NoSecret { project, name } => Some(format!(
                "set it with `ondol secret set {name} --project {project}`"
            )),
            Self::UnfitSecret { hint, .. } => Some((*hint).to_owned()),
            Self::TooManySecrets { .. } => {
                Some("put related values into one secret, such as a JSON document".to_owned())
            }
            Self::ForeignKey { project, name, .. } => Some(format!(
                "restore that key file from a backup, or set the value again with `ondol secret set {name} --project {project}`"
            )),
            Self::Tampered { .. } => {
                Some("restore the database from a backup, or set the value again".to_owned())
            }
            Self::BadFile { .. } => {
                Some("restore it from a backup, or move it away and restart".to_owned())
            }
            Self::Store(error) => error.hint(),
            Self::TooManyFailures { .. }
            | Self::NoToken(_)
            | Self::InvalidToken(_)
            | Self::NoSecretVersion { .. } => None,
        }
    }
}
