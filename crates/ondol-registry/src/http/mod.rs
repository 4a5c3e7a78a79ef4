//! `/v2/`: OCI distribution 1.1 for podman, docker, skopeo, crane, oras and containerd.
//!
//! Names contain slashes, so the path is taken apart from its end. Clients differ in how they
//! upload: docker's classic store sends one PATCH in chunked encoding without a length,
//! containerd one PUT, and containerd requires `Docker-Content-Digest` on the answer.

mod answer;
mod blobs;
mod manifests;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, Method, StatusCode, header};
use ondol_auth::{Ctx, Denied, Principal};

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
    /// [`Denied::Unauthenticated`] when a header is there and wrong.
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Denied>;
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
    match dispatch(&door, request).await {
        Ok(mut response) => {
            response.headers_mut().insert(
                "docker-distribution-api-version",
                http::HeaderValue::from_static("registry/2.0"),
            );
            response
        }
        Err(error) => answer::refusal(&error),
    }
}

/// What a path names.
#[derive(Debug, PartialEq, Eq)]
enum Target<'p> {
    Base,
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
            Self::Base | Self::Catalog | Self::Nothing => None,
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
    if rest == "_catalog" {
        return Target::Catalog;
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
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = connection.map(|info| info.0.ip());
    let principal = door.authenticate.principal(request.headers(), peer).await?;
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let call = Call {
        door,
        ctx: Ctx::new(principal, door.clock.clone()),
        request,
    };
    // Every door answers 401 to nobody, so that clients know to show their token.
    if !call.ctx.principal.is_authenticated() {
        return Err(Denied::Unauthenticated.into());
    }
    let target = parse(&path);
    if let Some(text) = target.repository() {
        let repository: Repository = text.parse()?;
        let project = repository.project();
        let exists = door.projects.exists(project).await.map_err(|problem| {
            RegistryError::Broken(format!("the project could not be looked up: {problem}"))
        })?;
        if !exists {
            return Err(Denied::Invisible(format!("project `{project}`")).into());
        }
    }
    let read = method == Method::GET || method == Method::HEAD;
    let name = |text: &str| text.parse::<Repository>();
    match target {
        Target::Base if read => Ok(answer::json(StatusCode::OK, &serde_json::json!({}))),
        Target::Catalog if read => manifests::catalog(call).await,
        Target::Tags(repository) if read => manifests::tags(call, name(repository)?).await,
        Target::Referrers(repository, digest) if read => {
            manifests::referrers(call, name(repository)?, digest).await
        }
        Target::Manifest(repository, reference) => {
            let (repository, reference) = (name(repository)?, reference.parse()?);
            match method {
                Method::GET | Method::HEAD => manifests::get(call, repository, reference).await,
                Method::PUT => manifests::put(call, repository, reference).await,
                Method::DELETE => manifests::delete(call, repository, reference).await,
                _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
            }
        }
        Target::Uploads(repository) if method == Method::POST => {
            blobs::begin(call, name(repository)?).await
        }
        Target::Upload(repository, id) => {
            let repository = name(repository)?;
            let id = id
                .parse()
                .map_err(|_| RegistryError::UploadUnknown(id.chars().take(64).collect()))?;
            match method {
                Method::GET => blobs::progress(call, repository, id).await,
                Method::PATCH => blobs::append(call, repository, id).await,
                Method::PUT => blobs::finish(call, repository, id).await,
                Method::DELETE => blobs::cancel(call, repository, id).await,
                _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
            }
        }
        Target::Blob(repository, digest) => {
            let repository = name(repository)?;
            let digest = digest
                .parse()
                .map_err(|_| RegistryError::DigestInvalid(format!("`{digest}` is not a digest")))?;
            match method {
                Method::GET | Method::HEAD => blobs::get(call, repository, digest).await,
                Method::DELETE => blobs::delete(call, repository, digest).await,
                _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
            }
        }
        Target::Nothing => Ok(StatusCode::NOT_FOUND.into_response()),
        _ => Ok(StatusCode::METHOD_NOT_ALLOWED.into_response()),
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
    }
}
