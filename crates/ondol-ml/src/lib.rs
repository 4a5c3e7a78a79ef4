//! Models: trained, judged, kept and served.
//!
//! | module | what it is |
//! |---|---|
//! | [`table`] | CSV, JSON Lines and Parquet as typed columns |
//! | [`auto`] | the built-in trainer: `train.auto` |
//! | `learn` | its learners |
//! | [`model_file`], [`Predictor`] | the versioned file of a built-in model, and its answers |
//! | [`server`] | the built-in model server, by MLflow's scoring protocol |
//! | [`metrics_file`] | metrics that a `train.run` command leaves in a file |
//! | [`gate`] | whether a candidate becomes champion |
//! | [`Models`] | the models of all projects: register, judge, promote, roll back, materialise |
//! | [`Housekeeping`] | what happens to them over time |
//! | [`tracking`] | experiments and runs, by MLflow's REST protocol |

pub mod auto;
mod error;
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
