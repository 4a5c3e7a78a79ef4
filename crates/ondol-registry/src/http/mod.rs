//! `/v2/`: OCI distribution 1.1 for podman, docker, skopeo, crane, oras and containerd.
//!
//! Names contain slashes, so the path is taken apart from its end. Whoever shows no token is told
//! where tokens are given; a password (Basic) does as well. Clients differ in how they
//! upload: docker's classic store sends one PATCH in chunked encoding without a length,
//! containerd one PUT, and containerd requires `Docker-Content-Digest` on the answer.

mod answer;
mod blobs;
mod lists;
mod manifests;
mod scope;
mod token;
mod uploads;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::routing::any;
use http::{HeaderMap, Method, StatusCode, header};
use ondol_auth::{Ctx, Denied, Grant, Principal};
use ondol_types::{Secret, Timestamp};

use crate::error::RegistryError;
use crate::model::Repository;
use crate::service::{RegistryService, Retained};

/// Turns the headers of a request into somebody.
#[async_trait::async_trait]
pub trait Authenticate: Send + Sync {
    /// The principal; anonymous when no header says otherwise. `peer` is where the request came
    /// from, for limits on wrong credentials.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] when a header is there and wrong,
    /// [`RegistryError::TooManyAttempts`] when too many were.
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Principal, RegistryError>;

    /// A token for somebody that lives for `life` at most and opens what both its owner and
    /// `grant` open.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] for nobody.
    fn mint(
        &self,
        principal: &Principal,
        grant: Grant,
        life: Duration,
    ) -> Result<(Secret<String>, Timestamp), RegistryError>;
}

/// Knows which projects there are.
#[async_trait::async_trait]
pub trait Projects: Send + Sync {
    /// Whether a project exists.
    ///
    /// # Errors
    /// When that cannot be found out.
    async fn exists(
        &self,
        project: &ondol_types::ProjectName,
    ) -> Result<bool, ondol_types::Problem>;
}

/// What the routes need.
#[derive(Clone)]
pub struct Door {
    /// The registry.
    pub registry: RegistryService,
    /// Who asks.
    pub authenticate: Arc<dyn Authenticate>,
    /// Which projects there are: images belong to one.
    pub projects: Arc<dyn Projects>,
    /// What must stay.
    pub retained: Arc<dyn Retained>,
    /// The clock of each request.
    pub clock: Arc<dyn ondol_types::Clock>,
}

/// The routes below `/v2/`.
pub fn router(door: Door) -> Router {
    Router::new()
        .route("/v2", any(handle))
        .route("/v2/", any(handle))
        .route("/v2/{*rest}", any(handle))
        .with_state(door)
}

async fn handle(State(door): State<Door>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let challenge = answer::Challenge::of(&request, &parse(&path));
    let mut response = match dispatch(&door, request).await {
        Ok(response) => response,
        Err(error) => answer::refusal(&error, &challenge),
    };
    response.headers_mut().insert(
        "docker-distribution-api-version",
        http::HeaderValue::from_static("registry/2.0"),
    );
    response
}

/// Where a request comes from.
fn peer(request: &Request) -> Option<IpAddr> {
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    connection.map(|info| info.0.ip())
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Target<'p> {
    Base,
    Token,
    Catalog,
    Tags(&'p str),
    Referrers(&'p str, &'p str),
    Manifest(&'p str, &'p str),
    Uploads(&'p str),
    Upload(&'p str, &'p str),
    Blob(&'p str, &'p str),
    Nothing,
}

impl<'p> Target<'p> {
    /// The repository that a path names.
    fn repository(&self) -> Option<&'p str> {
        match self {
            Self::Tags(name)
            | Self::Referrers(name, _)
            | Self::Manifest(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _)
            | Self::Blob(name, _) => Some(name),
            Self::Base | Self::Token | Self::Catalog | Self::Nothing => None,
        }
    }
}

fn parse(path: &str) -> Target<'_> {
    let rest = path
        .strip_prefix("/v2")
        .unwrap_or(path)
        .trim_start_matches('/');
    if rest.is_empty() {
        return Target::Base;
    }
    match rest {
        "_catalog" => return Target::Catalog,
        "token" => return Target::Token,
        _ => {}
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        return Target::Tags(name);
    }
    if let Some(name) = rest
        .strip_suffix("/blobs/uploads/")
        .or_else(|| rest.strip_suffix("/blobs/uploads"))
    {
        return Target::Uploads(name);
    }
    let Some((front, last)) = rest.rsplit_once('/') else {
        return Target::Nothing;
    };
    if let Some(name) = front.strip_suffix("/blobs/uploads") {
        return Target::Upload(name, last);
    }
    if let Some(name) = front.strip_suffix("/manifests") {
        return Target::Manifest(name, last);
    }
    if let Some(name) = front.strip_suffix("/referrers") {
        return Target::Referrers(name, last);
    }
    if let Some(name) = front.strip_suffix("/blobs") {
        return Target::Blob(name, last);
    }
    Target::Nothing
}

/// A request on its way to one operation.
struct Call<'d> {
    door: &'d Door,
    ctx: Ctx,
    request: Request,
}

impl Call<'_> {
    fn query(&self, key: &str) -> Option<String> {
        answer::query(self.request.uri().query().unwrap_or(""), key)
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.request.headers().get(name)?.to_str().ok()
    }

    fn registry(&self) -> &RegistryService {
        &self.door.registry
    }

    fn head(&self) -> bool {
        self.request.method() == Method::HEAD
    }
}

