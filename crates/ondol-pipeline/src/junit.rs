//! JUnit XML, as every test runner writes it a little differently.
//!
//! The files come from the programs of users: nothing in them is trusted. Size, depth, number
//! and length of everything are bounded, entities are never expanded beyond the five of XML,
//! and a document type with declarations of its own is refused. Totals are counted from the
//! cases, not taken from attributes.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ondol_spec::model::Pattern;
use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};

use crate::model::{CaseResult, CaseStatus, TestReport};

const MAX_FILE_BYTES: u64 = 16 << 20;
const MAX_FILES: usize = 200;
const MAX_DEPTH: usize = 64;
const MAX_CASES: usize = 100;
const MAX_NAME_BYTES: usize = 500;
const MAX_MESSAGE_BYTES: usize = 2 << 10;
const MAX_NOTES: usize = 10;
const MAX_ENTRIES: usize = 50_000;
const MAX_FOLDERS_DEEP: usize = 10;

/// Where runners leave their files when nobody tells them otherwise.
const USUAL_PLACES: [&str; 8] = [
    "junit.xml",
    "junit*.xml",
    "test-results/**",
    "test-reports/**",
    "reports/junit*.xml",
    "build/test-results/**",
    "target/surefire-reports/*.xml",
    "target/nextest/**/junit.xml",
];
const NEVER: [&str; 5] = [".git", "node_modules", ".venv", "venv", "__pycache__"];

/// Reads what a step reported: everything in `reports`, and files of `work_dir` that match
/// `patterns` or the usual places and are not older than `since`.
pub(crate) fn collect(
    step: &str,
    reports: &Path,
    work_dir: &Path,
    patterns: &[Pattern],
    since: SystemTime,
) -> TestReport {
    let mut report = TestReport {
        step: step.to_owned(),
        ..TestReport::default()
    };
    let mut files = find(reports, |path| path.ends_with(".xml"));
    let usual: Vec<Pattern> = USUAL_PLACES
        .iter()
        .filter_map(|place| place.parse().ok())
        .collect();
    files.extend(find(work_dir, |path| {
        patterns.iter().any(|pattern| pattern.matches(path))
            || (path.ends_with(".xml") && usual.iter().any(|pattern| pattern.matches(path)))
    }));
    files.retain(|path| {
        path.starts_with(reports)
            || fs::metadata(path)
                .and_then(|found| found.modified())
                .is_ok_and(|at| at >= since)
    });
    report.truncated = files.len() > MAX_FILES;
    for path in files.into_iter().take(MAX_FILES) {
        let name = path
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let read = read(&path).and_then(|text| parse(&text, &mut report));
        match read {
            Ok(true) => report.files += 1,
            Ok(false) => {}
            Err(problem) if report.notes.len() < MAX_NOTES => {
                report.notes.push(format!(
                    "{} was not read: {problem}",
                    cut(&name, MAX_NAME_BYTES)
                ));
            }
            Err(_) => report.truncated = true,
        }
    }
    report
}

