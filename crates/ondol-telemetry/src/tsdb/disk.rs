//! Files that are there whole or not at all.
//!
//! Every step that changes the disk is announced to [`Steps`] first, so that a test can fail or
//! kill at each of them. A file is written under a temporary name, synced, renamed, and its
//! directory synced; a temporary file that is found at start is what a crash left and is deleted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ondol_types::CrashPoints;

/// The end of names that are not published yet.
pub(crate) const TEMPORARY: &str = ".tmp";

/// Told of each step that changes the disk, before it is done.
pub trait Steps: Send + Sync + 'static {
    /// An error here is what the step fails with.
    ///
    /// # Errors
    /// The step has to fail.
    fn before(&self, step: &'static str) -> io::Result<()>;
}

/// Steps that always go on, by way of the crash points of the process.
pub struct Going(pub Arc<dyn CrashPoints>);

impl Steps for Going {
    fn before(&self, step: &'static str) -> io::Result<()> {
        self.0.reached(step);
        Ok(())
    }
}

/// A directory whose changes are announced.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) root: PathBuf,
    pub(crate) steps: Arc<dyn Steps>,
}

impl Disk {
    pub(crate) fn new(root: PathBuf, steps: Arc<dyn Steps>) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        Ok(Self { root, steps })
    }

    pub(crate) fn below(&self, name: &str) -> io::Result<Self> {
        Self::new(self.root.join(name), Arc::clone(&self.steps))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Makes names of this directory durable.
    pub(crate) fn sync_names(&self, step: &'static str) -> io::Result<()> {
        self.steps.before(step)?;
        File::open(&self.root)?.sync_all()
    }

    /// A new file that must not exist, with its name durable.
    pub(crate) fn create(&self, name: &str, step: &'static str) -> io::Result<File> {
        self.steps.before(step)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path(name))?;
        File::open(&self.root)?.sync_all()?;
        Ok(file)
    }

    /// A new temporary file; one that a failure left is replaced.
    pub(crate) fn create_temporary(&self, name: &str, step: &'static str) -> io::Result<File> {
        self.steps.before(step)?;
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(name))
    }

    /// Gives a synced file its name.
    pub(crate) fn publish(&self, from: &str, to: &str, step: &'static str) -> io::Result<()> {
        self.steps.before(step)?;
        fs::rename(self.path(from), self.path(to))?;
        File::open(&self.root)?.sync_all()
    }

    /// Deletes a file; one that is gone is no error.
    pub(crate) fn delete(&self, name: &str, step: &'static str) -> io::Result<()> {
        self.steps.before(step)?;
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Moves a file aside, where nothing reads it.
    pub(crate) fn set_aside(&self, name: &str, aside: &Path) -> io::Result<()> {
        self.steps.before("telemetry.tsdb.quarantine")?;
        fs::create_dir_all(aside)?;
        fs::rename(self.path(name), aside.join(name))?;
        File::open(aside)?.sync_all()?;
        File::open(&self.root)?.sync_all()
    }

    /// The names in this directory, sorted, without what a crash left, which is deleted.
    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let Ok(name) = entry?.file_name().into_string() else {
                continue;
            };
            if name.ends_with(TEMPORARY) {
                let _ = fs::remove_file(self.path(&name));
            } else {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
}
