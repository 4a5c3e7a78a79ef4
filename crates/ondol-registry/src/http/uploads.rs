//! Uploads: one POST, POST and PUT, or PATCH after PATCH, with or without lengths.

use axum::response::Response;
use http::{StatusCode, header};
use ondol_types::{Algorithm, Digest, UploadId};

use super::blobs::digest_of;
use super::{Call, answer};
use crate::error::RegistryError;
use crate::model::Repository;
use crate::service::Chunk;

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

pub(super) async fn begin(
    call: Call<'_>,
    repository: Repository,
) -> Result<Response, RegistryError> {
    if let Some(mount) = call.query("mount") {
        let digest = digest_of(&mount)?;
        let from = call.query("from").filter(|from| !from.is_empty());
        // A source that cannot be a name is one that does not exist.
        let from = from.map(|from| from.parse::<Repository>()).transpose();
        if let Ok(from) = from
            && call
                .registry()
                .mount(&call.ctx, &repository, &digest, from.as_ref())
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
    complete(call, repository, id, digest).await
}

/// The last body of an upload, which may be the only one.
async fn complete(
    call: Call<'_>,
    repository: Repository,
    id: UploadId,
    digest: Digest,
) -> Result<Response, RegistryError> {
    let chunk = chunk(&call)?;
    let Call { door, ctx, request } = call;
    let body = request.into_body().into_data_stream();
    door.registry
        .complete(&ctx, &repository, &id, &digest, chunk, body)
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

/// What `Content-Range: 0-99` (or `bytes 0-99/*`) says.
fn content_range(text: &str) -> Option<Chunk> {
    let bare = text
        .trim_start_matches("bytes")
        .trim_start_matches(['=', ' ']);
    let bare = bare.split('/').next()?.trim();
    let (first, last) = bare.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    // `0--1` is not a number, so an empty chunk cannot be said; one that ends before it begins
    // is none.
    let length = last.checked_sub(first)?.checked_add(1)?;
    Some(Chunk {
        start: Some(first),
        length: Some(length),
    })
}

fn chunk(call: &Call<'_>) -> Result<Chunk, RegistryError> {
    let Some(range) = call.header(header::CONTENT_RANGE) else {
        return Ok(Chunk::default());
    };
    content_range(range)
        .ok_or_else(|| RegistryError::Broken(format!("Content-Range `{range}` is not a range")))
}

pub(super) async fn append(
    call: Call<'_>,
    repository: Repository,
    id: UploadId,
) -> Result<Response, RegistryError> {
    let chunk = chunk(&call)?;
    let Call { door, ctx, request } = call;
    let body = request.into_body().into_data_stream();
    let received = door
        .registry
        .append(&ctx, &repository, &id, chunk, body)
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
    complete(call, repository, id, digest).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_chunks_are_read_in_both_forms() {
        let read = |text: &str| content_range(text).map(|it| (it.start, it.length));
        assert_eq!(read("0-99"), Some((Some(0), Some(100))));
        assert_eq!(read("bytes 100-199/*"), Some((Some(100), Some(100))));
        assert_eq!(read("bytes=5-5/10"), Some((Some(5), Some(1))));
        for bad in [
            "",
            "x",
            "5",
            "-",
            "5-",
            "-5",
            "9-3",
            "0--1",
            "0-18446744073709551615",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
