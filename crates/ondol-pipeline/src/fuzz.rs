//! Fuzz target over what test runners leave behind.

use crate::junit;
use crate::model::TestReport;

/// A report counts what it lists, is bounded, and says the same each time.
pub fn junit(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let run = || {
        let mut report = TestReport::default();
        let outcome = junit::parse(text, &mut report);
        (outcome, report)
    };
    let (outcome, report) = run();
    let (again, same) = run();
    assert_eq!(outcome, again);
    assert_eq!(format!("{report:?}"), format!("{same:?}"));
    let written = serde_json::to_string(&report).expect("a report can be written");
    assert!(written.len() <= (4 << 20), "{} bytes", written.len());
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("pipeline_junit", super::junit);
    }
}
