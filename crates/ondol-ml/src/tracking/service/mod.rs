//! What can be done with experiments and runs: authorize, validate, one transaction.

mod artifacts;
mod experiments;
mod logged;
mod metrics;
mod registry;
mod runs;
mod scope;

pub(super) use artifacts::ArtifactPlace;
pub(super) use experiments::NewExperiment;
pub(super) use logged::{ModelSearch, NewModel};
pub(super) use metrics::Interval;
pub(super) use registry::NewRegisteredVersion;
pub(super) use runs::{NewRun, RunChange, RunSearch};

use super::error::{TrackingError, TrackingResult};
use super::model::{Pair, RunInfo, Stage};
use super::store;
use super::{Inner, Tracking};

/// 32 hexadecimal digits that nobody guesses.
fn random_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// One pair per key: the last.
fn last_of_each(pairs: Vec<Pair>) -> Vec<Pair> {
    let mut found: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    for pair in pairs {
        found.insert(pair.key, pair.value);
    }
    found
        .into_iter()
        .map(|(key, value)| Pair { key, value })
        .collect()
}

fn require_active(run: &RunInfo) -> TrackingResult<()> {
    if run.stage == Stage::Active {
        return Ok(());
    }
    Err(TrackingError::invalid(format!(
        "The run {} must be in the 'active' state. Current state is {}.",
        run.id,
        run.stage.text()
    )))
}

fn over(what: &str, limit: i64) -> TrackingError {
    TrackingError::invalid(format!("there may be at most {limit} {what}"))
}

impl Tracking {
    fn inner(&self) -> &Inner {
        &self.0
    }

    pub(super) fn config(&self) -> super::TrackingConfig {
        self.0.config
    }
}
