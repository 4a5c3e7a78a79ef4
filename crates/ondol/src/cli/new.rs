//! `ondol new`: a project from a built-in template.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Exit, Failure, Outcome};
use crate::output;

/// Make a project from a template: a folder with a git repository and a first commit.
///
/// Templates: `web` (a small Python service with tests) and `model` (train, gate and serve a
/// model from a table).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  ondol new web my-site\n  ondol new model iris")]
pub(crate) struct New {
    /// Which template.
    #[arg(value_enum)]
    template: Template,
    /// The folder to make.
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Template {
    /// A small Python web service with tests; no dependencies.
    Web,
    /// A model trained on a table and served; no dependencies.
    Model,
}

macro_rules! template {
    ($name:literal: $($file:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("../../templates/", $name, "/", $file)))),*]
    };
}

const WEB: &[(&str, &str)] =
    template!("web": "app.py", "test_app.py", "ondol.yaml", "README.md", "gitignore");
const MODEL: &[(&str, &str)] =
    template!("model": "ondol.yaml", "test_contract.py", "data/iris.csv", "README.md", "gitignore");

impl New {
    pub(crate) fn run(self) -> Outcome<Exit> {
        let files = match self.template {
            Template::Web => WEB,
            Template::Model => MODEL,
        };
        let occupied =
            std::fs::read_dir(&self.dir).is_ok_and(|mut entries| entries.next().is_some());
        if occupied {
            return Err(Failure::new(
                Exit::Conflict,
                format!("{} is not empty", self.dir.display()),
            )
            .hint("choose another folder"));
        }
        let project = folder_label(&self.dir)?;
        for (name, text) in files {
            let name = if *name == "gitignore" {
                ".gitignore"
            } else {
                name
            };
            let path = self.dir.join(name);
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .map_err(Failure::io(format!("create {}", folder.display())))?;
            }
            let text = text.replace("{{project}}", &project);
            std::fs::write(&path, text)
                .map_err(Failure::io(format!("write {}", path.display())))?;
        }
        first_commit(&self.dir)?;
        output::note(format!(
            "made {} from the template; next:",
            output::bold(&self.dir.display().to_string())
        ));
        output::note(format!("  cd {}", self.dir.display()));
        output::note("  ondol init");
        output::note("  git push ondol main");
        if matches!(self.template, Template::Model) {
            output::note(format!("  ondol data push {project} data/iris.csv"));
        }
        Ok(Exit::Success)
    }
}

fn folder_label(dir: &Path) -> Outcome<String> {
    std::fs::create_dir_all(dir).map_err(Failure::io(format!("create {}", dir.display())))?;
    crate::project::from_folder(dir).ok_or_else(|| {
        Failure::usage(format!(
            "the name of {} has no letter to name a project by",
            dir.display()
        ))
    })
}

fn first_commit(dir: &Path) -> Outcome {
    let git = |arguments: &[&str]| -> Outcome {
        let output = Command::new("git")
            .arg("-C")
            .arg(dir)
            .args(arguments)
            .output()
            .map_err(|error| {
                Failure::usage("cannot run git")
                    .because(error)
                    .hint("install git")
            })?;
        if output.status.success() {
            return Ok(());
        }
        Err(Failure::usage(format!("`git {}` failed", arguments[0]))
            .because(String::from_utf8_lossy(&output.stderr).trim()))
    };
    git(&["init", "--quiet", "--initial-branch=main"])?;
    git(&["add", "--all"])?;
    // Somebody who never told git their name still gets a first commit, under a neutral one.
    let identity = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["config", "user.email"])
        .output();
    let known = identity.is_ok_and(|output| output.status.success());
    let neutral = [
        "-c",
        "user.name=Ondol",
        "-c",
        "user.email=ondol@localhost",
        "commit",
        "--quiet",
        "-m",
        "First commit",
    ];
    if known {
        git(&neutral[4..])
    } else {
        git(&neutral)
    }
}
