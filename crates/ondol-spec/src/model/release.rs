//! How a new release replaces the one before.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Command, Period};
use crate::expr::Expression;

/// How a new release replaces the one before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Release {
    /// Command that runs once from the new image before it gets traffic, such as a migration.
    /// It is never repeated by itself: when its outcome is unknown, the release has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Command>,
    /// Whether `command` can be undone. When not, a rollback across it is refused without force.
    pub reversible: bool,
    /// How traffic moves.
    pub strategy: Strategy,
    /// Shares of traffic in percent that a canary gets in turn; ascending, the last is 100.
    pub steps: Vec<u8>,
    /// CEL expression that must hold at every canary step, over `error_rate` (ratio), `p50`,
    /// `p95`, `p99` (seconds), `rps` and `requests` of the canary, and the same of `current`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<Expression>,
    /// Requests that a canary must have answered before `check` decides.
    pub min_requests: u64,
    /// The least time that a canary step lasts.
    pub interval: Period,
    /// How long a canary step waits for `min_requests` before the rollout pauses for a person.
    pub patience: Period,
    /// How many earlier releases stay ready for a rollback.
    pub keep: u32,
}

impl Default for Release {
    fn default() -> Self {
        Self {
            command: None,
            reversible: true,
            strategy: Strategy::Rolling,
            steps: vec![10, 50, 100],
            check: None,
            min_requests: 100,
            interval: Period::from_secs(30),
            patience: Period::from_secs(10 * 60),
            keep: 5,
        }
    }
}

/// How traffic moves from one release to the next.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// New replicas start, become ready, take over at once; then the old ones drain and stop.
    #[default]
    Rolling,
    /// As rolling, and the old replicas stay up until the next release, so that a rollback is one swap.
    BlueGreen,
    /// A growing share of traffic, each step guarded by `check`.
    Canary,
}
