//! Base images from any registry that speaks OCI distribution.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{StatusCode, header};
use ondol_auth::Ctx;
use ondol_store::blobs::Hasher;
use ondol_types::{Algorithm, Digest};
use serde_json::{Value, json};

use super::reach::Reach;
use crate::error::RegistryError;
use crate::model::{Descriptor, Manifest, Reference, Repository, media};
use crate::service::{RegistryService, is_index};

const MAX_JSON: usize = 4 << 20;
/// The most bytes of all layers together.
const MAX_LAYERS: u64 = 20 << 30;
/// The most indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

/// What an image is built on.
pub(super) struct Base {
    pub(super) layers: Vec<Descriptor>,
    pub(super) diff_ids: Vec<String>,
    pub(super) config: Value,
    pub(super) architecture: String,
}

impl Base {
    /// Nothing: the host provides what the program needs.
    pub(super) fn empty() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Self {
            layers: Vec::new(),
            diff_ids: Vec::new(),
            config: json!({}),
            architecture: architecture.to_owned(),
        }
    }
}

/// A reference as people write it: `python:3.12-slim`, `ghcr.io/org/image@sha256:…`,
/// `127.0.0.1:5000/base:1`.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    host: String,
    name: String,
    reference: String,
}

impl Remote {
    fn parse(text: &str) -> Option<Self> {
        let (path, reference) = match text.split_once('@') {
            Some((path, digest)) => (path, digest.to_owned()),
            None => match text.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, tag.to_owned()),
                _ => (text, "latest".to_owned()),
            },
        };
        // Whoever pins bytes must not get others because of a mistyped digest.
        if text.contains('@') && reference.parse::<Digest>().is_err() {
            return None;
        }
        // A tag beside a digest says nothing that the digest does not.
        let path = if text.contains('@') {
            path.rsplit_once(':')
                .filter(|(_, tag)| !tag.contains('/'))
                .map_or(path, |(path, _)| path)
        } else {
            path
        };
        let (host, name) = match path.split_once('/') {
            Some((host, name)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_owned(), name.to_owned())
            }
            Some(_) => ("registry-1.docker.io".to_owned(), path.to_owned()),
            None => ("registry-1.docker.io".to_owned(), format!("library/{path}")),
        };
        let host = if host == "docker.io" {
            "registry-1.docker.io".to_owned()
        } else {
            host
        };
        let valid = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-/:".contains(&b))
        };
        (valid(&name)
            && valid(&host)
            && valid(&reference)
            && !name.contains("..")
            && !name.ends_with('/'))
        .then_some(Self {
            host,
            name,
            reference,
        })
    }

    /// Another machine is asked by TLS alone.
    fn scheme(&self) -> &'static str {
        if Reach::of(&self.host).is_here() {
            "http"
        } else {
            "https"
        }
    }
}

struct Client<'r> {
    http: reqwest::Client,
    remote: &'r Remote,
    token: Option<String>,
    problem: Box<dyn Fn(String) -> RegistryError + Send + Sync + 'r>,
}

