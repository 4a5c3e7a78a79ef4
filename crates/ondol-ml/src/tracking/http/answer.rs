//! Answers in the form that the protocol's clients read.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ondol_types::{Classified, ErrorKind};
use serde_json::{Value, json};

use crate::tracking::error::{Code, TrackingError};

pub(super) fn json(value: &Value) -> Response {
    let mut response = value.to_string().into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

/// The protocol's own table from error to code and status.
fn table(error: &TrackingError) -> (&'static str, StatusCode) {
    if let TrackingError::Refused { code, .. } = error {
        let status = match code {
            Code::InvalidParameterValue | Code::ResourceAlreadyExists | Code::InvalidState => {
                StatusCode::BAD_REQUEST
            }
            Code::ResourceDoesNotExist | Code::EndpointNotFound => StatusCode::NOT_FOUND,
            Code::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        };
        return (code.text(), status);
    }
    match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::Unsupported | ErrorKind::Conflict => {
            ("BAD_REQUEST", StatusCode::BAD_REQUEST)
        }
        ErrorKind::Unauthenticated => ("UNAUTHENTICATED", StatusCode::UNAUTHORIZED),
        ErrorKind::Forbidden => ("PERMISSION_DENIED", StatusCode::FORBIDDEN),
        ErrorKind::NotFound => ("RESOURCE_DOES_NOT_EXIST", StatusCode::NOT_FOUND),
        ErrorKind::TooLarge => ("REQUEST_TOO_LARGE", StatusCode::PAYLOAD_TOO_LARGE),
        ErrorKind::RateLimited => ("REQUEST_LIMIT_EXCEEDED", StatusCode::TOO_MANY_REQUESTS),
        ErrorKind::Unavailable | ErrorKind::Timeout => {
            ("TEMPORARILY_UNAVAILABLE", StatusCode::SERVICE_UNAVAILABLE)
        }
        ErrorKind::Cancelled | ErrorKind::Corrupted | ErrorKind::Internal => {
            ("INTERNAL_ERROR", StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

pub(super) fn refusal(error: &TrackingError) -> Response {
    let (code, status) = table(error);
    if status.is_server_error() {
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::error!(error = %error, error.code = error.code(), error.cause = cause, "tracking request failed");
    }
    let message = if status == StatusCode::INTERNAL_SERVER_ERROR {
        "an internal error".to_owned()
    } else {
        match error.hint() {
            Some(hint) => format!("{error}; {hint}"),
            None => error.to_string(),
        }
    };
    let mut response = json(&json!({ "error_code": code, "message": message }));
    *response.status_mut() = status;
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            HeaderValue::from_static("Basic realm=\"Ondol\""),
        );
    }
    response
}
