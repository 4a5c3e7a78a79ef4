//! Envelopes and errors as Prometheus' HTTP API has them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use ondol_auth::Denied;

use crate::promql::json::{list, write_text};
use crate::promql::{QueryError, QueryErrorKind};
use crate::series::{AppendError, SourceError};

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A refusal, with its kind in the words of the API.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    kind: &'static str,
    message: String,
    /// Whether the body is the message alone, as senders of samples log it.
    plain: bool,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            plain: false,
        }
    }

    pub(super) fn bad_data(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_data", message)
    }

    pub(super) fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad_data(format!("invalid parameter {name:?}: {why}"))
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub(super) fn not_found(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("there is no endpoint {path} here"),
        )
    }

    pub(super) fn method(method: &Method) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "bad_data",
            format!("{method} is not allowed here"),
        )
    }

    /// The same refusal with a body of text.
    pub(super) fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// The status code.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// What is wrong.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        let (status, kind) = match denied {
            Denied::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Denied::Invisible(_) => (StatusCode::NOT_FOUND, "not_found"),
            Denied::Forbidden { .. } => (StatusCode::FORBIDDEN, "forbidden"),
        };
        Self::new(status, kind, denied.to_string())
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let kind = error.query_kind();
        let status = match kind {
            QueryErrorKind::BadData => StatusCode::BAD_REQUEST,
            QueryErrorKind::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            QueryErrorKind::Timeout | QueryErrorKind::Canceled => StatusCode::SERVICE_UNAVAILABLE,
            QueryErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, kind.as_str(), error.to_string())
    }
}

impl From<SourceError> for ApiError {
    fn from(error: SourceError) -> Self {
        QueryError::from(error).into()
    }
}

impl From<AppendError> for ApiError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Failed(_) => Self::internal(error.to_string()),
            AppendError::Busy(_) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "unavailable",
                error.to_string(),
            ),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = if self.plain {
            (self.status, self.message + "\n").into_response()
        } else {
            let mut out = String::from("{\"status\":\"error\",\"errorType\":");
            write_text(self.kind, &mut out);
            out.push_str(",\"error\":");
            write_text(&self.message, &mut out);
            out.push('}');
            (self.status, [(header::CONTENT_TYPE, JSON)], out).into_response()
        };
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static("Basic realm=\"ondol\"");
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}

/// `{"status":"success","data":…}` around data that is JSON already.
pub(super) fn success(data: &str, warnings: &[String]) -> Response {
    let mut out = String::with_capacity(data.len() + 64);
    out.push_str("{\"status\":\"success\",\"data\":");
    out.push_str(data);
    write_warnings(warnings, &mut out);
    out.push('}');
    json(out)
}

/// Appends `,"warnings":[…]` when there are any.
pub(super) fn write_warnings(warnings: &[String], out: &mut String) {
    if !warnings.is_empty() {
        out.push_str(",\"warnings\":");
        list(warnings, out, |text, out| write_text(text, out));
    }
}

/// An answer of JSON.
pub(super) fn json(body: impl Into<axum::body::Body>) -> Response {
    ([(header::CONTENT_TYPE, JSON)], body.into()).into_response()
}

/// What is said when a limit of the caller cut a list.
pub(super) const TRUNCATED: &str = "results truncated due to limit";
