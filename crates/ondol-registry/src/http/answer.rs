//! Answers in the form that OCI clients read.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ondol_types::{Classified, ErrorKind};
use serde_json::{Value, json};

use crate::error::RegistryError;

pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    let mut response = (status, value.to_string()).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// The protocol's own table from error to status.
fn status(error: &RegistryError) -> StatusCode {
    match error {
        RegistryError::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
        RegistryError::ManifestBlobUnknown(_) => StatusCode::NOT_FOUND,
        other => match other.kind() {
            ErrorKind::InvalidInput | ErrorKind::Unsupported => StatusCode::BAD_REQUEST,
            ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorKind::Forbidden => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Timeout => StatusCode::REQUEST_TIMEOUT,
            ErrorKind::Cancelled | ErrorKind::Corrupted | ErrorKind::Internal => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        },
    }
}

pub(super) fn refusal(error: &RegistryError) -> Response {
    let status = status(error);
    if status.is_server_error() {
        tracing::error!(error = %error, error.code = error.code(), "registry request failed");
    }
    let message = if status == StatusCode::INTERNAL_SERVER_ERROR {
        "an internal error".to_owned()
    } else {
        error.to_string()
    };
    let detail = error.hint().unwrap_or_default();
    let body =
        json!({ "errors": [{ "code": error.oci_code(), "message": message, "detail": detail }] });
    let mut response = json(status, &body);
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"Ondol\""),
        );
    }
    if let RegistryError::Range { have, .. } = error
        && let Ok(value) = HeaderValue::from_str(&range(*have))
    {
        response.headers_mut().insert(header::RANGE, value);
    }
    response
}

/// `0-N` with the last byte's place; an empty upload says `0-0` like every other registry.
pub(super) fn range(received: u64) -> String {
    format!("0-{}", received.saturating_sub(1))
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode, headers: &[(header::HeaderName, String)]) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name.clone(), value);
        }
    }
    response
}

/// One decoded value of a query string.
pub(super) fn query(query: &str, key: &str) -> Option<String> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then(|| percent_decode(value))
    })
}

fn percent_decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|&byte| (byte as char).to_digit(16));
        match (bytes[index], hex(index + 1), hex(index + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                index += 3;
            }
            (b'+', _, _) => {
                out.push(b' ');
                index += 1;
            }
            (byte, _, _) => {
                out.push(byte);
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

pub(super) const CONTENT_DIGEST: header::HeaderName =
    header::HeaderName::from_static("docker-content-digest");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_decoded() {
        assert_eq!(
            query("digest=sha256%3Aab&x=1+2", "digest").as_deref(),
            Some("sha256:ab")
        );
        assert_eq!(
            query("digest=sha256%3Aab&x=1+2", "x").as_deref(),
            Some("1 2")
        );
        assert_eq!(query("a=%zz%", "a").as_deref(), Some("%zz%"));
    }
}
