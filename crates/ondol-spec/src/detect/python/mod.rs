//! Python: dependencies, tests and the service, each from the files that Python projects have.
//!
//! A virtual environment is made only when something is to be installed, so that a project
//! without dependencies starts at once. It must survive being moved (an image, another work
//! directory): its scripts are pointed at whatever `python` comes first on `PATH`, and its
//! folder is put there.

mod manifest;
mod service;

use super::{Findings, Found, View};
use crate::model::Language;
use crate::resolve::Note;
use manifest::{Manager, Manifest};

const ENTRIES: &[&str] = &[
    "main.py",
    "app.py",
    "start.py",
    "bot.py",
    "hello.py",
    "server.py",
];
const PACKAGES: &[&str] = &[
    "uv.lock",
    "poetry.lock",
    "pdm.lock",
    "Pipfile",
    "requirements.txt",
    "pyproject.toml",
    "setup.py",
    "manage.py",
];
/// Points the scripts of the virtual environment at the first `python` on `PATH`.
pub(super) const RELOCATE: &str = "grep -lI '^#!.*/\\.venv/bin/python' .venv/bin/* | xargs -r sed -i '1s|.*|#!/usr/bin/env python|'";

pub(super) fn detect(view: &View) -> Option<Findings> {
    let evidence = view.first(PACKAGES).or_else(|| view.first(ENTRIES))?;
    Some(conclude(view, evidence))
}

/// A repository that has nothing but scripts, such as a `train.py`: asked last of all.
pub(super) fn scripts_only(view: &View) -> Option<Findings> {
    let evidence = view
        .root_files()
        .find(|path| path.ends_with(".py"))?
        .to_owned();
    Some(conclude(view, &evidence))
}

fn conclude(view: &View, evidence: &str) -> Findings {
    let mut findings = Findings::of(Language::Python, evidence);
    findings.tools = vec!["python3".into()];
    findings.env = vec![("PYTHONUNBUFFERED", "1")];
    let manifest = Manifest::read(view);
    let tests = Tests::find(view, &manifest);
    let install = install(view, &manifest, &tests, &mut findings);
    let python = if install.is_some() {
        ".venv/bin/python"
    } else {
        "python3"
    };
    if let Some(found) = install {
        findings.install = Some(found);
        findings.cache = vec![".venv".into()];
        findings.path = vec![".venv/bin".into()];
        findings.lock = manifest.files.clone();
    }
    match &tests {
        Tests::Pytest { from, .. } => {
            findings.test = Some(Found::new(
                format!("{python} -m pytest -q --junitxml=.ondol/junit.xml"),
                from.clone(),
            ));
            findings.junit = Some(".ondol/junit.xml".into());
        }
        Tests::Unittest { from, folder } => {
            let start = folder
                .as_ref()
                .map(|folder| format!(" -s {}", super::quoted(folder)))
                .unwrap_or_default();
            findings.test = Some(Found::new(
                format!("{python} -m unittest discover{start}"),
                from.clone(),
            ));
        }
        Tests::None => {}
    }
    service::apply(view, &manifest, python, &mut findings);
    findings
}

/// The command that installs, when there is something to install.
fn install(
    view: &View,
    manifest: &Manifest,
    tests: &Tests,
    findings: &mut Findings,
) -> Option<Found> {
    let (command, from) = match manifest.manager {
        Manager::Uv => {
            findings.tools.push("uv".into());
            let groups = if tests.needs_development(manifest) {
                ""
            } else {
                " --no-dev"
            };
            (format!("uv sync --locked{groups}"), "uv.lock".to_owned())
        }
        Manager::Poetry => {
            findings.tools.push("poetry".into());
            let groups = if tests.needs_development(manifest) {
                ""
            } else {
                " --only main"
            };
            (
                format!(
                    "POETRY_VIRTUALENVS_IN_PROJECT=true poetry install --no-interaction --no-root{groups}"
                ),
                "poetry.lock".to_owned(),
            )
        }
        Manager::Pdm => {
            findings.tools.push("pdm".into());
            let groups = if tests.needs_development(manifest) {
                ""
            } else {
                " --prod"
            };
            (
                format!("PDM_CHECK_UPDATE=false pdm install --check{groups}"),
                "pdm.lock".to_owned(),
            )
        }
        Manager::Pipenv => {
            findings.tools.push("pipenv".into());
            let locked = if view.has("Pipfile.lock") {
                " --deploy"
            } else {
                ""
            };
            let groups = if tests.needs_development(manifest) {
                " --dev"
            } else {
                ""
            };
            (
                format!("PIPENV_VENV_IN_PROJECT=1 pipenv install{locked}{groups}"),
                "Pipfile".to_owned(),
            )
        }
        Manager::Pip => {
            let mut arguments = manifest.pip_arguments.clone();
            let mut from = manifest.files.first().cloned();
            if let Tests::Pytest {
                from: test,
                declared,
            } = tests
            {
                match declared {
                    Some(declared) => arguments.extend(declared.pip_arguments.iter().cloned()),
                    None => {
                        arguments.push("pytest".into());
                        let note = Note::new(
                            "undeclared-pytest",
                            format!("{test} uses pytest, which no file of dependencies names"),
                        );
                        findings.notes.push(note.hint(
                            "add `pytest` to requirements-dev.txt, so that its version is yours",
                        ));
                    }
                }
                from.get_or_insert_with(|| test.clone());
            }
            let from = from.filter(|_| !arguments.is_empty())?;
            let mut seen = std::collections::BTreeSet::new();
            arguments.retain(|argument| seen.insert(argument.clone()));
            (
                format!(
                    "python3 -m venv .venv && .venv/bin/python -m pip install -q --disable-pip-version-check {}",
                    arguments.join(" ")
                ),
                from,
            )
        }
    };
    Some(Found::new(format!("{command}\n{RELOCATE}"), from))
}

