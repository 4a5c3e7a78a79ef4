//! Base images from any registry that speaks OCI distribution.

use bytes::Bytes;
use http::{Method, header};
use ondol_auth::Ctx;
use ondol_store::blobs::Hasher;
use ondol_types::Digest;
use serde_json::{Value, json};

use crate::error::RegistryError;
use crate::model::{Descriptor, Manifest, Reference, Repository};
use crate::remote::{Client, Remote};
use crate::service::{Chunk, RegistryService, is_index, manifest_types};

const MAX_JSON: u64 = 4 << 20;
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

/// Brings a base image into the repository: its layers are linked, its configuration is read.
///
/// An image of a registry that is read through this one comes from that cache, so that a build
/// goes on while the other registry is away.
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
    let source = Source::of(registry, &remote).map_err(&problem)?;
    let mut reference = remote.reference.clone();
    let mut indexes = 0;
    let manifest = loop {
        let (bytes, content_type) = source
            .manifest(registry, ctx, &reference)
            .await
            .map_err(&problem)?;
        if let Ok(Reference::Digest(expected)) = reference.parse::<Reference>() {
            check(&expected, &bytes).map_err(&problem)?;
        }
        let manifest =
            Manifest::parse(&bytes, &content_type).map_err(|error| problem(error.to_string()))?;
        if !is_index(&manifest.media_type) {
            break manifest;
        }
        indexes += 1;
        if indexes > MAX_INDEXES {
            return Err(problem("its indexes lead to further indexes".to_owned()));
        }
        let child = RegistryService::platform_child(&bytes)
            .ok_or_else(|| problem("it has no image for this machine's platform".to_owned()))?;
        reference = child.digest.to_string();
    };
    let (config, layers) = manifest
        .blobs
        .split_first()
        .ok_or_else(|| problem("its manifest has no configuration".to_owned()))?;
    let bytes = source
        .small_blob(registry, ctx, &config.digest)
        .await
        .map_err(&problem)?;
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
        if registry.blobs().size(&layer.digest).await? != Some(layer.size) {
            source
                .layer(registry, ctx, repository, layer)
                .await
                .map_err(&problem)?;
        }
        registry.link(repository, &layer.digest, layer.size).await?;
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

/// Where a base image comes from.
enum Source {
    /// Through the cache of another registry.
    Cache(Repository),
    /// From the registry itself, by name of the repository there.
    Direct(Box<Client>, String),
}

impl Source {
    fn of(registry: &RegistryService, remote: &Remote) -> Result<Self, String> {
        if let Some(name) = registry.upstream_at(&remote.host) {
            let repository = format!("{name}/{}", remote.name);
            return repository
                .parse()
                .map(Self::Cache)
                .map_err(|error: RegistryError| error.to_string());
        }
        let reach = registry.reach();
        let plain = format!("http://{}", remote.host);
        // An administrator who names a private registry may have one without TLS.
        let trusted = plain.parse().is_ok_and(|url| reach.is_trusted(&url));
        let base = if trusted {
            plain
        } else {
            format!("https://{}", remote.host)
        };
        let client = Client::new(&base, None, reach).map_err(|error| {
            format!("{error}; an administrator can allow it in `private_registries`")
        })?;
        Ok(Self::Direct(Box::new(client), remote.name.clone()))
    }

    async fn manifest(
        &self,
        registry: &RegistryService,
        ctx: &Ctx,
        reference: &str,
    ) -> Result<(Bytes, String), String> {
        match self {
            Self::Cache(repository) => {
                let reference = reference.parse().map_err(text)?;
                let pulled = registry.manifest(ctx, repository, &reference).await;
                let pulled = pulled.map_err(text)?;
                Ok((pulled.bytes, pulled.media_type))
            }
            Self::Direct(client, name) => {
                let path = format!("manifests/{reference}");
                let asked = client
                    .ask(Method::GET, name, &path, &manifest_types())
                    .await;
                let asked = asked.map_err(|error| error.to_string())?;
                let content_type = asked.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
                let bytes = asked.bytes().await.map_err(|error| error.to_string())?;
                Ok((bytes, content_type))
            }
        }
    }

    async fn small_blob(
        &self,
        registry: &RegistryService,
        ctx: &Ctx,
        digest: &Digest,
    ) -> Result<Bytes, String> {
        match self {
            Self::Cache(repository) => {
                registry.blob(ctx, repository, digest).await.map_err(text)?;
                let read = registry.blobs().read(digest, MAX_JSON).await;
                read.map_err(|error| error.to_string())
            }
            Self::Direct(client, name) => {
                let path = format!("blobs/{digest}");
                let asked = client.ask(Method::GET, name, &path, "*/*").await;
                let asked = asked.map_err(|error| error.to_string())?;
                asked.bytes().await.map_err(|error| error.to_string())
            }
        }
    }

    /// Brings a layer into the blob store.
    async fn layer(
        &self,
        registry: &RegistryService,
        ctx: &Ctx,
        repository: &Repository,
        layer: &Descriptor,
    ) -> Result<(), String> {
        match self {
            Self::Cache(cached) => {
                let blob = registry.blob(ctx, cached, &layer.digest).await;
                let (_, size) = blob.map_err(text)?;
                same_size(layer, size)
            }
            Self::Direct(client, name) => {
                let path = format!("blobs/{}", layer.digest);
                let asked = client.ask(Method::GET, name, &path, "*/*").await;
                let asked = asked.map_err(|error| error.to_string())?;
                let upload = registry
                    .begin_upload(ctx, repository, layer.digest.algorithm())
                    .await
                    .map_err(text)?;
                let chunk = Chunk {
                    start: Some(0),
                    length: Some(layer.size),
                };
                let received = registry
                    .complete(
                        ctx,
                        repository,
                        &upload,
                        &layer.digest,
                        chunk,
                        asked.stream(),
                    )
                    .await;
                if received.is_err() {
                    let _ = registry.cancel_upload(ctx, repository, &upload).await;
                }
                received.map(|_| ()).map_err(text)
            }
        }
    }
}

fn text(error: RegistryError) -> String {
    error.to_string()
}

fn same_size(layer: &Descriptor, size: u64) -> Result<(), String> {
    if size == layer.size {
        return Ok(());
    }
    Err(format!(
        "layer {} has {size} bytes instead of {}",
        layer.digest, layer.size
    ))
}
