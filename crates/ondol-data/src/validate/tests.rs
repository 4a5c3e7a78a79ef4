//! Every rule with a value that keeps it and one that breaks it.

use super::*;
use crate::table::{Format, Source, read};

fn check(csv: &str, column: Column) -> Vec<Finding> {
    let dataset = Dataset {
        schema: [("x".to_owned(), column)].into(),
        ..Dataset::default()
    };
    let file: RelPath = "t.csv".parse().unwrap();
    let mut checker = Checker::new(file, Rules::new(&dataset).unwrap(), Findings::default());
    read(
        Format::Csv,
        Source::Bytes(csv.to_owned().into()),
        &mut checker,
    )
    .unwrap();
    checker.finish().1.into_list()
}

fn broken(values: &[&str], column: Column) -> Vec<(u64, String)> {
    let csv = format!(
        "y,x\n{}",
        values
            .iter()
            .map(|value| format!("1,{value}\n"))
            .collect::<String>()
    );
    check(&csv, column)
        .into_iter()
        .map(|finding| (finding.row.unwrap(), finding.rule))
        .collect()
}

fn one(row: u64, rule: &str) -> Vec<(u64, String)> {
    vec![(row, rule.to_owned())]
}

#[test]
fn each_rule_names_the_row_that_breaks_it() {
    let typed = |kind| Column {
        kind: Some(kind),
        ..Column::default()
    };
    assert_eq!(
        broken(&["1.5", "-2e3", "", "abc"], typed(ColumnType::Number)),
        one(4, "type")
    );
    assert_eq!(
        broken(&["1", "2.0", "2.5"], typed(ColumnType::Integer)),
        one(3, "type")
    );
    assert_eq!(
        broken(&["true", "False", "1"], typed(ColumnType::Boolean)),
        one(3, "type")
    );
    assert_eq!(
        broken(&["2026-01-31", "2026-02-30"], typed(ColumnType::Date)),
        one(2, "type")
    );
    assert_eq!(
        broken(
            &["2026-01-31T09:30:00Z", "2026-01-31"],
            typed(ColumnType::Timestamp)
        ),
        one(2, "type")
    );
    assert_eq!(broken(&["abc", "12"], typed(ColumnType::Text)), vec![]);
    let range = Column {
        min: Some(0.0),
        max: Some(10.0),
        ..Column::default()
    };
    assert_eq!(broken(&["0", "10", "-0.1"], range.clone()), one(3, "min"));
    assert_eq!(broken(&["10.1"], range.clone()), one(1, "max"));
    assert_eq!(broken(&["ten"], range), one(1, "type"));
    let choice = Column {
        one_of: vec![Scalar::Text("a".into()), Scalar::Number(2.0)],
        ..Column::default()
    };
    assert_eq!(broken(&["a", "2.0", "b"], choice), one(3, "in"));
    let pattern = Column {
        pattern: Some("[a-z]+".into()),
        ..Column::default()
    };
    assert_eq!(broken(&["abc", "abc1"], pattern), one(2, "pattern"));
    assert_eq!(
        broken(
            &["a", "NA"],
            Column {
                required: true,
                ..Column::default()
            }
        ),
        one(2, "required")
    );
    assert_eq!(
        broken(
            &["a", "b", "a"],
            Column {
                unique: true,
                ..Column::default()
            }
        ),
        one(3, "unique")
    );
}

#[test]
fn a_finding_reads_as_one_line_with_everything_in_it() {
    let findings = check(
        "x\n5\n\n50\n",
        Column {
            max: Some(9.0),
            ..Column::default()
        },
    );
    assert_eq!(
        findings[0].message,
        "t.csv, row 2 (line 4), column `x`: `50` is more than 9"
    );
    assert_eq!(findings[0].value.as_deref(), Some("50"));
}

#[test]
fn findings_are_counted_beyond_those_listed() {
    let mut findings = Findings::default();
    for _ in 0..250 {
        findings.add(finding(Severity::Error, None, None, "x", "y"));
    }
    findings.add(finding(Severity::Note, None, None, "x", "y"));
    assert_eq!(findings.errors, 250);
    assert_eq!(findings.into_list().len(), MAX_FINDINGS + 1);
}

#[test]
fn a_bad_pattern_is_an_error_of_the_rule() {
    let dataset = Dataset {
        schema: [(
            "x".to_owned(),
            Column {
                pattern: Some("(".into()),
                ..Column::default()
            },
        )]
        .into(),
        ..Dataset::default()
    };
    assert!(matches!(Rules::new(&dataset), Err(DataError::Rule { .. })));
}
