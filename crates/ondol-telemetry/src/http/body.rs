//! Bodies of samples: bounded as they come in and when they are decompressed, and only so many at
//! once. A body waits for its turn before a byte of it is read.

use std::io::Read;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use http::{StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::OwnedSemaphorePermit;

use super::Call;
use super::answer::ApiError;
use crate::ingest::{IngestError, snappy};

/// How long a body waits for its turn.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// How long a body may take to come in.
const MAX_READING: Duration = Duration::from_secs(60);

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    /// The block format, which has no frames.
    Snappy,
}

impl Encoding {
    /// What `Content-Encoding` says; `otherwise` when it is absent.
    pub(super) fn of(request: &Request, otherwise: Self) -> Result<Self, ApiError> {
        let Some(value) = request.headers().get(header::CONTENT_ENCODING) else {
            return Ok(otherwise);
        };
        match value.to_str().unwrap_or("").trim() {
            "" => Ok(otherwise),
            "identity" => Ok(Self::Identity),
            "gzip" => Ok(Self::Gzip),
            "snappy" => Ok(Self::Snappy),
            other => Err(unsupported(format!(
                "the encoding {other:?} is not known: use snappy, gzip or none"
            ))),
        }
    }
}

pub(super) fn unsupported(message: String) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "bad_data", message)
}

fn too_large(what: &str, limit: usize, setting: &str) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "bad_data",
        format!("the {what} has more than {limit} bytes ({setting}): send less at once"),
    )
}

impl From<IngestError> for ApiError {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "bad_data", error.to_string())
            }
            _ => Self::bad_data(error.to_string()),
        }
    }
}

/// A body that came in, still compressed. Its place is free when this is dropped.
pub(super) struct Taken {
    bytes: Bytes,
    encoding: Encoding,
    limit: usize,
    _place: OwnedSemaphorePermit,
}

/// Reads a body.
///
/// # Errors
/// It is too large, it broke off, or too many others are being read.
pub(super) async fn take(
    call: &Call,
    request: Request,
    encoding: Encoding,
) -> Result<Taken, ApiError> {
    let config = &call.door().config;
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > config.max_body as u64) {
        return Err(too_large("body", config.max_body, "max_body"));
    }
    let place = call.shared.writes.clone().acquire_owned();
    let place = match tokio::time::timeout(MAX_WAIT, place).await {
        Ok(Ok(place)) => place,
        Ok(Err(_)) | Err(_) => {
            return Err(ApiError::unavailable(format!(
                "{} bodies are being read (max_writes), and none ended within {MAX_WAIT:?}",
                config.max_writes
            )));
        }
    };
    let limited = Limited::new(request.into_body(), config.max_body);
    let Ok(body) = tokio::time::timeout(MAX_READING, limited.collect()).await else {
        return Err(ApiError::unavailable(format!(
            "the body did not come in within {MAX_READING:?}"
        )));
    };
    let bytes = match body {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            return Err(too_large("body", config.max_body, "max_body"));
        }
        Err(error) => {
            return Err(ApiError::bad_data(format!("the body broke off: {error}")));
        }
    };
    Ok(Taken {
        bytes,
        encoding,
        limit: config.max_decompressed,
        _place: place,
    })
}

impl Taken {
    /// The bytes behind the compression.
    ///
    /// # Errors
    /// They are not compressed as was said, or there are too many of them.
    pub(super) fn decompressed(&self) -> Result<Bytes, ApiError> {
        match self.encoding {
            Encoding::Identity => Ok(self.bytes.clone()),
            Encoding::Snappy => Ok(snappy::decompress(&self.bytes, self.limit)?.into()),
            Encoding::Gzip => {
                let mut out = Vec::new();
                let mut decoder = flate2::read::MultiGzDecoder::new(&self.bytes[..]);
                decoder
                    .by_ref()
                    .take(self.limit as u64 + 1)
                    .read_to_end(&mut out)
                    .map_err(|error| ApiError::bad_data(format!("the body is no gzip: {error}")))?;
                if out.len() > self.limit {
                    return Err(too_large(
                        "decompressed body",
                        self.limit,
                        "max_decompressed",
                    ));
                }
                Ok(out.into())
            }
        }
    }
}
