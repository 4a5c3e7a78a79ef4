//! The effective specification of a project: what every other room reads.
//!
//! These types are the vocabulary of `ondol.yaml` in its canonical form. Short forms such as
//! `test: pytest -q` are expanded before these types see them, so a stored [`Spec`] (JSON) and
//! the file share one shape. Doc comments here are the source of the JSON Schema and of
//! `docs/configuration.md`: their first words must make sense to a user of the file.

mod build;
mod data;
mod matrix;
mod pattern;
mod release;
mod secret;
mod service;
mod step;
pub(crate) mod text;
mod train;
mod volume;

use std::collections::BTreeMap;

use ondol_types::{DatasetName, ProjectName, StepName, VolumeName};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use build::{Build, Command, ImageRef, Test};
pub use data::{Column, ColumnType, Dataset, Scalar, Schema};
pub use matrix::{Combination, Instance, MAX_COMBINATIONS, Matrix, variable};
pub use pattern::Pattern;
pub use release::{Release, Strategy};
pub use secret::{SecretForm, SecretRef};
pub use service::{Capability, Engine, Expect, Health, Limits, Replicas, Service, Target};
pub use step::{
    Approve, BUILT_IN_STEPS, Concurrency, ConcurrencyPolicy, GroupName, Previews, ServiceName,
    Step, StepService,
};
pub(crate) use text::text_form;
pub use text::{ByteSize, HostName, Percent, Period, TextError, UrlPath};
pub use train::{
    AutoTrain, Code, Drift, DriftReference, Metric, Monitor, Slo, Task, Train, TrainOn,
};
pub use volume::VolumePath;

/// Everything that one commit of a project asks for, complete: every default is filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// Name of the project. Default: the name it was created with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectName>,
    /// Language of the repository. Default: detected from its files.
    pub language: Language,
    /// How tests run. Default: detected; the stage itself cannot be removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Test>,
    /// How the repository becomes an image.
    pub build: Build,
    /// What is kept running. Default: detected; `false` switches a detected service off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Service>,
    /// How a new release replaces the one before.
    pub release: Release,
    /// Datasets by name, with the rules that every pushed version must keep.
    pub data: BTreeMap<DatasetName, Dataset>,
    /// Secrets that the service, its release command and training receive, as environment variables
    /// or files.
    pub secrets: Vec<SecretRef>,
    /// Folders that outlive releases: volume name and path inside the work directory, or an
    /// absolute path where the service has a root filesystem of its own.
    pub volumes: BTreeMap<VolumeName, VolumePath>,
    /// How a model is trained when data or code changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train: Option<Train>,
    /// What is watched once it runs.
    pub monitor: Monitor,
    /// Extra steps of the pipeline by name.
    pub steps: BTreeMap<StepName, Step>,
    /// Which runs wait for each other. What the newest run of the branch read counts, for a branch
    /// without one the newest run of the project: a change of it works from the push after.
    #[serde(skip_serializing_if = "Concurrency::is_default")]
    pub concurrency: Concurrency,
    /// Environment variables of every command: tests, builds, steps, the service, training.
    pub env: BTreeMap<String, String>,
    /// Which branches get an environment of their own.
    pub previews: Previews,
}

/// What the repository is written in, as far as its default commands go.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Python, by virtual environment.
    Python,
    /// JavaScript or TypeScript on Node.js or Bun.
    Node,
    /// Go.
    Go,
    /// Rust, by Cargo.
    Rust,
    /// Files served as they are.
    Static,
    /// A Dockerfile or Containerfile, and nothing else that Ondol knows.
    Dockerfile,
    /// None that Ondol knows: commands come from `ondol.yaml` or a Procfile.
    #[default]
    Other,
}

impl Spec {
    /// The first key that asks for a root filesystem of its own, which the process engine
    /// cannot give, and in words why. `None` when the process engine can run the service.
    pub fn needs_container(&self) -> Option<(&'static str, String)> {
        if let Some(file) = &self.build.dockerfile {
            return Some((
                "build.dockerfile",
                format!("`{file}` describes a root filesystem of its own"),
            ));
        }
        if let Some(base) = &self.build.base {
            return Some((
                "build.base",
                format!("the base image `{base}` is a root filesystem of its own"),
            ));
        }
        let absolute = self.volumes.values().find(|path| path.is_absolute())?;
        Some((
            "volumes",
            format!("the absolute path `{absolute}` lies in a root filesystem of its own"),
        ))
    }

    /// Whether pushed data of `dataset` starts a training run.
    pub fn trains_on(&self, dataset: &DatasetName) -> bool {
        self.train
            .as_ref()
            .is_some_and(|train| train.on.data.as_ref() == Some(dataset))
    }
}
