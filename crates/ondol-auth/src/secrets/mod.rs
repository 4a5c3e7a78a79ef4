//! Secrets: set, listed and removed by people, read only by Ondol when it starts a workload.

mod envelope;
mod fitness;
mod service;

use ondol_types::{SecretName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub(crate) use envelope::SealedVersion;
pub use service::Secrets;

/// A secret as lists show it: never its value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretInfo {
    /// The variable that carries it.
    pub name: SecretName,
    /// Its newest version, from 1.
    pub version: i64,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When this version was set.
    pub updated_at: Timestamp,
    /// Who set it.
    pub updated_by: String,
}

/// What setting a secret did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SetSecret {
    /// The version that holds the value.
    pub version: i64,
    /// Whether it is new; setting the same value again makes no version and no rollout.
    pub changed: bool,
    /// The event that says so and its place in the log, for whoever waits for what follows.
    #[serde(skip)]
    pub event: Option<(ondol_types::EventId, i64)>,
}
