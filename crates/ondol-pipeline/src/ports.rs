//! What this room needs from others. The composition root implements these traits over the
//! rooms for code, data, models, images and releases, which never see each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ondol_spec::model::{AutoTrain, Spec};
use ondol_types::{
    Clock, CommitId, DatasetName, ModelName, Problem, ProjectName, RefName, Secret, SecretName,
    StepName, Timestamp, WorkloadId,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::log::ActionLog;
use crate::model::{Run, Step};
use crate::plan::TrainingState;
use crate::workspace::Workspace;

/// Where code comes from.
#[async_trait]
pub trait Sources: Send + Sync + 'static {
    /// The commit that the default branch points to; `None` when there is no code yet.
    async fn head(&self, project: &ProjectName) -> Result<Option<CommitId>, Problem>;

    /// The default branch.
    async fn default_branch(&self, project: &ProjectName) -> Result<RefName, Problem>;

    /// Writes the files of a commit into `dest`, an empty folder, without `.git`.
    async fn checkout(
        &self,
        project: &ProjectName,
        commit: &CommitId,
        dest: &Path,
    ) -> Result<(), Problem>;
}

/// The effective specification of a commit.
#[derive(Clone, Debug)]
pub struct ResolvedSpec {
    /// Every value, defaults included.
    pub spec: Spec,
    /// Each effective value and where it came from, as `ondol explain` shows it.
    pub explain: Value,
    /// What people should know, such as a file that was not understood.
    pub notes: Vec<String>,
}

/// Reads the specification from checked out files, over all its layers.
#[async_trait]
pub trait Specs: Send + Sync + 'static {
    /// The specification of what stands in `source`. A mistake in the file is a [`Problem`] of
    /// kind `InvalidInput` whose message names file, line and key.
    async fn resolve(&self, project: &ProjectName, source: &Path) -> Result<ResolvedSpec, Problem>;
}

/// What is known about data and models.
#[async_trait]
pub trait Training: Send + Sync + 'static {
    /// The newest accepted version of `dataset` and whether `model` has a champion.
    async fn state(
        &self,
        project: &ProjectName,
        dataset: Option<&DatasetName>,
        model: &ModelName,
    ) -> Result<TrainingState, Problem>;
}

/// Values of secrets for steps that receive them.
#[async_trait]
pub trait StepSecrets: Send + Sync + 'static {
    /// The current values of those of `names` that are set.
    async fn values(
        &self,
        project: &ProjectName,
        names: &[SecretName],
    ) -> Result<BTreeMap<SecretName, Secret>, Problem>;
}

/// A training with the built-in trainer.
#[derive(Clone, Debug)]
pub struct AutoTraining<'a> {
    /// What the specification says.
    pub auto: &'a AutoTrain,
    /// Whose model.
    pub project: &'a ProjectName,
    /// Which model.
    pub model: &'a str,
    /// The folder with the data.
    pub data: PathBuf,
    /// The folder that the model is written to.
    pub output: PathBuf,
    /// The file that metrics are written to, as one JSON object.
    pub metrics: PathBuf,
}

/// Command lines of programs that are part of Ondol.
pub trait StepArguments: Send + Sync + 'static {
    /// The program and arguments of the built-in trainer.
    fn train_auto(&self, training: &AutoTraining<'_>) -> Vec<String>;
}

/// What a step is told about where runs are tracked.
#[derive(Clone, Debug, Default)]
pub struct TrackingVariables {
    /// Variables that anybody may see.
    pub env: BTreeMap<String, String>,
    /// Variables that are masked in logs.
    pub secrets: BTreeMap<String, Secret>,
}

/// Where the steps of projects that train a model log their experiments.
pub trait StepTracking: Send + Sync + 'static {
    /// The variables of one attempt of a step, whose workload has this id.
    fn variables(&self, run: &Run, step: &Step, workload: WorkloadId) -> TrackingVariables;
}

/// How an action ended.
#[derive(Clone, Debug, PartialEq)]
pub enum ActionOutcome {
    /// Well; later steps find the outputs by the name of the step.
    Success(Value),
    /// It could not be done, through no fault of the platform: the step has failed.
    Failed(String),
    /// It worked, and what it was given does not pass: the run is refused.
    Refused {
        /// Why, in one line, naming row and column or numbers.
        reason: String,
        /// What it found, for later reading.
        outputs: Value,
    },
    /// There was nothing to do, so the steps behind it have nothing to do either.
    Skipped(String),
}

/// What an action is given.
#[derive(Clone)]
pub struct ActionCtx {
    /// The run.
    pub run: Run,
    /// The step. Ids of everything that the action makes are derived from `step.id`.
    pub step: Step,
    /// The effective specification of the run's commit.
    pub spec: Arc<Spec>,
    /// The folders of the run.
    pub workspace: Workspace,
    /// Outputs of the steps that have passed, by name.
    pub outputs: BTreeMap<StepName, Value>,
    /// Lines for people.
    pub log: ActionLog,
    /// Ends when the run is cancelled; the action then has 30 s to end by itself.
    pub cancel: CancellationToken,
    /// When the action must have ended; it is dropped then.
    pub deadline: Timestamp,
    /// Grows with every taking of the step. A store that remembers the greatest number it has
    /// seen can refuse a late writer.
    pub fence: i64,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

/// A step that Ondol carries out itself. It can be run again after a crash, also when it had
/// done its work: it must find what it made and give the same result.
///
/// A [`Problem`] of kind `Unavailable`, `Timeout` or `RateLimited` is tried again a few times;
/// `Internal` and `Corrupted` end the step as an error; every other kind is its failure.
#[async_trait]
pub trait Action: Send + Sync + 'static {
    /// Does it.
    async fn run(&self, ctx: &ActionCtx) -> Result<ActionOutcome, Problem>;
}

/// Actions by the name that the graph uses: `validate`, `evaluate`, `image`, `deploy`.
pub type Actions = BTreeMap<&'static str, Arc<dyn Action>>;
