//! The directory that gateways, keeper and control plane meet in.
//!
//! Socket names are resolved through the directory's own descriptor, because the path of a data
//! directory may be longer than a socket address can hold. Files are replaced atomically:
//! temporary name, fsync, rename, fsync of the directory.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::GatewayError;

/// An opened run directory.
#[derive(Debug, Clone)]
pub(crate) struct RunDir {
    path: PathBuf,
    descriptor: Arc<OwnedFd>,
}

impl RunDir {
    /// Opens the directory, making it for its owner only when it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, GatewayError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| GatewayError::io("make the directory", path, source))?;
        let descriptor = rustix::fs::open(
            path,
            OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
            Mode::empty(),
        )
        .map_err(|source| GatewayError::io("open the directory", path, source))?;
        Ok(Self {
            path: path.to_owned(),
            descriptor: Arc::new(descriptor),
        })
    }

    /// The directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A short path for a socket in it, whatever the length of the directory's own.
    pub(crate) fn socket_path(&self, name: &str) -> PathBuf {
        let direct = self.path.join(name);
        if direct.as_os_str().len() < 100 {
            return direct;
        }
        PathBuf::from(format!(
            "/proc/self/fd/{}/{name}",
            self.descriptor.as_raw_fd()
        ))
    }

    /// Binds a control socket that only its owner may use.
    pub(crate) fn bind(
        &self,
        name: &str,
    ) -> Result<std::os::unix::net::UnixListener, GatewayError> {
        let path = self.socket_path(name);
        let listener = std::os::unix::net::UnixListener::bind(&path).map_err(|source| {
            GatewayError::io("bind the control socket", self.join(name), source)
        })?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(|source| {
            GatewayError::io("restrict the control socket", self.join(name), source)
        })?;
        Ok(listener)
    }

    /// Replaces a file in one step. A `durable` one is on disk when this returns.
    pub(crate) fn write_atomic(
        &self,
        name: &str,
        bytes: &[u8],
        durable: bool,
    ) -> Result<(), GatewayError> {
        let temporary = self.join(&format!(".{name}.{}.tmp", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(bytes)?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&temporary, self.join(name))
        })();
        if let Err(source) = written {
            let _ = fs::remove_file(&temporary);
            return Err(GatewayError::io("write", self.join(name), source));
        }
        if durable { self.sync() } else { Ok(()) }
    }

    /// Makes renames in the directory durable.
    pub(crate) fn sync(&self) -> Result<(), GatewayError> {
        rustix::fs::fsync(&*self.descriptor)
            .map_err(|source| GatewayError::io("make durable", self.path.clone(), source))
    }

    /// Waits for the exclusive lock of a file; it lasts as long as what is returned.
    pub(crate) fn lock(&self, name: &str) -> Result<File, GatewayError> {
        let file = self.open_lock(name)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|source| GatewayError::io("lock", self.join(name), source))?;
        Ok(file)
    }

    /// The exclusive lock of a file, or nothing when somebody else has it.
    pub(crate) fn try_lock(&self, name: &str) -> Result<Option<File>, GatewayError> {
        let file = self.open_lock(name)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(source) => Err(GatewayError::io("lock", self.join(name), source)),
        }
    }

    fn open_lock(&self, name: &str) -> Result<File, GatewayError> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.join(name))
            .map_err(|source| GatewayError::io("open the lock", self.join(name), source))
    }

    /// Makes a lock file that is held from the moment its name exists, so that nobody ever takes
    /// a living owner for a dead one.
    pub(crate) fn create_held(&self, name: &str) -> Result<File, GatewayError> {
        let temporary = format!(".{name}.new");
        let file = self.lock(&temporary)?;
        fs::rename(self.join(&temporary), self.join(name))
            .map_err(|source| GatewayError::io("make the lock", self.join(name), source))?;
        Ok(file)
    }

    /// Whether somebody holds the lock file. A missing one is held by nobody.
    pub(crate) fn is_held(&self, name: &str) -> bool {
        let Ok(file) = File::open(self.join(name)) else {
            return false;
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(errno) => errno == rustix::io::Errno::WOULDBLOCK,
        }
    }

    /// The middle parts of all names `{prefix}…{suffix}`, sorted.
    pub(crate) fn list(&self, prefix: &str, suffix: &str) -> Result<Vec<String>, GatewayError> {
        let entries = fs::read_dir(&self.path)
            .map_err(|source| GatewayError::io("list", self.path.clone(), source))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry =
                entry.map_err(|source| GatewayError::io("list", self.path.clone(), source))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(middle) = name
                .strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix(suffix))
            {
                found.push(middle.to_owned());
            }
        }
        found.sort();
        Ok(found)
    }

    /// Removes a file if it is there.
    pub(crate) fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.join(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_work_below_a_path_longer_than_a_socket_address() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("run");
        let run = RunDir::open(&deep).unwrap();
        let _listener = run.bind("a.sock").unwrap();
        std::os::unix::net::UnixStream::connect(run.socket_path("a.sock")).unwrap();
        assert_eq!(run.list("", ".sock").unwrap(), ["a"]);
    }

    #[test]
    fn a_held_lock_shows_until_its_owner_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        let held = run.create_held("x.lock").unwrap();
        assert!(run.is_held("x.lock") && run.try_lock("x.lock").unwrap().is_none());
        drop(held);
        assert!(!run.is_held("x.lock") && !run.is_held("missing.lock"));
    }
}
