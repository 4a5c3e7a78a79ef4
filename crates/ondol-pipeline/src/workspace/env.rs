//! The environment of a command step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ondol_types::RelPath;
use ondol_workload::Command;

use super::{Caches, Workspace};
use crate::model::{CommandWork, Program, Run, Step, Trigger};
use crate::ports::{AutoTraining, StepArguments};

/// Where package managers keep what they downloaded: variable and folder below `tools`.
const TOOL_CACHES: [(&str, &str); 10] = [
    ("PIP_CACHE_DIR", "pip"),
    ("UV_CACHE_DIR", "uv"),
    ("POETRY_CACHE_DIR", "poetry"),
    ("npm_config_cache", "npm"),
    ("YARN_CACHE_FOLDER", "yarn"),
    ("npm_config_store_dir", "pnpm"),
    ("BUN_INSTALL_CACHE_DIR", "bun"),
    ("GOMODCACHE", "gomod"),
    ("GOCACHE", "gobuild"),
    ("CARGO_HOME", "cargo"),
];

/// Where a step finds what the platform made for it: paths of the host, or of its container.
pub(crate) struct Places {
    pub(crate) reports: PathBuf,
    pub(crate) tools: PathBuf,
}

/// The folder of a step in a container in which the platform's folders appear, below its work
/// directory.
pub(crate) const INSIDE: &str = ".ondol";
/// Where the work directory of a step is in a container.
pub(crate) const INSIDE_WORK: &str = "/work";

impl Places {
    /// Of a step that is a process.
    pub(crate) fn outside(step: &Step, workspace: &Workspace, caches: &Caches) -> Self {
        Self {
            reports: workspace.reports(&step.name),
            tools: caches.tools(),
        }
    }

    /// Of a step in a container.
    pub(crate) fn inside() -> Self {
        let place = |name| Path::new(INSIDE_WORK).join(INSIDE).join(name);
        Self {
            reports: place("reports"),
            tools: place("cache"),
        }
    }
}

/// The variables of a step. What the platform says about itself cannot be overridden; the caches
/// can, because a project may have reasons of its own.
pub(crate) fn variables(
    run: &Run,
    step: &Step,
    work: &CommandWork,
    workspace: &Workspace,
    places: &Places,
    branch: &str,
) -> BTreeMap<String, String> {
    let text = |path: &Path| path.display().to_string();
    let mut env: BTreeMap<String, String> = TOOL_CACHES
        .iter()
        .map(|(name, folder)| ((*name).to_owned(), text(&places.tools.join(folder))))
        .collect();
    env.extend(work.env.clone());
    let reports = &places.reports;
    let mut own = vec![
        ("CI", "true".to_owned()),
        ("ONDOL", "true".to_owned()),
        ("ONDOL_PROJECT", run.project.to_string()),
        ("ONDOL_RUN", run.id.to_string()),
        ("ONDOL_RUN_NUMBER", run.number.to_string()),
        ("ONDOL_STEP", step.name.to_string()),
        ("ONDOL_ATTEMPT", step.attempt.to_string()),
        ("ONDOL_BRANCH", branch.to_owned()),
        ("ONDOL_REPORTS", text(reports)),
    ];
    if let Some(commit) = &run.commit {
        own.push(("ONDOL_COMMIT", commit.to_string()));
    }
    if let Trigger::Data {
        dataset, number, ..
    } = &run.trigger
    {
        own.push(("ONDOL_TRIGGER_DATASET", format!("{dataset}@{number}")));
    }
    if let (Some(_), Some(data)) = (&work.data, &run.data) {
        own.extend([
            ("ONDOL_DATASET", data.dataset.to_string()),
            ("ONDOL_DATA_VERSION", data.version.to_string()),
            ("ONDOL_DATA_DIR", text(&workspace.data(&data.dataset))),
            ("ONDOL_OUTPUT_DIR", text(&workspace.output())),
            ("ONDOL_METRICS_FILE", text(&workspace.metrics())),
        ]);
        if let Some(model) = &work.model {
            own.push(("ONDOL_MODEL", model.clone()));
        }
    }
    env.extend(
        own.into_iter()
            .map(|(name, value)| (name.to_owned(), value)),
    );
    if let Program::Shell(run) = &work.program
        && mentions(run, "pytest")
    {
        let addopts = format!("--junitxml={}", quoted(&text(&reports.join("pytest.xml"))));
        let all = match env.get("PYTEST_ADDOPTS") {
            Some(said) if !said.is_empty() => format!("{said} {addopts}"),
            _ => addopts,
        };
        env.insert("PYTEST_ADDOPTS".to_owned(), all);
    }
    env
}