impl Client<'_> {
    async fn get(&mut self, path: &str, accept: &str) -> Result<reqwest::Response, RegistryError> {
        let scheme = self.remote.scheme();
        let url = format!(
            "{scheme}://{}/v2/{}/{path}",
            self.remote.host, self.remote.name
        );
        for attempt in 0..2 {
            let mut request = self.http.get(&url).header(header::ACCEPT, accept);
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            let response = request
                .send()
                .await
                .map_err(|error| (self.problem)(describe(&error)))?;
            if response.status() == StatusCode::UNAUTHORIZED && attempt == 0 {
                let challenge = response
                    .headers()
                    .get(header::WWW_AUTHENTICATE)
                    .and_then(|value| value.to_str().ok())
                    .unwrap_or("")
                    .to_owned();
                self.token = Some(self.login(&challenge).await?);
                continue;
            }
            if !response.status().is_success() {
                return Err((self.problem)(format!(
                    "{} answered {}",
                    self.remote.host,
                    response.status()
                )));
            }
            return Ok(response);
        }
        Err((self.problem)(format!(
            "{} wants a login",
            self.remote.host
        )))
    }

    /// The anonymous token that public registries ask for.
    async fn login(&self, challenge: &str) -> Result<String, RegistryError> {
        let field = |name: &str| {
            let rest = challenge.split(&format!("{name}=\"")).nth(1)?;
            rest.split('"').next().map(str::to_owned)
        };
        let realm = field("realm")
            .filter(|realm| {
                let reach = Reach::of(&self.remote.host);
                let Ok(url) = reqwest::Url::parse(realm) else {
                    return false;
                };
                let host = url.host_str().unwrap_or_default();
                match url.scheme() {
                    "https" => Reach::of(host).allow_home().is_ok(),
                    "http" => reach.is_here() && Reach::of(host).is_here(),
                    _ => false,
                }
            })
            .ok_or_else(|| {
                (self.problem)(format!(
                    "{} wants a login that Ondol cannot do",
                    self.remote.host
                ))
            })?;
        let scope = format!("repository:{}:pull", self.remote.name);
        let mut query = vec![("scope", scope)];
        query.extend(field("service").map(|service| ("service", service)));
        let response = self
            .http
            .get(realm)
            .query(&query)
            .send()
            .await
            .map_err(|error| (self.problem)(describe(&error)))?;
        let body = self.bounded(response, MAX_JSON).await?;
        let value: Value =
            serde_json::from_slice(&body).map_err(|error| (self.problem)(error.to_string()))?;
        let token = value["token"].as_str().or(value["access_token"].as_str());
        token
            .map(str::to_owned)
            .ok_or_else(|| (self.problem)("the login gave no token".to_owned()))
    }

    async fn bounded(
        &self,
        response: reqwest::Response,
        limit: usize,
    ) -> Result<Bytes, RegistryError> {
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            body.extend_from_slice(&chunk.map_err(|error| (self.problem)(describe(&error)))?);
            if body.len() > limit {
                return Err((self.problem)(format!(
                    "an answer has more than {limit} bytes"
                )));
            }
        }
        Ok(body.into())
    }
}

fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = cause.to_string();
        next = cause.source();
    }
    text
}

/// Brings a base image into the repository: its layers are linked, its configuration is read.
pub(super) async fn pull(
    registry: &RegistryService,
    ctx: &Ctx,
    repository: &Repository,
    text: &str,
) -> Result<Base, RegistryError> {
    let problem = |problem: String| RegistryError::Base {
        reference: text.to_owned(),
        problem,
    };
    let remote =
        Remote::parse(text).ok_or_else(|| problem("this is not an image reference".to_owned()))?;
    let _ = rustls::crypto::ring::default_provider().install_default();
    let reach = Reach::of(&remote.host);
    reach.allow_home().map_err(&problem)?;
    let http = reach
        .guard(reqwest::Client::builder())
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(60))
        .build()
        .map_err(|error| problem(describe(&error)))?;
    let mut client = Client {
        http,
        remote: &remote,
        token: None,
        problem: Box::new(problem),
    };
    let accept = format!(
        "{}, {}, {}, {}",
        media::MANIFEST,
        media::INDEX,
        media::DOCKER_MANIFEST,
        media::DOCKER_LIST
    );
    let mut reference = remote.reference.clone();
    let mut indexes = 0;
    let manifest = loop {
        let response = client
            .get(&format!("manifests/{reference}"), &accept)
            .await?;
        let content_type = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
            .to_owned();
        let bytes = client.bounded(response, MAX_JSON).await?;
        if let Ok(Reference::Digest(expected)) = reference.parse::<Reference>() {
            let actual = Hasher::digest(expected.algorithm(), &bytes);
            if actual != expected {
                return Err(problem(format!(
                    "{} sent other bytes than {expected}",
                    remote.host
                )));
            }
        }
        let manifest =
            Manifest::parse(&bytes, &content_type).map_err(|error| problem(error.to_string()))?;
        if !is_index(&manifest.media_type) {
            break manifest;
        }
        indexes += 1;
        if indexes > MAX_INDEXES {
            return Err(problem(
                "its index leads to another, again and again".to_owned(),
            ));
        }
        let child = RegistryService::platform_child(&bytes)
            .ok_or_else(|| problem("it has no image for this machine's platform".to_owned()))?;
        reference = child.digest.to_string();
    };
    let (config, layers) = manifest
        .blobs
        .split_first()
        .ok_or_else(|| problem("its manifest has no configuration".to_owned()))?;
    let response = client
        .get(&format!("blobs/{}", config.digest), "*/*")
        .await?;
    let bytes = client.bounded(response, MAX_JSON).await?;
    check(&config.digest, &bytes).map_err(&problem)?;
    let parsed: Value =
        serde_json::from_slice(&bytes).map_err(|error| problem(error.to_string()))?;
    let total = layers
        .iter()
        .fold(0u64, |sum, layer| sum.saturating_add(layer.size));
    if total > MAX_LAYERS {
        return Err(problem(format!(
            "its layers have more than {MAX_LAYERS} bytes"
        )));
    }
    for layer in layers {
        fetch(registry, ctx, repository, &mut client, layer).await?;
    }
    let diff_ids: Vec<String> = parsed["rootfs"]["diff_ids"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|id| id.as_str().map(str::to_owned))
        .collect();
    if diff_ids.len() != layers.len() {
        return Err(problem(
            "its configuration does not fit its layers".to_owned(),
        ));
    }
    let architecture = parsed["architecture"]
        .as_str()
        .unwrap_or("amd64")
        .to_owned();
    Ok(Base {
        layers: layers.to_vec(),
        diff_ids,
        config: parsed["config"].clone(),
        architecture,
    })
}

