//! One execution of the graph.

use ondol_types::{CommitId, DatasetName, Digest, ProjectName, RefName, RunId, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{IllegalTransition, shortened, word_enum};

word_enum! {
    /// Where a run is in its life.
    RunState {
        /// It waits for the run before it on the same branch or dataset.
        Queued = "queued",
        /// Its steps are worked off.
        Running = "running",
        /// It has ended; its outcome says how.
        Finished = "finished",
    }
}

word_enum! {
    /// How a run ended.
    RunOutcome {
        /// Every step that had to pass did.
        Success = "success",
        /// A step failed or ran out of time.
        Failure = "failure",
        /// Somebody stopped it.
        Cancelled = "cancelled",
        /// A newer push took its place.
        Superseded = "superseded",
        /// There was nothing to do.
        Skipped = "skipped",
        /// The data or the model did not pass its gate; what serves is untouched.
        Refused = "refused",
        /// The platform could not carry it out.
        Error = "error",
    }
}

/// What started a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Trigger {
    /// A branch moved.
    Push {
        /// Which branch, as a full ref.
        ref_name: RefName,
        /// Where it moved to.
        commit: CommitId,
        /// Whether it is the default branch.
        default_branch: bool,
    },
    /// A dataset has a new version.
    Data {
        /// Which dataset.
        dataset: DatasetName,
        /// The version.
        version: Digest,
        /// Its number.
        number: i64,
    },
    /// Somebody asked for a run of a branch as it is.
    Manual {
        /// Which branch, as a full ref.
        ref_name: RefName,
        /// Where it points.
        commit: CommitId,
        /// Whether it is the default branch.
        default_branch: bool,
    },
}

impl Trigger {
    /// What is worked off one after the other: the runs of one branch, or of one dataset.
    pub fn lane(&self) -> String {
        match self {
            Self::Push { ref_name, .. } | Self::Manual { ref_name, .. } => {
                format!("ref:{ref_name}")
            }
            Self::Data { dataset, .. } => format!("data:{dataset}"),
        }
    }

    /// The branch, for triggers of code.
    pub fn branch(&self) -> Option<&str> {
        match self {
            Self::Push { ref_name, .. } | Self::Manual { ref_name, .. } => ref_name.branch(),
            Self::Data { .. } => None,
        }
    }

    /// The commit, for triggers of code.
    pub fn commit(&self) -> Option<&CommitId> {
        match self {
            Self::Push { commit, .. } | Self::Manual { commit, .. } => Some(commit),
            Self::Data { .. } => None,
        }
    }

    /// Whether what comes of the run may become the current release of `production`.
    pub fn is_production(&self) -> bool {
        match self {
            Self::Push { default_branch, .. } | Self::Manual { default_branch, .. } => {
                *default_branch
            }
            Self::Data { .. } => true,
        }
    }

    /// A few words for people, such as `push to main`.
    pub fn describe(&self) -> String {
        match self {
            Self::Push { ref_name, .. } => {
                format!("push to {}", ref_name.branch().unwrap_or(ref_name.as_str()))
            }
            Self::Manual { ref_name, .. } => {
                format!("run of {}", ref_name.branch().unwrap_or(ref_name.as_str()))
            }
            Self::Data {
                dataset, number, ..
            } => format!("data {dataset} version {number}"),
        }
    }
}

/// A version of a dataset that a run works with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataRef {
    /// Which dataset.
    pub dataset: DatasetName,
    /// The version.
    pub version: Digest,
    /// Its number.
    pub number: i64,
}

/// Somebody wants a run to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CancelRequest {
    /// Who, as the audit shows it.
    pub by: String,
    /// Why, for people.
    pub reason: String,
    /// Whether a newer run takes its place.
    pub superseded: bool,
    /// When.
    pub at: Timestamp,
}

