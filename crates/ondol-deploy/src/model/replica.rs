//! Running instances.

use std::net::SocketAddr;

use ondol_types::{
    EnvironmentName, ProjectName, ReleaseId, ReplicaId, RolloutId, Timestamp, WorkloadId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Probe, words};

words! {
    /// Where a replica is in its life.
    ReplicaState {
        /// To be started, or started and not yet ready.
        Starting = "starting",
        /// It answers its probes.
        Ready = "ready",
        /// It was ready and fails its probes; it gets traffic only when no other is ready.
        Unhealthy = "unhealthy",
        /// It ended by itself and waits to be started again.
        Failed = "failed",
        /// It is up, without traffic, for a rollback by one swap.
        Standby = "standby",
        /// It leaves: no new requests, then the end.
        Draining = "draining",
        /// It has ended for good.
        Stopped = "stopped",
    }
}

impl ReplicaState {
    /// Whether it counts among those that a release wants.
    pub const fn is_wanted(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Ready | Self::Unhealthy | Self::Failed
        )
    }

    /// Whether its program should be running.
    pub const fn is_up(self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Ready | Self::Unhealthy | Self::Standby
        )
    }
}

/// One running instance of a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its id.
    pub id: ReplicaId,
    /// Whose.
    pub project: ProjectName,
    /// Where.
    pub environment: EnvironmentName,
    /// Which release.
    pub release: ReleaseId,
    /// The rollout that it belongs to.
    pub rollout: RolloutId,
    /// What runs it.
    pub workload: WorkloadId,
    /// Which execution of the workload, from 1.
    pub incarnation: u64,
    /// Under which identity the gateway knows this execution: connections and counters belong to
    /// one address of one release.
    pub endpoint: ReplicaId,
    /// Where it is in its life.
    pub state: ReplicaState,
    /// Since when.
    pub since: Timestamp,
    /// Where the gateway reaches it.
    #[schema(value_type = Option<String>)]
    pub address: Option<SocketAddr>,
    /// How often it was started again.
    pub restarts: u32,
    /// How often in a row it ended soon.
    pub failures: u32,
    /// Repeating the start cannot help.
    pub fatal: bool,
    /// When it will be started again.
    pub next_start_at: Option<Timestamp>,
    /// When this incarnation was started.
    pub started_at: Option<Timestamp>,
    /// What happened to it, in words.
    pub detail: Option<String>,
    /// The newest probe results at its last change of state.
    pub probes: Vec<Probe>,
    /// Whether the newest routing table names it.
    pub routed: bool,
    /// The first routing table without it, after one with it.
    pub left_generation: Option<i64>,
    /// When every live gateway had a table without it.
    pub out_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Replica {
    /// Failures in a row from which on it counts as a crash loop.
    pub const CRASH_LOOP: u32 = 3;

    /// The workload that runs a replica.
    pub fn workload_of(id: ReplicaId) -> WorkloadId {
        WorkloadId::derived(&format!("replica:{id}"))
    }

    /// The identity of an execution at the gateway.
    pub(crate) fn endpoint_of(id: ReplicaId, incarnation: u64, release: ReleaseId) -> ReplicaId {
        ReplicaId::derived(&format!("endpoint:{id}:{incarnation}:{release}"))
    }

    /// Whether every live gateway has acknowledged a table without it.
    pub fn is_out(&self, acked: i64) -> bool {
        !self.routed && self.left_generation.is_none_or(|left| acked >= left)
    }

    /// Whether it ends soon after every start.
    pub fn crash_looping(&self) -> bool {
        self.failures >= Self::CRASH_LOOP
            && matches!(self.state, ReplicaState::Starting | ReplicaState::Failed)
    }
}
