//! The data directory: its layout, its format version, and the lock that keeps a second
//! control plane out.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::StoreError;

const FORMAT: u32 = 1;
const FOLDERS: &[&str] = &[
    "blobs",
    "git",
    "telemetry",
    "volumes",
    "keys",
    "workloads",
    "cache",
    "run",
];

/// An opened data directory; dropping it releases the lock.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes or opens a data directory and takes its lock.
    ///
    /// # Errors
    /// [`StoreError::InUse`] when another process holds it, [`StoreError::NewerData`] when a
    /// newer version made it, [`StoreError::Io`] when it cannot be made.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(StoreError::io("create the data directory", path))?;
        let root = path
            .canonicalize()
            .map_err(StoreError::io("resolve the data directory", path))?;
        let lock_path = root.join("ondol.lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(StoreError::io("open", &lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut holder = String::new();
            let _ = lock.read_to_string(&mut holder);
            let holder = Some(holder.trim().to_owned()).filter(|text| !text.is_empty());
            return Err(StoreError::InUse { path: root, holder });
        }
        let write_holder = || -> std::io::Result<()> {
            lock.set_len(0)?;
            let mut writer = &lock;
            writeln!(writer, "{}", std::process::id())
        };
        write_holder().map_err(StoreError::io("write", &lock_path))?;
        check_format(&root)?;
        for folder in FOLDERS {
            let path = root.join(folder);
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(StoreError::io("create", &path)(error));
                }
                _ => {}
            }
        }
        Ok(Self { root, _lock: lock })
    }

    /// The directory itself, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder of the layout, such as `git` or `run`.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

fn check_format(root: &Path) -> Result<(), StoreError> {
    let path = root.join("format");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let found = text.trim().parse().unwrap_or(u32::MAX);
            if found > FORMAT {
                return Err(StoreError::NewerData {
                    path: root.to_owned(),
                    found,
                    known: FORMAT,
                });
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::write(&path, format!("{FORMAT}\n")).map_err(StoreError::io("write", path))
        }
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_opener_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let refused = DataDir::open(dir.path()).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains(&std::process::id().to_string()),
            "{refused}"
        );
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        fs::write(dir.path().join("format"), "99\n").unwrap();
        assert!(matches!(
            DataDir::open(dir.path()),
            Err(StoreError::NewerData { found: 99, .. })
        ));
    }
}
