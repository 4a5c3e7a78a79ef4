use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> TestReport {
    let mut report = TestReport::default();
    assert!(parse(text, &mut report).unwrap(), "{text}");
    report
}

#[test]
fn pytest_writes_it_so() {
    let report = parsed(
        r#"<?xml version="1.0" encoding="utf-8"?><testsuites name="pytest tests"><testsuite name="pytest" errors="9" failures="9" tests="99" time="0.05">
<testcase classname="tests.test_app" name="test_ok" time="0.001" />
<testcase classname="tests.test_app" name="test_bad[a&lt;b]" time="0.25"><failure message="assert 1 == 2">def test():
&gt;   assert 1 &#61;= 2 &amp; more</failure></testcase>
<testcase classname="tests.test_app" name="test_broken" time="0.5"><error message="fixture 'x' not found"><![CDATA[no <fixture>]]></error><system-out>noise</system-out></testcase>
<testcase classname="tests.test_app" name="test_later" time="0"><skipped type="pytest.skip" message="later">why</skipped></testcase>
</testsuite></testsuites>"#,
    );
    assert_eq!(
        (report.tests, report.failed, report.errored, report.skipped),
        (4, 1, 1, 1)
    );
    assert!((report.seconds - 0.751).abs() < 1e-9);
    assert_eq!(report.cases[0].name, "tests.test_app::test_bad[a<b]");
    assert_eq!(
        report.cases[0].message,
        "assert 1 == 2\ndef test():\n>   assert 1 == 2 & more"
    );
    assert_eq!(
        report.cases[1].message,
        "fixture 'x' not found\nno <fixture>"
    );
    assert_eq!(report.cases[1].status, CaseStatus::Errored);
    assert_eq!(
        report.describe(),
        "4 tests: 1 passed, 1 failed, 1 errored, 1 skipped"
    );
}

#[test]
fn suites_may_lie_in_suites_and_have_a_prefix() {
    let report = parsed(
        r#"<testsuite name="all"><properties/><testsuite name="inner"><testcase name="a" time="1,000.5"/></testsuite><testcase name="b" time="NaN"><failure/></testcase></testsuite>"#,
    );
    assert_eq!((report.tests, report.failed), (2, 1));
    assert_eq!(report.cases[0].name, "all::b");
    assert!((report.seconds - 1000.5).abs() < 1e-9);
}

#[test]
fn hostile_files_are_refused_in_bounded_time() {
    let refused = |text: &str| parse(text, &mut TestReport::default()).unwrap_err();
    let bomb = r#"<!DOCTYPE x [<!ENTITY a "aaaaaaaa"><!ENTITY b "&a;&a;&a;">]><testsuite><testcase name="&b;"/></testsuite>"#;
    assert!(refused(bomb).contains("document type"));
    assert!(refused(&"<testsuite>".repeat(1_000)).contains("nested deeper"));
    assert!(refused("<testsuite><testcase>").contains("in the middle"));
    assert!(refused("<testsuite></other>").contains("well-formed"));
    let entity = parsed(
        "<testsuite><testcase name='x'><failure>a&unknown;b</failure></testcase></testsuite>",
    );
    assert_eq!(entity.cases[0].message, "a\u{fffd}b");
    let many = format!(
        "<testsuite>{}</testsuite>",
        "<testcase name='x'><failure message='m'/></testcase>".repeat(5_000)
    );
    let report = parsed(&many);
    assert_eq!(
        (report.failed, report.cases.len(), report.truncated),
        (5_000, MAX_CASES, true)
    );
    let long = parsed(&format!(
        "<testsuite><testcase name='{0}'><failure message='{0}'>{0}</failure></testcase></testsuite>",
        "é".repeat(100_000)
    ));
    assert!(
        long.cases[0].name.len() <= MAX_NAME_BYTES
            && long.cases[0].message.len() <= MAX_MESSAGE_BYTES
    );
}

#[test]
fn xml_of_another_kind_is_no_report() {
    assert_eq!(
        parse(
            "<coverage><package/></coverage>",
            &mut TestReport::default()
        ),
        Ok(false)
    );
}

#[test]
fn files_are_found_where_runners_leave_them_and_old_ones_are_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (reports, work) = (dir.path().join("reports"), dir.path().join("work"));
    let write = |path: &Path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "<testsuite><testcase name='x'/></testsuite>").unwrap();
    };
    write(&reports.join("pytest.xml"));
    write(&work.join("test-results/unit/a.xml"));
    write(&work.join("out/mine.xml"));
    write(&work.join("node_modules/x/test-results/b.xml"));
    write(&work.join("junit.xml"));
    fs::write(reports.join("torn.xml"), "<testsuite>").unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1);
    fs::File::open(work.join("junit.xml"))
        .unwrap()
        .set_times(fs::FileTimes::new().set_modified(old))
        .unwrap();
    let since = old + std::time::Duration::from_secs(10);
    let report = collect(
        "test",
        &reports,
        &work,
        &["out/*.xml".parse().unwrap()],
        since,
    );
    assert_eq!((report.files, report.tests), (3, 3));
    assert!(
        report.notes[0].starts_with("torn.xml was not read"),
        "{:?}",
        report.notes
    );
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "(<|>|/|&|;|!|\\[|\\]|\"|=| |testsuite|testcase|failure|DOCTYPE|CDATA|name|é|#x0|a){0,60}") {
        let mut report = TestReport::default();
        let _ = parse(&text, &mut report);
        let _ = parse(&format!("<testsuite><testcase name='a'>{text}</testcase></testsuite>"), &mut report);
    }
}
