//! Manifests, tags, referrers and the catalog.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use ondol_types::Digest;
use serde_json::json;

use super::{Call, answer};
use crate::error::RegistryError;
use crate::model::{Reference, Repository, media};

const PAGE: u32 = 100;
const MAX_PAGE: u32 = 10_000;

pub(super) async fn get(
    call: Call<'_>,
    repository: Repository,
    reference: Reference,
) -> Result<Response, RegistryError> {
    let pulled = call
        .registry()
        .manifest(&call.ctx, &repository, &reference)
        .await?;
    let headers = [
        (header::CONTENT_TYPE, pulled.media_type.clone()),
        (answer::CONTENT_DIGEST, pulled.digest.to_string()),
        (header::ETAG, format!("\"{}\"", pulled.digest)),
        (header::CONTENT_LENGTH, pulled.bytes.len().to_string()),
    ];
    let mut response = answer::empty(StatusCode::OK, &headers);
    if !call.head() {
        *response.body_mut() = Body::from(pulled.bytes);
    }
    Ok(response)
}

pub(super) async fn put(
    call: Call<'_>,
    repository: Repository,
    reference: Reference,
) -> Result<Response, RegistryError> {
    let content_type = call.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
    let Call { door, ctx, request } = call;
    let limit = door.registry.config().max_manifest_bytes;
    let bytes: Bytes = Limited::new(request.into_body(), limit as usize)
        .collect()
        .await
        .map_err(|error| {
            if error
                .downcast_ref::<http_body_util::LengthLimitError>()
                .is_some()
            {
                RegistryError::TooLarge {
                    what: "the manifest".to_owned(),
                    limit,
                }
            } else {
                RegistryError::Broken(error.to_string())
            }
        })?
        .to_bytes();
    let (digest, subject) = door
        .registry
        .put_manifest(&ctx, &repository, &reference, &content_type, bytes)
        .await?;
    let mut headers = vec![
        (
            header::LOCATION,
            format!("/v2/{repository}/manifests/{digest}"),
        ),
        (answer::CONTENT_DIGEST, digest.to_string()),
        (header::CONTENT_LENGTH, "0".to_owned()),
    ];
    if let Some(subject) = subject {
        headers.push((
            header::HeaderName::from_static("oci-subject"),
            subject.to_string(),
        ));
    }
    Ok(answer::empty(StatusCode::CREATED, &headers))
}

pub(super) async fn delete(
    call: Call<'_>,
    repository: Repository,
    reference: Reference,
) -> Result<Response, RegistryError> {
    call.registry()
        .delete_manifest(&call.ctx, &repository, &reference, &*call.door.retained)
        .await?;
    Ok(answer::empty(StatusCode::ACCEPTED, &[]))
}

fn page(call: &Call<'_>) -> Result<(u32, String), RegistryError> {
    let limit = match call.query("n") {
        None => PAGE,
        Some(text) => text
            .parse::<u32>()
            .map_err(|_| RegistryError::Broken(format!("n=`{text}` is not a number")))?
            .min(MAX_PAGE),
    };
    Ok((limit, call.query("last").unwrap_or_default()))
}

fn next_link(response: &mut Response, path: &str, limit: u32, last: Option<&String>) {
    if let Some(last) = last
        && let Ok(value) =
            HeaderValue::from_str(&format!("<{path}?n={limit}&last={last}>; rel=\"next\""))
    {
        response.headers_mut().insert(header::LINK, value);
    }
}

pub(super) async fn tags(
    call: Call<'_>,
    repository: Repository,
) -> Result<Response, RegistryError> {
    let (limit, last) = page(&call)?;
    let (tags, more) = call
        .registry()
        .tags(&call.ctx, &repository, &last, limit)
        .await?;
    let mut response = answer::json(
        StatusCode::OK,
        &json!({ "name": repository.as_str(), "tags": tags }),
    );
    next_link(
        &mut response,
        &format!("/v2/{repository}/tags/list"),
        limit,
        tags.last().filter(|_| more),
    );
    Ok(response)
}

pub(super) async fn catalog(call: Call<'_>) -> Result<Response, RegistryError> {
    let (limit, last) = page(&call)?;
    let (names, more) = call.registry().catalog(&call.ctx, &last, limit).await?;
    let mut response = answer::json(StatusCode::OK, &json!({ "repositories": names }));
    next_link(
        &mut response,
        "/v2/_catalog",
        limit,
        names.last().filter(|_| more),
    );
    Ok(response)
}

pub(super) async fn referrers(
    call: Call<'_>,
    repository: Repository,
    digest: &str,
) -> Result<Response, RegistryError> {
    let digest: Digest = digest
        .parse()
        .map_err(|_| RegistryError::DigestInvalid(format!("`{digest}` is not a digest")))?;
    let filter = call.query("artifactType");
    let found = call
        .registry()
        .referrers(&call.ctx, &repository, &digest, filter.as_deref())
        .await?;
    let body = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": found });
    let mut response = answer::json(StatusCode::OK, &body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media::INDEX));
    if filter.is_some() {
        response.headers_mut().insert(
            "oci-filters-applied",
            HeaderValue::from_static("artifactType"),
        );
    }
    Ok(response)
}
