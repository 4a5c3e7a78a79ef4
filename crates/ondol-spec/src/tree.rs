//! The files of a repository, as this crate sees them. Walking a directory or a git tree is the
//! caller's business: this crate does no I/O.

use std::collections::BTreeMap;

use ondol_types::RelPath;

/// The files of one commit.
pub trait Tree {
    /// Every regular file. Symbolic links, submodules and `.git` are left out.
    fn files(&self) -> Box<dyn Iterator<Item = RelPath> + '_>;

    /// The content of one file; `None` when there is none or it cannot be read.
    fn read(&self, path: &RelPath) -> Option<Vec<u8>>;
}

/// Files in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryTree(BTreeMap<RelPath, Vec<u8>>);

impl MemoryTree {
    /// No files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a file.
    pub fn insert(&mut self, path: RelPath, content: impl Into<Vec<u8>>) {
        self.0.insert(path, content.into());
    }
}

impl FromIterator<(RelPath, Vec<u8>)> for MemoryTree {
    fn from_iter<T: IntoIterator<Item = (RelPath, Vec<u8>)>>(files: T) -> Self {
        Self(files.into_iter().collect())
    }
}

impl Tree for MemoryTree {
    fn files(&self) -> Box<dyn Iterator<Item = RelPath> + '_> {
        Box::new(self.0.keys().cloned())
    }

    fn read(&self, path: &RelPath) -> Option<Vec<u8>> {
        self.0.get(path).cloned()
    }
}
