//! The control plane's side of the hook.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use ondol_types::{CommitId, OperationId, ProjectName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::{DONE, GREETING, MAX_UPDATES, SOCKET};
use crate::error::GitError;
use crate::plan::Change;
use crate::service::Git;

/// Hooks that are answered at once; more wait.
const CONNECTIONS: usize = 256;
const HEAD_BYTES: u64 = 16 << 20;
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
const LINE_CHARS: usize = 1_000;

/// Answers hooks until it is dropped.
pub struct HookServer(JoinHandle<()>);

impl HookServer {
    /// Listens on the socket in `config.run`. It needs the runtime.
    ///
    /// # Errors
    /// [`GitError::Io`] when the socket cannot be made.
    pub fn start(git: &Git) -> Result<Self, GitError> {
        let run = &git.0.config.run;
        let listener = bind(run).map_err(GitError::io("listen in", run))?;
        let git = git.clone();
        Ok(Self(tokio::spawn(async move {
            let slots = Arc::new(Semaphore::new(CONNECTIONS));
            loop {
                let Ok(slot) = slots.clone().acquire_owned().await else {
                    return;
                };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let git = git.clone();
                        tokio::spawn(async move {
                            if let Err(error) = answer(&git, stream).await {
                                tracing::warn!(error = %error, "a git hook was not answered");
                            }
                            drop(slot);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(error = %error, "cannot accept a git hook");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                }
            }
        })))
    }
}

impl Drop for HookServer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn bind(run: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(run)?;
    let _ = std::fs::remove_file(run.join(SOCKET));
    // Through the folder's descriptor, because a socket's address holds 107 bytes.
    let folder = File::open(run)?;
    let address = format!("/proc/self/fd/{}/{SOCKET}", folder.as_raw_fd());
    let listener = UnixListener::bind(address)?;
    std::fs::set_permissions(run.join(SOCKET), std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

struct Head {
    project: ProjectName,
    push: Option<OperationId>,
    updates: Vec<Change>,
}

fn parse(text: &str) -> Option<Head> {
    let mut lines = text.lines();
    if lines.next()? != GREETING {
        return None;
    }
    let project = lines.next()?.strip_prefix("project ")?.parse().ok()?;
    let push = lines.next()?.strip_prefix("push ")?.parse().ok();
    let object = |text: &str| {
        let id: CommitId = text.parse().ok()?;
        Some(if id.is_null() { None } else { Some(id) })
    };
    let updates = lines
        .take(MAX_UPDATES)
        .filter_map(|line| {
            let mut parts = line.splitn(3, ' ');
            Some(Change {
                old: object(parts.next()?)?,
                new: object(parts.next()?)?,
                name: parts.next()?.parse().ok()?,
            })
        })
        .collect();
    Some(Head {
        project,
        push,
        updates,
    })
}

/// Everything that was read stands in the text, in the same order.
#[cfg(any(test, fuzzing))]
pub(super) fn fuzz(text: &str) {
    let Some(head) = parse(text) else { return };
    assert!(head.updates.len() <= MAX_UPDATES);
    assert!(text.contains(&format!("project {}", head.project)));
    if let Some(push) = head.push {
        assert!(text.contains(&push.to_string()));
    }
    let mut rest = text;
    for update in &head.updates {
        let at = rest.find(update.name.as_str());
        rest = at.map_or("", |at| &rest[at..]);
        assert!(!rest.is_empty(), "{} is not there", update.name);
    }
}

async fn answer(git: &Git, mut stream: UnixStream) -> Result<(), GitError> {
    let io = |action| GitError::io(action, SOCKET);
    let mut text = String::new();
    let mut reader = (&mut stream).take(HEAD_BYTES);
    tokio::time::timeout(HEAD_PATIENCE, reader.read_to_string(&mut text))
        .await
        .map_err(|_| GitError::Timeout("post-receive"))?
        .map_err(io("read from"))?;
    let head = parse(&text).ok_or_else(|| GitError::Protocol("not a git hook".to_owned()))?;
    let pushed = git
        .refs_moved(&head.project, head.push, &head.updates)
        .await?;
    let mut lines = git.0.progress.follow(&pushed).await;
    let end = tokio::time::Instant::now() + git.0.config.limits.follow;
    loop {
        match tokio::time::timeout_at(end, lines.next()).await {
            Ok(Some(line)) => show(&mut stream, &line).await.map_err(io("write to"))?,
            Ok(None) => break,
            Err(_) => {
                let note = "it goes on; follow it with `ondol run watch`";
                show(&mut stream, note).await.map_err(io("write to"))?;
                break;
            }
        }
    }
    stream
        .write_all(format!("{DONE}\n").as_bytes())
        .await
        .map_err(io("write to"))
}

/// One line, without anything that would move a terminal's cursor. A text of several lines is
/// several.
async fn show(stream: &mut UnixStream, text: &str) -> io::Result<()> {
    let mut shown = String::new();
    for line in text.split('\n') {
        shown.push('|');
        shown.extend(
            line.chars()
                .filter(|c| !c.is_control() || *c == '\t')
                .take(LINE_CHARS),
        );
        shown.push('\n');
    }
    stream.write_all(shown.as_bytes()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_of_a_hook_is_read_and_junk_is_not() {
        let (zero, one) = ("0".repeat(40), "1".repeat(40));
        let text = format!(
            "{GREETING}\nproject web\npush op_x\n{zero} {one} refs/heads/main\n{one} {zero} refs/heads/한 글\nnonsense\n"
        );
        let head = parse(&text).unwrap();
        assert_eq!(head.project.as_str(), "web");
        assert_eq!(head.push, None);
        assert_eq!(head.updates.len(), 1);
        assert_eq!(head.updates[0].old, None);
        assert_eq!(head.updates[0].new.as_ref().unwrap().as_str(), one);
        for junk in [
            "",
            "GET / HTTP/1.1\r\n",
            "ondol-hook 1\nproject ../x\npush y\n",
        ] {
            assert!(parse(junk).is_none(), "{junk}");
        }
    }

    #[tokio::test]
    async fn a_socket_in_a_long_folder_can_be_bound_and_again_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("long-".repeat(40)).join("run");
        let first = bind(&run).unwrap();
        drop(first);
        assert!(run.join(SOCKET).exists(), "a socket outlives its process");
        bind(&run).unwrap();
    }
}
