//! `POST …/api/v1/write`: remote write 1 and 2.
//!
//! A sender repeats a request after 429 and 5xx and gives it up after any other 4xx. So 400 means
//! that repeating would not help, also when most of the request was taken in; and what was taken
//! in is durable before any answer. Version 2 is answered with counts, without which a sender
//! takes the receiver for one that does not know version 2.

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ondol_auth::{Action, VisibleScope, visible_scope};

use super::answer::ApiError;
use super::body::{self, Encoding, Taken, unsupported};
use super::scope;
use super::{ApiResult, Call};
use crate::ingest::remote::{self, Decoded, Limits, Version};
use crate::series::Appended;

pub(super) async fn remote(call: &Call, request: Request) -> ApiResult {
    let mut version = Version::V1;
    let (outcome, written) = match receive(call, request, &mut version).await {
        Ok(appended) => (conclude(&appended), appended),
        Err(error) => (Err(error), Appended::default()),
    };
    let mut response = match outcome {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => error.plain().into_response(),
    };
    if version == Version::V2 {
        for (name, count) in [
            ("x-prometheus-remote-write-samples-written", written.floats),
            (
                "x-prometheus-remote-write-histograms-written",
                written.histograms,
            ),
            (
                "x-prometheus-remote-write-exemplars-written",
                written.exemplars,
            ),
        ] {
            response
                .headers_mut()
                .insert(name, HeaderValue::from(count as u64));
        }
    }
    Ok(response)
}

async fn receive(
    call: &Call,
    request: Request,
    version: &mut Version,
) -> Result<Appended, ApiError> {
    may_push(call)?;
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    *version = Version::of_content_type(kind).ok_or_else(|| {
        unsupported(format!(
            "the content type {kind:?} is not known: use application/x-protobuf with proto=prometheus.WriteRequest or proto=io.prometheus.write.v2.Request"
        ))
    })?;
    let version = *version;
    let encoding = Encoding::of(&request, Encoding::Snappy)?;
    if encoding != Encoding::Snappy {
        return Err(unsupported(
            "remote write is compressed with snappy".to_owned(),
        ));
    }
    let taken = body::take(call, request, encoding).await?;
    let (decoded, _taken) = decode(taken, move |bytes| {
        remote::decode(bytes, version, Limits::default()).map_err(ApiError::from)
    })
    .await?;
    append(call, decoded).await
}

/// Refuses somebody who may add to nothing, before a byte of the body is read.
pub(super) fn may_push(call: &Call) -> Result<(), ApiError> {
    let scope = visible_scope(&call.principal, Action::Push, call.now);
    if scope == VisibleScope::Projects(Vec::new()) {
        ondol_auth::decide(
            &call.principal,
            Action::Push,
            &ondol_auth::Resource::Installation,
            call.now,
        )?;
    }
    Ok(())
}

/// Decompresses and reads a body where that may take its time. The body keeps its place until
/// the result is dropped: the batch is as large.
pub(super) async fn decode<T: Send + 'static>(
    taken: Taken,
    read: impl FnOnce(&[u8]) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, Taken), ApiError> {
    tokio::task::spawn_blocking(move || {
        let bytes = taken.decompressed()?;
        read(&bytes).map(|read| (read, taken))
    })
    .await
    .map_err(|error| ApiError::internal(format!("reading the body ended unexpectedly: {error}")))?
}

/// Adds what was read, with what was left out of it counted in.
pub(super) async fn append(call: &Call, decoded: Decoded) -> Result<Appended, ApiError> {
    let Decoded { mut batch, refused } = decoded;
    scope::admit(call, &mut batch)?;
    let mut appended = if batch.is_empty() {
        Appended::default()
    } else {
        call.door().writer.append(batch).await?
    };
    for (why, (count, first)) in refused.refused {
        let entry = appended.refused.entry(why).or_insert((0, first));
        entry.0 += count;
    }
    Ok(appended)
}

/// What was refused, in words; nothing when nothing was.
pub(super) fn refusals(appended: &Appended) -> Option<String> {
    let parts: Vec<String> = appended
        .refused
        .iter()
        .map(|(why, (count, first))| format!("{count} refused: {why} (first: {first})"))
        .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn conclude(appended: &Appended) -> Result<(), ApiError> {
    match refusals(appended) {
        None => Ok(()),
        Some(text) => Err(ApiError::bad_data(text)),
    }
}

/// An answer with a message of protocol buffers.
pub(super) fn protobuf(status: StatusCode, body: Vec<u8>) -> Response {
    (
        status,
        [(header::CONTENT_TYPE, "application/x-protobuf")],
        body,
    )
        .into_response()
}
