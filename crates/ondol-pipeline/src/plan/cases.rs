//! What the results of tests mean: which failures count, and which tests cannot be believed.

use std::collections::BTreeSet;

use ondol_spec::model::Pattern;
use ondol_workload::Exit;

use crate::model::TestReport;

/// Whether every failure is of a test in quarantine, so that the step has passed all the same.
/// Only when the report is whole and the program ended by itself: otherwise more may be wrong.
pub(crate) fn only_quarantined(quarantine: &[Pattern], exit: &Exit, report: &TestReport) -> bool {
    let ended = exit.code.is_some() && !exit.oom && !exit.timed_out && !exit.stopped && !exit.lost;
    let failures = report.failed + report.errored;
    ended
        && !exit.success()
        && !report.truncated
        && report.notes.is_empty()
        && failures > 0
        && failures == report.cases.len() as u64
        && report
            .cases
            .iter()
            .all(|case| quarantine.iter().any(|pattern| pattern.matches(&case.name)))
}

/// Tests that failed in one of two reports of the same commit and not in the other. A report that
/// is not whole tells nothing.
pub(crate) fn flaky(now: &TestReport, before: &TestReport) -> BTreeSet<String> {
    let whole = |report: &TestReport| {
        report.tests > 0
            && !report.truncated
            && report.notes.is_empty()
            && report.failed + report.errored == report.cases.len() as u64
    };
    // Where so much fails that hardly anything passes, it was not the tests that wavered.
    let most = |report: &TestReport| (report.failed + report.errored) * 2 > report.tests.max(2);
    if !whole(now) || !whole(before) || most(now) || most(before) {
        return BTreeSet::new();
    }
    // Other tests were run, so nothing is known of those that are in one report only.
    if now.tests != before.tests {
        return BTreeSet::new();
    }
    let failed = |report: &TestReport| -> BTreeSet<String> {
        report.cases.iter().map(|case| case.name.clone()).collect()
    };
    let (now, before) = (failed(now), failed(before));
    now.symmetric_difference(&before).cloned().collect()
}

#[cfg(test)]
mod tests {
    use ondol_types::Timestamp;
    use ondol_workload::Usage;

    use super::*;
    use crate::model::{CaseResult, CaseStatus};

    fn report(tests: u64, failed: &[&str]) -> TestReport {
        TestReport {
            tests,
            failed: failed.len() as u64,
            cases: failed
                .iter()
                .map(|name| CaseResult {
                    name: (*name).to_owned(),
                    status: CaseStatus::Failed,
                    message: String::new(),
                    seconds: 0.0,
                })
                .collect(),
            files: 1,
            ..TestReport::default()
        }
    }

    fn exit(code: i32) -> Exit {
        Exit {
            code: Some(code),
            signal: None,
            oom: false,
            timed_out: false,
            stopped: false,
            lost: false,
            at: Timestamp::from_micros(0),
            usage: Usage::default(),
        }
    }

    #[test]
    fn quarantine_covers_its_tests_and_nothing_else() {
        let quarantine = ["net::*".parse().unwrap(), "slow".parse().unwrap()];
        let covered = |report: &TestReport| only_quarantined(&quarantine, &exit(1), report);
        assert!(covered(&report(9, &["net::a", "slow"])));
        assert!(!covered(&report(9, &["net::a", "other"])));
        assert!(!covered(&report(9, &[])), "it failed for another reason");
        let cut = TestReport {
            truncated: true,
            ..report(9, &["slow"])
        };
        assert!(!covered(&cut));
        let torn = TestReport {
            notes: vec!["a.xml was not read".into()],
            ..report(9, &["slow"])
        };
        assert!(!covered(&torn));
        let killed = Exit {
            code: None,
            signal: Some(9),
            ..exit(0)
        };
        assert!(!only_quarantined(
            &quarantine,
            &killed,
            &report(9, &["slow"])
        ));
    }

    #[test]
    fn a_test_wavers_when_only_one_of_two_reports_has_it() {
        let names = |one: &TestReport, other: &TestReport| -> Vec<String> {
            flaky(one, other).into_iter().collect()
        };
        assert_eq!(names(&report(9, &["a", "b"]), &report(9, &["b"])), ["a"]);
        assert_eq!(names(&report(9, &[]), &report(9, &["b"])), ["b"]);
        assert!(names(&report(9, &["a"]), &report(9, &["a"])).is_empty());
        assert!(
            names(&report(8, &[]), &report(9, &["a"])).is_empty(),
            "others ran"
        );
        let broken = report(3, &["a", "b", "c"]);
        assert!(
            names(&report(3, &[]), &broken).is_empty(),
            "everything failed"
        );
        assert!(names(&report(0, &[]), &report(0, &[])).is_empty());
    }
}
