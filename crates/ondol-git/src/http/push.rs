//! Receiving a push.
//!
//! The command list is read and checked here; then the bytes go to `git receive-pack`, which
//! receives into a quarantine and moves refs. A client that leaves before its pack was handed
//! over takes git with it, and nothing is left; after that, git finishes whoever listens.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::Request;
use ondol_types::{OperationId, ProjectName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::access::{Admitted, Refused, admit};
use super::body::RequestBody;
use super::commands::{Head, HeadReader};
use super::fetch::{require_type, slot};
use super::{Service, answer, report};
use crate::error::GitError;
use crate::hook;
use crate::repository::{GitChild, read_bounded, readable};
use crate::service::{Git, PushPhase};
use crate::store::{self, Intent, IntentCommand, ProjectRow};

const CHUNK: usize = 64 * 1024;
/// Bytes beyond the ceiling that are still read, so that git can tell the client of the ceiling.
const SLACK: u64 = 64 << 20;

/// The longest a push may take, from its first byte to the end of what it shows.
const AT_MOST: Duration = Duration::from_secs(4 * 3_600);

/// How long git may take to end when its input has ended early.
const GRACE: Duration = Duration::from_secs(30);

type Sender = mpsc::Sender<std::io::Result<Bytes>>;

/// `POST git-receive-pack`.
pub(super) async fn receive_pack(
    git: &Git,
    repository: &str,
    request: Request<Body>,
) -> Result<Response, Refused> {
    let service = Service::ReceivePack;
    let (parts, body) = request.into_parts();
    let admitted = admit(git, repository, service, &parts).await?;
    require_type(&parts.headers, service)?;
    let limits = &git.0.config.limits;
    let ceiling = limits.push_bytes.saturating_add(SLACK);
    let mut body = RequestBody::new(&parts.headers, body, ceiling, limits.idle)?;
    let mut reader = HeadReader::new();
    loop {
        match body.next().await? {
            Some(bytes) => {
                let complete = reader
                    .feed(&bytes)
                    .map_err(|error| GitError::Protocol(error.to_string()))?;
                if complete {
                    break;
                }
            }
            None => {
                return Err(GitError::Protocol("the push ends early".to_owned()).into());
            }
        }
    }
    let (head, first) = reader.finish();
    if head.commands.is_empty() {
        // What git sends to try its credentials before a large push.
        return Ok(answer(service, "result", Body::empty()));
    }
    match check(git, &admitted, &head).await? {
        Checked::Refused(report) => {
            drain(&mut body).await;
            Ok(answer(service, "result", Body::from(report)))
        }
        Checked::Accepted(accepted) => start(git, admitted, *accepted, first, body).await,
    }
}

struct Accepted {
    intent: Intent,
    row: ProjectRow,
    max_input: u64,
}

enum Checked {
    Accepted(Box<Accepted>),
    Refused(Vec<u8>),
}

/// Decides about every ref update by itself, and about the whole.
async fn check(git: &Git, admitted: &Admitted, head: &Head) -> Result<Checked, Refused> {
    let refuse = |reason: &dyn Fn(usize) -> String, notes: &[String]| {
        if head.can("report-status") || head.can("report-status-v2") {
            Ok(Checked::Refused(report::refusal(head, reason, notes)))
        } else {
            Err(Refused::from(GitError::Protocol(reason(0))))
        }
    };
    let names: Vec<_> = head.commands.iter().map(|command| command.name()).collect();
    if names.iter().any(Result::is_err) {
        let reason = |index: usize| match &names[index] {
            Err(reason) => reason.clone(),
            Ok(_) => "another ref of this push was refused".to_owned(),
        };
        return refuse(&reason, &[]);
    }
    let commands: Vec<IntentCommand> = names
        .into_iter()
        .flatten()
        .zip(&head.commands)
        .map(|(name, command)| IntentCommand {
            name,
            new: command.new.clone(),
        })
        .collect();
    let project = &admitted.project;
    if !admitted.exists {
        git.ensure_project(&admitted.ctx, project).await?;
    }
    let row = git.known(project).await?;
    let limits = &git.0.config.limits;
    let left = limits.repository_bytes.saturating_sub(row.size_bytes);
    // A full repository still lets refs be deleted: that is how it gets room again.
    let only_deletes = head.commands.iter().all(|command| command.new.is_none());
    if left == 0 && !only_deletes {
        let note = format!(
            "repository `{project}` holds {} bytes and may hold {}; delete branches with large files, or keep data with `ondol data push`",
            row.size_bytes, limits.repository_bytes
        );
        return refuse(&|_| "the repository is full".to_owned(), &[note]);
    }
    let created = head
        .commands
        .iter()
        .filter(|command| command.old.is_none() && command.new.is_some())
        .count() as u64;
    let existing = git
        .0
        .store
        .read::<_, GitError, _>(|tx| {
            Box::pin(async move { Ok(store::count_refs(tx, project).await?) })
        })
        .await?;
    if created > 0 && existing + created > limits.refs {
        let text = format!(
            "the repository would have {} refs, and may have {}",
            existing + created,
            limits.refs
        );
        return refuse(&|_| text.clone(), &[]);
    }
    let intent = Intent {
        id: OperationId::generate(&*git.0.clock),
        project: project.clone(),
        pusher: admitted.ctx.principal.name.clone(),
        commands,
        options: head.options.clone(),
    };
    Ok(Checked::Accepted(Box::new(Accepted {
        intent,
        row,
        max_input: left.min(limits.push_bytes).max(1),
    })))
}

/// Reads what the client still sends, so that it gets to read the answer.
async fn drain(body: &mut RequestBody) {
    while let Ok(Some(_)) = body.next().await {}
}

async fn start(
    git: &Git,
    admitted: Admitted,
    accepted: Accepted,
    first: Vec<u8>,
    body: RequestBody,
) -> Result<Response, Refused> {
    let project = admitted.project;
    let path = git.repository(&project).await?;
    let permit = slot(&git.0.pushes).await?;
    let Accepted {
        intent,
        row,
        max_input,
    } = accepted;
    let id = intent.id;
    git.begin_push(&intent, permit).await?;
    git.0.crash.reached("git.receive.before-pack");
    // Only a move of the default branch is held to its history; a push that moves other branches
    // with it is held to it as a whole.
    let guarded = !row.allow_force
        && intent
            .commands
            .iter()
            .any(|command| command.name.branch() == Some(row.default_branch.as_str()));
    let command = git
        .0
        .repositories
        .command("receive-pack", &path)
        .piped()
        .config(format!("receive.maxInputSize={max_input}"))
        .config(format!("receive.denyNonFastForwards={guarded}"))
        .env(hook::ENV_SOCKET, hook::socket_path(&git.0.config.run))
        .env(hook::ENV_PROJECT, project.as_str())
        .env(hook::ENV_PUSH, id.to_string())
        .args(["receive-pack", "--stateless-rpc", "."]);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            git.end_push(&project, id).await;
            return Err(error.into());
        }
    };
    let (sender, receiver) = mpsc::channel(4);
    let git = git.clone();
    // The push lives in a task of its own: it must not end with the request.
    tokio::spawn(async move {
        let work = run(&git, &project, id, child, first, body, &sender);
        if tokio::time::timeout(AT_MOST, work).await.is_err() {
            tracing::warn!(project = %project, "a push took too long and was ended");
        }
        git.end_push(&project, id).await;
        // The answer ends here: a client that saw its end finds its push recorded.
        drop(sender);
    });
    Ok(answer(
        Service::ReceivePack,
        "result",
        Body::from_stream(ReceiverStream::new(receiver)),
    ))
}

