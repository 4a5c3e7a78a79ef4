//! Base images from any registry that speaks OCI distribution.

use bytes::Bytes;
use http::{Method, header};
use ondol_auth::Ctx;
use ondol_store::blobs::Hasher;
use ondol_types::{Classified, Digest, ErrorKind};
use serde_json::{Value, json};

use crate::error::RegistryError;
use crate::model::{Descriptor, Manifest, Reference, Repository};
use crate::remote::{Client, ClientError, Remote};
use crate::service::{Chunk, RegistryService, is_index, manifest_types};

const MAX_JSON: u64 = 4 << 20;
/// The most bytes of all layers together.
const MAX_LAYERS: u64 = 20 << 30;
/// The most indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

/// Why a base image cannot be had.
struct Fault {
    problem: String,
    /// Whether asking again can help. A name that is wrong or an address that may not be asked stays
    /// so, and whoever waits for the image wants to know at once.
    passing: bool,
}

impl Fault {
    fn lasting(problem: impl ToString) -> Self {
        Self {
            problem: problem.to_string(),
            passing: false,
        }
    }

    fn passing(problem: impl ToString) -> Self {
        Self {
            problem: problem.to_string(),
            passing: true,
        }
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Missing => Self::lasting(error),
            ClientError::Refused(problem) => Self::lasting(format!(
                "{problem}; an administrator can allow it in `privateRegistries` of the file of `ondol serve --registry`"
            )),
            ClientError::Away(_) => Self::passing(error),
        }
    }
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        let lasting = match error {
            // What arrived is not whole, which is an accident of the way.
            RegistryError::Broken(_)
            | RegistryError::DigestInvalid(_)
            | RegistryError::Store(_)
            | RegistryError::Range { .. } => false,
            _ => matches!(
                error.kind(),
                ErrorKind::InvalidInput
                    | ErrorKind::NotFound
                    | ErrorKind::Forbidden
                    | ErrorKind::Unauthenticated
                    | ErrorKind::TooLarge
                    | ErrorKind::Unsupported
            ),
        };
        Self {
            problem: error.to_string(),
            passing: !lasting,
        }
    }
}

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
    let refused = |fault: Fault| RegistryError::Base {
        reference: text.to_owned(),
        problem: fault.problem,
        passing: fault.passing,
    };
    let problem = |problem: String| refused(Fault::lasting(problem));
    let remote =
        Remote::parse(text).ok_or_else(|| problem("this is not an image reference".to_owned()))?;
    let source = Source::of(registry, &remote).map_err(refused)?;
    let mut reference = remote.reference.clone();
    let mut indexes = 0;
    let manifest = loop {
        let (bytes, content_type) = source
            .manifest(registry, ctx, &reference)
            .await
            .map_err(refused)?;
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
        .map_err(refused)?;
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
                .map_err(refused)?;
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
    fn of(registry: &RegistryService, remote: &Remote) -> Result<Self, Fault> {
        if let Some(name) = registry.upstream_at(&remote.host) {
            let repository = format!("{name}/{}", remote.name);
            return repository
                .parse()
                .map(Self::Cache)
                .map_err(|error: RegistryError| error.into());
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
        let client = Client::new(&base, None, reach)?;
        Ok(Self::Direct(Box::new(client), remote.name.clone()))
    }

    async fn manifest(
        &self,
        registry: &RegistryService,
        ctx: &Ctx,
        reference: &str,
    ) -> Result<(Bytes, String), Fault> {
        match self {
            Self::Cache(repository) => {
                let reference: Reference = reference.parse()?;
                let pulled = registry.manifest(ctx, repository, &reference).await;
                let pulled = pulled?;
                Ok((pulled.bytes, pulled.media_type))
            }
            Self::Direct(client, name) => {
                let path = format!("manifests/{reference}");
                let asked = client
                    .ask(Method::GET, name, &path, &manifest_types())
                    .await;
                let asked = asked?;
                let content_type = asked.header(header::CONTENT_TYPE).unwrap_or("").to_owned();
                let bytes = asked.bytes().await?;
                Ok((bytes, content_type))
            }
        }
    }

    async fn small_blob(
        &self,
        registry: &RegistryService,
        ctx: &Ctx,
        digest: &Digest,
    ) -> Result<Bytes, Fault> {
        match self {
            Self::Cache(repository) => {
                registry.blob(ctx, repository, digest).await?;
                let read = registry.blobs().read(digest, MAX_JSON).await;
                read.map_err(Fault::passing)
            }
            Self::Direct(client, name) => {
                let path = format!("blobs/{digest}");
                let asked = client.ask(Method::GET, name, &path, "*/*").await;
                let asked = asked?;
                Ok(asked.bytes().await?)
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
    ) -> Result<(), Fault> {
        match self {
            Self::Cache(cached) => {
                let blob = registry.blob(ctx, cached, &layer.digest).await;
                let (_, size) = blob?;
                same_size(layer, size)
            }
            Self::Direct(client, name) => {
                let path = format!("blobs/{}", layer.digest);
                let asked = client.ask(Method::GET, name, &path, "*/*").await;
                let asked = asked?;
                let upload = registry
                    .begin_upload(ctx, repository, layer.digest.algorithm())
                    .await?;
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
                received.map(|_| ())?;
                Ok(())
            }
        }
    }
}

fn same_size(layer: &Descriptor, size: u64) -> Result<(), Fault> {
    if size == layer.size {
        return Ok(());
    }
    Err(Fault::lasting(format!(
        "layer {} has {size} bytes instead of {}",
        layer.digest, layer.size
    )))
}