/// One execution of the graph for a commit or a data version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// Its place among all runs of the installation; newer runs have greater ones.
    pub seq: i64,
    /// Whose it is.
    pub project: ProjectName,
    /// Its number in the project, from 1.
    pub number: i64,
    /// What started it.
    pub trigger: Trigger,
    /// The run that it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_of: Option<RunId>,
    /// The branch, for runs of code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// The commit; a run of data learns it when it starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// The data that it trains on, once that is decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataRef>,
    /// What it is worked off with, one after the other.
    #[serde(skip)]
    pub lane: String,
    /// Where it is in its life.
    pub state: RunState,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<RunOutcome>,
    /// Why it ended so, in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The chain of events that it belongs to.
    pub chain: String,
    /// Who pushed or asked.
    pub author: String,
    /// What people should know about it, such as that there are no tests.
    pub notes: Vec<String>,
    /// The request to end it, if somebody made one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancel: Option<CancelRequest>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its first step could begin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

const MAX_NOTES: usize = 32;

impl Run {
    fn illegal(&self, to: &str) -> IllegalTransition {
        IllegalTransition {
            what: format!("run {}", self.id),
            from: self.state.to_string(),
            to: to.to_owned(),
        }
    }

    /// Queued → running.
    ///
    /// # Errors
    /// It is not queued.
    pub fn start(&mut self, now: Timestamp) -> Result<(), IllegalTransition> {
        if self.state != RunState::Queued {
            return Err(self.illegal("running"));
        }
        self.state = RunState::Running;
        self.started_at = Some(now);
        Ok(())
    }

    /// Queued or running → finished.
    ///
    /// # Errors
    /// It has finished already, or is still queued and was neither cancelled nor skipped.
    pub fn finish(
        &mut self,
        outcome: RunOutcome,
        reason: Option<String>,
        now: Timestamp,
    ) -> Result<(), IllegalTransition> {
        let without_steps = matches!(
            outcome,
            RunOutcome::Cancelled | RunOutcome::Superseded | RunOutcome::Skipped
        );
        if self.state == RunState::Finished || (self.state == RunState::Queued && !without_steps) {
            return Err(self.illegal(outcome.as_str()));
        }
        self.state = RunState::Finished;
        self.outcome = Some(outcome);
        self.reason = reason.map(shortened);
        self.finished_at = Some(now);
        Ok(())
    }

    /// Adds a note once; the list is bounded.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = shortened(note.into());
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn run() -> Run {
        let trigger = Trigger::Push {
            ref_name: "refs/heads/main".parse().unwrap(),
            commit: "1".repeat(40).parse().unwrap(),
            default_branch: true,
        };
        Run {
            id: RunId::derived("run"),
            seq: 1,
            project: "web".parse().unwrap(),
            number: 1,
            branch: trigger.branch().map(str::to_owned),
            commit: trigger.commit().cloned(),
            lane: trigger.lane(),
            trigger,
            retry_of: None,
            data: None,
            state: RunState::Queued,
            outcome: None,
            reason: None,
            chain: "chain".into(),
            author: "ann".into(),
            notes: Vec::new(),
            cancel: None,
            created_at: Timestamp::from_micros(1),
            started_at: None,
            finished_at: None,
        }
    }

    #[test]
    fn a_run_goes_forward_only() {
        let now = Timestamp::from_micros(5);
        let mut run = run();
        assert!(run.clone().finish(RunOutcome::Success, None, now).is_err());
        assert!(
            run.clone()
                .finish(RunOutcome::Superseded, None, now)
                .is_ok()
        );
        run.start(now).unwrap();
        assert!(run.start(now).is_err());
        run.finish(RunOutcome::Failure, Some("`test` failed".into()), now)
            .unwrap();
        let refused = run.finish(RunOutcome::Success, None, now).unwrap_err();
        assert_eq!(
            refused.to_string(),
            format!("run {} cannot go from finished to success", run.id)
        );
    }

    #[test]
    fn triggers_have_a_stable_json_form() {
        let json = serde_json::to_string(&run().trigger).unwrap();
        let expected = format!(
            r#"{{"kind":"push","refName":"refs/heads/main","commit":"{}","defaultBranch":true}}"#,
            "1".repeat(40)
        );
        assert_eq!(json, expected);
        let data = r#"{"kind":"data","dataset":"iris","version":"blake3:0000000000000000000000000000000000000000000000000000000000000000","number":3}"#;
        let trigger: Trigger = serde_json::from_str(data).unwrap();
        assert_eq!(serde_json::to_string(&trigger).unwrap(), data);
        assert_eq!(trigger.lane(), "data:iris");
    }
}