async fn dispatch(door: &Door, request: Request) -> Result<Response, RegistryError> {
    let path = request.uri().path().to_owned();
    let target = parse(&path);
    if target == Target::Token {
        return token::answer(door, request).await;
    }
    let peer = peer(&request);
    let principal = door.authenticate.principal(request.headers(), peer).await?;
    let call = Call {
        door,
        ctx: Ctx::new(principal, door.clock.clone()),
        request,
    };
    // Every door answers 401 to nobody, so that clients know to show their token.
    if !call.ctx.principal.is_authenticated() {
        return Err(Denied::Unauthenticated.into());
    }
    match target.repository() {
        None => at_large(call, &target).await,
        Some(name) => {
            let repository: Repository = name.parse()?;
            admit(call.door, &call.ctx, &repository).await?;
            in_repository(call, &target, repository).await
        }
    }
}

/// Repositories exist where their project does, also empty ones.
async fn admit(door: &Door, ctx: &Ctx, repository: &Repository) -> Result<(), RegistryError> {
    let Some(project) = repository.project() else {
        return Ok(());
    };
    // A token for nothing, as clients get at their login, is no answer here: they ask for another.
    if ctx.principal.grant.is_empty() {
        return Err(Denied::Unauthenticated.into());
    }
    let exists = door.projects.exists(project).await.map_err(|problem| {
        RegistryError::Broken(format!("the project could not be looked up: {problem}"))
    })?;
    if exists {
        Ok(())
    } else {
        Err(Denied::Invisible(format!("project `{project}`")).into())
    }
}

fn not_allowed() -> Response {
    answer::fault(
        StatusCode::METHOD_NOT_ALLOWED,
        "UNSUPPORTED",
        "this method does nothing here",
        None,
    )
}

async fn at_large(call: Call<'_>, target: &Target<'_>) -> Result<Response, RegistryError> {
    let read = matches!(*call.request.method(), Method::GET | Method::HEAD);
    match target {
        Target::Base if read => Ok(answer::json(StatusCode::OK, &serde_json::json!({}))),
        Target::Catalog if read => lists::catalog(call).await,
        Target::Nothing => Ok(answer::fault(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            "nothing is here",
            None,
        )),
        _ => Ok(not_allowed()),
    }
}

async fn in_repository(
    call: Call<'_>,
    target: &Target<'_>,
    repository: Repository,
) -> Result<Response, RegistryError> {
    let method = call.request.method().clone();
    let read = matches!(method, Method::GET | Method::HEAD);
    match *target {
        Target::Tags(_) if read => lists::tags(call, repository).await,
        Target::Referrers(_, digest) if read => lists::referrers(call, repository, digest).await,
        Target::Manifest(_, reference) => {
            let reference = reference.parse()?;
            match method {
                Method::GET | Method::HEAD => manifests::get(call, repository, reference).await,
                Method::PUT => manifests::put(call, repository, reference).await,
                Method::DELETE => manifests::delete(call, repository, reference).await,
                _ => Ok(not_allowed()),
            }
        }
        Target::Uploads(_) if method == Method::POST => uploads::begin(call, repository).await,
        Target::Upload(_, id) => {
            let id = id
                .parse()
                .map_err(|_| RegistryError::UploadUnknown(id.chars().take(64).collect()))?;
            match method {
                Method::GET | Method::HEAD => uploads::progress(call, repository, id).await,
                Method::PATCH => uploads::append(call, repository, id).await,
                Method::PUT => uploads::finish(call, repository, id).await,
                Method::DELETE => uploads::cancel(call, repository, id).await,
                _ => Ok(not_allowed()),
            }
        }
        Target::Blob(_, digest) => {
            let digest = blobs::digest_of(digest)?;
            match method {
                Method::GET | Method::HEAD => blobs::get(call, repository, digest).await,
                Method::DELETE => blobs::delete(call, repository, digest).await,
                _ => Ok(not_allowed()),
            }
        }
        _ => Ok(not_allowed()),
    }
}

/// A path is taken apart into parts of itself.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_path(path: &str) {
    let whole = match parse(path) {
        Target::Manifest(name, reference) => format!("{name}/manifests/{reference}"),
        Target::Blob(name, digest) => format!("{name}/blobs/{digest}"),
        Target::Upload(name, id) => format!("{name}/blobs/uploads/{id}"),
        _ => return,
    };
    let rest = path.strip_prefix("/v2").unwrap_or(path);
    assert_eq!(whole, rest.trim_start_matches('/'));
    let _ = answer::query(path, "digest");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_from_the_end() {
        assert_eq!(parse("/v2/"), Target::Base);
        assert_eq!(parse("/v2/a/b/manifests/v1"), Target::Manifest("a/b", "v1"));
        assert_eq!(parse("/v2/a/blobs/uploads/"), Target::Uploads("a"));
        assert_eq!(
            parse("/v2/a/blobs/uploads/up_1"),
            Target::Upload("a", "up_1")
        );
        assert_eq!(parse("/v2/a/blobs/sha256:0"), Target::Blob("a", "sha256:0"));
        assert_eq!(parse("/v2/tags/tags/list"), Target::Tags("tags"));
        assert_eq!(
            parse("/v2/manifests/manifests/manifests"),
            Target::Manifest("manifests", "manifests")
        );
        assert_eq!(parse("/v2/a"), Target::Nothing);
        assert_eq!(parse("/v2/token"), Target::Token);
        assert_eq!(
            parse("/v2/token/tags/list"),
            Target::Tags("token"),
            "a project may have this name"
        );
    }
}
