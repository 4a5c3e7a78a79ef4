//! Where a project runs.

use ondol_types::{
    CommitId, Digest, EnvironmentName, ProjectName, ReleaseId, RolloutId, RunId, Timestamp,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ModelRef, ReleaseConfig, Scale};

/// Why automation waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// In words.
    pub reason: String,
    /// Who set it.
    pub by: String,
    /// Since when.
    pub at: Timestamp,
}

/// An environment of a project. It has at most one current release, and from its first
/// successful rollout on exactly one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// Whose.
    pub project: ProjectName,
    /// Its name.
    pub name: EnvironmentName,
    /// Whether it is on its way out.
    pub removing: bool,
    /// Set by a rollback: automation waits until a later human push or command lifts it.
    pub hold: Option<Hold>,
    /// The release that serves.
    pub current: Option<ReleaseId>,
    /// The rollout whose replicas serve.
    pub serving: Option<RolloutId>,
    /// How many replicas a person asked for, over what the specification says.
    pub replicas: Option<u32>,
    /// How many the load asks for, when the specification names a load to scale by.
    pub scale: Option<Scale>,
    /// When its first request came.
    pub created_at: Timestamp,
}

/// The newest image that was accepted for an environment, with what came along.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AcceptedImage {
    /// Digest of the manifest.
    pub(crate) image: Digest,
    /// The configuration of the same commit.
    pub(crate) config: ReleaseConfig,
    /// Which commit.
    pub(crate) commit: Option<CommitId>,
    /// The run that built it.
    pub(crate) run: Option<RunId>,
    /// The chain that it belongs to.
    pub(crate) chain: Option<String>,
    /// Who caused it.
    pub(crate) author: String,
}

/// The newest accepted parts, of which the next release is composed when its rollout starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Accepted {
    /// The image and configuration.
    pub(crate) image: Option<AcceptedImage>,
    /// The model version.
    pub(crate) model: Option<ModelRef>,
}
