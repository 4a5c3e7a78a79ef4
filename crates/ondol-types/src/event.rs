//! The types and contents of the events that rooms exchange through the log.
//!
//! Domains never import each other: one appends an event, another follows the log with a cursor
//! of its own. What both must agree on stands here. Where CDEvents 0.5.1 has a type for the
//! fact, that type is used; what it lacks is a custom event `dev.cdeventsx.ondol-<subject>`.

use serde::{Deserialize, Serialize};

use crate::{CommitId, DatasetName, Digest, ModelName, ProjectName, RefName, RunId};

/// The full type of an event, with the version of its content.
pub type EventType = &'static str;

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: EventType = $text;)*

        /// Every type that this build appends.
        pub const ALL: &[EventType] = &[$($name),*];
    };
}

event_types! {
    /// A project with its repository exists.
    REPOSITORY_CREATED = "dev.cdevents.repository.created.0.3.0";
    /// A project and its repository are gone.
    REPOSITORY_DELETED = "dev.cdevents.repository.deleted.0.3.0";
    /// Every room has forgotten a deleted project, and its name is free.
    PROJECT_FORGOTTEN = "dev.cdeventsx.ondol-project.forgotten.0.1.0";
    /// A branch exists.
    BRANCH_CREATED = "dev.cdevents.branch.created.0.3.0";
    /// A branch is gone.
    BRANCH_DELETED = "dev.cdevents.branch.deleted.0.3.0";
    /// A ref moved by a push; content is [`PushReceived`].
    PUSH_RECEIVED = "dev.cdeventsx.ondol-push.received.0.1.0";
    /// A dataset has a new version; content is [`DatasetCommitted`].
    DATASET_COMMITTED = "dev.cdeventsx.ondol-dataset.committed.0.1.0";
    /// A run waits for its turn.
    RUN_QUEUED = "dev.cdevents.pipelinerun.queued.0.3.0";
    /// A run began.
    RUN_STARTED = "dev.cdevents.pipelinerun.started.0.3.0";
    /// A run ended.
    RUN_FINISHED = "dev.cdevents.pipelinerun.finished.0.3.0";
    /// A step began.
    STEP_STARTED = "dev.cdevents.taskrun.started.0.3.0";
    /// A step ended.
    STEP_FINISHED = "dev.cdevents.taskrun.finished.0.3.0";
    /// A person approved a step that waited for one.
    APPROVAL_GIVEN = "dev.cdeventsx.ondol-approval.given.0.1.0";
    /// A person refused a step that waited for an approval.
    APPROVAL_REFUSED = "dev.cdeventsx.ondol-approval.refused.0.1.0";
    /// A suite of tests ended.
    TEST_SUITE_FINISHED = "dev.cdevents.testsuiterun.finished.0.3.0";
    /// An image was built.
    ARTIFACT_PACKAGED = "dev.cdevents.artifact.packaged.0.3.0";
    /// An image or manifest stands in the registry.
    ARTIFACT_PUBLISHED = "dev.cdevents.artifact.published.0.3.0";
    /// A manifest is gone from the registry.
    ARTIFACT_DELETED = "dev.cdevents.artifact.deleted.0.2.0";
    /// An environment exists.
    ENVIRONMENT_CREATED = "dev.cdevents.environment.created.0.3.0";
    /// An environment is held, released from its hold, or scaled.
    ENVIRONMENT_MODIFIED = "dev.cdevents.environment.modified.0.3.0";
    /// A service serves for the first time.
    SERVICE_DEPLOYED = "dev.cdevents.service.deployed.0.3.0";
    /// A service serves a newer release.
    SERVICE_UPGRADED = "dev.cdevents.service.upgraded.0.3.0";
    /// A service serves an earlier release again.
    SERVICE_ROLLED_BACK = "dev.cdevents.service.rolledback.0.3.0";
    /// A service is gone.
    SERVICE_REMOVED = "dev.cdevents.service.removed.0.3.0";
    /// A release was composed.
    RELEASE_CREATED = "dev.cdeventsx.ondol-release.created.0.1.0";
    /// A rollout began.
    ROLLOUT_STARTED = "dev.cdeventsx.ondol-rollout.started.0.1.0";
    /// A rollout ended; the content says how.
    ROLLOUT_FINISHED = "dev.cdeventsx.ondol-rollout.finished.0.1.0";
    /// A rollout stopped to wait for data or a person.
    ROLLOUT_PAUSED = "dev.cdeventsx.ondol-rollout.paused.0.1.0";
    /// A replica changed state; the content says to which.
    REPLICA_CHANGED = "dev.cdeventsx.ondol-replica.changed.0.1.0";
    /// A model version was trained; content is [`ModelVersionEvent`].
    MODEL_VERSION_CREATED = "dev.cdeventsx.ondol-modelversion.created.0.1.0";
    /// A model version became champion; content is [`ModelVersionEvent`].
    MODEL_VERSION_PROMOTED = "dev.cdeventsx.ondol-modelversion.promoted.0.1.0";
    /// The gate refused a model version; content is [`ModelVersionEvent`].
    MODEL_VERSION_REFUSED = "dev.cdeventsx.ondol-modelversion.refused.0.1.0";
    /// Retention removed a model version; content is [`ModelVersionEvent`].
    MODEL_VERSION_REMOVED = "dev.cdeventsx.ondol-modelversion.removed.0.1.0";
    /// A secret has a new version. The content never has its value.
    SECRET_SET = "dev.cdeventsx.ondol-secret.set.0.1.0";
    /// A secret is gone.
    SECRET_REMOVED = "dev.cdeventsx.ondol-secret.removed.0.1.0";
    /// A token was issued.
    TOKEN_CREATED = "dev.cdeventsx.ondol-token.created.0.1.0";
    /// A token no longer opens anything.
    TOKEN_REVOKED = "dev.cdeventsx.ondol-token.revoked.0.1.0";
    /// A volume exists.
    VOLUME_CREATED = "dev.cdeventsx.ondol-volume.created.0.1.0";
}

/// Content of [`PUSH_RECEIVED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushReceived {
    /// Whose repository.
    pub project: ProjectName,
    /// Which ref moved.
    pub ref_name: RefName,
    /// Where it pointed before, if it existed.
    pub old: Option<CommitId>,
    /// Where it points now; absent when it was deleted.
    pub new: Option<CommitId>,
    /// Whether the ref is the project's default branch.
    pub default_branch: bool,
    /// Who pushed, as the audit shows it.
    pub pusher: String,
}

/// Content of [`DATASET_COMMITTED`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatasetCommitted {
    /// Whose dataset.
    pub project: ProjectName,
    /// Which dataset.
    pub dataset: DatasetName,
    /// The commit: digest of the version.
    pub version: Digest,
    /// Its number in the history of the dataset, from 1.
    pub number: i64,
    /// The version before it.
    pub parent: Option<Digest>,
    /// Who pushed.
    pub author: String,
    /// What the author said of it.
    pub message: String,
}

/// Content of the model version events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelVersionEvent {
    /// Whose model.
    pub project: ProjectName,
    /// Which model.
    pub model: ModelName,
    /// The version, from 1.
    pub version: i64,
    /// The run that trained it.
    pub run: Option<RunId>,
    /// Digest of the model's bytes.
    pub digest: Digest,
    /// Why the gate decided as it did.
    pub reason: Option<String>,
}