async fn run(
    git: &Git,
    project: &ProjectName,
    id: OperationId,
    mut child: GitChild,
    first: Vec<u8>,
    body: RequestBody,
    sender: &Sender,
) {
    let (stdin, stdout, stderr) = (child.take_stdin(), child.take_stdout(), child.take_stderr());
    let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
        return;
    };
    let given_up = Notify::new();
    let feeding = async {
        // The end of its input makes git clear its quarantine and end, unless the pack was whole.
        if let Err(error) = feed(stdin, &first, body).await {
            tracing::info!(project = %project, error = %error, "a push was given up before it was complete");
            given_up.notify_one();
        }
    };
    let answering = async {
        let reading = async {
            let relaying = relay(git, id, stdout, sender, || child.terminate());
            tokio::join!(relaying, read_bounded(stderr, 8 * 1024)).1
        };
        let patience = async {
            given_up.notified().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::pin!(reading);
        tokio::select! {
            said = &mut reading => said,
            () = patience => {
                child.terminate();
                reading.await
            }
        }
    };
    let ((), ended) = tokio::join!(feeding, answering);
    match child.wait().await {
        Ok(status) if status.success() => {}
        Ok(status) => {
            tracing::info!(project = %project, git.status = %status, git.stderr = readable(&ended), "a push was refused by git");
        }
        Err(error) => tracing::warn!(project = %project, error = %error, "cannot wait for git"),
    }
}

/// Hands the request to git. An error means that the client did not hand over all of it.
async fn feed(mut stdin: ChildStdin, first: &[u8], mut body: RequestBody) -> Result<(), GitError> {
    let mut open = stdin.write_all(first).await.is_ok();
    while let Some(bytes) = body.next().await? {
        // When git has ended early, what the client still sends is read and dropped, so that it
        // comes to reading why.
        open = open && stdin.write_all(&bytes).await.is_ok();
    }
    Ok(())
}

/// Hands git's answer to the client. When the client has left, git goes on until the refs have
/// moved; the view of what follows ends.
async fn relay(
    git: &Git,
    id: OperationId,
    mut stdout: ChildStdout,
    sender: &Sender,
    end: impl Fn(),
) {
    let mut buffer = vec![0u8; CHUNK];
    let mut listening = true;
    while let Ok(count) = stdout.read(&mut buffer).await {
        if count == 0 {
            return;
        }
        if listening {
            let bytes = Bytes::copy_from_slice(&buffer[..count]);
            listening = sender.send(Ok(bytes)).await.is_ok();
        }
        if !listening && git.phase_of(id) == Some(PushPhase::Following) {
            end();
        }
    }
}
