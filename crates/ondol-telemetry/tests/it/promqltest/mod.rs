//! Runs the test files of Prometheus and holds their score.
//!
//! The files are read from `ONDOL_PROMQLTEST_DIR`, by default from `../shared/data/promqltest`
//! beside the checkout. What `docs/promql.md` records is what is held: a file that scores less
//! fails the test, and one that scores more fails it until the page says so
//! (`ONDOL_PROMQLTEST_WRITE=1` writes it).

mod check;
mod notation;
mod script;
pub(crate) mod store;
mod stored;

use std::path::{Path, PathBuf};

use ondol_telemetry::promql::ast::{Duration, Expr, Extension};
use ondol_telemetry::promql::{Config, Engine, ParseLimits, parse};

/// Files that have to be complete.
const COMPLETE: [&str; 13] = [
    "aggregators",
    "at_modifier",
    "collision",
    "functions",
    "histograms",
    "limit",
    "literals",
    "operators",
    "range_queries",
    "selectors",
    "staleness",
    "subquery",
    "trig_functions",
];

#[expect(
    clippy::disallowed_methods,
    reason = "where the files are differs between machines"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[derive(Default)]
struct Score {
    name: String,
    passed: usize,
    total: usize,
    stable_passed: usize,
    stable_total: usize,
}

/// The test files, or nothing and a word about it where there are none.
#[expect(
    clippy::print_stdout,
    reason = "whoever runs the test has to know that nothing was run"
)]
fn files() -> Option<Vec<PathBuf>> {
    let directory = variable("ONDOL_PROMQLTEST_DIR")
        .map_or_else(|| root().join("../shared/data/promqltest"), PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&directory) else {
        println!(
            "promqltest: {} is missing, nothing was run (set ONDOL_PROMQLTEST_DIR)",
            directory.display()
        );
        return None;
    };
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "test")
        })
        .collect();
    files.sort();
    Some(files)
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the score is for whoever runs the test"
)]
fn the_test_files_of_prometheus_score_what_the_page_says() {
    let Some(files) = files() else {
        return;
    };
    let show = variable("ONDOL_PROMQLTEST_SHOW").is_some();
    let engine = Engine::new(Config {
        delayed_name_removal: true,
        ..Config::default()
    });
    let mut scores = Vec::new();
    for file in files {
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let mut score = Score {
            name: name.clone(),
            ..Score::default()
        };
        for outcome in script::run(&text, &engine, &mut store::Memory::default()) {
            let stable = !is_experimental(&outcome.query);
            score.total += 1;
            score.stable_total += usize::from(stable);
            match outcome.result {
                Ok(()) => {
                    score.passed += 1;
                    score.stable_passed += usize::from(stable);
                }
                Err(reason) if show => {
                    println!("{name}:{} {}\n    {reason}", outcome.line, outcome.query);
                }
                Err(_) => {}
            }
        }
        println!("promqltest: {name} {}/{}", score.passed, score.total);
        scores.push(score);
    }
    let table = table(&scores);
    println!("{table}");
    let page = root().join("docs/promql.md");
    let text = std::fs::read_to_string(&page).unwrap_or_default();
    const BEGIN: &str = "<!-- score begins -->\n";
    const END: &str = "<!-- score ends -->";
    let (before, rest) = text.split_once(BEGIN).expect("docs/promql.md has a score");
    let (recorded, after) = rest.split_once(END).expect("docs/promql.md has a score");
    if variable("ONDOL_PROMQLTEST_WRITE").is_some() {
        std::fs::write(&page, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
    } else {
        assert_eq!(
            recorded, table,
            "docs/promql.md records another score; ONDOL_PROMQLTEST_WRITE=1 writes it when it rose"
        );
    }
    let incomplete: Vec<String> = scores
        .iter()
        .filter(|score| COMPLETE.contains(&score.name.as_str()) && score.passed < score.total)
        .map(|score| score.name.clone())
        .collect();
    assert!(incomplete.is_empty(), "not complete: {incomplete:?}");
}

fn table(scores: &[Score]) -> String {
    let mut text = String::from("| file | passed | without experimental |\n|---|---|---|\n");
    let mut all = Score::default();
    for score in scores {
        text.push_str(&format!(
            "| `{}` | {} of {} | {} of {} |\n",
            score.name, score.passed, score.total, score.stable_passed, score.stable_total
        ));
        all.passed += score.passed;
        all.total += score.total;
        all.stable_passed += score.stable_passed;
        all.stable_total += score.stable_total;
    }
    text.push_str(&format!(
        "| **all** | **{} of {}** | **{} of {}** |\n",
        all.passed, all.total, all.stable_passed, all.stable_total
    ));
    text
}

/// Whether a query uses what Prometheus has behind a feature flag.
fn is_experimental(query: &str) -> bool {
    parse(query, ParseLimits::default()).is_ok_and(|expr| experimental(&expr))
}

fn calculated(duration: Option<&Duration>) -> bool {
    !matches!(duration, None | Some(Duration::Seconds(..)))
}

fn experimental(expr: &Expr) -> bool {
    let here = match expr {
        Expr::Call { function, .. } => function.experimental,
        Expr::Aggregate { op, .. } => op.as_str().starts_with("limit"),
        Expr::Selector(selector) => {
            selector.extension != Extension::None || calculated(selector.offset.as_ref())
        }
        Expr::Matrix {
            selector, window, ..
        } => {
            selector.extension != Extension::None
                || calculated(selector.offset.as_ref())
                || calculated(Some(window))
        }
        Expr::Subquery {
            window,
            step,
            offset,
            ..
        } => calculated(Some(window)) || calculated(step.as_ref()) || calculated(offset.as_ref()),
        Expr::Binary { matching, .. } => matching
            .as_ref()
            .is_some_and(|matching| matching.fill_left.is_some() || matching.fill_right.is_some()),
        _ => false,
    };
    here || expr.children().into_iter().any(experimental)
}
