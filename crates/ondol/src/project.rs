//! Which project a command means when nobody says.

use std::path::Path;
use std::process::Command;

use ondol_types::ProjectName;

use crate::error::{Exit, Failure, Outcome};

/// The name given, else the `ondol` git remote, else `project:` of `ondol.yaml`.
///
/// # Errors
/// When none of them names a project.
pub(crate) fn resolve(given: Option<&str>) -> Outcome<ProjectName> {
    if let Some(name) = given {
        return parse(name);
    }
    let here = Path::new(".");
    if let Some(name) = from_remote(here) {
        return parse(&name);
    }
    if let Some(name) = from_file(here) {
        return parse(&name);
    }
    Err(Failure::new(
        Exit::Usage,
        "which project? this folder has no `ondol` git remote",
    )
    .hint("say --project NAME, or run `ondol init` in the repository"))
}

/// Checks a project name that a person typed.
pub(crate) fn parse(name: &str) -> Outcome<ProjectName> {
    name.parse()
        .map_err(|error: ondol_types::NameError| Failure::usage(error.to_string()))
}

/// The project of the `ondol` remote of the repository around `dir`.
pub(crate) fn from_remote(dir: &Path) -> Option<String> {
    let output = Command::new("git")
        .arg("-C")
        .arg(dir)
        .args(["remote", "get-url", "ondol"])
        .output()
        .ok()?;
    let url = String::from_utf8(output.stdout).ok()?;
    let name = url
        .trim()
        .trim_end_matches('/')
        .rsplit('/')
        .next()?
        .strip_suffix(".git")?
        .to_owned();
    output.status.success().then_some(name)
}

/// The `project:` line of `ondol.yaml`.
pub(crate) fn from_file(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join("ondol.yaml")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("project:"))?;
    let name = line.split('#').next()?.trim().trim_matches(['"', '\'']);
    (!name.is_empty()).then(|| name.to_owned())
}

/// A project name made of a folder's name, as good as it gets.
pub(crate) fn from_folder(dir: &Path) -> Option<String> {
    let name = dir
        .canonicalize()
        .ok()?
        .file_name()?
        .to_string_lossy()
        .to_lowercase();
    let mut label = String::new();
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            label.push(c);
        } else if !label.is_empty() && !label.ends_with('-') {
            label.push('-');
        }
    }
    let label = label
        .trim_matches('-')
        .trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    (!label.is_empty()).then(|| label.chars().take(63).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_labels() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("My App_2!");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(from_folder(&folder).as_deref(), Some("my-app-2"));
    }
}
