//! Answers to the question whether a replica is ready.

use std::collections::VecDeque;
use std::fmt;

use ondol_types::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many results of one replica are kept.
pub(crate) const MAX_PROBES: usize = 20;

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// When it ended.
    pub at: Timestamp,
    /// What was asked, such as `GET /healthz`.
    pub asked: String,
    /// The status of the answer.
    pub status: Option<u16>,
    /// Why there was no answer.
    pub error: Option<String>,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Whether it counts as ready.
    pub ok: bool,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → ", self.asked)?;
        match (&self.status, &self.error) {
            (Some(status), _) => write!(f, "{status}")?,
            (None, Some(error)) => f.write_str(error)?,
            (None, None) => f.write_str("no answer")?,
        }
        write!(f, " in {} ms", self.millis)
    }
}

/// The newest results of one incarnation of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Probes {
    /// Of which incarnation.
    pub(crate) incarnation: u64,
    /// Newest last, at most [`MAX_PROBES`].
    pub(crate) results: VecDeque<Probe>,
    /// How many succeeded in a row, up to now.
    pub(crate) successes: u32,
    /// How many failed in a row, up to now.
    pub(crate) failures: u32,
    /// Since when they fail in a row.
    pub(crate) failing_since: Option<Timestamp>,
}

impl Probes {
    /// Adds a result.
    pub(crate) fn add(&mut self, probe: Probe) {
        if probe.ok {
            (self.successes, self.failures, self.failing_since) =
                (self.successes.saturating_add(1), 0, None);
        } else {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
            self.failing_since.get_or_insert(probe.at);
        }
        if self.results.len() == MAX_PROBES {
            self.results.pop_front();
        }
        self.results.push_back(probe);
    }

    /// The newest result.
    pub(crate) fn last(&self) -> Option<&Probe> {
        self.results.back()
    }

    /// All of them, oldest first.
    pub(crate) fn list(&self) -> Vec<Probe> {
        self.results.iter().cloned().collect()
    }
}
