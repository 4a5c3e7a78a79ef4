//! The nouns of this room.

use ondol_types::{CommitId, ProjectName, RefName, RelPath, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A project: one repository and all that comes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Project {
    /// Its name, unique per installation.
    pub name: ProjectName,
    /// The branch whose pushes are deployed.
    pub default_branch: String,
    /// The newest commit of the default branch.
    pub head: Option<CommitId>,
    /// Whether history of the default branch may be rewritten by a forced push.
    pub allow_force_push: bool,
    /// Where git finds it.
    pub clone_url: String,
    /// What the repository holds on disk, in bytes, at the last push.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When a ref last moved.
    pub pushed_at: Option<Timestamp>,
}

/// What can be changed about a project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The branch whose pushes are deployed; it must exist.
    #[serde(default)]
    pub default_branch: Option<String>,
    /// Whether history of the default branch may be rewritten by a forced push.
    #[serde(default)]
    pub allow_force_push: Option<bool>,
}

/// A branch or tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ref {
    /// Its full name.
    pub name: RefName,
    /// The object it points to; for an annotated tag that is the tag object.
    pub target: CommitId,
    /// When it moved there.
    pub updated_at: Timestamp,
    /// The chain of events that this began.
    pub chain: String,
}

/// A commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    /// Its object name.
    pub id: CommitId,
    /// The commits before it.
    pub parents: Vec<CommitId>,
    /// Who wrote it, by their own word.
    pub author: String,
    /// Their address, by their own word.
    pub email: String,
    /// When they wrote it, by their own word.
    pub time: Timestamp,
    /// The whole message.
    pub message: String,
}

impl Commit {
    /// The first line of the message.
    pub fn subject(&self) -> &str {
        self.message.lines().next().unwrap_or_default()
    }
}

/// What stands at a path of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A file.
    File,
    /// A file that may be executed.
    Executable,
    /// A symbolic link.
    Link,
    /// A folder.
    Folder,
    /// A submodule: another repository's commit.
    Submodule,
}

/// One entry of a folder of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Its path from the root.
    pub path: RelPath,
    /// What it is.
    pub kind: EntryKind,
    /// Its size in bytes, for files and links.
    pub size: Option<u64>,
}

/// A ref that a push moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedRef {
    /// Which ref.
    pub name: RefName,
    /// Where it pointed before, if it existed.
    pub old: Option<CommitId>,
    /// Where it points now; absent when it was deleted.
    pub new: Option<CommitId>,
    /// Whether it is the default branch.
    pub default_branch: bool,
    /// The chain of events that this began, when it is still the newest move of the ref.
    pub chain: Option<String>,
}

/// A push that was accepted and recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// Whose repository.
    pub project: ProjectName,
    /// Who pushed.
    pub pusher: String,
    /// What was given with `-o`.
    pub options: Vec<String>,
    /// The refs that moved.
    pub updates: Vec<PushedRef>,
}
