//! What can go wrong where things are kept.

use std::path::PathBuf;

use ondol_types::{Classified, Digest, ErrorKind, ProjectName, Timestamp};

/// An error of the database, the blobs or the data directory.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database refused or could not be reached.
    #[error("the database could not do `{operation}`")]
    Database {
        /// What was asked, without values.
        operation: String,
        /// The driver's error.
        #[source]
        source: sqlx::Error,
    },
    /// A row is not what the code expects.
    #[error("column `{column}` of a stored row: {problem}")]
    Column {
        /// Which column.
        column: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A write was asked of a transaction that only reads.
    #[error("a reading transaction was asked to write")]
    ReadOnly,
    /// The same transaction met too many conflicts.
    #[error("a transaction met {attempts} conflicts in a row")]
    Contended {
        /// How often it was tried.
        attempts: u32,
    },
    /// The database holds migrations that this build does not know.
    #[error(
        "the database was made by a newer Ondol: it has migration {found}, this build knows {known}"
    )]
    NewerDatabase {
        /// The highest applied number.
        found: i64,
        /// The highest known number.
        known: i64,
    },
    /// A migration that was applied has changed since.
    #[error("migration {number} ({name}) differs from the one that was applied")]
    ChangedMigration {
        /// Its number.
        number: i64,
        /// Its name.
        name: String,
    },
    /// The data directory was made by a newer version.
    #[error("the data directory {path} has format {found}, this build knows {known}")]
    NewerData {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this build writes.
        known: u32,
    },
    /// Somebody else has the data directory.
    #[error("the data directory {path} is in use by another `ondol serve`{}", holder.as_ref().map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, when it says so.
        holder: Option<String>,
    },
    /// A file operation failed.
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
    /// No blob has this digest.
    #[error("there is no blob {0}")]
    NoBlob(Digest),
    /// Bytes do not have the digest they were announced or stored with.
    #[error("blob {expected} holds other bytes: their digest is {actual}")]
    Corrupted {
        /// The address.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// A blob is larger than the caller accepts.
    #[error("blob {digest} has {size} bytes, more than the {limit} allowed here")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The caller's limit in bytes.
        limit: u64,
    },
    /// A project of this name is being deleted.
    #[error("project `{project}` is being deleted since {since}")]
    ProjectHeld {
        /// The name.
        project: ProjectName,
        /// Since when.
        since: Timestamp,
    },
    /// A segment of the archive of events is not what its row says.
    #[error("the archived events {first} to {last} are damaged: {problem}")]
    Archive {
        /// The place of its first event.
        first: i64,
        /// The place of its last event.
        last: i64,
        /// What is wrong.
        problem: String,
    },
    /// An event does not have the form that the log demands.
    #[error("event {event_type}: {problem}")]
    Event {
        /// Its type.
        event_type: String,
        /// What is wrong.
        problem: String,
    },
}

impl StoreError {
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

    /// Whether the disk is full, whoever noticed.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(
                    source.kind(),
                    std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
                )
            }
            // SQLITE_FULL is 13; PostgreSQL's disk_full is 53100.
            Self::Database {
                source: sqlx::Error::Database(error),
                ..
            } => {
                matches!(error.code().as_deref(), Some("13" | "53100"))
            }
            _ => false,
        }
    }

    /// Whether a unique or primary key constraint refused the row.
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Database { source: sqlx::Error::Database(error), .. } if error.is_unique_violation())
    }
}

impl Classified for StoreError {
    fn kind(&self) -> ErrorKind {
        if self.is_disk_full() {
            return ErrorKind::Unavailable;
        }
        match self {
            Self::Contended { .. } => ErrorKind::Unavailable,
            Self::NewerDatabase { .. } | Self::NewerData { .. } => ErrorKind::Unsupported,
            Self::InUse { .. } | Self::ProjectHeld { .. } => ErrorKind::Conflict,
            Self::NoBlob(_) => ErrorKind::NotFound,
            Self::Corrupted { .. } | Self::Archive { .. } => ErrorKind::Corrupted,
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Database { .. }
            | Self::Column { .. }
            | Self::ReadOnly
            | Self::ChangedMigration { .. }
            | Self::Io { .. }
            | Self::Event { .. } => ErrorKind::Internal,
        }
    }

    fn code(&self) -> &'static str {
        if self.is_disk_full() {
            return "store.disk.full";
        }
        match self {
            Self::Database { .. } => "store.database",
            Self::Column { .. } => "store.column",
            Self::ReadOnly => "store.read-only",
            Self::Contended { .. } => "store.contended",
            Self::NewerDatabase { .. } | Self::NewerData { .. } => "store.newer",
            Self::ChangedMigration { .. } => "store.migration.changed",
            Self::InUse { .. } => "store.in-use",
            Self::Io { .. } => "store.io",
            Self::NoBlob(_) => "store.blob.missing",
            Self::Corrupted { .. } => "store.blob.corrupted",
            Self::TooLarge { .. } => "store.blob.too-large",
            Self::Event { .. } => "store.event",
            Self::ProjectHeld { .. } => "store.project.deleting",
            Self::Archive { .. } => "store.events.archive",
        }
    }

    fn hint(&self) -> Option<String> {
        if self.is_disk_full() {
            return Some("the disk is full: free some space, nothing was half-written".to_owned());
        }
        match self {
            Self::NewerDatabase { .. } | Self::NewerData { .. } => {
                Some("run the version of Ondol that made it, or a newer one".to_owned())
            }
            Self::InUse { .. } => {
                Some("stop the other one with `ondol stop`, or choose another --data".to_owned())
            }
            Self::ProjectHeld { project, .. } => Some(format!(
                "wait until it is gone (`ondol projects delete {project} --yes` waits for it), or choose another name"
            )),
            Self::Corrupted { .. } | Self::Archive { .. } => {
                Some("restore it from a backup, or push the same content again".to_owned())
            }
            _ => None,
        }
    }
}
