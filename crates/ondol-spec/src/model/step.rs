//! Extra steps of the pipeline, and previews.

use std::collections::BTreeMap;

use ondol_types::StepName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Limits, Pattern, Period};

/// The steps that Ondol brings: extra steps may name them under `needs`, `before` and `after`,
/// and may not be called like them.
///
/// Code: `install` → `test` and `build` → `image` → `release`.
/// Data: `validate` → `train` → `evaluate` → `release`.
pub const BUILT_IN_STEPS: &[&str] = &[
    "install", "test", "build", "image", "validate", "train", "evaluate", "release",
];

/// An extra step of the pipeline, run by `/bin/sh -ec` in a copy of the work directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Shell command; the step passes when it exits with 0.
    pub run: String,
    /// Steps that must have passed before this one starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<StepName>,
    /// Steps that start only when this one has passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<StepName>,
    /// Steps after whose end this one starts, whether they passed or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<StepName>,
    /// How long one attempt may take before it is stopped.
    #[serde(default = "Step::default_timeout")]
    pub timeout: Period,
    /// How often the step is tried again after a failure, at most 10.
    #[serde(default)]
    pub retries: u8,
    /// Whether the step may run again when its outcome is unknown after a crash of the platform.
    /// One that is not repeatable fails then.
    #[serde(default = "Step::default_repeatable")]
    pub repeatable: bool,
    /// Whether the run goes on, and passes, when this step fails.
    #[serde(default)]
    pub allow_failure: bool,
    /// Branches on which the step runs, as patterns. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Pattern>,
    /// JUnit XML files that the step writes, as patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub junit: Vec<Pattern>,
    /// Files that are kept with the run, as patterns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Pattern>,
    /// What the step may use.
    #[serde(default)]
    pub limits: Limits,
    /// Environment variables of this step, over those of the project.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

impl Step {
    fn default_timeout() -> Period {
        Period::from_secs(15 * 60)
    }

    fn default_repeatable() -> bool {
        true
    }
}

/// Which branches get an environment of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Previews {
    /// Branches that get a preview, as patterns. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<Pattern>,
    /// How long a preview lives after the last push to its branch.
    pub expire: Period,
}

impl Default for Previews {
    fn default() -> Self {
        Self {
            branches: Vec::new(),
            expire: Period::from_secs(7 * 86_400),
        }
    }
}

impl Previews {
    /// Whether a branch (its name without `refs/heads/`) gets a preview.
    pub fn wants(&self, branch: &str) -> bool {
        self.branches.iter().any(|pattern| pattern.matches(branch))
    }
}
