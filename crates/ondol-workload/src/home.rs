//! The directory of one workload, and every file format in it.
//!
//! | entry | what | written by |
//! |---|---|---|
//! | `lock` | locked exclusively as long as the shim lives | shim |
//! | `spec.json` | what runs, without secrets | shim, before anything else |
//! | `identity.json` | shim and program as pid, start time, boot; the control group. Its presence for an incarnation means that the program may have run | shim, before and after the start |
//! | `exit.json` | how it ended, by atomic rename | shim; the engine for one that was lost |
//! | `unknown.json` | the container engine does not answer; there only while that is so | shim |
//! | `sock` | control socket | shim |
//! | `shim.err` | what a shim that failed said | shim |
//! | `work/`, `home/`, `tmp/` | the program's directories | engine |
//! | `secrets/` | secret files, removed at exit | shim |
//! | `log/` | see [`crate::log`] | shim |

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ondol_types::{ProjectName, RelPath, Timestamp, WorkloadId};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::cgroup::Dirs;
use crate::container::ContainerSpec;
use crate::error::EngineError;
use crate::model::{
    Command, Exit, Limits, LogPolicy, PortRequest, StopPolicy, WorkloadKind, WorkloadState,
};
use crate::procfs::ProcessIdentity;

/// The version of every file here and of the control protocol.
pub(crate) const VERSION: u32 = 1;

/// A stored file must not be larger than this to be read.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// `spec.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SpecFile {
    pub(crate) v: u32,
    pub(crate) id: WorkloadId,
    pub(crate) incarnation: u64,
    pub(crate) project: ProjectName,
    pub(crate) kind: WorkloadKind,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) command: Command,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) secret_env: Vec<String>,
    pub(crate) secret_files: Vec<RelPath>,
    pub(crate) work_dir: PathBuf,
    pub(crate) volumes: Vec<(PathBuf, RelPath)>,
    pub(crate) port: PortRequest,
    pub(crate) host_port: Option<u16>,
    pub(crate) limits: Limits,
    pub(crate) stop: StopPolicy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) log: LogPolicy,
    #[serde(default)]
    pub(crate) container: Option<Box<ContainerSpec>>,
}

/// `identity.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct IdentityFile {
    pub(crate) v: u32,
    pub(crate) incarnation: u64,
    pub(crate) shim: ProcessIdentity,
    pub(crate) child: Option<ProcessIdentity>,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) cgroup: Option<Dirs>,
    pub(crate) notices: Vec<String>,
    /// The container, where there is one; then `child` is its first process as this host sees it.
    #[serde(default)]
    pub(crate) container: Option<ContainerIdentity>,
}

/// Which container of which engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerIdentity {
    pub(crate) address: String,
    pub(crate) id: String,
}

/// `unknown.json`: the shim has lost sight of the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UnknownFile {
    pub(crate) v: u32,
    pub(crate) incarnation: u64,
    pub(crate) since: Timestamp,
    pub(crate) reason: String,
}

/// `exit.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExitFile {
    pub(crate) v: u32,
    pub(crate) incarnation: u64,
    pub(crate) exit: Exit,
}

/// A stored file that knows its version.
pub(crate) trait Versioned: Serialize + DeserializeOwned {
    fn version(&self) -> u32;
}

macro_rules! versioned {
    ($($name:ident),*) => {$(
        impl Versioned for $name {
            fn version(&self) -> u32 {
                self.v
            }
        }
    )*};
}
versioned!(SpecFile, IdentityFile, UnknownFile, ExitFile);

/// The variable by which processes of a workload are recognised when nothing else is left.
pub(crate) fn marker(id: &WorkloadId) -> String {
    format!("ONDOL_WORKLOAD_ID={id}")
}

/// The variable with the path of a secret file, for a file whose name can be part of one.
pub(crate) fn file_variable(path: &RelPath) -> Option<String> {
    let name = path.as_str();
    let fits = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    fits.then(|| format!("{name}_FILE"))
}

/// One workload's directory.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dir: PathBuf,
}

impl Home {
    pub(crate) fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    pub(crate) fn of(workloads: &Path, id: &WorkloadId) -> Self {
        Self::new(workloads.join(id.to_string()))
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.path("log")
    }

    pub(crate) fn spec(&self) -> Result<Option<SpecFile>, EngineError> {
        read(&self.path("spec.json"))
    }

    pub(crate) fn identity(&self) -> Result<Option<IdentityFile>, EngineError> {
        read(&self.path("identity.json"))
    }

    /// Why it cannot be told whether an incarnation runs, when that is so.
    pub(crate) fn unknown(&self, incarnation: u64) -> Result<Option<WorkloadState>, EngineError> {
        let file: Option<UnknownFile> = read(&self.path("unknown.json"))?;
        Ok(file
            .filter(|file| file.incarnation == incarnation)
            .map(|file| WorkloadState::Unknown {
                since: file.since,
                reason: file.reason,
            }))
    }

    /// The exit of an incarnation, if it has one.
    pub(crate) fn exit(&self, incarnation: u64) -> Result<Option<Exit>, EngineError> {
        let file: Option<ExitFile> = read(&self.path("exit.json"))?;
        Ok(file
            .filter(|file| file.incarnation == incarnation)
            .map(|file| file.exit))
    }

    pub(crate) fn write_spec(&self, spec: &SpecFile) -> io::Result<()> {
        write(&self.path("spec.json"), spec, true)
    }

