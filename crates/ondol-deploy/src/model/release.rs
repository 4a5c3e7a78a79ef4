//! Releases: image, configuration, secret versions and model version, immutable together.

use std::collections::BTreeMap;

use ondol_spec::model::{Engine, Release as ReleaseSpec, SecretRef, Service, Spec, VolumePath};
use ondol_types::{
    CommitId, Digest, EnvironmentName, ModelName, ProjectName, RelPath, ReleaseId, RunId,
    SecretName, Timestamp, VolumeName,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::words;

words! {
    /// What caused a release or a rollout.
    Reason {
        /// A person pushed code to the default branch.
        Push = "push",
        /// A person pushed data, and a run trained on it.
        Data = "data",
        /// A secret was set or removed.
        Secret = "secret",
        /// Another model version became champion.
        Model = "model",
        /// A person went back to an earlier release.
        Rollback = "rollback",
        /// A person gave a command.
        Command = "command",
    }
}

impl Reason {
    /// Whether a person asked for exactly this, so that it lifts a hold.
    pub const fn is_human(self) -> bool {
        matches!(self, Self::Push | Self::Rollback | Self::Command)
    }
}

/// A model version by reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// Which model.
    pub name: ModelName,
    /// Which version, from 1.
    pub version: i64,
    /// Digest of its bytes, when known.
    pub digest: Option<Digest>,
}

/// What a specification says about running the service, as a release keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReleaseConfig {
    /// The form of this value, [`ReleaseConfig::FORMAT`].
    pub format: u32,
    /// What is kept running.
    pub service: Service,
    /// How it replaces the release before.
    pub release: ReleaseSpec,
    /// The secrets that it gets.
    pub secrets: Vec<SecretRef>,
    /// Folders that outlive releases.
    pub volumes: BTreeMap<VolumeName, VolumePath>,
    /// Environment variables of the project; those of the service are stronger.
    pub env: BTreeMap<String, String>,
    /// The model that it serves.
    pub model: Option<ModelName>,
}

impl ReleaseConfig {
    /// The form that this version writes.
    pub const FORMAT: u32 = 1;

    /// What a specification says; `None` when it has no service.
    pub fn of(spec: &Spec) -> Option<Self> {
        Some(Self {
            format: Self::FORMAT,
            service: spec.service.clone()?,
            release: spec.release.clone(),
            secrets: spec.secrets.clone(),
            volumes: spec.volumes.clone(),
            env: spec.env.clone(),
            model: spec.train.as_ref().map(|train| train.model.clone()),
        })
    }

    /// The engine that is asked for. A server that is Ondol's own runs nothing of the project, so it
    /// needs no container where services are to have one.
    pub(crate) fn asked_engine(&self, image_has_root: bool) -> Engine {
        match self.service.engine {
            Engine::Auto if !image_has_root && is_own_server(&self.service.run) => Engine::Process,
            asked => asked,
        }
    }

    /// The environment of the service, the platform's own variables not among it.
    pub fn service_env(&self) -> BTreeMap<String, String> {
        let mut env = self.env.clone();
        env.extend(self.service.env.clone());
        env
    }
}

/// Whether a command is one of Ondol's own servers over files of the image, and nothing more.
fn is_own_server(run: &str) -> bool {
    if run == "ondol model-server" {
        return true;
    }
    let Some(root) = run.strip_prefix("ondol static-server --root ") else {
        return false;
    };
    let plain = |root: &str| {
        root.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte))
    };
    root == "." || plain(root) && !root.starts_with('-') && root.parse::<RelPath>().is_ok()
}

/// A release. Only the two moments at its end ever change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Its id.
    pub id: ReleaseId,
    /// Whose.
    pub project: ProjectName,
    /// Where it runs.
    pub environment: EnvironmentName,
    /// Its number there, from 1.
    pub number: i64,
    /// Digest of the image's manifest.
    pub image: Digest,
    /// How it runs.
    pub config: ReleaseConfig,
    /// Version of each secret.
    pub secrets: BTreeMap<SecretName, i64>,
    /// The model version, when the service has a model.
    pub model: Option<ModelRef>,
    /// Which commit.
    pub commit: Option<CommitId>,
    /// The run that built the image.
    pub run: Option<RunId>,
    /// The chain that it belongs to.
    pub chain: Option<String>,
    /// Who caused it.
    pub author: String,
    /// What caused it.
    pub reason: Reason,
    /// The number of the release that it repeats, after a rollback.
    pub origin: Option<i64>,
    /// Its release command cannot be undone.
    pub irreversible: bool,
    /// Its release command was started, or may have been.
    pub commanded: bool,
    /// When it was composed.
    pub created_at: Timestamp,
    /// When it became current.
    pub activated_at: Option<Timestamp>,
}

impl Release {
    /// The number of the release whose parts these are.
    pub fn base(&self) -> i64 {
        self.origin.unwrap_or(self.number)
    }

    /// Whether `other` would run exactly the same for the same commit.
    pub fn same_parts(&self, other: &Release) -> bool {
        self.image == other.image
            && self.config == other.config
            && self.secrets == other.secrets
            && self.model == other.model
            && self.commit == other.commit
    }

    /// The package URL of the image, as CDEvents wants it.
    pub fn purl(&self) -> String {
        format!(
            "pkg:oci/{}@{}%3A{}",
            self.project,
            self.image.algorithm().name(),
            self.image.hex()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_command_is_an_own_server() {
        for own in [
            "ondol model-server",
            "ondol static-server --root .",
            "ondol static-server --root public/site",
        ] {
            assert!(is_own_server(own), "{own}");
        }
        for other in [
            "ondol model-server; id",
            "ondol static-server --root /etc",
            "ondol static-server --root ../..",
            "ondol static-server --root a$(id)",
            "ondol static-server --root a --root /etc",
            "python app.py",
        ] {
            assert!(!is_own_server(other), "{other}");
        }
    }
}
