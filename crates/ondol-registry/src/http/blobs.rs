//! Blobs and their uploads.

use std::io::SeekFrom;

use axum::body::Body;
use axum::response::Response;
use http::{StatusCode, header};
use ondol_types::{Algorithm, Digest, UploadId};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{Call, answer};
use crate::error::RegistryError;
use crate::model::Repository;

fn place(repository: &Repository, id: &UploadId) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

fn accepted(repository: &Repository, id: &UploadId, received: u64) -> Response {
    answer::empty(
        StatusCode::ACCEPTED,
        &[
            (header::LOCATION, place(repository, id)),
            (header::RANGE, answer::range(received)),
            (
                header::HeaderName::from_static("docker-upload-uuid"),
                id.to_string(),
            ),
            (header::CONTENT_LENGTH, "0".to_owned()),
        ],
    )
}

fn created(repository: &Repository, digest: &Digest) -> Response {
    answer::empty(
        StatusCode::CREATED,
        &[
            (header::LOCATION, format!("/v2/{repository}/blobs/{digest}")),
            (answer::CONTENT_DIGEST, digest.to_string()),
            (header::CONTENT_LENGTH, "0".to_owned()),
        ],
    )
}

fn digest_of(text: &str) -> Result<Digest, RegistryError> {
    text.parse()
        .map_err(|_| RegistryError::DigestInvalid(format!("`{text}` is not a digest")))
}

pub(super) async fn begin(
    call: Call<'_>,
    repository: Repository,
) -> Result<Response, RegistryError> {
    if let Some(mount) = call.query("mount") {
        let digest = digest_of(&mount)?;
        if let Some(from) = call.query("from")
            && let Ok(from) = from.parse::<Repository>()
            && call
                .registry()
                .mount(&call.ctx, &repository, &digest, &from)
                .await?
        {
            return Ok(created(&repository, &digest));
        }
    }
    let whole = call
        .query("digest")
        .map(|text| digest_of(&text))
        .transpose()?;
    let algorithm = match call.query("digest-algorithm").as_deref() {
        Some("sha512") => Algorithm::Sha512,
        _ => whole.as_ref().map_or(Algorithm::Sha256, Digest::algorithm),
    };
    let id = call
        .registry()
        .begin_upload(&call.ctx, &repository, algorithm)
        .await?;
    let Some(digest) = whole else {
        return Ok(accepted(&repository, &id, 0));
    };
    let Call { door, ctx, request } = call;
    door.registry
        .append(
            &ctx,
            &repository,
            &id,
            None,
            request.into_body().into_data_stream(),
        )
        .await?;
    door.registry
        .finish_upload(&ctx, &repository, &id, &digest)
        .await?;
    Ok(created(&repository, &digest))
}

