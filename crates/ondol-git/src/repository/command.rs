//! How git is run: a scrubbed environment, configuration that no file can change, and no
//! argument that a user chose without having been a checked type before.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::child::GitChild;
use crate::error::GitError;

const STDERR_BYTES: usize = 8 * 1024;

/// Configuration of every git process. Command-line configuration wins over the repository's
/// own file, and the files of the machine and the user are not read at all.
const CONFIG: &[&str] = &[
    "safe.directory=*",
    "core.fsync=all",
    "core.fsyncMethod=fsync",
    "core.logAllRefUpdates=false",
    "core.fsmonitor=false",
    "core.bigFileThreshold=32m",
    "core.packedGitLimit=256m",
    "pack.windowMemory=64m",
    "pack.deltaCacheSize=64m",
    "pack.threads=2",
    "pack.packSizeLimit=0",
    "transfer.fsckObjects=true",
    "receive.fsckObjects=true",
    "fetch.fsckObjects=true",
    // Small pushes stay packs: a handful of synced files instead of one per object.
    "transfer.unpackLimit=1",
    "receive.unpackLimit=1",
    "receive.autogc=false",
    "receive.advertiseAtomic=true",
    "receive.advertisePushOptions=true",
    "receive.denyDeleteCurrent=refuse",
    "receive.denyCurrentBranch=ignore",
    "receive.shallowUpdate=false",
    "receive.keepAlive=5",
    "receive.updateServerInfo=false",
    "gc.auto=0",
    "gc.autoDetach=false",
    "maintenance.auto=false",
    "transfer.hideRefs=refs/ondol",
    "transfer.advertiseSID=false",
    "uploadpack.allowFilter=true",
    "uploadpack.keepAlive=5",
    "protocol.allow=never",
    "advice.detachedHead=false",
];

/// A git command about to run.
pub(crate) struct GitCommand {
    verb: &'static str,
    command: std::process::Command,
}

/// What a command said.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Output {
    /// The output of a command that succeeded.
    pub(crate) fn checked(self, verb: &'static str) -> Result<Self, GitError> {
        if self.status.success() {
            return Ok(self);
        }
        let message = if self.stderr.is_empty() {
            self.status.to_string()
        } else {
            self.stderr
        };
        Err(GitError::Git {
            command: verb,
            message,
        })
    }
}

impl GitCommand {
    pub(super) fn new(
        verb: &'static str,
        git: &Path,
        path: &OsStr,
        home: &Path,
        hooks: &Path,
        repository: &Path,
    ) -> Self {
        let mut command = std::process::Command::new(git);
        command
            .env_clear()
            .env("PATH", path)
            .env("HOME", home)
            .env("XDG_CONFIG_HOME", home)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "false")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_LITERAL_PATHSPECS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .current_dir(repository)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for setting in CONFIG {
            command.arg("-c").arg(setting);
        }
        let mut hooks_path = OsString::from("core.hooksPath=");
        hooks_path.push(hooks);
        command.arg("-c").arg(hooks_path);
        Self { verb, command }
    }

    /// Adds a setting before the verb.
    pub(crate) fn config(mut self, setting: String) -> Self {
        self.command.arg("-c").arg(setting);
        self
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.command.args(arguments);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Gives the process a pipe as its input.
    pub(crate) fn piped(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// The command itself, for a caller that blocks.
    pub(crate) fn into_blocking(self) -> std::process::Command {
        self.command
    }

    /// Starts it in a process group of its own.
    pub(crate) fn spawn(self) -> Result<GitChild, GitError> {
        GitChild::spawn(self.verb, self.command)
    }

    /// Runs it to its end, reading at most `limit` bytes of output.
    pub(crate) async fn run(self, limit: usize, patience: Duration) -> Result<Output, GitError> {
        let verb = self.verb;
        let mut child = self.spawn()?;
        let (stdout, stderr) = (child.take_stdout(), child.take_stderr());
        let work = async {
            let (stdout, stderr) = tokio::join!(
                read_bounded(stdout, limit),
                read_bounded(stderr, STDERR_BYTES)
            );
            let status = child.wait().await?;
            Ok::<_, GitError>((status, stdout, stderr))
        };
        let finished = tokio::time::timeout(patience, work).await;
        let (status, stdout, stderr) = finished.map_err(|_| GitError::Timeout(verb))??;
        if stdout.len() > limit {
            return Err(GitError::Git {
                command: verb,
                message: format!("its output is larger than {limit} bytes"),
            });
        }
        Ok(Output {
            status,
            stdout,
            stderr: readable(&stderr),
        })
    }
}

/// What git said on its error stream, on one line and cut.
pub(crate) fn readable(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(1_000).collect()
}

/// Reads to the end and keeps at most one byte more than `limit`, so that the process never
/// waits for a reader and the caller can tell that there was more.
pub(crate) async fn read_bounded(source: Option<impl AsyncRead + Unpin>, limit: usize) -> Vec<u8> {
    let Some(mut source) = source else {
        return Vec::new();
    };
    let mut kept = Vec::new();
    let mut buffer = vec![0u8; 16 * 1024];
    while let Ok(count) = source.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = (limit + 1).saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}
