//! A client of other registries: reads, follows redirects, logs in where it is asked to.
//!
//! Every address, also of a redirect and of a token realm, is judged by [`Reach`] before it is
//! asked. A password goes to the registry that it is for and to the realm that this registry
//! names over the same kind of connection; nothing goes along with a redirect to another host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, StatusCode, header};
use ondol_types::Secret;
use reqwest::{Response, Url};
use serde_json::Value;

use super::reach::{self, PublicOnly, Reach, host_port};

/// Bytes of an answer that is read as a whole: manifests, configurations, tokens.
const MAX_JSON: usize = 4 << 20;
const MAX_REDIRECTS: usize = 5;
/// Tokens that are kept, one per repository.
const MAX_TOKENS: usize = 256;
/// How long a token is used; registries give them for at least a minute.
const TOKEN_LIFE: Duration = Duration::from_secs(50);

/// What another registry answered instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClientError {
    /// It has no such thing, or does not show it to us.
    #[error("it has no such thing, or does not show it")]
    Missing,
    /// This server may not ask there; asking again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// It cannot be asked, or answered what makes no sense.
    #[error("{0}")]
    Away(String),
}

fn away(text: impl ToString) -> ClientError {
    ClientError::Away(text.to_string())
}

/// An answer, not read yet.
pub(crate) struct Asked(Response);

/// A client of one registry.
pub(crate) struct Client {
    /// For hosts that an administrator named.
    named: reqwest::Client,
    /// For all others: it resolves to public addresses alone.
    public: reqwest::Client,
    reach: Reach,
    base: Url,
    login: Option<(String, Secret<String>)>,
    tokens: Mutex<HashMap<String, (String, Instant)>>,
}

impl Client {
    /// A client of the registry that answers at `base`.
    ///
    /// # Errors
    /// [`ClientError::Away`] when the address cannot be one, [`ClientError::Refused`] when it is not
    /// allowed.
    pub(crate) fn new(
        base: &str,
        login: Option<(String, Secret<String>)>,
        reach: Reach,
    ) -> Result<Self, ClientError> {
        let base: Url = base
            .parse()
            .map_err(|error| away(format!("`{base}` is not an address: {error}")))?;
        reach.allows(&base).map_err(ClientError::Refused)?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = || {
            reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(10))
                .read_timeout(Duration::from_secs(60))
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
        };
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| away(describe(&error)))
        };
        Ok(Self {
            named: built(builder())?,
            public: built(builder().dns_resolver(Arc::new(PublicOnly)))?,
            reach,
            base,
            login,
            tokens: Mutex::default(),
        })
    }

    fn http(&self, url: &Url) -> &reqwest::Client {
        if self.reach.is_trusted(url) {
            &self.named
        } else {
            &self.public
        }
    }

    /// Asks for `path` below a repository.
    ///
    /// # Errors
    /// [`ClientError`]; an answer other than success is one.
    pub(crate) async fn ask(
        &self,
        method: Method,
        repository: &str,
        path: &str,
        accept: &str,
    ) -> Result<Asked, ClientError> {
        let url = self
            .base
            .join(&format!("/v2/{repository}/{path}"))
            .map_err(away)?;
        for attempt in 0..2 {
            let token = self.token(repository);
            let response = self
                .send(method.clone(), &url, accept, token.as_deref())
                .await?;
            let status = response.status();
            if status.is_success() {
                return Ok(Asked(response));
            }
            let challenge = challenge(&response);
            match (status, challenge) {
                (StatusCode::UNAUTHORIZED, Some(challenge)) if attempt == 0 => {
                    self.log_in(repository, &challenge).await?;
                }
                (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _) => {
                    return Err(ClientError::Missing);
                }
                _ => return Err(away(format!("it answered {status}"))),
            }
        }
        Err(ClientError::Missing)
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        accept: &str,
        authorization: Option<&str>,
    ) -> Result<Response, ClientError> {
        let mut url = url.clone();
        for _ in 0..MAX_REDIRECTS {
            self.reach.allows(&url).map_err(ClientError::Refused)?;
            let mut request = self
                .http(&url)
                .request(method.clone(), url.clone())
                .header(header::ACCEPT, accept);
            if let Some(value) = authorization.filter(|_| same_place(&url, &self.base)) {
                request = request.header(header::AUTHORIZATION, value);
            }
            let response = request.send().await.map_err(|error| unanswered(&error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = response
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|place| url.join(place).ok())
                .ok_or_else(|| away("it redirects to nowhere"))?;
        }
        Err(away("it redirects in a circle"))
    }

    fn token(&self, repository: &str) -> Option<String> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .get(repository)
            .filter(|(_, at)| at.elapsed() < TOKEN_LIFE)
            .map(|(value, _)| value.clone())
    }

    fn keep_token(&self, repository: &str, value: String) {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= MAX_TOKENS {
            tokens.clear();
        }
        tokens.insert(repository.to_owned(), (value, Instant::now()));
    }

    fn basic(&self) -> Option<String> {
        let (name, password) = self.login.as_ref()?;
        let pair = format!("{name}:{}", password.expose());
        Some(format!(
            "Basic {}",
            data_encoding::BASE64.encode(pair.as_bytes())
        ))
    }

    /// Does what a challenge asks for: shows the password, or gets a token.
    async fn log_in(&self, repository: &str, challenge: &str) -> Result<(), ClientError> {
        if challenge.to_ascii_lowercase().starts_with("basic") {
            let value = self.basic().ok_or(ClientError::Missing)?;
            self.keep_token(repository, value);
            return Ok(());
        }
        let realm = field(challenge, "realm").ok_or_else(|| away("it wants an unknown login"))?;
        let mut realm: Url = realm.parse().map_err(away)?;
        // A trusted registry on plain HTTP may name itself; everybody else must be public.
        self.reach.allows(&realm).map_err(ClientError::Refused)?;
        {
            let mut query = realm.query_pairs_mut();
            query.append_pair("scope", &format!("repository:{repository}:pull"));
            if let Some(service) = field(challenge, "service") {
                query.append_pair("service", &service);
            }
        }
        let mut request = self.http(&realm).get(realm.clone());
        if let Some(value) = self.basic() {
            request = request.header(header::AUTHORIZATION, value);
        }
        let response = request.send().await.map_err(|error| unanswered(&error))?;
        match response.status() {
            status if status.is_success() => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(ClientError::Missing),
            status => return Err(away(format!("its login answered {status}"))),
        }
        let body = Asked(response).json().await?;
        let token = body["token"].as_str().or(body["access_token"].as_str());
        let token = token.ok_or_else(|| away("its login gave no token"))?;
        self.keep_token(repository, format!("Bearer {token}"));
        Ok(())
    }
}