/// How the tests run.
enum Tests {
    Pytest {
        /// The file that made us think so.
        from: String,
        /// Where pytest is declared outside the main dependencies.
        declared: Option<manifest::Development>,
    },
    Unittest {
        from: String,
        /// Where to look, when the root is not the place.
        folder: Option<String>,
    },
    None,
}

impl Tests {
    fn find(view: &View, manifest: &Manifest) -> Self {
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let python = |path: &&str| path.ends_with(".py");
        let files: Vec<&str> = view
            .files()
            .filter(python)
            .filter(|path| {
                let name = name(path);
                name.starts_with("test_") || name.ends_with("_test.py") || name == "tests.py"
            })
            .take(500)
            .collect();
        let Some(first) = files.first() else {
            return Self::None;
        };
        if manifest.has("pytest") {
            let declared = Some(manifest::Development::default());
            return Self::Pytest {
                from: manifest
                    .files
                    .first()
                    .cloned()
                    .unwrap_or_else(|| (*first).to_owned()),
                declared,
            };
        }
        if let Some(development) = manifest
            .development
            .iter()
            .find(|group| group.has("pytest"))
        {
            return Self::Pytest {
                from: development.from.clone(),
                declared: Some(development.clone()),
            };
        }
        let pyproject = manifest
            .pyproject
            .get("tool")
            .and_then(|tool| tool.get("pytest"))
            .map(|_| "pyproject.toml".to_owned());
        let section = |file: &str, head: &str| {
            view.text(file)
                .filter(|text| text.contains(head))
                .map(|_| file.to_owned())
        };
        let configured = view
            .first(&[
                "pytest.ini",
                "conftest.py",
                "tests/conftest.py",
                "test/conftest.py",
            ])
            .map(str::to_owned)
            .or(pyproject)
            .or_else(|| section("setup.cfg", "[tool:pytest]"))
            .or_else(|| section("tox.ini", "[pytest]"));
        let imports = |path: &&&str| {
            view.text(path).is_some_and(|text| {
                text.lines().any(|line| {
                    line.starts_with("import pytest") || line.starts_with("from pytest")
                })
            })
        };
        if let Some(from) =
            configured.or_else(|| files.iter().find(imports).map(|path| (*path).to_owned()))
        {
            return Self::Pytest {
                from,
                declared: None,
            };
        }
        // `unittest discover` looks for test*.py in the root and in packages below it.
        let found = |path: &&&str| name(path).starts_with("test");
        let Some(test) = files.iter().find(found) else {
            return Self::None;
        };
        let from = (*test).to_owned();
        let folder = test.split_once('/').map(|(folder, _)| folder.to_owned());
        let at_root = files
            .iter()
            .any(|path| !path.contains('/') && name(path).starts_with("test"));
        let folder =
            folder.filter(|folder| !at_root && !view.has(&format!("{folder}/__init__.py")));
        Self::Unittest { from, folder }
    }

    /// Whether the tests need what is declared for development only.
    fn needs_development(&self, manifest: &Manifest) -> bool {
        matches!(self, Self::Pytest { .. }) && !manifest.has("pytest")
    }
}
