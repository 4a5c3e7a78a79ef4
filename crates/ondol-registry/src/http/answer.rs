//! Answers in the form that OCI clients read.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use ondol_auth::Denied;
use ondol_types::{Classified, ErrorKind};
use serde_json::{Value, json};

use super::Target;
use crate::error::RegistryError;
use crate::model::Repository;

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
        RegistryError::Unsupported(_) | RegistryError::Named { .. } => {
            StatusCode::METHOD_NOT_ALLOWED
        }
        RegistryError::InUse(_) => StatusCode::FORBIDDEN,
        RegistryError::Upstream { .. } => StatusCode::BAD_GATEWAY,
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

/// How a client may show who it is.
pub(super) struct Challenge {
    /// Where tokens are given, when they are wanted here.
    realm: Option<String>,
    service: String,
    scope: Option<String>,
    /// Whether the request showed a token whose scope may be too narrow for what clients count
    /// as pushing or as reading: deleting, and asking how far an upload is. They ask for the scope
    /// that they are told then.
    narrow: bool,
}

impl Challenge {
    /// What a request is answered that shows nothing or the wrong thing. The realm is at the host
    /// that the client knows this server by.
    pub(super) fn of(request: &Request, target: &Target<'_>) -> Self {
        let host = request
            .headers()
            .get(header::HOST)
            .and_then(|value| value.to_str().ok())
            .or_else(|| {
                request
                    .uri()
                    .authority()
                    .map(|authority| authority.as_str())
            })
            .filter(|host| {
                host.bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
            });
        let secure = request
            .headers()
            .get("x-forwarded-proto")
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"));
        let scheme = if secure { "https" } else { "http" };
        let actions = match *request.method() {
            // Who asks how far an upload is wants to go on with it.
            Method::GET | Method::HEAD if !matches!(target, Target::Upload(..)) => "pull",
            Method::DELETE if !matches!(target, Target::Upload(..)) => "delete",
            _ => "pull,push",
        };
        let scope = match target {
            Target::Catalog => Some("registry:catalog:*".to_owned()),
            other => other
                .repository()
                .filter(|name| name.parse::<Repository>().is_ok())
                .map(|name| format!("repository:{name}:{actions}")),
        };
        let at_token = matches!(target, Target::Token);
        let bearer = request
            .headers()
            .get(header::AUTHORIZATION)
            .is_some_and(|value| {
                let Some((scheme, rest)) = value.as_bytes().split_at_checked(7) else {
                    return false;
                };
                // A token of a person has no scope, so none that could be too narrow.
                scheme.eq_ignore_ascii_case(b"bearer ")
                    && !rest.trim_ascii_start().starts_with(b"ondol_")
            });
        Self {
            narrow: bearer
                && (actions == "delete"
                    || (*request.method() == Method::GET && matches!(target, Target::Upload(..)))),
            realm: host
                .filter(|_| !at_token)
                .map(|host| format!("{scheme}://{host}/v2/token")),
            service: host.unwrap_or("ondol").to_owned(),
            scope,
        }
    }

    fn headers(&self) -> Vec<String> {
        let basic = "Basic realm=\"Ondol\"".to_owned();
        let Some(realm) = &self.realm else {
            return vec![basic];
        };
        let mut bearer = format!("Bearer realm=\"{realm}\",service=\"{}\"", self.service);
        if let Some(scope) = &self.scope {
            bearer.push_str(&format!(",scope=\"{scope}\""));
        }
        if self.narrow {
            bearer.push_str(",error=\"insufficient_scope\"");
        }
        vec![bearer, basic]
    }
}

pub(super) fn refusal(error: &RegistryError, challenge: &Challenge) -> Response {
    let forbidden = matches!(error, RegistryError::Denied(Denied::Forbidden { .. }));
    let status = if forbidden && challenge.narrow {
        StatusCode::UNAUTHORIZED
    } else {
        status(error)
    };
    if status == StatusCode::INTERNAL_SERVER_ERROR {
        tracing::error!(error = %error, error.code = error.code(), "registry request failed");
    }
    let message = if status == StatusCode::INTERNAL_SERVER_ERROR {
        "an internal error".to_owned()
    } else {
        error.to_string()
    };
    let mut response = fault(status, error.oci_code(), &message, error.hint());
    if status == StatusCode::UNAUTHORIZED {
        for value in challenge.headers() {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response
                    .headers_mut()
                    .append(header::WWW_AUTHENTICATE, value);
            }
        }
    }
    if let RegistryError::Range { have, .. } = error
        && let Ok(value) = HeaderValue::from_str(&range(*have))
    {
        response.headers_mut().insert(header::RANGE, value);
    }
    if let RegistryError::TooManyAttempts(seconds) = error {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
    }
    response
}

/// One error in the form of the specification.
pub(super) fn fault(
    status: StatusCode,
    code: &str,
    message: &str,
    detail: Option<String>,
) -> Response {
    let detail = detail.unwrap_or_default();
    let body = json!({ "errors": [{ "code": code, "message": message, "detail": detail }] });
    json(status, &body)
}

/// Whether the client has this already.
pub(super) fn is_known(request: &HeaderMap, etag: &str) -> bool {
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|one| one.trim().trim_start_matches("W/"))
        .any(|one| one == etag || one == "*")
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

/// One decoded value of a query string or a form.
pub(super) fn query(query: &str, key: &str) -> Option<String> {
    all(query, key).into_iter().next()
}

/// Every decoded value of a key, at most a hundred.
pub(super) fn all(query: &str, key: &str) -> Vec<String> {
    query
        .split('&')
        .filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name == key).then(|| percent_decode(value))
        })
        .take(100)
        .collect()
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
