//! Experiment tracking: runs with their parameters, metrics, files and models, by MLflow's REST
//! protocol, so that a training script needs no more than a tracking address and a token.
//!
//! | module | what it is |
//! |---|---|
//! | `model` | experiments, runs, metrics, logged and registered models |
//! | `plan` | pure: the filter language, orders, pages, limits, names |
//! | `service` | operations: authorize, validate, one transaction |
//! | `store` | the only SQL, over a database of its own |
//! | [`http`] | the protocol |
//! | [`TrackingHousekeeping`] | what happens to it over time |
//!
//! An experiment belongs to a project, or to the installation: `<project>` and `<project>/…` are
//! the project's, any other name is the one project's that a token opens, and the installation's
//! when a token opens all of it. Everybody sees what their grants let them see, by number as by
//! name; numbers open nothing.

mod error;
pub mod http;
pub(crate) mod model;
mod plan;
mod reconcile;
mod service;
mod store;

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use async_trait::async_trait;
use ondol_store::Store;
use ondol_store::blobs::Blobs;
use ondol_types::{Problem, ProjectName};

pub use error::{Code, TrackingError, TrackingResult};
pub use model::{Metric, Pair, Run, RunInfo, RunStatus};
pub use reconcile::TrackingHousekeeping;

/// The migrations of the tracking database: numbers 950 to 999.
pub const MIGRATIONS: &[ondol_store::Migration] = &[store::MIGRATION];

/// Which projects there are.
#[async_trait]
pub trait Projects: Send + Sync + 'static {
    /// Whether a project exists.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem>;
}

/// Ceilings and retention.
#[derive(Clone, Copy, Debug)]
pub struct TrackingConfig {
    /// How long things stay in the bin.
    pub keep_deleted: Duration,
    /// Most runs of the installation, those in the bin included.
    pub max_runs: i64,
    /// Most points of all metrics of a run.
    pub max_points: i64,
    /// Most different metrics of a run.
    pub max_series: i64,
    /// Most parameters and tags of a run, a model or a version.
    pub max_pairs: i64,
    /// Most datasets and models that a run reads and makes.
    pub max_inputs: i64,
    /// Most files of a run or a logged model.
    pub max_files: i64,
    /// Most bytes of a file.
    pub max_file_bytes: u64,
    /// Most logged models of an experiment, and registered models of a project.
    pub max_models: i64,
}

impl Default for TrackingConfig {
    fn default() -> Self {
        Self {
            keep_deleted: Duration::from_secs(30 * 86_400),
            max_runs: 2_000_000,
            max_points: 20_000_000,
            max_series: 100_000,
            max_pairs: 10_000,
            max_inputs: 10_000,
            max_files: 20_000,
            max_file_bytes: 20 << 30,
            max_models: 100_000,
        }
    }
}

struct Inner {
    store: Store,
    blobs: Blobs,
    projects: Arc<dyn Projects>,
    config: TrackingConfig,
    /// How many runs there were when housekeeping counted last, and how many were made since.
    runs: AtomicI64,
}

/// Experiments and runs of all projects. Cheap to clone.
#[derive(Clone)]
pub struct Tracking(Arc<Inner>);

impl Tracking {
    /// Tracking over a database that has [`MIGRATIONS`], and the blob store.
    pub fn new(
        store: Store,
        blobs: Blobs,
        projects: Arc<dyn Projects>,
        config: TrackingConfig,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            blobs,
            projects,
            config,
            runs: AtomicI64::new(0),
        }))
    }
}
