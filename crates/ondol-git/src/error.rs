//! What can go wrong with repositories.

use std::path::PathBuf;

use ondol_auth::{AuthError, Denied};
use ondol_store::StoreError;
use ondol_types::{Classified, CommitId, ErrorKind, ProjectName, RelPath};

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The decision was no.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The credentials were not good.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// There is no such project.
    #[error("there is no project `{0}`")]
    NoProject(ProjectName),
    /// The name is taken.
    #[error("project `{0}` already exists")]
    ProjectExists(ProjectName),
    /// The repository of a project is not on disk.
    #[error("the repository of project `{project}` is missing: {path} does not exist")]
    RepositoryMissing {
        /// Whose.
        project: ProjectName,
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no such branch, tag or commit.
    #[error("project `{project}` has no commit `{revision}`")]
    NoCommit {
        /// Whose repository.
        project: ProjectName,
        /// What was asked for.
        revision: String,
    },
    /// There is no such branch.
    #[error("project `{project}` has no branch `{branch}`")]
    NoBranch {
        /// Whose repository.
        project: ProjectName,
        /// Which branch.
        branch: String,
    },
    /// A commit has no such file.
    #[error("commit {} has no file `{path}`", commit.short())]
    NoFile {
        /// Which commit.
        commit: CommitId,
        /// Which path.
        path: RelPath,
    },
    /// A file is over the reader's limit.
    #[error("file `{path}` has {size} bytes, more than the {limit} allowed here")]
    FileTooLarge {
        /// Which path.
        path: RelPath,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A commit cannot be written out as files.
    #[error("commit {} cannot be checked out: {problem}", commit.short())]
    Checkout {
        /// Which commit.
        commit: CommitId,
        /// Why.
        problem: String,
        /// Whether a limit was reached.
        too_large: bool,
    },
    /// A request that is not one of git's.
    #[error("{0}")]
    Protocol(String),
    /// A body is over its ceiling.
    #[error("the request is larger than the {0} bytes allowed")]
    BodyTooLarge(u64),
    /// Every slot for git processes is taken.
    #[error("too many git operations are running; try again in a moment")]
    Busy,
    /// Git did not end in time.
    #[error("`git {0}` did not end in time")]
    Timeout(&'static str),
    /// Git is missing or too old.
    #[error("git cannot be used: {0}")]
    NoGit(String),
    /// A git command failed.
    #[error("`git {command}` failed: {message}")]
    Git {
        /// Its verb.
        command: &'static str,
        /// What it said, cut.
        message: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl GitError {
    /// Wraps an I/O error with the path it concerns.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

impl Classified for GitError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(error) => error.kind(),
            Self::Auth(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::NoProject(_)
            | Self::NoCommit { .. }
            | Self::NoBranch { .. }
            | Self::NoFile { .. } => ErrorKind::NotFound,
            Self::ProjectExists(_) => ErrorKind::Conflict,
            Self::RepositoryMissing { .. } => ErrorKind::Corrupted,
            Self::FileTooLarge { .. }
            | Self::BodyTooLarge(_)
            | Self::Checkout {
                too_large: true, ..
            } => ErrorKind::TooLarge,
            Self::Checkout { .. } | Self::Protocol(_) => ErrorKind::InvalidInput,
            Self::Busy => ErrorKind::Unavailable,
            Self::Timeout(_) => ErrorKind::Timeout,
            Self::NoGit(_) => ErrorKind::Unsupported,
            Self::Git { .. } => ErrorKind::Internal,
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    ErrorKind::Unavailable
                }
                _ => ErrorKind::Internal,
            },
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Denied(error) => error.code(),
            Self::Auth(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::NoProject(_) => "git.project.missing",
            Self::ProjectExists(_) => "git.project.exists",
            Self::RepositoryMissing { .. } => "git.repository.missing",
            Self::NoCommit { .. } => "git.commit.missing",
            Self::NoBranch { .. } => "git.branch.missing",
            Self::NoFile { .. } => "git.file.missing",
            Self::FileTooLarge { .. } => "git.file.too-large",
            Self::Checkout { .. } => "git.checkout.refused",
            Self::Protocol(_) => "git.protocol",
            Self::BodyTooLarge(_) => "git.body.too-large",
            Self::Busy => "git.busy",
            Self::Timeout(_) => "git.timeout",
            Self::NoGit(_) => "git.program.missing",
            Self::Git { .. } => "git.command",
            Self::Io { .. } => "git.io",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(error) => error.hint(),
            Self::Auth(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::NoProject(name) => Some(format!(
                "push to it and it is made: git push <url>/git/{name}.git main"
            )),
            Self::RepositoryMissing { .. } => {
                Some("restore the folder from a backup, or delete the project".to_owned())
            }
            Self::NoGit(_) => Some("install git 2.36 or newer".to_owned()),
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("the disk is full: free some space, nothing was half-written".to_owned())
            }
            _ => None,
        }
    }
}
