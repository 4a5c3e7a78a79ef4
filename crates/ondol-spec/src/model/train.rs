//! How a model is trained, judged and watched.

use std::collections::BTreeMap;

use ondol_types::{DatasetName, ModelName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Limits, Percent, Period};
use crate::expr::Expression;

/// How a model is trained when data or code changes. Exactly one of `run` and `auto` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// What starts training. Default: the only dataset under `data`.
    #[serde(default)]
    pub on: TrainOn,
    /// Shell command that trains: it reads the data directory, writes the model into the output
    /// directory and its metrics into a file, whose places it gets by environment variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// The built-in trainer for tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto: Option<AutoTrain>,
    /// Name of the model. Default: the name of the dataset.
    pub model: ModelName,
    /// CEL expression that a candidate must pass to become champion, over its own metrics and
    /// those of the champion as `champion.<metric>`. Default: every candidate passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accept: Option<Expression>,
    /// How long training may take before it is stopped.
    #[serde(default = "Train::default_timeout")]
    pub timeout: Period,
    /// What training may use.
    #[serde(default)]
    pub limits: Limits,
    /// Environment variables of training, over those of the project.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Train {
    fn default_timeout() -> Period {
        Period::from_secs(60 * 60)
    }
}

/// What starts training.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TrainOn {
    /// Dataset whose every accepted version starts training. Default: the only dataset under
    /// `data`; one that several do not decide is an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DatasetName>,
    /// Whether a push of code trains again on the newest data.
    pub code: Code,
}

/// Whether a push of code trains again.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Code {
    /// Every push to the default branch that has data to train on.
    Always,
    /// Only while there is no champion yet.
    #[default]
    First,
    /// Never.
    Never,
}

/// The built-in trainer for tables.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoTrain {
    /// Column to predict.
    pub target: String,
    /// What kind of prediction. Default: decided by the target's values.
    #[serde(default)]
    pub task: Task,
    /// Columns to learn from. Default: all but the target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Columns to leave out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// Time after which no further candidate is tried.
    #[serde(default = "AutoTrain::default_budget")]
    pub time_budget: Period,
    /// Folds of the cross-validation, 2 to 20.
    #[serde(default = "AutoTrain::default_folds")]
    pub folds: u8,
    /// Seed of everything random: the same data and seed give the same model.
    #[serde(default = "AutoTrain::default_seed")]
    pub seed: u64,
    /// Metric that picks the best candidate. Default: by task.
    #[serde(default)]
    pub metric: Metric,
}

impl AutoTrain {
    fn default_budget() -> Period {
        Period::from_secs(60)
    }

    fn default_folds() -> u8 {
        5
    }

    fn default_seed() -> u64 {
        42
    }
}

/// What kind of prediction.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Text or few distinct values: classification; otherwise regression.
    #[default]
    Auto,
    /// One of several classes.
    Classification,
    /// A number.
    Regression,
}

/// What the built-in trainer optimises.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// `accuracy` for classification, `rmse` for regression.
    #[default]
    Auto,
    /// Share of right answers.
    Accuracy,
    /// F1, the mean over classes.
    F1,
    /// Accuracy, the mean over classes.
    BalancedAccuracy,
    /// Logarithmic loss.
    LogLoss,
    /// Root of the mean squared error.
    Rmse,
    /// Mean absolute error.
    Mae,
    /// Share of variance explained.
    R2,
}

/// What is watched once it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Monitor {
    /// Objectives that the service is held to.
    pub slo: Slo,
    /// Comparison of live inputs with those of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
}

/// Objectives that the service is held to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Slo {
    /// Share of requests answered without a server error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability: Option<Percent>,
    /// Time within which half of all requests are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50: Option<Period>,
    /// Time within which 95 % of all requests are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<Period>,
    /// Time within which 99 % of all requests are answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99: Option<Period>,
    /// Time over which the objectives are judged.
    pub window: Period,
}

impl Default for Slo {
    fn default() -> Self {
        Self {
            availability: None,
            p50: None,
            p95: None,
            p99: None,
            window: Period::from_secs(30 * 86_400),
        }
    }
}

/// Comparison of live inputs with those of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Drift {
    /// What live inputs are compared with.
    pub reference: DriftReference,
    /// Whether drift starts a new training.
    pub retrain: bool,
    /// Population stability index of a column above which it has drifted.
    pub threshold: f64,
    /// Predictions that must have been seen before anything is said.
    pub min_samples: u64,
}

impl Default for Drift {
    fn default() -> Self {
        Self {
            reference: DriftReference::Training,
            retrain: false,
            threshold: 0.2,
            min_samples: 500,
        }
    }
}

/// What live inputs are compared with.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DriftReference {
    /// The data that the serving model was trained on.
    #[default]
    Training,
    /// The live inputs of the window before.
    Previous,
}
