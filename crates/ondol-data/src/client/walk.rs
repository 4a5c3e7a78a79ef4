//! Which files a path stands for.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ondol_types::RelPath;

use crate::error::{DataError, DataResult};

/// The deepest folder below the path that is pushed.
const MAX_DEPTH: usize = 64;

/// A file to push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Where it will lie in the dataset.
    pub path: RelPath,
    /// Where it lies here.
    pub local: PathBuf,
    /// Whether it is a program.
    pub executable: bool,
    /// Its length in bytes when it was found.
    pub size: u64,
}

fn refuse(path: &Path, problem: &str, hint: &'static str) -> DataError {
    DataError::Path {
        path: path.to_owned(),
        problem: problem.to_owned(),
        hint,
    }
}

/// The files that `path` stands for: itself, or everything below it, sorted. A symbolic link is
/// refused below the path, because what it points to may lie anywhere; the path itself may be one.
///
/// # Errors
/// [`DataError::Path`] names what cannot be pushed, [`DataError::Io`] what cannot be read.
pub fn walk(path: &Path, max_files: usize) -> DataResult<Vec<LocalFile>> {
    let metadata = fs::metadata(path).map_err(DataError::io("read", path))?;
    if metadata.is_file() {
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .ok_or_else(|| refuse(path, "its name is not UTF-8", "rename the file"))?;
        return Ok(vec![file(path, name, &metadata)?]);
    }
    if !metadata.is_dir() {
        return Err(refuse(
            path,
            "is neither a file nor a folder",
            "push a file or a folder",
        ));
    }
    let mut files = Vec::new();
    let mut folders = vec![(path.to_owned(), String::new(), 0)];
    while let Some((folder, prefix, depth)) = folders.pop() {
        if depth > MAX_DEPTH {
            return Err(refuse(
                &folder,
                "lies too deep below the path that is pushed",
                "push a folder with fewer levels",
            ));
        }
        let entries = fs::read_dir(&folder).map_err(DataError::io("list", &folder))?;
        for entry in entries {
            let entry = entry.map_err(DataError::io("list", &folder))?;
            let local = entry.path();
            let name = entry.file_name();
            let name = name
                .to_str()
                .ok_or_else(|| refuse(&local, "its name is not UTF-8", "rename the file"))?;
            let inner = format!("{prefix}{name}");
            let kind = entry
                .file_type()
                .map_err(DataError::io("look at", &local))?;
            if kind.is_dir() {
                folders.push((local, format!("{inner}/"), depth + 1));
                continue;
            }
            if kind.is_symlink() {
                return Err(refuse(
                    &local,
                    "is a symbolic link",
                    "replace the link by the file it points to, or push that folder as a dataset of its own",
                ));
            }
            if !kind.is_file() {
                return Err(refuse(
                    &local,
                    "is neither a file nor a folder",
                    "remove sockets, pipes and devices from the folder",
                ));
            }
            if files.len() >= max_files {
                return Err(DataError::TooLarge {
                    what: format!("the number of files below {}", path.display()),
                    actual: files.len() as u64 + 1,
                    limit: max_files as u64,
                });
            }
            let metadata = entry.metadata().map_err(DataError::io("look at", &local))?;
            files.push(file(&local, &inner, &metadata)?);
        }
    }
    if files.is_empty() {
        return Err(refuse(
            path,
            "has no files",
            "push a folder with at least one file",
        ));
    }
    files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn file(local: &Path, path: &str, metadata: &fs::Metadata) -> DataResult<LocalFile> {
    Ok(LocalFile {
        path: path.parse().map_err(|_| {
            refuse(
                local,
                "its name cannot stand in a dataset",
                "use names without backslash and of at most 255 bytes",
            )
        })?,
        local: local.to_owned(),
        executable: metadata.permissions().mode() & 0o111 != 0,
        size: metadata.len(),
    })
}
