//! Dependencies of a Python project, as far as commands depend on them.

use toml::{Table, Value};

use super::super::{View, quoted};

/// The tool that installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    Uv,
    Poetry,
    Pdm,
    Pipenv,
    Pip,
}

/// A group of dependencies that only development needs.
#[derive(Clone, Debug, Default)]
pub(super) struct Development {
    pub(super) from: String,
    pub(super) names: Vec<String>,
    pub(super) pip_arguments: Vec<String>,
}

impl Development {
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }
}

/// What the files of dependencies say.
pub(super) struct Manifest {
    pub(super) manager: Manager,
    /// Names of the main dependencies, in normal form.
    names: Vec<String>,
    /// What pip is to install for them.
    pub(super) pip_arguments: Vec<String>,
    /// Files that decide what is installed, the leading one first.
    pub(super) files: Vec<String>,
    pub(super) development: Vec<Development>,
    pub(super) pyproject: Table,
}

impl Manifest {
    pub(super) fn read(view: &View) -> Self {
        let pyproject = view.toml("pyproject.toml").unwrap_or_default();
        let poetry = table(&pyproject, &["tool", "poetry"]);
        let manager = match view.first(&["uv.lock", "poetry.lock", "pdm.lock", "Pipfile"]) {
            Some("uv.lock") => Manager::Uv,
            Some("poetry.lock") => Manager::Poetry,
            Some("pdm.lock") => Manager::Pdm,
            Some(_) => Manager::Pipenv,
            // Poetry's own table without `[project]` is nothing that pip can read item by item.
            None if poetry.is_some() && !pyproject.contains_key("project") => Manager::Poetry,
            None => Manager::Pip,
        };
        let all = [
            "uv.lock",
            "poetry.lock",
            "pdm.lock",
            "Pipfile.lock",
            "Pipfile",
            "requirements.txt",
            "pyproject.toml",
            "setup.py",
            "setup.cfg",
        ];
        let mut manifest = Self {
            manager,
            names: Vec::new(),
            pip_arguments: Vec::new(),
            files: all
                .into_iter()
                .filter(|file| view.has(file))
                .map(str::to_owned)
                .collect(),
            development: Vec::new(),
            pyproject: Table::new(),
        };
        manifest.read_requirements(view);
        manifest.read_pyproject(view, &pyproject);
        if let Some(pipfile) = view.toml("Pipfile") {
            manifest.names.extend(keys(table(&pipfile, &["packages"])));
            let names = keys(table(&pipfile, &["dev-packages"]));
            manifest.development.push(Development {
                from: "Pipfile".into(),
                names,
                pip_arguments: Vec::new(),
            });
        }
        manifest.pyproject = pyproject;
        manifest
    }

    /// Whether a package is among the main dependencies.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.iter().any(|own| own == name)
    }

    fn read_requirements(&mut self, view: &View) {
        if let Some(text) = view.text("requirements.txt") {
            let lines = requirement_lines(&text);
            self.names.extend(lines.iter().map(|line| normal(line)));
            if !lines.is_empty() {
                self.pip_arguments.push("-r requirements.txt".into());
            }
        }
        let files = [
            "requirements-dev.txt",
            "dev-requirements.txt",
            "requirements-test.txt",
            "test-requirements.txt",
            "requirements/dev.txt",
            "requirements/test.txt",
        ];
        for file in files {
            if let Some(text) = view.text(file) {
                self.files.push(file.to_owned());
                self.development.push(Development {
                    from: file.to_owned(),
                    names: requirement_lines(&text)
                        .iter()
                        .map(|line| normal(line))
                        .collect(),
                    pip_arguments: vec![format!("-r {file}")],
                });
            }
        }
    }

    fn read_pyproject(&mut self, view: &View, pyproject: &Table) {
        let own = texts(pyproject, &["project", "dependencies"]);
        self.names.extend(own.iter().map(|line| normal(line)));
        // A package that builds is installed as one; otherwise its dependencies are, one by one.
        let sources = view.has_folder("src") || view.has("setup.py");
        if pyproject.contains_key("build-system") && pyproject.contains_key("project") && sources {
            self.pip_arguments.push(".".into());
        } else if self.pip_arguments.is_empty() {
            self.pip_arguments
                .extend(own.iter().map(|line| quoted(line)));
        }
        if !pyproject.contains_key("project")
            && self.pip_arguments.is_empty()
            && view.has("setup.py")
        {
            self.pip_arguments.push(".".into());
        }
        let groups = table(pyproject, &["dependency-groups"])
            .into_iter()
            .chain(table(pyproject, &["project", "optional-dependencies"]));
        for (_, group) in groups.flatten() {
            let lines: Vec<&str> = group
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            self.development.push(Development {
                from: "pyproject.toml".into(),
                names: lines.iter().map(|line| normal(line)).collect(),
                pip_arguments: lines.iter().map(|line| quoted(line)).collect(),
            });
        }
        self.names
            .extend(keys(table(pyproject, &["tool", "poetry", "dependencies"])));
        let legacy = keys(table(pyproject, &["tool", "poetry", "dev-dependencies"]));
        let groups = table(pyproject, &["tool", "poetry", "group"])
            .into_iter()
            .flatten();
        let grouped = groups
            .filter_map(|(_, group)| group.as_table())
            .flat_map(|group| keys(table(group, &["dependencies"])));
        let names: Vec<String> = legacy.into_iter().chain(grouped).collect();
        if !names.is_empty() {
            self.development.push(Development {
                from: "pyproject.toml".into(),
                names,
                pip_arguments: Vec::new(),
            });
        }
    }
}

fn table<'a>(root: &'a Table, path: &[&str]) -> Option<&'a Table> {
    path.iter()
        .try_fold(root, |table, key| table.get(*key)?.as_table())
}

fn keys(table: Option<&Table>) -> Vec<String> {
    table
        .into_iter()
        .flatten()
        .map(|(name, _)| normal(name))
        .filter(|name| name != "python")
        .collect()
}

fn texts(root: &Table, path: &[&str]) -> Vec<String> {
    let Some((last, parents)) = path.split_last() else {
        return Vec::new();
    };
    let list = table(root, parents)
        .and_then(|table| table.get(*last))
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Lines of a requirements file that install something.
fn requirement_lines(text: &str) -> Vec<String> {
    let joined = text.replace("\\\n", " ");
    let line = |line: &str| {
        line.split(" #")
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    joined
        .lines()
        .map(line)
        .filter(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("--"))
        .collect()
}

/// The name of a requirement in normal form: `FastAPI[standard]>=0.1` is `fastapi`.
fn normal(requirement: &str) -> String {
    let name = requirement
        .trim()
        .split(|c: char| !(c.is_ascii_alphanumeric() || "._-".contains(c)))
        .next()
        .unwrap_or_default();
    let mut text = String::new();
    for c in name.chars() {
        let c = if "._-".contains(c) {
            '-'
        } else {
            c.to_ascii_lowercase()
        };
        if c != '-' || !text.ends_with('-') {
            text.push(c);
        }
    }
    text
}
