//! Procfile: `web:` is the service, `release:` the release command.

use super::{Findings, Found, View};
use crate::resolve::Note;

pub(super) fn apply(view: &View, findings: &mut Findings) {
    let Some(text) = view.text("Procfile") else {
        return;
    };
    let mut others: Vec<&str> = Vec::new();
    for line in text.lines() {
        let Some((name, command)) = line.split_once(':') else {
            continue;
        };
        let (name, command) = (name.trim(), command.trim());
        let word = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        if !word || command.is_empty() {
            continue;
        }
        match name {
            "web" => {
                findings.service = Some(Found::new(command, "Procfile"));
                findings.declared = true;
            }
            "release" => findings.release = Some(Found::new(command, "Procfile")),
            other => others.push(other),
        }
    }
    if !others.is_empty() {
        others.truncate(10);
        let message = format!(
            "the Procfile also names {}; only `web` and `release` are used",
            others.join(", ")
        );
        let note = Note::new("procfile-types", message);
        findings
            .notes
            .push(note.hint("run other process types as projects of their own"));
    }
}