    /// `durable` before the program starts: after a power cut, too, it must be known to have run.
    pub(crate) fn write_identity(&self, identity: &IdentityFile, durable: bool) -> io::Result<()> {
        write(&self.path("identity.json"), identity, durable)
    }

    /// `None` when the engine answers again.
    pub(crate) fn write_unknown(&self, unknown: Option<&UnknownFile>) -> io::Result<()> {
        let path = self.path("unknown.json");
        match unknown {
            Some(unknown) => write(&path, unknown, false),
            None => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        }
    }

    pub(crate) fn write_exit(&self, incarnation: u64, exit: &Exit) -> io::Result<()> {
        write(
            &self.path("exit.json"),
            &ExitFile {
                v: VERSION,
                incarnation,
                exit: exit.clone(),
            },
            true,
        )
    }

    /// Takes the lock of the workload, waiting a moment for somebody who only looks at it.
    pub(crate) fn lock(&self) -> io::Result<File> {
        let file = self.lock_file()?;
        for _ in 0..200 {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => return Err(error.into()),
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether a shim lives.
    pub(crate) fn is_locked(&self) -> bool {
        let Ok(file) = OpenOptions::new().read(true).open(self.path("lock")) else {
            return false;
        };
        matches!(
            flock(&file, FlockOperation::NonBlockingLockShared),
            Err(rustix::io::Errno::WOULDBLOCK)
        )
    }

    fn lock_file(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.path("lock"))
    }

    /// Calls `with` with a path of the control socket that is short however deep the data
    /// directory is: socket addresses end after 108 bytes.
    pub(crate) fn with_socket_path<T>(
        &self,
        with: impl FnOnce(&Path) -> io::Result<T>,
    ) -> io::Result<T> {
        let dir = File::open(&self.dir)?;
        with(Path::new(&format!(
            "/proc/self/fd/{}/sock",
            dir.as_raw_fd()
        )))
    }
}

/// Makes a directory that only its owner may enter.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Removes a tree. One that is not there is no error.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn read<T: Versioned>(path: &Path) -> Result<Option<T>, EngineError> {
    let bytes = match fs::metadata(path).map(|metadata| metadata.len()) {
        Ok(length) if length > MAX_FILE_BYTES => {
            return Err(EngineError::Stored {
                path: path.to_owned(),
                problem: format!("{length} bytes"),
            });
        }
        Ok(_) => fs::read(path),
        Err(error) => Err(error),
    };
    let bytes = match bytes {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EngineError::io("read", path)(error)),
    };
    let damaged = |problem: String| EngineError::Stored {
        path: path.to_owned(),
        problem,
    };
    let value: T = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
    if value.version() != VERSION {
        return Err(damaged(format!(
            "version {}, and this program knows {VERSION}",
            value.version()
        )));
    }
    Ok(Some(value))
}

fn write<T: Versioned>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let bytes = serde_json::to_vec(value)?;
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(&bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)?;
        if durable && let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(())
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Usage;

    fn exit() -> Exit {
        Exit {
            code: Some(3),
            signal: None,
            oom: false,
            timed_out: false,
            stopped: true,
            lost: false,
            at: Timestamp::from_micros(7),
            usage: Usage {
                cpu_seconds: 0.5,
                memory_bytes: 9,
                pids: 1,
            },
        }
    }

    #[test]
    fn an_exit_is_of_one_incarnation() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path());
        assert_eq!(home.exit(1).unwrap(), None);
        home.write_exit(1, &exit()).unwrap();
        assert_eq!(home.exit(1).unwrap(), Some(exit()));
        assert_eq!(home.exit(2).unwrap(), None);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_of_version_1_stay_readable() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"v":1,"incarnation":4,"exit":{"code":3,"signal":null,"oom":false,"timedOut":false,"stopped":true,
            "lost":false,"at":"1970-01-01T00:00:00.000007Z","usage":{"cpuSeconds":0.5,"memoryBytes":9,"pids":1}}}"#;
        fs::write(dir.path().join("exit.json"), text).unwrap();
        assert_eq!(Home::new(dir.path()).exit(4).unwrap(), Some(exit()));
    }

    #[test]
    fn newer_and_damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path());
        home.write_exit(1, &exit()).unwrap();
        let newer = fs::read_to_string(home.path("exit.json"))
            .unwrap()
            .replace("\"v\":1", "\"v\":2");
        fs::write(home.path("exit.json"), newer).unwrap();
        assert!(home.exit(1).unwrap_err().to_string().contains("version 2"));
        fs::write(home.path("exit.json"), "{").unwrap();
        assert!(home.exit(1).unwrap_err().to_string().contains("exit.json"));
    }

    #[test]
    fn a_lock_shows_life() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path());
        assert!(!home.is_locked());
        let held = home.lock().unwrap();
        assert!(home.is_locked() && home.is_locked());
        drop(held);
        assert!(!home.is_locked());
    }

    #[test]
    fn sockets_work_below_deep_directories() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120)).join("e".repeat(120));
        fs::create_dir_all(&deep).unwrap();
        let home = Home::new(&deep);
        let _listener = home
            .with_socket_path(|path| std::os::unix::net::UnixListener::bind(path))
            .unwrap();
        home.with_socket_path(|path| std::os::unix::net::UnixStream::connect(path))
            .unwrap();
    }
}
