//! What the tests of a step reported.

use ondol_types::{RunId, StepName, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::word_enum;

word_enum! {
    /// How a test that did not pass ended.
    CaseStatus {
        /// An assertion did not hold.
        Failed = "failed",
        /// The test itself broke.
        Errored = "errored",
    }
}

/// A test that did not pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaseResult {
    /// Suite or class and name of the test.
    pub name: String,
    /// How it ended.
    pub status: CaseStatus,
    /// What the test said, cut to a few kilobytes.
    pub message: String,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A test that passed and failed on the same commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlakyTest {
    /// The step that ran it; for a matrix, the name of all of them.
    pub stage: StepName,
    /// Suite or class and name of the test.
    pub name: String,
    /// How often it was seen to waver.
    pub times: i64,
    /// When first.
    pub first_at: Timestamp,
    /// When last.
    pub last_at: Timestamp,
    /// The run that saw it last.
    pub last_run: RunId,
}

/// The sum of all JUnit files that one step wrote.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TestReport {
    /// The step.
    pub step: String,
    /// How many tests there were.
    pub tests: u64,
    /// How many failed.
    pub failed: u64,
    /// How many broke.
    pub errored: u64,
    /// How many were skipped.
    pub skipped: u64,
    /// How long they took in total, in seconds.
    pub seconds: f64,
    /// How many files were read.
    pub files: u64,
    /// The first tests that did not pass.
    pub cases: Vec<CaseResult>,
    /// Whether more did not pass than `cases` holds, or files were left out.
    pub truncated: bool,
    /// What could not be read, and why.
    pub notes: Vec<String>,
}

impl TestReport {
    /// Whether there is anything to show.
    pub fn is_empty(&self) -> bool {
        self.files == 0 && self.notes.is_empty()
    }

    /// How many passed.
    pub fn passed(&self) -> u64 {
        self.tests
            .saturating_sub(self.failed + self.errored + self.skipped)
    }

    /// One line for people, such as `12 tests: 10 passed, 1 failed, 1 skipped`.
    pub fn describe(&self) -> String {
        let parts = [
            (self.passed(), "passed"),
            (self.failed, "failed"),
            (self.errored, "errored"),
            (self.skipped, "skipped"),
        ];
        let said: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if said.is_empty() {
            return "no tests were reported".to_owned();
        }
        format!("{} tests: {}", self.tests, said.join(", "))
    }
}
