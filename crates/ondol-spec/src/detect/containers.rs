//! Dockerfile, Containerfile and Compose files: named, because they need the container engine.

use super::{Findings, Found, Request, View};
use crate::compose::{ComposeProject, ComposeSources, FILE_NAMES, ServiceKind, read_compose};
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
}

/// The Compose project of the repository, where no command of its own is named. What is wrong with it
/// is said, and is no mistake of the specification: the file may be there for developers only.
pub(super) fn compose(
    tree: &dyn crate::Tree,
    view: &View,
    findings: &mut Findings,
    runs_service: bool,
) -> Option<ComposeProject> {
    let file = view.first(&FILE_NAMES)?;
    if runs_service {
        let note = Note::new(
            "compose-unused",
            format!("{file} is not used: its services need the container engine"),
        );
        findings.notes.push(note.hint("name the command of this project by `service.run`, and run its other services as projects"));
        return None;
    }
    match read_compose(&ComposeSources::of(tree)) {
        Ok(project) => {
            let project = project?;
            findings.notes.push(described(file, &project, findings));
            // Which secrets are set is not known here.
            let known = |note: &&Note| note.code != "spec.note.compose-secrets";
            let notices = project.notices.iter().filter(known);
            findings.notes.extend(notices.cloned());
            Some(project)
        }
        Err(error) => {
            let note = Note::new("compose-invalid", format!("{file} is not used: {error}"));
            findings.notes.push(match &error.fault().hint {
                Some(hint) => note.hint(hint.clone()),
                None => note,
            });
            None
        }
    }
}

/// The services in the order in which they start, each with what people look for.
fn described(file: &str, project: &ComposeProject, findings: &Findings) -> Note {
    let services = project.layers().into_iter().flatten().map(|name| {
        let service = &project.services[&name];
        let from = match (&service.build, &service.image) {
            (Some(build), _) => {
                let folder = build.context.as_ref().map_or(".", |path| path.as_str());
                format!("built from {folder}")
            }
            (None, Some(image)) => image.to_string(),
            (None, None) => String::new(),
        };
        let job = match service.kind {
            ServiceKind::Job => ", runs once",
            ServiceKind::Service => "",
        };
        let route = match &service.route {
            Some(route) => format!(", route to {}", route.port),
            None => String::new(),
        };
        format!("{name} ({from}{job}{route})")
    });
    let services: Vec<String> = services.collect();
    let message = format!("{file} describes {}", services.join(", "));
    let note = Note::new("compose-project", message);
    match &findings.service {
        Some(service) => note.hint(format!(
            "these services are not deployed together: `{}` is, detected from {}",
            service.value, service.from
        )),
        None => {
            note.hint("these services are not deployed together: name one command by `service.run`")
        }
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