fn find(root: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    let mut entries = 0;
    while let Some((folder, depth)) = folders.pop() {
        let Ok(list) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in list.flatten() {
            entries += 1;
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            let name = entry.file_name();
            if entries > MAX_ENTRIES || found.len() > MAX_FILES {
                break;
            }
            if kind.is_dir()
                && depth < MAX_FOLDERS_DEEP
                && !NEVER.iter().any(|never| name == *never)
            {
                folders.push((entry.path(), depth + 1));
            } else if kind.is_file() {
                let path = entry.path();
                let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
                if relative.is_some_and(&wanted) {
                    found.push(path);
                }
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("it is larger than {} MiB", MAX_FILE_BYTES >> 20));
    }
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

fn cut(text: &str, most: usize) -> String {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[derive(Default)]
struct Case {
    name: String,
    seconds: f64,
    status: Option<CaseStatus>,
    skipped: bool,
    message: String,
    body: String,
    depth: usize,
}

/// Adds one document to the report; false when it is XML of another kind.
pub(crate) fn parse(text: &str, report: &mut TestReport) -> Result<bool, String> {
    let mut reader = quick_xml::Reader::from_str(text.trim_start_matches('\u{feff}'));
    let mut sum = TestReport::default();
    let mut depth = 0usize;
    let mut suites: Vec<(usize, String)> = Vec::new();
    let mut case: Option<Case> = None;
    let mut in_problem = false;
    let mut rooted = false;
    loop {
        let event = reader
            .read_event()
            .map_err(|error| format!("it is not well-formed: {error}"))?;
        let empty = matches!(event, Event::Empty(_));
        match event {
            Event::Start(tag) | Event::Empty(tag) => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return Err(format!("it is nested deeper than {MAX_DEPTH}"));
                }
                let name = tag.local_name();
                if !rooted {
                    if !matches!(name.as_ref(), "testsuites" | "testsuite") {
                        return Ok(false);
                    }
                    rooted = true;
                }
                match (name.as_ref(), &mut case) {
                    ("testsuite", None) => suites.push((depth, attribute(&tag, "name"))),
                    ("testcase", None) => {
                        let suite = suites.last().map_or("", |(_, name)| name.as_str());
                        case = Some(begin(&tag, suite, depth));
                    }
                    ("failure" | "error", Some(case)) if case.status.is_none() => {
                        case.status = Some(if name.as_ref() == "error" {
                            CaseStatus::Errored
                        } else {
                            CaseStatus::Failed
                        });
                        case.message = attribute(&tag, "message");
                        in_problem = !empty;
                    }
                    ("skipped", Some(case)) => case.skipped = true,
                    _ => {}
                }
                if empty {
                    close(&mut depth, &mut suites, &mut case, &mut sum);
                }
            }
            Event::End(tag) => {
                if matches!(tag.local_name().as_ref(), "failure" | "error") {
                    in_problem = false;
                }
                close(&mut depth, &mut suites, &mut case, &mut sum);
            }
            Event::Text(text) => said(&mut case, in_problem, &text.xml10_content()),
            Event::CData(text) => said(&mut case, in_problem, &text.xml10_content()),
            Event::GeneralRef(entity) => {
                let character = match entity.resolve_char_ref() {
                    Ok(Some(character)) => character.to_string(),
                    _ => quick_xml::escape::resolve_predefined_entity(&entity.xml10_content())
                        .unwrap_or("\u{fffd}")
                        .to_owned(),
                };
                said(&mut case, in_problem, &character);
            }
            Event::DocType(text) if text.xml10_content().contains(['[', '<']) => {
                return Err("it declares a document type of its own".to_owned());
            }
            Event::Eof if depth > 0 => return Err("it ends in the middle".to_owned()),
            Event::Eof => break,
            Event::DocType(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
        }
    }
    if rooted {
        add(report, sum);
    }
    Ok(rooted)
}

fn begin(tag: &BytesStart<'_>, suite: &str, depth: usize) -> Case {
    let (class, name) = (attribute(tag, "classname"), attribute(tag, "name"));
    let group = if class.is_empty() { suite } else { &class };
    let seconds = attribute(tag, "time")
        .replace(',', "")
        .parse::<f64>()
        .unwrap_or(0.0);
    Case {
        name: cut(
            &if group.is_empty() {
                name
            } else {
                format!("{group}::{name}")
            },
            MAX_NAME_BYTES,
        ),
        seconds: if seconds.is_finite() && seconds >= 0.0 {
            seconds
        } else {
            0.0
        },
        depth,
        ..Case::default()
    }
}

fn attribute(tag: &BytesStart<'_>, name: &str) -> String {
    let found = tag.try_get_attribute(name).ok().flatten();
    let value = found.and_then(|attribute| {
        attribute
            .normalized_value(XmlVersion::Implicit1_0)
            .ok()
            .map(|value| cut(&value, MAX_MESSAGE_BYTES))
    });
    value.unwrap_or_default()
}

fn said(case: &mut Option<Case>, in_problem: bool, text: &str) {
    if let (Some(case), true) = (case, in_problem) {
        let text = if case.body.is_empty() {
            text.trim_start()
        } else {
            text
        };
        case.body.push_str(&cut(
            text,
            MAX_MESSAGE_BYTES.saturating_sub(case.body.len()),
        ));
    }
}

fn close(
    depth: &mut usize,
    suites: &mut Vec<(usize, String)>,
    case: &mut Option<Case>,
    sum: &mut TestReport,
) {
    if suites.last().is_some_and(|(begun, _)| begun == depth) {
        suites.pop();
    }
    if let Some(done) = case.take_if(|case| case.depth == *depth) {
        sum.tests += 1;
        sum.seconds += done.seconds;
        match done.status {
            Some(status) => {
                match status {
                    CaseStatus::Failed => sum.failed += 1,
                    CaseStatus::Errored => sum.errored += 1,
                }
                if sum.cases.len() < MAX_CASES {
                    let both = format!("{}\n{}", done.message, done.body);
                    let message = cut(both.trim(), MAX_MESSAGE_BYTES);
                    sum.cases.push(CaseResult {
                        name: done.name,
                        status,
                        message,
                        seconds: done.seconds,
                    });
                } else {
                    sum.truncated = true;
                }
            }
            None if done.skipped => sum.skipped += 1,
            None => {}
        }
    }
    *depth = depth.saturating_sub(1);
}

fn add(report: &mut TestReport, sum: TestReport) {
    report.tests += sum.tests;
    report.failed += sum.failed;
    report.errored += sum.errored;
    report.skipped += sum.skipped;
    report.seconds += sum.seconds;
    report.truncated |= sum.truncated;
    let room = MAX_CASES.saturating_sub(report.cases.len());
    report.truncated |= sum.cases.len() > room;
    report.cases.extend(sum.cases.into_iter().take(room));
}

#[cfg(test)]
#[path = "junit_tests.rs"]
mod tests;
