//! Answers that the gateway gives itself: short, in the form the client reads, and without a word
//! about what else is served here.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// Why a request does not reach a replica, or gets no answer from one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The request is not one we can pass on.
    Bad(&'static str),
    /// No route takes it.
    Unrouted,
    /// The path lacks its last slash.
    Slash(String),
    /// CONNECT is for forward proxies.
    Connect,
    /// The body is longer than the route allows.
    TooLarge,
    /// The gateway has too much to do.
    Overloaded,
    /// All replicas have too much to do.
    Busy,
    /// No replica is there.
    Empty,
    /// The route was stopped.
    Stopped,
    /// The route was held for longer than a request may wait.
    HeldTooLong,
    /// The replica cannot be reached or broke off.
    Unreachable,
    /// The replica answered something that is not HTTP.
    Nonsense,
    /// The replica took too long.
    Slow,
    /// The replica was stopped before it answered.
    Drained,
    /// The client left.
    Left,
}

impl Refusal {
    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) | Self::Left => StatusCode::BAD_REQUEST,
            Self::Unrouted => StatusCode::NOT_FOUND,
            Self::Slash(_) => StatusCode::PERMANENT_REDIRECT,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Overloaded | Self::Busy | Self::Empty | Self::Stopped => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::HeldTooLong | Self::Slow | Self::Drained => StatusCode::GATEWAY_TIMEOUT,
            Self::Unreachable | Self::Nonsense => StatusCode::BAD_GATEWAY,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Bad(_) => "gateway.request.bad",
            Self::Unrouted => "gateway.route.unknown",
            Self::Slash(_) => "gateway.route.slash",
            Self::Connect => "gateway.request.connect",
            Self::TooLarge => "gateway.request.too-large",
            Self::Overloaded => "gateway.overloaded",
            Self::Busy => "gateway.replicas.busy",
            Self::Empty => "gateway.replicas.none",
            Self::Stopped => "gateway.route.stopped",
            Self::HeldTooLong => "gateway.route.held",
            Self::Unreachable => "gateway.replica.unreachable",
            Self::Nonsense => "gateway.replica.malformed",
            Self::Slow => "gateway.replica.timeout",
            Self::Drained => "gateway.replica.drained",
            Self::Left => "gateway.request.cancelled",
        }
    }

    fn detail(&self) -> &'static str {
        match self {
            Self::Bad(reason) => reason,
            Self::Unrouted => {
                "No application answers at this address. Applications answer at http://<project>.localhost and, \
                 for programs that cannot resolve such names, at /apps/<project>/ on this port."
            }
            Self::Slash(_) => "The application is one slash further.",
            Self::Connect => "This is not a forward proxy.",
            Self::TooLarge => "The request body is larger than this application accepts.",
            Self::Overloaded => {
                "The gateway has more requests in progress than it may. Try again in a moment."
            }
            Self::Busy => "Every instance of this application is busy. Try again in a moment.",
            Self::Empty => {
                "This application has no running instance at the moment. Try again in a moment."
            }
            Self::Stopped => "This application was stopped.",
            Self::HeldTooLong => "This application was paused for longer than a request may wait.",
            Self::Unreachable => {
                "The application could not be reached, or ended before it answered."
            }
            Self::Nonsense => "The application gave an answer that is not HTTP.",
            Self::Slow => "The application took too long to answer.",
            Self::Drained => {
                "The instance that worked on this request was stopped before it answered."
            }
            Self::Left => {
                "The request ended before it was complete, or its body is not framed as HTTP says."
            }
        }
    }

    fn retry_after_seconds(&self) -> Option<&'static str> {
        match self {
            Self::Overloaded | Self::Busy => Some("1"),
            Self::Empty | Self::Unreachable | Self::Drained => Some("2"),
            Self::Stopped | Self::HeldTooLong => Some("30"),
            _ => None,
        }
    }

    /// The header fields and the body, in the form that `accept` prefers.
    pub(crate) fn render(
        &self,
        accept: Option<&HeaderValue>,
        request_id: &HeaderValue,
    ) -> (HeaderMap, Bytes) {
        let status = self.status();
        let title = status.canonical_reason().unwrap_or("Error");
        let (code, detail) = (self.code(), self.detail());
        let id = request_id.to_str().unwrap_or("");
        let wants_page = accept
            .is_some_and(|value| value.as_bytes().windows(9).any(|part| part == b"text/html"));
        let (kind, body) = if wants_page {
            let (title, detail, id) = (escape_html(title), escape_html(detail), escape_html(id));
            let page = format!(
                "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{} {title}</title>\
                 <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:15vh auto;padding:0 1em}}\
                 small{{color:#777}}</style></head><body><h1>{title}</h1><p>{detail}</p>\
                 <p><small>{code} · request {id}</small></p></body></html>\n",
                status.as_u16()
            );
            ("text/html; charset=utf-8", page)
        } else {
            let problem = serde_json::json!({
                "type": "about:blank",
                "title": title,
                "status": status.as_u16(),
                "code": code,
                "detail": detail,
                "requestId": id,
            });
            ("application/problem+json", format!("{problem}\n"))
        };
        let mut headers = HeaderMap::with_capacity(6);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
        }
        if let Self::Slash(location) = self
            && let Ok(value) = HeaderValue::from_str(location)
        {
            headers.insert(header::LOCATION, value);
        }
        (headers, Bytes::from(body))
    }
}

fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_get_a_page_and_programs_get_json() {
        let id = HeaderValue::from_static("req_<1>");
        let html = HeaderValue::from_static("text/html,*/*");
        let (headers, body) = Refusal::Empty.render(Some(&html), &id);
        assert_eq!(headers["retry-after"], "2");
        assert!(
            std::str::from_utf8(&body)
                .unwrap()
                .contains("req_&lt;1&gt;")
        );
        let (headers, body) = Refusal::Unrouted.render(None, &id);
        assert_eq!(headers["content-type"], "application/problem+json");
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (problem["status"].as_u64(), problem["code"].as_str()),
            (Some(404), Some("gateway.route.unknown"))
        );
    }
}
