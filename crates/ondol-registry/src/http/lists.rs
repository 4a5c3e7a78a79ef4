//! Tags, the catalog and referrers.

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::blobs::digest_of;
use super::{Call, answer};
use crate::error::RegistryError;
use crate::model::{Repository, media};

/// Entries of a page when the client does not say, and at most. Some clients never ask for a
/// second page, so a first one is long.
const PAGE: u32 = 10_000;
const MAX_PAGE: u32 = 10_000;

fn page(call: &Call<'_>) -> Result<(u32, String), RegistryError> {
    let limit = match call.query("n") {
        None => PAGE,
        Some(text) => text
            .parse::<u32>()
            .map_err(|_| RegistryError::PageSize(text.chars().take(40).collect()))?
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
    let digest = digest_of(digest)?;
    let filter = call.query("artifactType").filter(|it| !it.is_empty());
    let skip = call.query("last").and_then(|last| last.parse().ok());
    let (found, next) = call
        .registry()
        .referrers(
            &call.ctx,
            &repository,
            &digest,
            filter.as_deref(),
            skip.unwrap_or(0),
        )
        .await?;
    let body = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": found });
    let mut response = answer::json(StatusCode::OK, &body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media::INDEX));
    if filter.is_some() {
        headers.insert(
            "oci-filters-applied",
            HeaderValue::from_static("artifactType"),
        );
    }
    if let Some(next) = next {
        // The filter is repeated as it came, still encoded.
        let query = call.request.uri().query().unwrap_or("");
        let kept = query
            .split('&')
            .filter(|it| it.starts_with("artifactType="));
        let place: String = kept.map(|it| format!("{it}&")).collect();
        let link =
            format!("</v2/{repository}/referrers/{digest}?{place}last={next}>; rel=\"next\"");
        if let Ok(value) = HeaderValue::from_str(&link) {
            headers.insert(header::LINK, value);
        }
    }
    Ok(response)
}
