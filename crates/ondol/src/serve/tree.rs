//! The files of a folder, as the specification reads them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use ondol_spec::Tree;
use ondol_types::RelPath;

/// Folders that say nothing about a repository and may be huge.
const LEFT_OUT: &[&str] = &[
    ".git",
    "node_modules",
    ".venv",
    "venv",
    "target",
    "__pycache__",
];
const MAX_FILES: usize = 100_000;
const MAX_FILE_BYTES: u64 = 4 << 20;

/// A folder on disk. Links are left out, so nothing outside is ever read.
pub(crate) struct DirectoryTree {
    root: PathBuf,
    files: Vec<RelPath>,
}

impl DirectoryTree {
    /// Walks a folder.
    pub(crate) fn open(root: &Path) -> std::io::Result<Self> {
        let mut files = Vec::new();
        let mut pending = vec![String::new()];
        fs::read_dir(root)?;
        while let Some(folder) = pending.pop() {
            let Ok(entries) = fs::read_dir(root.join(&folder)) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                let path = if folder.is_empty() {
                    name.clone()
                } else {
                    format!("{folder}/{name}")
                };
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() && !LEFT_OUT.contains(&name.as_str()) => {
                        pending.push(path)
                    }
                    Ok(kind) if kind.is_file() => files.extend(path.parse::<RelPath>()),
                    _ => {}
                }
                if files.len() >= MAX_FILES {
                    break;
                }
            }
        }
        files.sort();
        Ok(Self {
            root: root.to_owned(),
            files,
        })
    }
}

impl Tree for DirectoryTree {
    fn files(&self) -> Box<dyn Iterator<Item = RelPath> + '_> {
        Box::new(self.files.iter().cloned())
    }

    fn read(&self, path: &RelPath) -> Option<Vec<u8>> {
        self.files.binary_search(path).ok()?;
        let mut bytes = Vec::new();
        fs::File::open(path.below(&self.root))
            .ok()?
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    }
}
