//! Datasets, versions, and what is said about them.

use ondol_types::{DatasetName, Digest, ProjectName, RelPath, Timestamp, UploadId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::chunk::ChunkRef;
use crate::table::TableProfile;

/// A file of a version as a client describes it: its chunks in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileEntry {
    /// Where it lies in the dataset.
    pub path: RelPath,
    /// Whether it is a program.
    pub executable: bool,
    /// Its length in bytes.
    pub size: u64,
    /// Its chunks in order.
    pub chunks: Vec<ChunkRef>,
}

/// A dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dataset {
    /// Whose it is.
    pub project: ProjectName,
    /// Its name.
    pub name: DatasetName,
    /// The newest version.
    pub head: Digest,
    /// The number of the newest version.
    pub number: i64,
    /// When it was first pushed.
    pub created_at: Timestamp,
    /// When it was last pushed.
    pub updated_at: Timestamp,
}

/// A version of a dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Version {
    /// Whose it is.
    pub project: ProjectName,
    /// Of which dataset.
    pub dataset: DatasetName,
    /// Its number, from 1.
    pub number: i64,
    /// Its id: the digest of its commit.
    pub id: Digest,
    /// The version before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    /// What the author said of it.
    pub message: String,
    /// Who pushed it.
    pub author: String,
    /// When.
    pub created_at: Timestamp,
    /// How many files it has.
    pub files: u64,
    /// Their bytes together.
    pub bytes: u64,
    /// Bytes in chunks that the version before it did not have.
    pub new_bytes: u64,
    /// Rows of all tables in it together; absent when it has no table.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// A version with the schema and statistics of its tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionDetail {
    /// The version.
    pub version: Version,
    /// Its tables by path.
    pub tables: Vec<TableProfile>,
}

/// A file in a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileInfo {
    /// Where it lies in the dataset.
    pub path: RelPath,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is a program.
    pub executable: bool,
}

/// An open push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PushSession {
    /// Its id.
    pub id: UploadId,
    /// The newest version when it began; the commit names it as its parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head: Option<Digest>,
    /// The cutting rule that shares most with what is stored.
    pub chunking: String,
    /// The most bytes that one upload request may have.
    pub max_request_bytes: u64,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// What one upload request stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UploadReceipt {
    /// Chunks received.
    pub chunks: u64,
    /// Bytes received.
    pub bytes: u64,
    /// Bytes that were not stored before.
    pub stored_bytes: u64,
}

/// What a client says of the version it pushes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CommitHead {
    /// What changed, in the author's words.
    pub message: String,
    /// The version that the author saw as the newest.
    pub parent: Option<Digest>,
    /// Whether to follow whatever is newest now.
    pub force: bool,
}

/// A version about to be made: the whole content of the dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommitRequest {
    /// What is said of it.
    pub head: CommitHead,
    /// All of its files.
    pub files: Vec<FileEntry>,
}

/// The outcome of a push.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pushed {
    /// The version that now is the newest.
    pub version: Version,
    /// Whether this push made it; otherwise nothing had changed.
    pub changed: bool,
}

/// What happened to a file between two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Change {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its content or mode differs.
    Modified,
}

/// One file that differs between two versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    /// Which file.
    pub path: RelPath,
    /// What happened to it.
    pub change: Change,
    /// Its length before, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// Its length after, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Bytes in chunks that the file did not have before.
    pub new_bytes: u64,
    /// How the rows of a table differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowDiff>,
}

/// How the rows of a table differ, whatever their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowDiff {
    /// Rows before.
    pub before: u64,
    /// Rows after.
    pub after: u64,
    /// Rows that only the later one has and that replace none.
    pub added: u64,
    /// Rows that only the earlier one has and that nothing replaces.
    pub removed: u64,
    /// Rows whose first column is the same and unique among those that differ.
    pub changed: u64,
    /// Columns that only the later one has.
    pub columns_added: Vec<String>,
    /// Columns that only the earlier one has.
    pub columns_removed: Vec<String>,
    /// A few of the rows.
    pub sample: Vec<RowChange>,
    /// Why rows were not compared, when they were not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One row that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RowChange {
    /// What happened to it.
    pub change: Change,
    /// Its cells before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Vec<String>>,
    /// Its cells after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<String>>,
}

/// How two versions differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diff {
    /// The earlier version.
    pub from: Version,
    /// The later version.
    pub to: Version,
    /// Files added.
    pub added: u64,
    /// Files removed.
    pub removed: u64,
    /// Files modified.
    pub modified: u64,
    /// The files by path, at most as many as asked for.
    pub files: Vec<FileChange>,
    /// Whether there are more files than shown.
    pub truncated: bool,
}

/// The outcome of reading every byte of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// Files looked at.
    pub files: u64,
    /// Distinct chunks read and hashed.
    pub chunks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many places in files are bad.
    pub bad: u64,
    /// The first of them.
    pub findings: Vec<BadChunk>,
}

/// A place in a file whose bytes are not what they were.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BadChunk {
    /// In which file.
    pub file: RelPath,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Which chunk.
    pub chunk: Digest,
    /// What is wrong.
    pub problem: String,
}
