//! Programs and questions that several themes share.

use ondol_testing::{Output, Platform, Project};
use serde_json::Value;

/// A service whose behaviour tests choose.
pub(crate) const SMALL_APP: &str = include_str!("../../fixtures/small_app.py");
/// A service for load of every kind.
pub(crate) const LOAD_APP: &str = include_str!("../../fixtures/load_app.py");

/// A project of `SMALL_APP` with the given lines of `ondol.yaml` below `service`, and after it.
#[track_caller]
pub(crate) fn small_app(platform: &Platform, name: &str, service: &str, rest: &str) -> Project {
    let yaml = small_yaml(name, service, rest);
    platform.project_of(name, &[("app.py", SMALL_APP), ("ondol.yaml", &yaml)])
}

pub(crate) fn small_yaml(name: &str, service: &str, rest: &str) -> String {
    format!(
        "project: {name}\ntest: \"true\"\nservice:\n  run: python3 app.py\n  health: {{ path: /healthz, deadline: 20s }}\n{service}{rest}"
    )
}

/// Pushes a version that must go live.
#[track_caller]
pub(crate) fn push_live(platform: &Platform, project: &Project) -> Value {
    let output = platform.push(project).ok();
    let run = platform.last_run(project.name());
    assert_eq!(run["outcome"], "success", "{run:#}\n{}", output.stderr);
    run
}

/// The newest run, with what was expected of it.
#[track_caller]
pub(crate) fn last_run_is(platform: &Platform, project: &str, outcome: &str) -> Value {
    let run = platform.last_run(project);
    assert_eq!(run["outcome"], outcome, "{run:#}");
    run
}

/// The outcome of a step of a run, empty when it has none.
pub(crate) fn step<'v>(run: &'v Value, name: &str) -> &'v str {
    run["steps"]
        .as_array()
        .and_then(|steps| steps.iter().find(|step| step["name"] == name))
        .and_then(|step| step["outcome"].as_str())
        .unwrap_or("")
}

/// The last line that the server said during a push.
#[track_caller]
pub(crate) fn verdict(output: &Output) -> String {
    output
        .remote_lines()
        .last()
        .cloned()
        .unwrap_or_else(|| panic!("the server said nothing:\n{}", output.stderr))
}

/// Whether a value is text that is not empty.
pub(crate) fn is_text(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}
