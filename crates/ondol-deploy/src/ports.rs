//! What this room needs of others, as narrow as it can be said. The composition root adapts the
//! registry, the models, the secrets and the gateway to these traits.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use ondol_types::{Digest, EnvironmentName, ModelName, Problem, ProjectName, Secret, SecretName};

use crate::routes::{Applied, Counters, RouteTable};

/// What an image says about running it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Environment variables; those of the specification are stronger.
    pub env: BTreeMap<String, String>,
    /// Entry point and command, used when the specification has no command.
    pub cmd: Vec<String>,
    /// Work directory inside the image, such as `/app`; empty means its root.
    pub workdir: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The TCP ports that it says it listens on, ascending.
    pub ports: Vec<u16>,
    /// Whether it has a root filesystem of its own, which the process engine cannot give.
    pub own_root: bool,
}

/// Images by the digest of their manifest.
#[async_trait]
pub trait Images: Send + Sync + 'static {
    /// What an image says about running it, read without unpacking it.
    ///
    /// # Errors
    /// There is no such image (`NotFound`), it cannot be run on this machine (`InvalidInput`).
    async fn describe(&self, image: &Digest) -> Result<ImageConfig, Problem>;

    /// Makes the files of an image stand below `dest`, a directory of the caller's own for this
    /// image alone. It is idempotent, also after it was interrupted in the middle, and cheap
    /// when the files stand already. Never called twice at once for one `dest`.
    ///
    /// # Errors
    /// There is no such image (`NotFound`), it needs a root filesystem of its own
    /// (`Unsupported`), the disk is full (`Unavailable`), its bytes are damaged (`Corrupted`).
    async fn materialise(&self, image: &Digest, dest: &Path) -> Result<ImageConfig, Problem>;
}

/// Model versions.
#[async_trait]
pub trait Models: Send + Sync + 'static {
    /// Makes the files of a model version stand below `dest`; as [`Images::materialise`].
    ///
    /// # Errors
    /// As [`Images::materialise`].
    async fn materialise(
        &self,
        project: &ProjectName,
        model: &ModelName,
        version: i64,
        dest: &Path,
    ) -> Result<(), Problem>;
}

/// Secrets of projects.
#[async_trait]
pub trait SecretValues: Send + Sync + 'static {
    /// The newest version of each of `names` that is set. Those that are not are left out.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn current(
        &self,
        project: &ProjectName,
        environment: &EnvironmentName,
        names: &[SecretName],
    ) -> Result<BTreeMap<SecretName, i64>, Problem>;

    /// The values of exactly these versions.
    ///
    /// # Errors
    /// When one of them is gone or cannot be decrypted.
    async fn values(
        &self,
        project: &ProjectName,
        environment: &EnvironmentName,
        versions: &BTreeMap<SecretName, i64>,
    ) -> Result<BTreeMap<SecretName, Secret>, Problem>;
}

/// The data plane.
#[async_trait]
pub trait Routes: Send + Sync + 'static {
    /// Replaces everything that is routed, and returns when every live gateway has persisted
    /// the generation. Applying a generation again is allowed and cheap.
    ///
    /// # Errors
    /// No gateway is alive, or one that is alive did not acknowledge (`Unavailable`); a gateway
    /// has a newer generation, or other content under the same one (`Conflict`).
    async fn apply(&self, table: RouteTable) -> Result<Applied, Problem>;

    /// The newest generation that a live gateway has, 0 when none has any. Asked once, at the
    /// start: a restored database may know less than the gateways.
    ///
    /// # Errors
    /// When a gateway cannot be asked.
    async fn generation(&self) -> Result<i64, Problem>;

    /// What was counted so far, summed over gateways and kept over their restarts.
    ///
    /// # Errors
    /// When a gateway cannot be asked.
    async fn counters(&self) -> Result<Counters, Problem>;
}
