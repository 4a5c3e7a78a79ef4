//! The CLI's side of the JSON API and of the API of metrics: it uses nothing else.

use std::time::Duration;

use futures_util::{Stream, StreamExt};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::error::{Exit, Failure, Outcome, exit_of_status};
use crate::login::Login;

/// A client of one server.
#[derive(Clone)]
pub(crate) struct Api {
    http: reqwest::Client,
    login: Login,
}

impl Api {
    pub(crate) fn new(login: Login) -> Outcome<Self> {
        // The process has one crypto provider; installing it twice is harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("ondol/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(5))
            .no_proxy()
            .tcp_nodelay(true)
            .build()
            .map_err(|error| {
                Failure::new(Exit::Internal, "cannot set up the HTTP client").because(error)
            })?;
        Ok(Self { http, login })
    }

    pub(crate) fn url(&self) -> &str {
        &self.login.url
    }

    /// A request to a path below `/api/v1`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.at(method, format!("{}/api/v1{path}", self.login.url))
    }

    /// A request to a path of the API of metrics.
    pub(crate) fn prometheus(&self, method: Method, path: &str) -> RequestBuilder {
        self.at(
            method,
            format!("{}/prometheus/api/v1/{path}", self.login.url),
        )
    }

    fn at(&self, method: Method, url: String) -> RequestBuilder {
        let mut request = self.http.request(method, url);
        if let Some(token) = &self.login.token {
            request = request.bearer_auth(token.expose());
        }
        request
    }

    /// Sends a request and turns a refusal into a failure with the server's own words.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Outcome<Response> {
        let response = request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(response).await)
    }

    pub(crate) async fn json(&self, request: RequestBuilder) -> Outcome<Value> {
        let response = self.send(request).await?;
        let bytes = response
            .bytes()
            .await
            .map_err(|error| self.unreachable(&error))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(
                Exit::Internal,
                format!("{} answered something that is not JSON", self.login.url),
            )
            .because(error)
            .hint("is this the address of an Ondol server?")
        })
    }

    pub(crate) async fn get(&self, path: &str) -> Outcome<Value> {
        self.json(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.json(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Outcome<Value> {
        self.json(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Outcome<Value> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// A list, page after page, until `limit` rows or the end.
    pub(crate) async fn list(&self, path: &str, limit: usize) -> Outcome<Value> {
        let joiner = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let (mut cursor, mut place) = (String::new(), String::new());
        while items.len() < limit {
            let page_size = (limit - items.len()).min(200);
            let page = self
                .get(&format!("{path}{joiner}limit={page_size}{cursor}"))
                .await?;
            let Some(rows) = page["items"].as_array() else {
                break;
            };
            items.extend(rows.iter().cloned());
            // A page can be empty and not the last: what the server looked through had nothing.
            match page["next"].as_str() {
                Some(next) if items.len() < limit && next != place => {
                    cursor = format!("&cursor={}", encode(next));
                    place = next.to_owned();
                }
                _ => break,
            }
        }
        Ok(Value::Array(items))
    }

    /// A live view: the JSON values of a server-sent event stream, each with its event name.
    pub(crate) async fn stream(
        &self,
        path: &str,
    ) -> Outcome<impl Stream<Item = Outcome<(String, Value)>> + use<>> {
        let request = self
            .request(Method::GET, path)
            .header("accept", "text/event-stream");
        let response = self.send(request).await?;
        let url = self.login.url.clone();
        let bytes = response.bytes_stream().map(move |chunk| {
            chunk.map_err(|error| {
                Failure::new(Exit::Unavailable, format!("{url} broke off the live view"))
                    .because(error)
            })
        });
        Ok(parse_events(bytes))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let failure = if error.is_timeout() {
            Failure::new(
                Exit::Timeout,
                format!("{} did not answer in time", self.login.url),
            )
        } else {
            Failure::new(
                Exit::Unavailable,
                format!("cannot reach {}", self.login.url),
            )
        };
        let mut failure = failure.hint(
            "start the server with `ondol serve`, or name another with ONDOL_URL or `ondol login`",
        );
        let mut next: Option<&dyn std::error::Error> = Some(error);
        while let Some(cause) = next {
            next = cause.source();
            if next.is_none() {
                failure = failure.because(cause);
            }
        }
        failure
    }
}

async fn refused(response: Response) -> Failure {
    let status = response.status();
    let body: Value = response.json().await.unwrap_or_default();
    let message = body["detail"]
        .as_str()
        .or(body["title"].as_str())
        .or(body["error"].as_str())
        .map_or_else(|| format!("the server answered {status}"), str::to_owned);
    let failure = Failure::new(exit_of_status(status.as_u16()), message);
    match body["hint"].as_str() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// Percent-encodes one path segment or query value.
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

const MAX_EVENT_BYTES: usize = 4 << 20;

fn parse_events<S, B>(chunks: S) -> impl Stream<Item = Outcome<(String, Value)>>
where
    S: Stream<Item = Outcome<B>>,
    B: AsRef<[u8]>,
{
    struct State<S> {
        chunks: std::pin::Pin<Box<S>>,
        buffer: Vec<u8>,
    }
    let state = State {
        chunks: Box::pin(chunks),
        buffer: Vec::new(),
    };
    futures_util::stream::unfold(state, |mut state| async move {
        loop {
            if let Some(end) = state.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = state.buffer.drain(..end + 2).collect();
                match parse_block(&String::from_utf8_lossy(&block)) {
                    Some(event) => return Some((Ok(event), state)),
                    None => continue,
                }
            }
            if state.buffer.len() > MAX_EVENT_BYTES {
                return Some((
                    Err(Failure::new(
                        Exit::Internal,
                        "the server sent an endless event",
                    )),
                    state,
                ));
            }
            match state.chunks.next().await? {
                Ok(chunk) => state.buffer.extend_from_slice(chunk.as_ref()),
                Err(failure) => return Some((Err(failure), state)),
            }
        }
    })
}

fn parse_block(block: &str) -> Option<(String, Value)> {
    let mut name = "message".to_owned();
    let mut data = String::new();
    for line in block.lines() {
        if let Some(value) = line.strip_prefix("event:") {
            name = value.trim().to_owned();
        } else if let Some(value) = line.strip_prefix("data:") {
            if !data.is_empty() {
                data.push('\n');
            }
            data.push_str(value.strip_prefix(' ').unwrap_or(value));
        }
    }
    if data.is_empty() {
        return None;
    }
    Some((
        name,
        serde_json::from_str(&data).unwrap_or(Value::String(data)),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn events_are_read_across_chunk_borders() {
        let text = ": hello\n\nevent: run\ndata: {\"a\":1}\n\ndata: {\"b\":2}\n\n";
        let chunks: Vec<Outcome<Vec<u8>>> = text
            .as_bytes()
            .chunks(3)
            .map(|chunk| Ok(chunk.to_vec()))
            .collect();
        let events: Vec<_> = parse_events(futures_util::stream::iter(chunks))
            .map(|event| event.unwrap())
            .collect()
            .await;
        assert_eq!(events[0], ("run".to_owned(), serde_json::json!({"a": 1})));
        assert_eq!(
            events[1],
            ("message".to_owned(), serde_json::json!({"b": 2}))
        );
    }

    #[test]
    fn segments_are_encoded() {
        assert_eq!(encode("a/b c?"), "a%2Fb%20c%3F");
    }
}
