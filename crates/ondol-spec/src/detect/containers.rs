//! Dockerfile, Containerfile and compose files: named, because they need the container engine.

use super::{Findings, View};
use crate::model::Language;
use crate::resolve::Note;

pub(super) fn apply(view: &View, findings: &mut Findings, wanted: Option<Language>) {
    if let Some(file) = view.first(&["Dockerfile", "Containerfile"]) {
        let alone = findings.evidence.is_empty() && findings.service.is_none();
        if wanted == Some(Language::Dockerfile) || (wanted.is_none() && alone) {
            findings.language = Language::Dockerfile;
            findings.evidence = file.to_owned();
            findings.dockerfile = Some(file.to_owned());
        } else {
            let message = format!(
                "{file} is not used: it needs the container engine, and the commands of {} do without",
                shown(findings)
            );
            let note = Note::new("dockerfile-unused", message);
            findings
                .notes
                .push(note.hint(format!("set `build.dockerfile: {file}` to build with it")));
        }
    }
    let compose = [
        "compose.yaml",
        "compose.yml",
        "docker-compose.yaml",
        "docker-compose.yml",
    ];
    if let Some(file) = view.first(&compose) {
        let note = Note::new(
            "compose-unused",
            format!("{file} is not used: its services need the container engine"),
        );
        findings.notes.push(note.hint("name the command of this project by `service.run`, and run its other services as projects"));
    }
}

fn shown(findings: &Findings) -> &str {
    if findings.evidence.is_empty() {
        "the Procfile or ondol.yaml"
    } else {
        &findings.evidence
    }
}