fn check(expected: &Digest, bytes: &[u8]) -> Result<(), String> {
    let actual = Hasher::digest(expected.algorithm(), bytes);
    if actual == *expected {
        Ok(())
    } else {
        Err(format!("the registry sent other bytes than {expected}"))
    }
}

async fn fetch(
    registry: &RegistryService,
    ctx: &Ctx,
    repository: &Repository,
    client: &mut Client<'_>,
    layer: &Descriptor,
) -> Result<(), RegistryError> {
    if registry.blobs().size(&layer.digest).await? == Some(layer.size) {
        return registry.link(repository, &layer.digest, layer.size).await;
    }
    let response = client
        .get(&format!("blobs/{}", layer.digest), "*/*")
        .await?;
    let algorithm = if layer.digest.algorithm() == Algorithm::Sha512 {
        Algorithm::Sha512
    } else {
        Algorithm::Sha256
    };
    let upload = registry.begin_upload(ctx, repository, algorithm).await?;
    // No more is taken than the manifest promised, whatever comes.
    let mut left = layer.size;
    let body = response.bytes_stream().map(move |chunk| {
        let chunk = chunk.map_err(|error| describe(&error))?;
        left = left
            .checked_sub(chunk.len() as u64)
            .ok_or("the layer has more bytes than its manifest says")?;
        Ok::<Bytes, String>(chunk)
    });
    let received = match registry.append(ctx, repository, &upload, None, body).await {
        Ok(received) => received,
        Err(error) => {
            let _ = registry.cancel_upload(ctx, repository, &upload).await;
            return Err(error);
        }
    };
    if received != layer.size {
        let _ = registry.cancel_upload(ctx, repository, &upload).await;
        return Err((client.problem)(format!(
            "layer {} has {received} bytes instead of {}",
            layer.digest, layer.size
        )));
    }
    registry
        .finish_upload(ctx, repository, &upload, &layer.digest)
        .await
        .map(|_| ())
}

/// A reference becomes addresses of one host below `/v2/`, and nothing else.
#[cfg(any(test, fuzzing))]
pub fn fuzz(text: &str) {
    let Some(remote) = Remote::parse(text) else {
        return;
    };
    let scheme = remote.scheme();
    let url = format!(
        "{scheme}://{}/v2/{}/manifests/{}",
        remote.host, remote.name, remote.reference
    );
    let Ok(parsed) = reqwest::Url::parse(&url) else {
        return;
    };
    assert!(parsed.username().is_empty() && parsed.password().is_none());
    assert!(parsed.query().is_none() && parsed.fragment().is_none());
    assert!(parsed.path().starts_with("/v2/") && parsed.path().contains("/manifests/"));
    let host = parsed.host_str().unwrap_or_default();
    let local = host.starts_with("127.") || host == "localhost" || host == "[::1]";
    assert!(scheme == "https" || local, "{text} in clear text");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let parse = |text: &str| {
            Remote::parse(text).map(|remote| (remote.host, remote.name, remote.reference))
        };
        let hub = "registry-1.docker.io".to_owned();
        assert_eq!(
            parse("python:3.12-slim"),
            Some((hub.clone(), "library/python".into(), "3.12-slim".into()))
        );
        assert_eq!(
            parse("org/app"),
            Some((hub, "org/app".into(), "latest".into()))
        );
        assert_eq!(
            parse("127.0.0.1:5000/base:1"),
            Some(("127.0.0.1:5000".into(), "base".into(), "1".into()))
        );
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            parse(&format!("ghcr.io/o/i:v1@{digest}")),
            Some(("ghcr.io".into(), "o/i".into(), digest))
        );
        for bad in ["", "a b", "host.io/../x:1", "host.io/x?y"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("python@sha256:abc"), None, "a pin that pins nothing");
    }
}
