//! Blobs: reading whole or in part, deleting.

use std::io::SeekFrom;

use axum::body::Body;
use axum::response::Response;
use http::{StatusCode, header};
use ondol_types::Digest;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;

use super::{Call, answer};
use crate::error::RegistryError;
use crate::model::{Repository, is_oci};
use crate::service::Content;

/// A digest of an algorithm that the specification knows.
pub(super) fn digest_of(text: &str) -> Result<Digest, RegistryError> {
    text.parse()
        .ok()
        .filter(is_oci)
        .ok_or_else(|| RegistryError::DigestInvalid(format!("`{text}` is not a digest")))
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
    // A range that ends before it begins says nothing that can be satisfied.
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
    let etag = format!("\"{digest}\"");
    let mut headers = vec![
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (answer::CONTENT_DIGEST, digest.to_string()),
        (header::ETAG, etag.clone()),
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
    let range = call.header(header::RANGE).map(str::to_owned);
    let content = call
        .registry()
        .content(&call.ctx, &repository, &digest, range.is_some())
        .await?;
    // Asked after permission and presence, so that it tells no more than the blob itself.
    if answer::is_known(call.request.headers(), &etag) {
        return Ok(answer::empty(StatusCode::NOT_MODIFIED, &headers));
    }
    let (mut file, size) = match content {
        Content::File(file, size) => (file, size),
        Content::Arriving(stream, size) => {
            headers.push((header::CONTENT_LENGTH, size.to_string()));
            let mut response = answer::empty(StatusCode::OK, &headers);
            *response.body_mut() = Body::from_stream(stream);
            return Ok(response);
        }
    };
    let asked = range.and_then(|text| byte_range(&text, size));
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
