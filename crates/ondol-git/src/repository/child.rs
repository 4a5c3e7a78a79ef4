//! A running git process and everything it starts.

use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};

use crate::error::GitError;

/// How long git may take to remove its quarantine and locks after it is asked to end.
const GRACE: Duration = Duration::from_secs(5);

/// A git process in a process group of its own. Dropping it before it ended asks the group to
/// end, so that it removes its quarantine, and kills it after a grace.
pub(crate) struct GitChild {
    verb: &'static str,
    child: Option<Child>,
    group: Option<Pid>,
}

impl GitChild {
    pub(super) fn spawn(verb: &'static str, command: Command) -> Result<Self, GitError> {
        let mut command = tokio::process::Command::from(command);
        command.process_group(0);
        let child = command.spawn().map_err(GitError::io("run", "git"))?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        Ok(Self {
            verb,
            child: Some(child),
            group,
        })
    }

    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.as_mut()?.stdin.take()
    }

    pub(crate) fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.as_mut()?.stdout.take()
    }

    pub(crate) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.as_mut()?.stderr.take()
    }

    /// Asks the whole group to end.
    pub(crate) fn terminate(&self) {
        // The group's leader was not waited for, so its number is still its own.
        if let (Some(group), true) = (self.group, self.child.is_some()) {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }

    /// Waits for the end.
    pub(crate) async fn wait(&mut self) -> Result<ExitStatus, GitError> {
        let Some(child) = self.child.as_mut() else {
            return Err(GitError::Timeout(self.verb));
        };
        let status = child
            .wait()
            .await
            .map_err(GitError::io("wait for", "git"))?;
        self.child = None;
        Ok(status)
    }
}

impl Drop for GitChild {
    fn drop(&mut self) {
        self.terminate();
        let (Some(mut child), Some(group)) = (self.child.take(), self.group) else {
            return;
        };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            let _ = kill_process_group(group, Signal::KILL);
            return;
        };
        let verb = self.verb;
        runtime.spawn(async move {
            if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
                tracing::warn!(git.command = verb, "git did not end when asked; killed");
                let _ = kill_process_group(group, Signal::KILL);
                let _ = child.wait().await;
            }
        });
    }
}
