//! Files that are served as they are: Staticfile, public/, index.html.

use super::{Findings, Found, View, quoted};
use crate::model::Language;

pub(super) fn detect(view: &View) -> Option<Findings> {
    let (root, evidence) = root(view)?;
    let mut findings = Findings::of(Language::Static, evidence.clone());
    findings.service = Some(serve(&root, evidence));
    findings.declared = true;
    Some(findings)
}

/// The folder to serve and the file that says so.
pub(super) fn root(view: &View) -> Option<(String, String)> {
    if let Some(text) = view.text("Staticfile") {
        let root = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("root:"))
            .map(|root| root.trim().trim_matches(['"', '\'']));
        let root = root
            .unwrap_or(".")
            .trim_end_matches('/')
            .trim_start_matches("./");
        let safe = root.is_empty() || root == "." || root.parse::<ondol_types::RelPath>().is_ok();
        let root = if safe && !root.is_empty() { root } else { "." };
        return Some((root.to_owned(), "Staticfile".to_owned()));
    }
    for folder in ["public", "dist", "www", "_site"] {
        let index = format!("{folder}/index.html");
        if view.has(&index) {
            return Some((folder.to_owned(), index));
        }
    }
    view.has("index.html")
        .then(|| (".".to_owned(), "index.html".to_owned()))
}

/// The command that serves a folder.
pub(super) fn serve(root: &str, from: impl Into<String>) -> Found {
    Found::new(format!("ondol static-server --root {}", quoted(root)), from)
}
