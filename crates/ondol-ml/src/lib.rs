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

pub mod auto;
mod error;
pub mod gate;
mod learn;
pub mod metrics_file;
pub mod model_file;
mod predict;
pub mod server;
pub mod table;

pub use error::{MlError, MlResult};
pub use predict::{Prediction, Predictor};
