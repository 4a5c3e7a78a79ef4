//! `POST /v1/metrics` and `POST …/api/v1/otlp/v1/metrics`: OTLP over HTTP, as protocol buffers.
//!
//! What is refused of a request that can be read is counted in `partial_success` with status 200:
//! an exporter must not repeat it. Requests with deltas follow each other, because what they add
//! up to must not be lost between reading and acknowledging.

use axum::extract::Request;
use http::{StatusCode, header};

use super::answer::ApiError;
use super::body::{self, Encoding, unsupported};
use super::write;
use super::{ApiResult, Call};
use crate::ingest::Writer;
use crate::ingest::otlp::{self, Config, Deltas};
use crate::series::Appended;

pub(super) async fn metrics(call: &Call, request: Request) -> ApiResult {
    match receive(call, request).await {
        Ok(appended) => Ok(write::protobuf(StatusCode::OK, success(&appended))),
        Err(error) => {
            // `google.rpc.Status`, of which clients log the message.
            let mut status = Writer::default();
            status.bytes(2, error.message().as_bytes());
            Ok(match error.status() {
                StatusCode::UNAUTHORIZED
                | StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE => return Err(error),
                // An exporter gives up after 500, and the store may be well again soon.
                StatusCode::INTERNAL_SERVER_ERROR => {
                    return Err(ApiError::unavailable(error.message()));
                }
                code => write::protobuf(code, status.0),
            })
        }
    }
}

/// `ExportMetricsServiceResponse`.
fn success(appended: &Appended) -> Vec<u8> {
    let mut response = Writer::default();
    if let Some(text) = write::refusals(appended) {
        let mut partial = Writer::default();
        let count: usize = appended.refused.values().map(|(count, _)| count).sum();
        partial.unsigned(1, count as u64);
        partial.bytes(2, text.as_bytes());
        response.bytes(1, &partial.0);
    }
    response.0
}

async fn receive(call: &Call, request: Request) -> Result<Appended, ApiError> {
    write::may_push(call)?;
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    if kind.split(';').next().map(str::trim) != Some("application/x-protobuf") {
        return Err(unsupported(format!(
            "the content type {kind:?} is not known here: use application/x-protobuf (http/protobuf)"
        )));
    }
    let encoding = Encoding::of(&request, Encoding::Identity)?;
    let taken = body::take(call, request, encoding).await?;
    let (bytes, taken) = write::decode(taken, |bytes| {
        let deltas = otlp::has_deltas(bytes)?;
        if deltas {
            return Ok(Err(bytes.to_vec()));
        }
        let config = Config::default();
        let (decoded, _) = otlp::decode(bytes, &config, &Deltas::default())?;
        Ok(Ok(decoded))
    })
    .await?;
    let bytes = match bytes {
        Ok(decoded) => return write::append(call, decoded).await,
        Err(bytes) => bytes,
    };
    // The lock is held until the store has acknowledged, so that requests with deltas follow each
    // other.
    let deltas = call.shared.deltas.clone().lock_owned().await;
    let (decoded, mut deltas) = tokio::task::spawn_blocking(move || {
        let decoded = otlp::decode(&bytes, &Config::default(), &deltas);
        (decoded, deltas)
    })
    .await
    .map_err(|error| ApiError::internal(format!("reading the body ended unexpectedly: {error}")))?;
    let (decoded, staged) = decoded?;
    let appended = write::append(call, decoded).await?;
    deltas.commit(staged);
    drop(taken);
    Ok(appended)
}
