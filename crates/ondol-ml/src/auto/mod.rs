//! `train.auto`: from a table and the name of its target to a model that can be served.
//!
//! The trainer infers the task, prepares the features, compares candidates by cross-validation
//! on the same folds, takes the best and fits it on all rows. The same data, options and seed
//! give the same bytes, unless the time budget cut the comparison short (which is said).
//! Nothing that a fold is tested on has any part in preparing it: imputation, scaling and target
//! encoding are fitted inside each fold.

mod candidates;
mod command;
mod encode;
mod evaluate;
mod folds;
mod importance;
mod metrics;
mod prepare;
mod suspects;
mod train;

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use command::{
    ChampionArgs, METRICS_FILE, REPORT_FILE, TrainArgs, check_main, read_report, train_main,
};
pub(crate) use encode::{Encoder, Value};
pub(crate) use metrics::{best_class, measure};
pub(crate) use prepare::Target;
pub use train::train;

use crate::error::MlError;
use crate::model_file::ModelFile;

/// What kind of answer a model gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One of several classes.
    Classification,
    /// A number.
    Regression,
}

impl FromStr for Task {
    type Err = MlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "classification" => Ok(Self::Classification),
            "regression" => Ok(Self::Regression),
            _ => Err(MlError::Invalid(format!(
                "task `{text}` is unknown: classification or regression"
            ))),
        }
    }
}

/// A number that says how good a model is.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Share of right answers.
    Accuracy,
    /// Mean over the classes of the share of right answers.
    BalancedAccuracy,
    /// Harmonic mean of precision and recall, mean over the classes.
    F1,
    /// Share of right answers among those given, mean over the classes.
    Precision,
    /// Share of right answers among those due, mean over the classes.
    Recall,
    /// Probability that a positive row ranks above a negative one. Two classes only.
    RocAuc,
    /// Mean of -ln(probability of the true class).
    LogLoss,
    /// Root of the mean squared error.
    Rmse,
    /// Mean absolute error.
    Mae,
    /// Share of the variance that is explained.
    R2,
}

impl Metric {
    /// Every metric with its name.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::Accuracy, "accuracy"),
        (Self::BalancedAccuracy, "balanced_accuracy"),
        (Self::F1, "f1"),
        (Self::Precision, "precision"),
        (Self::Recall, "recall"),
        (Self::RocAuc, "roc_auc"),
        (Self::LogLoss, "log_loss"),
        (Self::Rmse, "rmse"),
        (Self::Mae, "mae"),
        (Self::R2, "r2"),
    ];

    /// The name as expressions and files have it.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(metric, _)| *metric == self)
            .map_or("", |(_, name)| name)
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Self::LogLoss | Self::Rmse | Self::Mae)
    }

    /// The task that it is for.
    pub fn task(self) -> Task {
        match self {
            Self::Rmse | Self::Mae | Self::R2 => Task::Regression,
            _ => Task::Classification,
        }
    }
}

impl FromStr for Metric {
    type Err = MlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(metric, _)| *metric)
            .ok_or_else(|| {
                let names = Self::ALL.map(|(_, name)| name).join(", ");
                MlError::Invalid(format!("metric `{text}` is unknown: one of {names}"))
            })
    }
}

/// How to train.
#[derive(Clone, Debug)]
pub struct AutoOptions {
    /// The column to predict.
    pub target: String,
    /// The task, or inferred from the target: text, truth values and few distinct whole numbers
    /// are classes.
    pub task: Option<Task>,
    /// What candidates are compared by: by default `accuracy` and `rmse`; `balanced_accuracy`
    /// when the rarest of the classes has less than a fifth of its even share.
    pub metric: Option<Metric>,
    /// Columns to learn from; all when there are none.
    pub features: Vec<String>,
    /// Columns that are left out.
    pub exclude: Vec<String>,
    /// Folds of the cross-validation, 2 to 20; by default 5, or 3 above 50,000 rows.
    pub folds: Option<usize>,
    /// Where all randomness begins.
    pub seed: u64,
    /// When to stop comparing candidates. The simplest one is always completed.
    pub time_budget: Duration,
    /// Threads to use.
    pub threads: usize,
}

impl AutoOptions {
    /// The defaults for a target: one minute, two threads.
    pub fn new(target: impl Into<String>) -> Self {
        Self {
            target: target.into(),
            task: None,
            metric: None,
            features: Vec::new(),
            exclude: Vec::new(),
            folds: None,
            seed: 42,
            time_budget: Duration::from_secs(60),
            threads: 2,
        }
    }
}

/// One candidate and how it did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeaderboardEntry {
    /// What it is, such as `logistic regression (c = 1)`.
    pub name: String,
    /// Mean of each metric over the folds, and its standard deviation as `<metric>_std`. Empty
    /// when the candidate was not completed.
    pub metrics: BTreeMap<String, f64>,
    /// Why it was not completed.
    pub skipped: Option<String>,
}

/// How much one column matters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Importance {
    /// The column.
    pub feature: String,
    /// How much worse the primary metric becomes when the column is shuffled in rows that the
    /// model was not trained on: mean over repetitions.
    pub mean: f64,
    /// Its standard deviation.
    pub std: f64,
}

/// What came of a training, next to the model. Holds no times, so that it is reproducible.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainReport {
    /// The task.
    pub task: Task,
    /// The column that is predicted.
    pub target: String,
    /// What the candidates were compared by.
    pub primary_metric: Metric,
    /// The candidate that won.
    pub algorithm: String,
    /// Its cross-validated metrics, as [`LeaderboardEntry::metrics`], and `rows` and `features`.
    pub metrics: BTreeMap<String, f64>,
    /// All candidates, best first.
    pub leaderboard: Vec<LeaderboardEntry>,
    /// Columns by importance, most important first. Left out above 200 columns.
    pub importance: Vec<Importance>,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// Rows that were trained on.
    pub rows: usize,
    /// Folds of the cross-validation.
    pub folds: usize,
    /// Whether the time budget cut the comparison short: then another run may choose another.
    pub cut_short: bool,
}

/// A trained model and the report on it.
#[derive(Clone, Debug)]
pub struct Trained {
    /// The model.
    pub model: ModelFile,
    /// The report.
    pub report: TrainReport,
}

#[cfg(test)]
mod tests;
