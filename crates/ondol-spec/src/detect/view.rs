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
        Self::of(tree, own)
    }

    /// With what tools generate as well: for files that name paths of the repository themselves.
    pub(crate) fn whole(tree: &'a dyn Tree) -> Self {
        Self::of(tree, |_| true)
    }

    fn of(tree: &'a dyn Tree, wanted: impl Fn(&RelPath) -> bool) -> Self {
        let files = tree
            .files()
            .take(MAX_FILES)
            .filter(wanted)
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
        self.below(folder).next().is_some()
    }

    /// The files of a folder and its folders, in order.
    pub(crate) fn below(&self, folder: &str) -> impl Iterator<Item = &str> {
        let prefix = format!("{folder}/");
        self.files
            .range(prefix.clone()..)
            .take_while(move |path| path.starts_with(&prefix))
            .map(String::as_str)
    }

    /// The content of a file as it is; `None` when there is none.
    pub(crate) fn bytes(&self, path: &str) -> Option<Vec<u8>> {
        if !self.has(path) {
            return None;
        }
        self.tree.read(&path.parse().ok()?)
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
