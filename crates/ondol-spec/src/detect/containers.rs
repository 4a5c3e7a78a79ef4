//! Dockerfile, Containerfile and compose files: named, because they need the container engine.

use super::{Findings, Found, Request, View};
use crate::model::Language;
use crate::resolve::Note;

pub(super) fn apply(view: &View, findings: &mut Findings, request: &Request) {
    let wanted = request.language;
    if let Some(file) = &request.dockerfile {
        image_serves(view, findings, file);
    } else if let Some(file) = view.first(&["Dockerfile", "Containerfile"]) {
        let alone = findings.evidence.is_empty() && findings.service.is_none();
        if wanted == Some(Language::Dockerfile) || (wanted.is_none() && alone) {
            findings.language = Language::Dockerfile;
            findings.evidence = file.to_owned();
            findings.dockerfile = Some(file.to_owned());
            image_serves(view, findings, file);
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

/// The image has a command and perhaps a port of its own, whatever else the repository has.
fn image_serves(view: &View, findings: &mut Findings, file: &str) {
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
    findings.port = view.text(file).and_then(|text| exposed(&text));
}

/// The first TCP port that the last stage exposes.
fn exposed(dockerfile: &str) -> Option<u16> {
    let mut port = None;
    for line in dockerfile.lines() {
        let mut words = line.split_whitespace();
        let instruction = words.next().unwrap_or_default().to_ascii_uppercase();
        match instruction.as_str() {
            "FROM" => port = None,
            "EXPOSE" if port.is_none() => {
                let tcp = |word: &str| match word.split_once('/') {
                    Some((number, protocol)) => protocol
                        .eq_ignore_ascii_case("tcp")
                        .then(|| number.to_owned()),
                    None => Some(word.to_owned()),
                };
                port = words.filter_map(tcp).find_map(|word| word.parse().ok());
            }
            _ => {}
        }
    }
    port.filter(|port| *port != 0)
}

fn shown(findings: &Findings) -> &str {
    if findings.evidence.is_empty() {
        "the Procfile or ondol.yaml"
    } else {
        &findings.evidence
    }
}
