//! Dockerfile, Containerfile and compose files: named, because they need the container engine.

use super::{Findings, Found, Request, View};
use crate::model::Language;
use crate::resolve::Note;

pub(super) fn apply(view: &View, findings: &mut Findings, request: &Request) {
    let wanted = request.language;
    if let Some(file) = &request.dockerfile {
        image_serves(findings, file);
    } else if let Some(file) = view.first(&["Dockerfile", "Containerfile"]) {
        let alone = findings.evidence.is_empty() && findings.service.is_none();
        if wanted.is_none() && scripts_only(findings) {
            *findings = Findings {
                notes: std::mem::take(&mut findings.notes),
                release: findings.release.take(),
                ..Findings::of(Language::Dockerfile, file)
            };
            findings.dockerfile = Some(file.to_owned());
            image_serves(findings, file);
        } else if wanted == Some(Language::Dockerfile) || (wanted.is_none() && alone) {
            findings.language = Language::Dockerfile;
            findings.evidence = file.to_owned();
            findings.dockerfile = Some(file.to_owned());
            image_serves(findings, file);
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

/// Whether nothing but scripts was found: a Dockerfile says more about them than their names.
fn scripts_only(findings: &Findings) -> bool {
    let by_procfile = findings
        .service
        .as_ref()
        .is_some_and(|service| service.from == "Procfile");
    findings.language == Language::Python
        && findings.evidence.ends_with(".py")
        && !["setup.py", "manage.py"].contains(&findings.evidence.as_str())
        && !by_procfile
}

/// The image has a command of its own, whatever else the repository has; which port it listens on,
/// it says when it is built.
fn image_serves(findings: &mut Findings, file: &str) {
    if findings
        .service
        .as_ref()
        .is_some_and(|service| service.from == "Procfile")
    {
        return;
    }
    findings.service = Some(Found::new("", file));
    findings.declared = true;
    findings.service_env.clear();
}

fn shown(findings: &Findings) -> &str {
    if findings.evidence.is_empty() {
        "the Procfile or ondol.yaml"
    } else {
        &findings.evidence
    }
}