impl Asked {
    /// One header as text.
    pub(crate) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.0.headers().get(name)?.to_str().ok()
    }

    /// The announced length of the body.
    pub(crate) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The body as it comes.
    pub(crate) fn stream(self) -> impl futures_util::Stream<Item = Result<Bytes, String>> + Send {
        self.0
            .bytes_stream()
            .map(|chunk| chunk.map_err(|error| describe(&error)))
    }

    /// The whole body, when it is not too long.
    ///
    /// # Errors
    /// [`ClientError::Away`].
    pub(crate) async fn bytes(self) -> Result<Bytes, ClientError> {
        let mut body = Vec::new();
        let mut stream = std::pin::pin!(self.stream());
        while let Some(chunk) = stream.next().await {
            body.extend_from_slice(&chunk.map_err(away)?);
            if body.len() > MAX_JSON {
                return Err(away(format!("an answer has more than {MAX_JSON} bytes")));
            }
        }
        Ok(body.into())
    }

    async fn json(self) -> Result<Value, ClientError> {
        serde_json::from_slice(&self.bytes().await?).map_err(away)
    }
}

fn same_place(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme() && host_port(a) == host_port(b)
}

/// The challenge that can be answered: a token before a password.
fn challenge(response: &Response) -> Option<String> {
    let all: Vec<String> = response
        .headers()
        .get_all(header::WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| Some(value.to_str().ok()?.to_owned()))
        .collect();
    let starts = |scheme: &str| {
        all.iter()
            .find(|value| value.to_ascii_lowercase().starts_with(scheme))
            .cloned()
    };
    starts("bearer").or_else(|| starts("basic"))
}

/// `name="value"` of a challenge.
fn field(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    while let Some(place) = rest.find(name) {
        let before = rest[..place].chars().next_back();
        let after = &rest[place + name.len()..];
        if before.is_none_or(|c| c == ' ' || c == ',')
            && let Some(value) = after.strip_prefix("=\"")
        {
            return value.split('"').next().map(str::to_owned);
        }
        rest = after;
    }
    None
}

/// Why a request has no answer: its host may not be asked, or did not answer.
fn unanswered(error: &reqwest::Error) -> ClientError {
    if reach::is_refusal(error) {
        ClientError::Refused(describe(error))
    } else {
        away(describe(error))
    }
}

/// The innermost reason of a failed request.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_challenge_are_found_by_their_whole_name() {
        let text = r#"Bearer error_realm="no",realm="https://auth.example/token",service="s""#;
        assert_eq!(
            field(text, "realm").as_deref(),
            Some("https://auth.example/token")
        );
        assert_eq!(field(text, "service").as_deref(), Some("s"));
        assert_eq!(field(text, "scope"), None);
    }

    #[test]
    fn a_registry_at_a_private_address_must_be_named() {
        let refused = Client::new("http://127.0.0.1:5000", None, Reach::default());
        assert!(matches!(refused, Err(ClientError::Refused(_))));
        let reach = Reach::new(["127.0.0.1:5000".to_owned()]);
        assert!(Client::new("http://127.0.0.1:5000", None, reach).is_ok());
    }
}