/// Whether a command runs a program, as a word of its own.
fn mentions(run: &str, program: &str) -> bool {
    run.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .any(|word| word == program)
}

/// A word as a POSIX shell reads it back.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-=+:@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// What a command step executes.
pub(crate) fn command(
    run: &Run,
    work: &CommandWork,
    workspace: &Workspace,
    arguments: &dyn StepArguments,
) -> Command {
    match &work.program {
        Program::Shell(text) => {
            // Folders that `install` made for this host are of no use to an image.
            let path = match work.image {
                Some(_) => String::new(),
                None => path_line(&work.path),
            };
            let script = format!("{path}{text}");
            Command::Argv(vec!["/bin/sh".into(), "-ec".into(), script])
        }
        Program::TrainAuto(auto) => {
            let training = AutoTraining {
                auto,
                project: &run.project,
                model: work.model.as_deref().unwrap_or_default(),
                data: run.data.as_ref().map_or_else(
                    || workspace.root().join("data"),
                    |data| workspace.data(&data.dataset),
                ),
                output: workspace.output(),
                metrics: workspace.metrics(),
            };
            Command::Argv(arguments.train_auto(&training))
        }
    }
}

/// The engine decides about `PATH`, so the folders of the project are put in front of it there.
fn path_line(path: &[RelPath]) -> String {
    if path.is_empty() {
        return String::new();
    }
    let folders: Vec<String> = path
        .iter()
        .map(|path| format!("\"$PWD\"/{}", quoted(path.as_str())))
        .collect();
    format!("PATH={}:\"$PATH\"; export PATH\n", folders.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan;

    struct NoArguments;

    impl StepArguments for NoArguments {
        fn train_auto(&self, training: &AutoTraining<'_>) -> Vec<String> {
            vec![
                "ondol".into(),
                "train-auto".into(),
                training.output.display().to_string(),
            ]
        }
    }

    fn work(run: &str) -> (Run, Step, CommandWork, Workspace, Caches) {
        let spec: ondol_spec::model::Spec = serde_json::from_value(serde_json::json!({
            "test": { "run": run }, "env": { "ONDOL_RUN": "mine", "GOCACHE": "/mine", "PYTEST_ADDOPTS": "-x" },
            "build": { "path": [".venv/bin", "it's"] },
        }))
        .unwrap();
        let owner = crate::model::tests_support::run();
        let training = plan::TrainingState::default();
        let input = plan::GraphInput {
            spec: &spec,
            trigger: &owner.trigger,
            branch: "main",
            training: &training,
        };
        let node = plan::graph(input).unwrap().nodes.remove(0);
        let step = Step::new(owner.id, 1, node.name, node.definition, node.needs);
        let work = step.definition.as_command().unwrap().clone();
        let workspace = Workspace::of(Path::new("/w"), &owner.id);
        let caches = Caches::of(Path::new("/c"), &owner.project);
        (owner, step, work, workspace, caches)
    }

    #[test]
    fn the_platform_says_who_it_is_and_the_project_may_move_its_caches() {
        let (run, step, work, workspace, caches) = work("pytest -q");
        let places = Places::outside(&step, &workspace, &caches);
        let env = variables(&run, &step, &work, &workspace, &places, "main");
        assert_eq!(env["CI"], "true");
        assert_eq!(env["ONDOL_RUN"], run.id.to_string());
        assert_eq!(env["GOCACHE"], "/mine");
        assert_eq!(env["PIP_CACHE_DIR"], "/c/web/tools/pip");
        let expected = format!("-x --junitxml=/w/run-{}/reports/test/pytest.xml", run.id);
        assert_eq!(env["PYTEST_ADDOPTS"], expected);
    }

    #[test]
    fn other_test_programs_get_no_pytest_options() {
        let (run, step, work, workspace, caches) = work("npm test # mypytest");
        let places = Places::outside(&step, &workspace, &caches);
        let env = variables(&run, &step, &work, &workspace, &places, "main");
        assert_eq!(env["PYTEST_ADDOPTS"], "-x");
    }

    #[test]
    fn folders_of_the_project_come_first_in_path() {
        let (run, _, work, workspace, _) = work("pytest");
        let Command::Argv(argv) = command(&run, &work, &workspace, &NoArguments) else {
            panic!()
        };
        assert_eq!(&argv[..2], ["/bin/sh", "-ec"]);
        assert_eq!(
            argv[2],
            "PATH=\"$PWD\"/.venv/bin:\"$PWD\"/'it'\\''s':\"$PATH\"; export PATH\npytest"
        );
    }
}
