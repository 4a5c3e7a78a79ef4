//! Manifests.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};

use super::{Call, answer};
use crate::error::RegistryError;
use crate::model::{Reference, Repository};
use crate::service::Put;

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
    if answer::is_known(call.request.headers(), &format!("\"{}\"", pulled.digest)) {
        return Ok(answer::empty(StatusCode::NOT_MODIFIED, &headers[..3]));
    }
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
    let tags = answer::all(call.request.uri().query().unwrap_or(""), "tag");
    for tag in &tags {
        if !matches!(tag.parse(), Ok(Reference::Tag(_))) {
            return Err(RegistryError::Reference(tag.chars().take(140).collect()));
        }
    }
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
        .push_manifest(
            &ctx,
            &repository,
            Put {
                reference: &reference,
                tags: &tags,
                content_type: &content_type,
                bytes,
            },
        )
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
        headers.push((HeaderName::from_static("oci-subject"), subject.to_string()));
    }
    let mut response = answer::empty(StatusCode::CREATED, &headers);
    for tag in &tags {
        if let Ok(value) = HeaderValue::from_str(tag) {
            response
                .headers_mut()
                .append(HeaderName::from_static("oci-tag"), value);
        }
    }
    Ok(response)
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
