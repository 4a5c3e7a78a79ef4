#![doc = include_str!("../README.md")]

pub mod auto;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod gate;
mod learn;
pub mod metrics_file;
mod model;
pub mod model_file;
mod predict;
mod reconcile;
pub mod server;
mod service;
mod store;
pub mod table;
pub mod tracking;

pub use error::{MlError, MlResult};
pub use model::{Lineage, Model, ModelEntry, ModelVersion, NewVersion, Promotion, VersionState};
pub use predict::{Prediction, Predictor};
pub use reconcile::{Housekeeping, VersionsInUse};
pub use service::{Judgement, Models, ModelsConfig};

/// The migrations of this room: numbers 900 to 999.
pub const MIGRATIONS: &[ondol_store::Migration] = &[store::MIGRATION];

/// The places at which a test may kill the process.
pub const CRASH_POINTS: &[&str] = &[
    "ml.register.stored",
    "ml.register.committed",
    "ml.judge.before",
    "ml.judge.committed",
    "ml.materialise.written",
];
