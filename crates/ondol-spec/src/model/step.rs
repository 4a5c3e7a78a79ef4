//! Extra steps of the pipeline, and previews.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use ondol_types::StepName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::text::{TextError, checked_text, text_form};
use super::{Engine, Limits, Matrix, Pattern, Period};

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
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub run: String,
    /// In place of a command: the step waits until a person who may deploy approves it, by
    /// `ondol run approve`. It takes no place from other steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approve: Option<Approve>,
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
    /// Files that are kept with the run, as patterns, whether the step passes or fails. A step that
    /// names this one under `needs` or `after`, or that this one names under `before`, finds them at
    /// the same paths in its work directory; it does not start when a file is there that differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<Pattern>,
    /// Image that the step runs in, such as `docker.io/library/python:3.13-slim`; needs the container
    /// engine. The checkout, with what `build` made, is at `/work`; what is in the folders of
    /// `build.cache` is not there. Default: the step is a process of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What runs the step. Default: `container` with an `image`, `process` without.
    #[serde(default, skip_serializing_if = "Engine::is_auto")]
    pub engine: Engine,
    /// Programs that run beside the step, by name, and end with it; need the container engine. A step
    /// in an image reaches them under their names, and every step at `$<NAME>_HOST:$<NAME>_PORT`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<ServiceName, StepService>,
    /// One step per combination of values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matrix: Option<Matrix>,
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

checked_text!(
    /// The name of a program beside a step: a DNS label.
    ServiceName,
    "a name such as `postgres`, of lower-case letters, digits and inner hyphens",
    |text| (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
);

impl ServiceName {
    /// The beginning of the variables that say where it is, such as `POSTGRES`.
    pub fn variable(&self) -> String {
        self.as_str().to_ascii_uppercase().replace('-', "_")
    }
}

/// A step that waits for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Approve {
    /// What whoever approves should look at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How long it waits; then the step has failed.
    pub timeout: Period,
    /// Whether it must be somebody else than who started the run.
    pub by_another: bool,
}

impl Default for Approve {
    fn default() -> Self {
        Self {
            message: None,
            timeout: Period::from_secs(3 * 86_400),
            by_another: false,
        }
    }
}

checked_text!(
    /// The name of runs that wait for each other.
    GroupName,
    "a name such as `deploy`, of letters, digits, `.`, `_` and `-`",
    |text| (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
);

/// Which runs wait for each other, and what a new one does to those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Concurrency {
    /// Runs of the project that name the same group are worked off one after the other, whatever
    /// their branch. Default: the runs of each branch by themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// What a push does to the runs before it in the group.
    pub policy: ConcurrencyPolicy,
}

impl Concurrency {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a push does to the runs before it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum ConcurrencyPolicy {
    /// Those that wait are given up; one that runs goes on.
    #[default]
    SupersedeQueued,
    /// All of them are given up, also one that runs.
    CancelRunning,
    /// Every one gets its turn. At most 100 wait; beyond that the oldest are given up.
    KeepAll,
}

/// A program that runs in a container beside a step, in a network that only the two of them are in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StepService {
    /// Its image, such as `docker.io/library/postgres:17`.
    pub image: String,
    /// Arguments in place of the image's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Environment variables of it alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Port that must take connections before the step starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Shell command that must succeed before the step starts, such as `pg_isready -h postgres`. It is
    /// repeated in a container of its own with the same image, so the service is reached by its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// How long it may take until it is ready; then the step fails. At most five minutes.
    #[serde(default = "StepService::default_deadline")]
    pub deadline: Period,
    /// What it may use.
    #[serde(default)]
    pub limits: Limits,
}

impl StepService {
    fn default_deadline() -> Period {
        Period::from_secs(60)
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
