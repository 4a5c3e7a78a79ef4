//! How many replicas the load asks for.

use ondol_types::{ReleaseId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What autoscaling made of the load of an environment. It is kept with the environment, so that
/// neither the number nor the wait before fewer replicas begins anew with the platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scale {
    /// The form of this value, [`Scale::FORMAT`].
    pub format: u32,
    /// How many replicas run, within the bounds of the specification.
    pub replicas: u32,
    /// The release whose load is measured.
    pub release: ReleaseId,
    /// Since when.
    pub since: Timestamp,
    /// When the load was judged last.
    pub at: Timestamp,
    /// When the number changed last.
    pub changed_at: Timestamp,
    /// Why it did, in words.
    pub reason: String,
    /// What the load asked for lately: oldest first, each less than the one before it. What a
    /// later one reached is left out, so the first is the most of all.
    #[schema(ignore)]
    pub peaks: Vec<Peak>,
}

/// What the load asked for at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peak {
    /// When.
    pub at: Timestamp,
    /// How many replicas.
    pub replicas: u32,
}

impl Scale {
    /// The form that this version writes.
    pub const FORMAT: u32 = 1;
}
