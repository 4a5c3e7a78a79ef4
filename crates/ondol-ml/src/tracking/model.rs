//! Experiments, runs and what is logged to them.

use ondol_types::ProjectName;

/// Whose an experiment is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Nobody's in particular: who may use the whole installation may use it.
    Installation,
    /// A project's.
    Project(ProjectName),
    /// Nobody's any more: its project was deleted, and it waits to be removed.
    Abandoned,
}

impl Scope {
    /// Stands in the column of what is abandoned. No project has a name like it.
    pub(crate) const ABANDONED: &str = "-";

    /// As a column.
    pub(crate) fn column(&self) -> String {
        match self {
            Self::Installation => String::new(),
            Self::Project(project) => project.to_string(),
            Self::Abandoned => Self::ABANDONED.to_owned(),
        }
    }

    /// From a column.
    pub(crate) fn from_column(text: &str) -> Result<Self, String> {
        match text {
            "" => Ok(Self::Installation),
            Self::ABANDONED => Ok(Self::Abandoned),
            _ => text
                .parse()
                .map(Self::Project)
                .map_err(|error| format!("{error}")),
        }
    }
}

/// Whether a thing is in the bin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In use.
    Active,
    /// In the bin: restored on request, removed after its retention.
    Deleted,
}

impl Stage {
    /// The word of the protocol.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }

    pub(crate) fn from_column(text: &str) -> Self {
        if text == "deleted" {
            Self::Deleted
        } else {
            Self::Active
        }
    }
}

/// Which stages a search shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum ViewType {
    /// What is in use.
    #[default]
    ActiveOnly,
    /// What is in the bin.
    DeletedOnly,
    /// Both.
    All,
}

/// A name with a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// The name.
    pub key: String,
    /// The value.
    pub value: String,
}

/// A named collection of runs.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Experiment {
    /// Its number.
    pub id: i64,
    /// Whose it is.
    pub scope: Scope,
    /// Its name.
    pub name: String,
    /// Where its artifacts are.
    pub location: String,
    /// Whether it is in the bin.
    pub stage: Stage,
    /// Milliseconds since the epoch.
    pub created: i64,
    /// Milliseconds since the epoch.
    pub updated: i64,
    /// Its tags, by key.
    pub tags: Vec<Pair>,
}

/// The states of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStatus {
    /// It goes on.
    Running,
    /// It waits for its time.
    Scheduled,
    /// It ended well.
    Finished,
    /// It ended with an error.
    Failed,
    /// Somebody ended it.
    Killed,
}

impl RunStatus {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Running, "RUNNING"),
        (Self::Scheduled, "SCHEDULED"),
        (Self::Finished, "FINISHED"),
        (Self::Failed, "FAILED"),
        (Self::Killed, "KILLED"),
    ];

    /// The word of the protocol.
    pub fn text(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(status, _)| *status == self)
            .map_or("RUNNING", |(_, text)| text)
    }

    /// Reads the word, or the number that the protocol gives it (1 to 5).
    pub fn read(text: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .enumerate()
            .find(|(at, (_, word))| *word == text || (at + 1).to_string() == text)
            .map(|(_, (status, _))| *status)
    }
}

/// One value of a metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Its name.
    pub key: String,
    /// Its value: finite, or NaN.
    pub value: f64,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    /// Which step of training.
    pub step: i64,
    /// The logged model that it was measured of.
    pub model_id: Option<String>,
    /// The dataset that it was measured on.
    pub dataset_name: Option<String>,
    /// The digest of that dataset.
    pub dataset_digest: Option<String>,
    /// The run that logged it, where it is not clear from the place.
    pub run_id: Option<String>,
}

/// A run without what was logged to it.
#[derive(Clone, Debug, PartialEq)]
pub struct RunInfo {
    /// Its key in the database.
    pub(crate) no: i64,
    /// 32 hexadecimal digits.
    pub id: String,
    /// Whose it is.
    pub scope: Scope,
    /// The experiment.
    pub experiment: i64,
    /// Its name.
    pub name: String,
    /// Who made it, as the client says.
    pub user: String,
    /// Its state.
    pub status: RunStatus,
    /// Milliseconds since the epoch.
    pub start: Option<i64>,
    /// Milliseconds since the epoch.
    pub end: Option<i64>,
    /// Whether it is in the bin.
    pub stage: Stage,
    /// Where its artifacts are.
    pub artifact_uri: String,
    pub(crate) series: i64,
    pub(crate) points: i64,
}

