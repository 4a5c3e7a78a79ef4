//! Who may speak to which repository, and how a refusal reads.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::response::Response;
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, StatusCode};
use ondol_auth::{Action, Ctx, Denied, Principal};
use ondol_types::{Classified, ErrorKind, Problem, ProjectName};

use super::{Service, plain};
use crate::error::GitError;
use crate::service::Git;

/// An error as git's clients read it.
pub(super) struct Refused(Problem);

impl Refused {
    pub(super) fn unauthenticated() -> Self {
        Self(Denied::Unauthenticated.into())
    }

    /// The answer: text, because git shows it to the user.
    pub(super) fn into_response(self) -> Response {
        let problem = self.0;
        let status = match problem.kind {
            ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
            ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable | ErrorKind::Cancelled => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Corrupted | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let text = if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %problem.chain(), "a git request failed");
            "something went wrong on the server; its log says what\n".to_owned()
        } else {
            let hint = problem
                .hint
                .map_or(String::new(), |hint| format!("hint: {hint}\n"));
            format!("{}\n{hint}", problem.message)
        };
        let mut response = plain(status, &text);
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(
                    WWW_AUTHENTICATE,
                    HeaderValue::from_static("Basic realm=\"Ondol\", charset=\"UTF-8\""),
                );
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("10"));
            }
            _ => {}
        }
        response
    }
}

impl<E: Classified> From<E> for Refused {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// Who asks.
pub(super) async fn principal(git: &Git, request: &Parts) -> Result<Principal, Refused> {
    Ok(git
        .0
        .auth
        .authenticate(&request.headers, peer(request))
        .await?)
}

fn peer(request: &Parts) -> Option<IpAddr> {
    let ConnectInfo(address) = request.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(address.ip())
}

/// A request that may go on.
pub(super) struct Admitted {
    pub(super) ctx: Ctx,
    pub(super) project: ProjectName,
    pub(super) exists: bool,
}

/// Decides about a request before anything else is looked at.
pub(super) async fn admit(
    git: &Git,
    repository: &str,
    service: Service,
    request: &Parts,
) -> Result<Admitted, Refused> {
    let principal = principal(git, request).await?;
    if !principal.is_authenticated() {
        return Err(Refused::unauthenticated());
    }
    let name = repository.strip_suffix(".git").unwrap_or(repository);
    let project: ProjectName = name.parse().map_err(|error| {
        Refused(Problem::new(
            ErrorKind::NotFound,
            "git.project.name",
            format!("{error}"),
        ))
    })?;
    let ctx = Ctx::new(principal, git.0.clock.clone());
    let exists = git.exists(&project).await?;
    match (service, exists) {
        (Service::UploadPack, _) => ctx.require(Action::Read, &project)?,
        (Service::ReceivePack, true) => ctx.require(Action::Push, &project)?,
        // Who may not make it learns no more than that it is not there.
        (Service::ReceivePack, false) => ctx.require(Action::CreateProject, &project)?,
    }
    if service == Service::UploadPack && !exists {
        return Err(GitError::NoProject(project).into());
    }
    if service == Service::ReceivePack && !exists {
        // Said at the first request of a push, because git shows people no later refusal.
        git.admit_name(&project).await?;
    }
    Ok(Admitted {
        ctx,
        project,
        exists,
    })
}

/// The protocol version that the client asks for, when it is written as git writes it.
pub(super) fn protocol(request: &Parts) -> Option<String> {
    let value = request.headers.get("git-protocol")?.to_str().ok()?;
    let plain = value.len() <= 200
        && value.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"=:.-".contains(&byte)
        });
    plain.then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_gits_own_spelling_of_the_protocol_is_passed_on() {
        for (value, good) in [
            ("version=2", true),
            ("version=1:object-format=sha1", true),
            ("version=2;rm -rf", false),
            ("VERSION=2", false),
            ("a\tb", false),
            (&"a".repeat(201), false),
        ] {
            let request = http::Request::builder().header("Git-Protocol", value);
            let (request, ()) = request.body(()).unwrap().into_parts();
            assert_eq!(protocol(&request).is_some(), good, "{value}");
        }
    }
}
