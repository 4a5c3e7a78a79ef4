//! What can go wrong with data.

use std::path::PathBuf;

use ondol_auth::Denied;
use ondol_store::StoreError;
use ondol_types::{Classified, Digest, ErrorKind, Problem, RelPath};

/// Why a table is not one, without the file it lies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFault {
    /// Data row from 1, not counting the header; absent when it concerns the whole file.
    pub row: Option<u64>,
    /// Line of the file from 1, where lines exist.
    pub line: Option<u64>,
    /// Which column.
    pub column: Option<String>,
    /// What is wrong.
    pub problem: String,
    /// The stable code.
    pub code: &'static str,
    /// What to do about it.
    pub hint: &'static str,
}

impl TableFault {
    fn place(&self) -> String {
        let mut place = String::new();
        if let Some(row) = self.row {
            place.push_str(&format!(", row {row}"));
        }
        if let Some(line) = self.line {
            place.push_str(&format!(" (line {line})"));
        }
        if let Some(column) = &self.column {
            let column: String = column.chars().take(80).collect();
            place.push_str(&format!(", column `{column}`"));
        }
        place
    }
}

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The caller may not do this.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The database or the blobs failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another room failed.
    #[error("{0}")]
    Other(Problem),
    /// The project does not exist.
    #[error("there is no project `{0}`")]
    NoProject(String),
    /// The dataset does not exist.
    #[error("project `{project}` has no dataset `{dataset}`")]
    NoDataset {
        /// Whose.
        project: String,
        /// Which.
        dataset: String,
    },
    /// The version does not exist.
    #[error("dataset `{dataset}` has no version `{version}`")]
    NoVersion {
        /// Of which dataset.
        dataset: String,
        /// What was asked for.
        version: String,
    },
    /// The file is not in the version.
    #[error("version {number} of `{dataset}` has no file `{path}`")]
    NoFile {
        /// Of which dataset.
        dataset: String,
        /// Which version.
        number: i64,
        /// Which file.
        path: RelPath,
    },
    /// The newest version cannot be forgotten.
    #[error("version {number} is the newest of `{dataset}` and stays")]
    NewestStays {
        /// Of which dataset.
        dataset: String,
        /// Its number.
        number: i64,
    },
    /// The push session does not exist or is not the caller's.
    #[error("there is no open push `{0}`")]
    NoUpload(String),
    /// Somebody else pushed in between.
    #[error("dataset `{dataset}` has version {number} now, which this push did not see")]
    Moved {
        /// Which dataset.
        dataset: String,
        /// The newest version's number.
        number: i64,
    },
    /// The commit names chunks that were not sent.
    #[error("{missing} chunks of this push were not sent, the first belongs to `{path}`")]
    Incomplete {
        /// How many.
        missing: u64,
        /// A file that needs one.
        path: RelPath,
    },
    /// Something is over its ceiling.
    #[error("{what} is {actual}, more than the {limit} allowed")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How large it is.
        actual: u64,
        /// The ceiling.
        limit: u64,
    },
    /// Bytes of the push protocol are not what they should be.
    #[error("the request is not a well-formed push: {0}")]
    Wire(String),
    /// A file of the manifest is not acceptable.
    #[error("file `{path}`: {problem}")]
    Manifest {
        /// Which file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A table is malformed.
    #[error("{file}{}: {}", fault.place(), fault.problem)]
    Table {
        /// Which file.
        file: RelPath,
        /// What is wrong and where.
        fault: Box<TableFault>,
    },
    /// A rule of the schema cannot be applied.
    #[error("the rule for column `{column}` cannot be applied: {problem}")]
    Rule {
        /// Which column.
        column: String,
        /// Why not.
        problem: String,
    },
    /// Stored bytes are gone or changed.
    #[error("{file}, chunk {chunk}: {problem}")]
    Chunk {
        /// Where they belong.
        file: String,
        /// Which chunk.
        chunk: Digest,
        /// What is wrong.
        problem: String,
    },
    /// A stored tree or commit does not read as one.
    #[error("{what} {key} is stored, but does not read as one: {problem}")]
    Stored {
        /// What it should be.
        what: &'static str,
        /// Which one.
        key: Digest,
        /// What is wrong.
        problem: String,
    },
    /// A local path cannot be pushed or written.
    #[error("{path}: {problem}")]
    Path {
        /// Which path.
        path: PathBuf,
        /// What is wrong.
        problem: String,
        /// What to do.
        hint: &'static str,
    },
    /// A local file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// What this room's operations return.
pub type DataResult<T> = Result<T, DataError>;

impl DataError {
    /// Wraps an I/O error with the path it concerns.
    pub fn io(
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

    /// Says in which file a chunk is bad, where the blob store only knows the chunk.
    pub(crate) fn in_file(error: StoreError, file: &str) -> Self {
        match error {
            StoreError::NoBlob(chunk) => Self::Chunk {
                file: file.to_owned(),
                chunk,
                problem: "is missing".to_owned(),
            },
            StoreError::Corrupted { expected, actual } => Self::Chunk {
                file: file.to_owned(),
                chunk: expected,
                problem: format!("holds other bytes now, with the digest {actual}"),
            },
            other => Self::Store(other),
        }
    }
}

impl From<Problem> for DataError {
    fn from(problem: Problem) -> Self {
        Self::Other(problem)
    }
}

impl Classified for DataError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(denied) => denied.kind(),
            Self::Store(error) => error.kind(),
            Self::Other(problem) => problem.kind,
            Self::NoProject(_)
            | Self::NoDataset { .. }
            | Self::NoVersion { .. }
            | Self::NoFile { .. }
            | Self::NoUpload(_) => ErrorKind::NotFound,
            Self::Moved { .. } | Self::Incomplete { .. } | Self::NewestStays { .. } => {
                ErrorKind::Conflict
            }
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Wire(_)
            | Self::Manifest { .. }
            | Self::Table { .. }
            | Self::Rule { .. }
            | Self::Path { .. } => ErrorKind::InvalidInput,
            Self::Chunk { .. } | Self::Stored { .. } => ErrorKind::Corrupted,
            Self::Io { source, .. } if is_full(source) => ErrorKind::Unavailable,
            Self::Io { .. } => ErrorKind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Store(error) => error.code(),
            Self::Other(problem) => problem.code,
            Self::NoProject(_) => "data.project.missing",
            Self::NoDataset { .. } => "data.dataset.missing",
            Self::NoVersion { .. } => "data.version.missing",
            Self::NoFile { .. } => "data.file.missing",
            Self::NewestStays { .. } => "data.version.newest",
            Self::NoUpload(_) => "data.push.missing",
            Self::Moved { .. } => "data.push.moved",
            Self::Incomplete { .. } => "data.push.incomplete",
            Self::TooLarge { .. } => "data.push.too-large",
            Self::Wire(_) => "data.push.malformed",
            Self::Manifest { .. } => "data.push.file",
            Self::Table { fault, .. } => fault.code,
            Self::Rule { .. } => "data.rule.invalid",
            Self::Chunk { .. } => "data.chunk.corrupted",
            Self::Stored { .. } => "data.stored.corrupted",
            Self::Path { .. } => "data.path.refused",
            Self::Io { source, .. } if is_full(source) => "data.disk.full",
            Self::Io { .. } => "data.io",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Denied(denied) => return denied.hint(),
            Self::Store(error) => return error.hint(),
            Self::Other(problem) => return problem.hint.clone(),
            Self::NoProject(_) => {
                "create it with a first `git push`, or name another with --project"
            }
            Self::NoDataset { .. } => "`ondol data list` shows the datasets of the project",
            Self::NoVersion { .. } => {
                "`ondol data log` shows its versions; a version is a number, `latest`, or its id"
            }
            Self::NoFile { .. } => "`ondol data show` lists the files of a version",
            Self::NewestStays { .. } => "push a newer version first",
            Self::NoUpload(_) => "it expired or belongs to somebody else: push again",
            Self::Moved { .. } => {
                "look at it with `ondol data diff`, then push again, with --force to replace it"
            }
            Self::Incomplete { .. } => "push again: what was sent already is not sent twice",
            Self::TooLarge { .. } => "push less at once, or raise the limit of the server",
            Self::Table { fault, .. } => fault.hint,
            Self::Chunk { .. } => "push the same content again to replace it, or restore a backup",
            Self::Stored { .. } => "restore a backup",
            Self::Path { hint, .. } => hint,
            Self::Io { source, .. } if is_full(source) => "the disk is full: free some space",
            Self::Wire(_) | Self::Manifest { .. } | Self::Rule { .. } | Self::Io { .. } => {
                return None;
            }
        };
        Some(text.to_owned())
    }
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}
