//! What an image is made of, and what it says about running it, read without unpacking it.

use ondol_auth::Ctx;
use ondol_types::Digest;
use serde_json::Value;

use super::build::HOST_LABEL;
use crate::error::RegistryError;
use crate::model::{Descriptor, Manifest, Reference, Repository};
use crate::service::{RegistryService, is_index};

/// The longest configuration.
const MAX_CONFIG: u64 = 4 << 20;
/// The most indexes on the way to a manifest.
const MAX_INDEXES: usize = 3;

/// The parts of an image for this machine's platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageParts {
    /// The bytes of its configuration.
    pub config: Vec<u8>,
    /// Its layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// What an image says about running it (OCI image specification, `config`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Described {
    /// Entrypoint and command, ready to execute.
    pub command: Vec<String>,
    /// Environment as `(name, value)`.
    pub env: Vec<(String, String)>,
    /// Labels.
    pub labels: Vec<(String, String)>,
    /// The directory it starts in; empty means the root.
    pub work_dir: String,
    /// The TCP ports that it says it listens on, ascending.
    pub ports: Vec<u16>,
    /// Whether it has a root filesystem of its own; otherwise its files need a host.
    pub own_root: bool,
}

impl RegistryService {
    /// The configuration and layers of an image. Of an index, those of the image for this
    /// machine's platform.
    ///
    /// # Errors
    /// [`RegistryError::ManifestUnknown`], [`RegistryError::ManifestInvalid`] when it is no image
    /// for this platform, [`RegistryError::Store`] when its bytes are missing or corrupted.
    pub async fn image_parts(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        image: &Digest,
    ) -> Result<ImageParts, RegistryError> {
        let mut digest = image.clone();
        for _ in 0..=MAX_INDEXES {
            let reference = Reference::Digest(digest.clone());
            let pulled = self.manifest(ctx, repository, &reference).await?;
            let manifest = Manifest::parse(&pulled.bytes, &pulled.media_type)?;
            if is_index(&manifest.media_type) {
                let child = Self::platform_child(&pulled.bytes).ok_or_else(|| {
                    RegistryError::ManifestInvalid(
                        "it has no image for this machine's platform".to_owned(),
                    )
                })?;
                digest = child.digest;
                continue;
            }
            let (config, layers) = manifest.blobs.split_first().ok_or_else(|| {
                RegistryError::ManifestInvalid("it has no configuration".to_owned())
            })?;
            return Ok(ImageParts {
                config: self
                    .blobs()
                    .read(&config.digest, MAX_CONFIG)
                    .await?
                    .to_vec(),
                layers: layers.to_vec(),
            });
        }
        Err(RegistryError::ManifestInvalid(
            "its indexes lead to further indexes".to_owned(),
        ))
    }

    /// The bytes of a layer of an image that was read by [`RegistryService::image_parts`]. Whoever
    /// asks has shown already that it may read the image.
    ///
    /// # Errors
    /// [`RegistryError::Store`] when they are missing.
    pub async fn layer(&self, digest: &Digest) -> Result<tokio::fs::File, RegistryError> {
        let (file, _) = self.blobs().open_file(digest).await?;
        Ok(file)
    }

    /// What an image says about running it.
    ///
    /// # Errors
    /// As [`RegistryService::image_parts`].
    pub async fn describe(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        image: &Digest,
    ) -> Result<Described, RegistryError> {
        let parts = self.image_parts(ctx, repository, image).await?;
        Ok(described(&configuration(&parts.config)?))
    }
}

pub(super) fn configuration(bytes: &[u8]) -> Result<Value, RegistryError> {
    serde_json::from_slice(bytes).map_err(|error| {
        RegistryError::ManifestInvalid(format!("its configuration is not JSON: {error}"))
    })
}

pub(super) fn described(configuration: &Value) -> Described {
    let config = &configuration["config"];
    let words = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|word| word.as_str().map(str::to_owned))
            .collect()
    };
    let mut command = words(&config["Entrypoint"]);
    command.extend(words(&config["Cmd"]));
    let env = words(&config["Env"])
        .iter()
        .filter_map(|entry| entry.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let labels: Vec<(String, String)> = config["Labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let mut ports: Vec<u16> = config["ExposedPorts"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(port, _)| match port.split_once('/') {
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
            None => port.parse().ok(),
        })
        .collect();
    ports.sort_unstable();
    Described {
        own_root: !labels.iter().any(|(name, _)| name == HOST_LABEL),
        command,
        env,
        labels,
        work_dir: config["WorkingDir"].as_str().unwrap_or_default().to_owned(),
        ports,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_says_how_it_runs() {
        let found = described(&json!({ "config": {
            "Entrypoint": ["/serve"], "Cmd": ["--fast"], "Env": ["A=1=2", "broken"],
            "WorkingDir": "/srv", "Labels": { "a": "b" },
            "ExposedPorts": { "8080/tcp": {}, "53/udp": {}, "443": {}, "x/tcp": {} },
        }}));
        assert_eq!(found.command, ["/serve", "--fast"]);
        assert_eq!(found.env, [("A".to_owned(), "1=2".to_owned())]);
        assert_eq!(found.ports, [443, 8080]);
        assert_eq!((found.work_dir.as_str(), found.own_root), ("/srv", true));
        let on_host = described(&json!({ "config": { "Labels": { HOST_LABEL: "python3" } } }));
        assert!(!on_host.own_root);
        assert_eq!(
            described(&json!({})),
            Described {
                own_root: true,
                ..Described::default()
            }
        );
    }
}
