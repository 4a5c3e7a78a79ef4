//! Compose files from outside: a repository in memory, a project or an error out.

mod apps;
mod changes;
mod errors;
mod forms;
mod merging;
mod policy;
mod properties;

use std::collections::{BTreeMap, BTreeSet};

use ondol_spec::compose::{
    ComposeProject, ComposeService, ComposeSources, Permission, Permissions, read_compose,
};
use ondol_spec::{MemoryTree, SpecError};

/// A repository, and what a project has besides.
#[derive(Default)]
struct Given {
    files: MemoryTree,
    environment: BTreeMap<String, String>,
    secrets: BTreeSet<ondol_types::SecretName>,
    profiles: BTreeSet<String>,
    permissions: Permissions,
}

impl Given {
    fn new(compose: &str) -> Self {
        Self::default().file("compose.yaml", compose)
    }

    fn file(mut self, path: &str, content: &str) -> Self {
        self.files.insert(path.parse().unwrap(), content);
        self
    }

    fn variable(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn secret(mut self, name: &str) -> Self {
        self.secrets.insert(name.parse().unwrap());
        self
    }

    fn profile(mut self, name: &str) -> Self {
        self.profiles.insert(name.to_owned());
        self
    }

    fn allow(mut self, permission: Permission) -> Self {
        self.permissions.insert(permission);
        self
    }

    fn read(&self) -> Result<ComposeProject, SpecError> {
        let sources = ComposeSources {
            environment: &self.environment,
            secrets: &self.secrets,
            profiles: &self.profiles,
            permissions: &self.permissions,
            ..ComposeSources::of(&self.files)
        };
        read_compose(&sources).map(|project| project.expect("there is a file"))
    }

    #[track_caller]
    fn project(&self) -> ComposeProject {
        self.read().unwrap_or_else(|error| panic!("{error}"))
    }
}

#[track_caller]
fn project(compose: &str) -> ComposeProject {
    Given::new(compose).project()
}

/// The service `web` of a file whose lines stand below it.
#[track_caller]
fn web(lines: &str) -> ComposeService {
    service(&project(&web_file(lines)), "web")
}

fn web_file(lines: &str) -> String {
    let body: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("services:\n  web:\n    image: app\n{body}")
}

#[track_caller]
fn service(project: &ComposeProject, name: &str) -> ComposeService {
    project.services[&name.parse().unwrap()].clone()
}

fn codes(project: &ComposeProject) -> Vec<&str> {
    project
        .notices
        .iter()
        .map(|note| note.code.trim_start_matches("spec.note.compose-"))
        .collect()
}

/// Environment as people read it.
fn environment(service: &ComposeService) -> BTreeMap<&str, String> {
    service
        .environment
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_string()))
        .collect()
}

fn words(command: &Option<Vec<ondol_spec::compose::Template>>) -> Option<Vec<String>> {
    command
        .as_ref()
        .map(|words| words.iter().map(ToString::to_string).collect())
}
