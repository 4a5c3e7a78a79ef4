//! `/git/<project>.git/…`: git's smart HTTP protocol, versions 0 to 2.
//!
//! Requests are checked here and then handed to `git upload-pack` and `git receive-pack`, with
//! both directions streamed. Nothing a client sends becomes an argument of a program.
//!
//! | who asks | answer |
//! |---|---|
//! | nobody, or with a token that opens nothing | 401 and `WWW-Authenticate: Basic` |
//! | somebody who may not know of the project, or it does not exist | 404 |
//! | somebody who sees the project and may not do this | 403 |

mod access;
mod body;
mod commands;
mod fetch;
mod pktline;
mod push;
mod report;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{any, get, post};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Request, StatusCode};

use crate::service::Git;

/// The routes of git, to be merged into the door's router.
pub fn router(git: Git) -> Router {
    let inner = Router::new()
        .route("/{repository}/info/refs", get(info_refs))
        .route("/{repository}/git-upload-pack", post(upload_pack))
        .route("/{repository}/git-receive-pack", post(receive_pack))
        .fallback(any(elsewhere))
        .with_state(git);
    Router::new().nest("/git", inner)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    UploadPack,
    ReceivePack,
}

impl Service {
    fn name(self) -> &'static str {
        match self {
            Self::UploadPack => "upload-pack",
            Self::ReceivePack => "receive-pack",
        }
    }
}

async fn info_refs(
    State(git): State<Git>,
    Path(repository): Path<String>,
    request: Request<Body>,
) -> Response {
    let (request, _) = request.into_parts();
    fetch::advertise(&git, &repository, &request)
        .await
        .unwrap_or_else(|refused| refused.into_response())
}

async fn upload_pack(
    State(git): State<Git>,
    Path(repository): Path<String>,
    request: Request<Body>,
) -> Response {
    fetch::upload_pack(&git, &repository, request)
        .await
        .unwrap_or_else(|refused| refused.into_response())
}

async fn receive_pack(
    State(git): State<Git>,
    Path(repository): Path<String>,
    request: Request<Body>,
) -> Response {
    push::receive_pack(&git, &repository, request)
        .await
        .unwrap_or_else(|refused| refused.into_response())
}

/// Everything else below `/git/`: the dumb protocol, LFS, a browser.
async fn elsewhere(State(git): State<Git>, request: Request<Body>) -> Response {
    let (request, _) = request.into_parts();
    let path = request.uri.path();
    let text = if path.contains("/info/lfs") {
        "Git LFS is not served here yet; commit the files themselves, or use `ondol data push` for data\n"
    } else if ["/HEAD", "/objects/", "/packed-refs"]
        .iter()
        .any(|part| path.contains(part))
    {
        "only git's smart HTTP protocol is served here; use git 1.6.6 or newer\n"
    } else {
        "there is nothing at this address: repositories are at /git/<project>.git\n"
    };
    match access::principal(&git, &request).await {
        Ok(principal) if principal.is_authenticated() => plain(StatusCode::NOT_FOUND, text),
        Ok(_) => access::Refused::unauthenticated().into_response(),
        Err(refused) => refused.into_response(),
    }
}

fn plain(status: StatusCode, text: &str) -> Response {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A successful answer of one of git's types.
fn answer(service: Service, what: &str, body: Body) -> Response {
    let mut response = Response::new(body);
    let kind = format!("application/x-git-{}-{what}", service.name());
    if let Ok(kind) = HeaderValue::from_str(&kind) {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response.headers_mut().insert(
        CACHE_CONTROL,
        HeaderValue::from_static("no-cache, max-age=0, must-revalidate"),
    );
    response
}

/// A command list means the same in whatever pieces it comes, keeps every byte for git, and lets
/// only names through that stay below the open spaces.
#[cfg(any(test, fuzzing))]
pub fn fuzz_push_head(data: &[u8]) {
    use commands::HeadReader;

    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let mut whole = HeadReader::new();
    let outcome = whole.feed(bytes);
    let mut pieces = HeadReader::new();
    let mut fed = 0;
    let mut piecewise = Ok(false);
    for piece in bytes.chunks(usize::from(step).max(1)) {
        piecewise = pieces.feed(piece);
        fed += piece.len();
        if !matches!(piecewise, Ok(false)) {
            break;
        }
    }
    if bytes.is_empty() {
        return;
    }
    assert_eq!(outcome, piecewise);
    if outcome.is_err() {
        return;
    }
    let (head, kept) = whole.finish();
    let (same, kept_too) = pieces.finish();
    assert_eq!(head, same);
    assert!(kept == bytes && kept_too == bytes[..fed]);
    for command in &head.commands {
        if let Ok(name) = command.name() {
            assert_eq!(name.as_str(), command.raw_name);
            let open = ["refs/heads/", "refs/tags/", "refs/notes/"];
            assert!(open.iter().any(|space| name.as_str().starts_with(space)));
            // The very bytes that git reads, not a likeness of them.
            let raw = name.as_str().as_bytes();
            assert!(bytes.windows(raw.len()).any(|window| window == raw));
        }
    }
}
