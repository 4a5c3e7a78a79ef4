//! Advertising refs, and serving fetches and clones.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Request};
use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdout;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::io::ReaderStream;

use super::access::{Refused, admit, protocol};
use super::body::RequestBody;
use super::{Service, answer, pktline};
use crate::error::GitError;
use crate::repository::GitChild;
use crate::service::Git;

const ADVERTISEMENT_BYTES: usize = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const WAIT_FOR_SLOT: Duration = Duration::from_secs(30);
const CHUNK: usize = 64 * 1024;

/// A place for one more git process.
pub(super) async fn slot(
    slots: &std::sync::Arc<Semaphore>,
) -> Result<OwnedSemaphorePermit, GitError> {
    match tokio::time::timeout(WAIT_FOR_SLOT, slots.clone().acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(GitError::Busy),
    }
}

pub(super) fn require_type(headers: &HeaderMap, service: Service) -> Result<(), GitError> {
    let wanted = format!("application/x-git-{}-request", service.name());
    let found = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    if found == Some(wanted.as_str()) {
        Ok(())
    } else {
        Err(GitError::Protocol(format!(
            "the request must be of type {wanted}"
        )))
    }
}

/// `GET info/refs?service=…`. It changes nothing: a project that does not exist yet looks empty to
/// whoever may make it.
pub(super) async fn advertise(
    git: &Git,
    repository: &str,
    request: &Parts,
) -> Result<Response, Refused> {
    let query = request.uri.query().unwrap_or_default();
    let service = match query.strip_prefix("service=git-") {
        Some("upload-pack") => Service::UploadPack,
        Some("receive-pack") => Service::ReceivePack,
        _ => {
            admit(git, repository, Service::UploadPack, request).await?;
            let text = "only git's smart HTTP protocol is served here; use git 1.6.6 or newer";
            return Err(GitError::Protocol(text.to_owned()).into());
        }
    };
    let admitted = admit(git, repository, service, request).await?;
    let path = if admitted.exists {
        git.repository(&admitted.project).await?
    } else {
        git.0.repositories.empty()
    };
    let _slot = slot(&git.0.fetches).await?;
    let mut command = git.0.repositories.command("advertise", &path);
    let mut version_2 = false;
    // Version 2 has no push.
    if let (Service::UploadPack, Some(protocol)) = (service, protocol(request)) {
        version_2 = protocol.split(':').any(|part| part == "version=2");
        command = command.env("GIT_PROTOCOL", protocol);
    }
    let output = command
        .args([service.name(), "--stateless-rpc", "--advertise-refs", "."])
        .run(ADVERTISEMENT_BYTES, PATIENCE)
        .await?
        .checked(service.name())?;
    let mut body = Vec::with_capacity(output.stdout.len() + 64);
    if !version_2 {
        let head = format!("# service=git-{}\n", service.name());
        pktline::write(&mut body, head.as_bytes());
        pktline::flush(&mut body);
    }
    body.extend_from_slice(&output.stdout);
    Ok(answer(service, "advertisement", Body::from(body)))
}

/// `POST git-upload-pack`.
pub(super) async fn upload_pack(
    git: &Git,
    repository: &str,
    request: Request<Body>,
) -> Result<Response, Refused> {
    let service = Service::UploadPack;
    let (parts, body) = request.into_parts();
    let admitted = admit(git, repository, service, &parts).await?;
    require_type(&parts.headers, service)?;
    let path = git.repository(&admitted.project).await?;
    let limits = &git.0.config.limits;
    let protocol = protocol(&parts);
    let mut body = RequestBody::new(
        &parts.headers,
        body,
        limits.fetch_request_bytes,
        limits.idle,
    )?;
    let slot = slot(&git.0.fetches).await?;
    let mut command = git.0.repositories.command("upload-pack", &path).piped();
    if let Some(protocol) = protocol {
        command = command.env("GIT_PROTOCOL", protocol);
    }
    let timeout = format!("--timeout={}", limits.idle.as_secs());
    let mut child = command
        .args(["upload-pack", "--strict", "--stateless-rpc", &timeout, "."])
        .spawn()?;
    let (stdin, stdout, stderr) = (child.take_stdin(), child.take_stdout(), child.take_stderr());
    let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
        return Err(GitError::Protocol("git has no pipes".to_owned()).into());
    };
    let project = admitted.project.clone();
    tokio::spawn(async move {
        // A request that cannot be read ends git's input; git says so to the client.
        while let Ok(Some(bytes)) = body.next().await {
            if stdin.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let said = crate::repository::read_bounded(stderr, 8 * 1024).await;
        if !said.is_empty() {
            tracing::debug!(project = %project, git.stderr = crate::repository::readable(&said), "git upload-pack");
        }
    });
    let stream = Served {
        output: ReaderStream::with_capacity(stdout, CHUNK),
        _child: child,
        _slot: slot,
    };
    Ok(answer(service, "result", Body::from_stream(stream)))
}

/// What git sends, with the process that sends it: when the client goes, so does the process.
struct Served {
    output: ReaderStream<ChildStdout>,
    _child: GitChild,
    _slot: OwnedSemaphorePermit,
}

impl Stream for Served {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.output).poll_next(context)
    }
}
