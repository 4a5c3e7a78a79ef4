//! The replacement of one release by another.

use ondol_spec::model::Strategy;
use ondol_types::{
    EnvironmentName, ProjectName, ReleaseId, RolloutId, RunId, Timestamp, WorkloadId,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Probe, Reason, words};
use crate::routes::ReleaseTraffic;

words! {
    /// Where a rollout is.
    ///
    /// `pending → [releaseCommand] → starting → probing → [shifting ⇄ paused] → swapping → done`;
    /// it can fail everywhere, and can be superseded or aborted before `swapping`.
    RolloutState {
        /// Accepted; its release is not composed yet.
        Pending = "pending",
        /// Accepted, and waits for a person because the environment is held.
        Held = "held",
        /// Its release command runs.
        ReleaseCommand = "releaseCommand",
        /// Its replicas are being started.
        Starting = "starting",
        /// Its replicas run and are asked whether they are ready.
        Probing = "probing",
        /// It gets a share of the traffic.
        Shifting = "shifting",
        /// It keeps its share and waits for data or a person.
        Paused = "paused",
        /// All traffic moves to it; from here on it is finished, never superseded.
        Swapping = "swapping",
        /// Its release is current.
        Done = "done",
        /// It did not succeed; the release before serves.
        Failed = "failed",
        /// Somebody, or a newer rollout, ended it; the release before serves.
        Aborted = "aborted",
    }
}

impl RolloutState {
    /// Whether it will never change again.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Aborted)
    }

    /// Whether it has begun and has not ended. At most one per environment.
    pub const fn is_running(self) -> bool {
        !self.is_final() && !matches!(self, Self::Pending | Self::Held)
    }

    /// Whether its replicas may be in the routing table.
    pub const fn is_routed(self) -> bool {
        matches!(self, Self::Shifting | Self::Paused | Self::Swapping)
    }

    /// Whether nothing goes on before a person does something.
    pub const fn waits_for_person(self) -> bool {
        matches!(self, Self::Held | Self::Paused)
    }
}

words! {
    /// What a rollout is to do.
    Kind {
        /// Compose a release from the newest accepted parts.
        Deploy = "deploy",
        /// Repeat an earlier release.
        Rollback = "rollback",
        /// Replace the replicas of the current release by new ones.
        Restart = "restart",
    }
}

/// The most log lines that a failure carries.
pub(crate) const MAX_LOG_LINES: usize = 20;

/// Why a rollout failed, with what helps to find the cause.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Failure {
    /// In words.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The newest probe.
    pub probe: Option<Probe>,
    /// Where the program was found listening.
    pub listening: Vec<String>,
    /// The last lines of the program's log, at most twenty.
    pub log: Vec<String>,
}

impl Failure {
    /// A failure of which nothing more is known.
    pub fn plain(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            ..Self::default()
        }
    }
}

words! {
    /// What is known of a release command.
    CommandState {
        /// It is about to be started; it may have been.
        Intended = "intended",
        /// It was started.
        Started = "started",
        /// It exited with 0.
        Succeeded = "succeeded",
        /// It did not.
        Failed = "failed",
        /// Nobody knows how it ended, or whether it began.
        Unknown = "unknown",
    }
}

/// The one execution of a release command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// What runs it.
    pub workload: WorkloadId,
    /// What is known of it.
    pub state: CommandState,
    /// How it ended, in words.
    pub detail: Option<String>,
    /// When it was to be started.
    pub intended_at: Timestamp,
    /// When its end was seen.
    pub ended_at: Option<Timestamp>,
}

/// The canary step that a rollout is in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Phase {
    /// Index into the steps of the specification.
    pub step: u32,
    /// The first routing table that shows the state and step.
    pub generation: Option<i64>,
    /// When every live gateway had it; the step is measured from here.
    pub since: Option<Timestamp>,
    /// What the new release had answered by then.
    #[schema(ignore)]
    pub canary: Option<ReleaseTraffic>,
    /// What the current release had answered by then.
    #[schema(ignore)]
    pub current: Option<ReleaseTraffic>,
}

/// The replacement of one release by another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// Whose.
    pub project: ProjectName,
    /// Where.
    pub environment: EnvironmentName,
    /// Its number there, from 1; a greater one supersedes a smaller one.
    pub number: i64,
    /// The key under which it was requested.
    pub key: String,
    /// What it is to do.
    pub kind: Kind,
    /// What caused it.
    pub reason: Reason,
    /// Where it is.
    pub state: RolloutState,
    /// Since when.
    pub since: Timestamp,
    /// How traffic moves.
    pub strategy: Strategy,
    /// The release that it replaces.
    pub from: Option<ReleaseId>,
    /// The release that it brings, once composed.
    pub to: Option<ReleaseId>,
    /// The number of the release to repeat.
    pub target: Option<i64>,
    /// The canary step, and its counters at the beginning.
    pub phase: Phase,
    /// What happens or happened, in words.
    pub message: String,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// The rollout that took its place.
    pub superseded_by: Option<RolloutId>,
    /// The run that asked for it.
    pub run: Option<RunId>,
    /// The chain that it belongs to.
    pub chain: Option<String>,
    /// Who caused it.
    pub author: String,
    /// Not to be begun before.
    pub not_before: Option<Timestamp>,
    /// When it was requested.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl Rollout {
    /// The workload that runs the release command of a rollout.
    pub fn command_workload(id: RolloutId) -> WorkloadId {
        WorkloadId::derived(&format!("release-command:{id}"))
    }
}
