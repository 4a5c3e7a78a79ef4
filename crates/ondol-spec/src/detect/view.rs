//! The repository as detectors look at it: bounded, and without what tools generate.

use std::collections::BTreeSet;

use ondol_types::RelPath;

use crate::tree::Tree;

/// More files than this are not looked at.
const MAX_FILES: usize = 200_000;
/// Larger files than this are not read.
const MAX_READ: usize = 1 << 20;
/// Folders whose content somebody else wrote.
const FOREIGN: &[&str] = &[
    "node_modules",
    ".venv",
    "venv",
    "vendor",
    "target",
    "__pycache__",
    ".git",
    "site-packages",
];

/// The repository as detectors look at it.
pub(crate) struct View<'a> {
    tree: &'a dyn Tree,
    files: BTreeSet<String>,
}

impl<'a> View<'a> {
    pub(crate) fn new(tree: &'a dyn Tree) -> Self {
        let own = |path: &RelPath| !path.components().any(|part| FOREIGN.contains(&part));
        let files = tree
            .files()
            .take(MAX_FILES)
            .filter(own)
            .map(|path| path.as_str().to_owned())
            .collect();
        Self { tree, files }
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    /// The first of these files that exists.
    pub(crate) fn first<'p>(&self, paths: &[&'p str]) -> Option<&'p str> {
        paths.iter().copied().find(|path| self.has(path))
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str)
    }

    /// Files without a folder.
    pub(crate) fn root_files(&self) -> impl Iterator<Item = &str> {
        self.files().filter(|path| !path.contains('/'))
    }

    pub(crate) fn has_folder(&self, folder: &str) -> bool {
        let prefix = format!("{folder}/");
        self.files
            .range(prefix.clone()..)
            .next()
            .is_some_and(|path| path.starts_with(&prefix))
    }

    /// The content of a file as text; what is not UTF-8 is replaced.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        if !self.has(path) {
            return None;
        }
        let bytes = self.tree.read(&path.parse().ok()?)?;
        (bytes.len() <= MAX_READ).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(crate) fn json(&self, path: &str) -> Option<serde_json::Value> {
        serde_json::from_str(&self.text(path)?).ok()
    }

    pub(crate) fn toml(&self, path: &str) -> Option<toml::Table> {
        self.text(path)?.parse().ok()
    }
}