/// A dataset that a run reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: String,
    /// What kind of source.
    pub source_type: String,
    /// Where it comes from.
    pub source: String,
    /// Its columns.
    pub schema: Option<String>,
    /// Its statistics.
    pub profile: Option<String>,
}

/// A dataset in its role for a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatasetInput {
    /// Which dataset.
    pub dataset: Dataset,
    /// What it is used for.
    pub tags: Vec<Pair>,
}

/// A run with what was logged to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The run.
    pub info: RunInfo,
    /// The latest value of each metric, by name.
    pub metrics: Vec<Metric>,
    /// Parameters, by name.
    pub params: Vec<Pair>,
    /// Tags, by name.
    pub tags: Vec<Pair>,
    /// Datasets that it reads.
    pub datasets: Vec<DatasetInput>,
    /// Logged models that it reads.
    pub model_inputs: Vec<String>,
    /// Logged models that it makes, with the step.
    pub model_outputs: Vec<(String, i64)>,
}

/// The states of a logged model, with the numbers that the protocol gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelStatus {
    /// Its files are being written.
    Pending,
    /// It can be loaded.
    Ready,
    /// Writing it failed.
    Failed,
}

impl ModelStatus {
    /// The word of the protocol.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Pending => "LOGGED_MODEL_PENDING",
            Self::Ready => "LOGGED_MODEL_READY",
            Self::Failed => "LOGGED_MODEL_UPLOAD_FAILED",
        }
    }

    /// The short word, which is stored and searched for.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Ready => "READY",
            Self::Failed => "FAILED",
        }
    }

    /// Reads any form.
    pub(crate) fn read(text: &str) -> Option<Self> {
        match text {
            "LOGGED_MODEL_PENDING" | "PENDING" | "1" => Some(Self::Pending),
            "LOGGED_MODEL_READY" | "READY" | "2" => Some(Self::Ready),
            "LOGGED_MODEL_UPLOAD_FAILED" | "FAILED" | "3" => Some(Self::Failed),
            _ => None,
        }
    }
}

/// A model that a run logged, with its own metrics, parameters and tags.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LoggedModel {
    /// `m-` and 32 hexadecimal digits.
    pub id: String,
    /// Whose it is.
    pub scope: Scope,
    /// The experiment.
    pub experiment: i64,
    /// Its name.
    pub name: String,
    /// Where its files are.
    pub artifact_uri: String,
    /// What kind of model.
    pub model_type: Option<String>,
    /// The run that made it.
    pub source_run: Option<String>,
    /// Its state.
    pub status: ModelStatus,
    /// Whether it is in the bin.
    pub stage: Stage,
    /// Milliseconds since the epoch.
    pub created: i64,
    /// Milliseconds since the epoch.
    pub updated: i64,
    /// Parameters.
    pub params: Vec<Pair>,
    /// Tags.
    pub tags: Vec<Pair>,
    /// Metrics that were measured of it.
    pub metrics: Vec<Metric>,
}

/// A model with a name, in the sense of the protocol's registry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegisteredModel {
    /// Whose it is.
    pub scope: Scope,
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// Milliseconds since the epoch.
    pub created: i64,
    /// Milliseconds since the epoch.
    pub updated: i64,
    /// Tags.
    pub tags: Vec<Pair>,
    /// Alias and version.
    pub aliases: Vec<(String, i64)>,
    /// The newest version of each stage.
    pub latest: Vec<RegisteredVersion>,
}

/// A version of a registered model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RegisteredVersion {
    /// Whose it is.
    pub scope: Scope,
    /// Which model.
    pub name: String,
    /// Its number, from 1.
    pub version: i64,
    /// For people.
    pub description: Option<String>,
    /// Who made it, as far as that is known.
    pub user: Option<String>,
    /// `None`, `Staging`, `Production` or `Archived`.
    pub stage: String,
    /// Where the client says it comes from.
    pub source: String,
    /// Where its files are.
    pub storage: String,
    /// The run that made it.
    pub run_id: Option<String>,
    /// A link to that run, as the client gave it.
    pub run_link: Option<String>,
    /// The logged model that it was made of.
    pub model_id: Option<String>,
    /// Milliseconds since the epoch.
    pub created: i64,
    /// Milliseconds since the epoch.
    pub updated: i64,
    /// Tags.
    pub tags: Vec<Pair>,
    /// Aliases that point to it.
    pub aliases: Vec<String>,
}

/// A file below an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileEntry {
    /// Its path, relative to what was asked for.
    pub path: String,
    /// Its size; none for folders.
    pub size: Option<u64>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// Where the next one begins.
    pub next: Option<String>,
}
