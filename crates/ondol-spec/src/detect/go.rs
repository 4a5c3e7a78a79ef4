//! Go: go.mod or main.go.

use super::{Findings, Found, View};
use crate::model::Language;
use crate::resolve::Note;

pub(super) fn detect(view: &View) -> Option<Findings> {
    let evidence = view.first(&["go.mod", "go.work", "main.go"])?;
    let mut findings = Findings::of(Language::Go, evidence);
    findings.tools = vec!["go".into()];
    if evidence == "go.work" {
        let note = Note::new(
            "workspace",
            "detected a Go workspace (go.work), whose modules have no single command",
        );
        findings
            .notes
            .push(note.hint("name `build.commands`, `test` and `service.run` in ondol.yaml"));
        return Some(findings);
    }
    let module = view.text("go.mod").unwrap_or_default();
    if view.has("go.sum") || module.contains("require") {
        findings.install = Some(Found::new("go mod download", evidence));
        findings.lock = ["go.mod", "go.sum"]
            .into_iter()
            .filter(|file| view.has(file))
            .map(str::to_owned)
            .collect();
    }
    if let Some(test) = view.files().find(|path| path.ends_with("_test.go")) {
        findings.test = Some(Found::new("go test ./...", test));
    }
    let Some((package, source)) = main_package(view, &module, &mut findings.notes) else {
        // A library: it is tested, and nothing is kept running.
        return Some(findings);
    };
    let build = format!(r#"CGO_ENABLED=0 go build -ldflags="-w -s" -o bin/app {package}"#);
    findings.commands.push(Found::new(build, source.clone()));
    findings.service = Some(Found::new("./bin/app", source));
    findings.declared = true;
    Some(findings)
}

/// The package to build and the file that holds its `main`.
fn main_package(view: &View, module: &str, notes: &mut Vec<Note>) -> Option<(String, String)> {
    let is_main = |path: &str| {
        path.ends_with(".go")
            && !path.ends_with("_test.go")
            && view.text(path).is_some_and(|text| {
                text.lines().any(|line| line.trim_start() == "package main")
                    && text.contains("func main()")
            })
    };
    if let Some(file) = view.root_files().find(|path| is_main(path)) {
        return Some((".".into(), file.to_owned()));
    }
    let mut folders: Vec<(String, String)> = Vec::new();
    for path in view
        .files()
        .filter(|path| path.starts_with("cmd/") && path.matches('/').count() == 2)
    {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        if folders.iter().all(|(known, _)| known != folder) && is_main(path) {
            folders.push((folder.to_owned(), path.to_owned()));
        }
    }
    let name = module
        .lines()
        .find_map(|line| line.strip_prefix("module "))
        .unwrap_or_default()
        .trim();
    let name = name.rsplit('/').next().unwrap_or_default();
    let wanted = [name, "server", "web", "api", "app"];
    let index = wanted.iter().find_map(|wanted| {
        folders
            .iter()
            .position(|(folder, _)| folder.strip_prefix("cmd/") == Some(wanted))
    });
    if folders.len() > 1 && index.is_none() {
        let names: Vec<&str> = folders.iter().map(|(folder, _)| folder.as_str()).collect();
        let note = Note::new(
            "several-programs",
            format!(
                "several Go programs could be the service: {}",
                names.join(", ")
            ),
        );
        notes.push(note.hint("name `build.commands` and `service.run` in ondol.yaml"));
        return None;
    }
    let (folder, source) = folders.into_iter().nth(index.unwrap_or(0))?;
    Some((format!("./{folder}"), source))
}