pub(super) async fn progress(
    call: Call<'_>,
    repository: Repository,
    id: UploadId,
) -> Result<Response, RegistryError> {
    let received = call
        .registry()
        .upload_size(&call.ctx, &repository, &id)
        .await?;
    let mut response = accepted(&repository, &id, received);
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// Where a `Content-Range: 0-99` (or `bytes 0-99/*`) begins.
fn content_start(call: &Call<'_>) -> Result<Option<u64>, RegistryError> {
    let Some(range) = call.header(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let bare = range
        .trim_start_matches("bytes")
        .trim_start_matches(['=', ' ']);
    let start = bare
        .split('-')
        .next()
        .and_then(|text| text.trim().parse().ok());
    start
        .map(Some)
        .ok_or_else(|| RegistryError::Broken(format!("Content-Range `{range}` is not a range")))
}

pub(super) async fn append(
    call: Call<'_>,
    repository: Repository,
    id: UploadId,
) -> Result<Response, RegistryError> {
    let start = content_start(&call)?;
    let Call { door, ctx, request } = call;
    let body = request.into_body().into_data_stream();
    let received = door
        .registry
        .append(&ctx, &repository, &id, start, body)
        .await?;
    Ok(accepted(&repository, &id, received))
}

pub(super) async fn finish(
    call: Call<'_>,
    repository: Repository,
    id: UploadId,
) -> Result<Response, RegistryError> {
    let text = call
        .query("digest")
        .ok_or_else(|| RegistryError::DigestInvalid("the request names no digest".to_owned()))?;
    let digest = digest_of(&text)?;
    let start = content_start(&call)?;
    let Call { door, ctx, request } = call;
    let body = request.into_body().into_data_stream();
    door.registry
        .append(&ctx, &repository, &id, start, body)
        .await?;
    door.registry
        .finish_upload(&ctx, &repository, &id, &digest)
        .await?;
    Ok(created(&repository, &digest))
}

pub(super) async fn cancel(
    call: Call<'_>,
    repository: Repository,
    id: UploadId,
) -> Result<Response, RegistryError> {
    call.registry()
        .cancel_upload(&call.ctx, &repository, &id)
        .await?;
    Ok(answer::empty(StatusCode::NO_CONTENT, &[]))
}

pub(super) async fn delete(
    call: Call<'_>,
    repository: Repository,
    digest: Digest,
) -> Result<Response, RegistryError> {
    call.registry()
        .delete_blob(&call.ctx, &repository, &digest)
        .await?;
    Ok(answer::empty(StatusCode::ACCEPTED, &[]))
}

/// `bytes=A-B`, `bytes=A-` or `bytes=-N` of a blob; `None` when the header is not one range.
fn byte_range(text: &str, size: u64) -> Option<Result<(u64, u64), ()>> {
    let spec = text.strip_prefix("bytes=")?;
    let (first, last) = spec.split_once('-')?;
    if spec.contains(',') {
        return None;
    }
    let range = if first.is_empty() {
        let length: u64 = last.parse().ok()?;
        (size.saturating_sub(length), size.checked_sub(1)?)
    } else {
        let first: u64 = first.parse().ok()?;
        let last = if last.is_empty() {
            size.saturating_sub(1)
        } else {
            last.parse::<u64>().ok()?.min(size.saturating_sub(1))
        };
        (first, last)
    };
    Some(if range.0 <= range.1 && range.0 < size {
        Ok(range)
    } else {
        Err(())
    })
}

pub(super) async fn get(
    call: Call<'_>,
    repository: Repository,
    digest: Digest,
) -> Result<Response, RegistryError> {
    let mut headers = vec![
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (answer::CONTENT_DIGEST, digest.to_string()),
        (header::ETAG, format!("\"{digest}\"")),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    if call.head() {
        let size = call
            .registry()
            .blob_size(&call.ctx, &repository, &digest)
            .await?;
        headers.push((header::CONTENT_LENGTH, size.to_string()));
        return Ok(answer::empty(StatusCode::OK, &headers));
    }
    let (mut file, size) = call
        .registry()
        .blob(&call.ctx, &repository, &digest)
        .await?;
    let asked = call
        .header(header::RANGE)
        .and_then(|text| byte_range(text, size));
    let (status, first, length) = match asked {
        None => (StatusCode::OK, 0, size),
        Some(Ok((first, last))) => {
            headers.push((
                header::CONTENT_RANGE,
                format!("bytes {first}-{last}/{size}"),
            ));
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Some(Err(())) => {
            headers.push((header::CONTENT_RANGE, format!("bytes */{size}")));
            return Ok(answer::empty(StatusCode::RANGE_NOT_SATISFIABLE, &headers));
        }
    };
    if first > 0 {
        file.seek(SeekFrom::Start(first))
            .await
            .map_err(RegistryError::io(digest.clone()))?;
    }
    headers.push((header::CONTENT_LENGTH, length.to_string()));
    let mut response = answer::empty(status, &headers);
    *response.body_mut() =
        Body::from_stream(ReaderStream::with_capacity(file.take(length), 256 * 1024));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_ranges_are_clamped_or_refused() {
        assert_eq!(byte_range("bytes=0-4", 10), Some(Ok((0, 4))));
        assert_eq!(byte_range("bytes=5-", 10), Some(Ok((5, 9))));
        assert_eq!(byte_range("bytes=-3", 10), Some(Ok((7, 9))));
        assert_eq!(byte_range("bytes=0-99", 10), Some(Ok((0, 9))));
        assert_eq!(byte_range("bytes=10-", 10), Some(Err(())));
        assert_eq!(byte_range("bytes=0-1,3-4", 10), None);
        assert_eq!(byte_range("lines=0-1", 10), None);
    }
}
