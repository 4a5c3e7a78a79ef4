//! From a folder to a manifest in the registry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use ondol_auth::{Action, Ctx};
use ondol_store::events::NewEvent;
use ondol_types::{Algorithm, Digest, event};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::base::{self, Base};
use super::layer::{self, Keep, Layer, Part};
use crate::error::RegistryError;
use crate::model::{Descriptor, Reference, Repository, media};
use crate::service::RegistryService;

/// Where the application stands inside an image.
pub(super) const APP_DIR: &str = "app";

/// The label of an image without a base: what its program expects of the host.
pub const HOST_LABEL: &str = "dev.ondol.host";

/// What an image is made of.
#[derive(Clone)]
pub struct BuildRequest {
    /// Where it is kept.
    pub repository: Repository,
    /// The tags it gets.
    pub tags: Vec<String>,
    /// The folder that becomes `/app`.
    pub root: PathBuf,
    /// Which files of the folder go in; history and caches never do.
    pub keep: Keep,
    /// What starts it, as a shell line.
    pub command: Option<String>,
    /// Environment of the program.
    pub env: BTreeMap<String, String>,
    /// Labels, such as the commit.
    pub labels: BTreeMap<String, String>,
    /// An image to put the layers on, as a person writes it.
    pub base: Option<String>,
    /// What the program expects of its host when there is no base, such as `python3`.
    pub host: Vec<String>,
    /// The chain that the event joins.
    pub chain: Option<String>,
}

/// A finished image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Compressed bytes of all layers.
    pub size: u64,
    /// Files and folders in its own layers.
    pub entries: usize,
    /// How many layers were new to the store.
    pub layers_new: usize,
    /// How many layers it has.
    pub layers: usize,
}

impl RegistryService {
    /// Makes an image from a folder and keeps it under its tags. The same folder and request
    /// give the same digest.
    ///
    /// # Errors
    /// [`RegistryError::Tree`] names a file that cannot be part of an image,
    /// [`RegistryError::Base`] a base that cannot be had.
    pub async fn build(&self, ctx: &Ctx, request: &BuildRequest) -> Result<Built, RegistryError> {
        let project = request
            .repository
            .project()
            .ok_or_else(|| RegistryError::Name(request.repository.to_string()))?;
        ctx.require(Action::Push, project)?;
        let base = match &request.base {
            Some(reference) => base::pull(self, ctx, &request.repository, reference).await?,
            None => Base::empty(),
        };
        let (root, keep) = (request.root.clone(), request.keep.clone());
        let layers = tokio::task::spawn_blocking(move || {
            [Part::Dependencies, Part::Code]
                .into_iter()
                .map(|part| layer::pack(&root, APP_DIR, part, &keep))
                .collect::<Result<Vec<Layer>, _>>()
        })
        .await
        .map_err(|error| RegistryError::io("the layers")(std::io::Error::other(error)))??;
        let mut descriptors = base.layers.clone();
        let mut diff_ids = base.diff_ids.clone();
        let (mut entries, mut layers_new) = (0, 0);
        for layer in layers.into_iter().filter(|layer| layer.entries > 0) {
            entries += layer.entries;
            if self.blobs().size(&layer.digest).await?.is_none() {
                self.store_layer(&layer).await?;
                layers_new += 1;
            }
            self.link(&request.repository, &layer.digest, layer.size)
                .await?;
            descriptors.push(Descriptor::new(
                media::LAYER_GZIP,
                layer.digest.clone(),
                layer.size,
            ));
            diff_ids.push(layer.diff_id.to_string());
        }
        let config = configuration(request, &base, &diff_ids);
        let config_bytes = Bytes::from(config.to_string());
        let config_size = config_bytes.len() as u64;
        let config_digest = self
            .put_blob(ctx, &request.repository, config_bytes)
            .await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": Descriptor::new(media::CONFIG, config_digest, config_size),
            "layers": descriptors,
        });
        let bytes = Bytes::from(manifest.to_string());
        let digest = ondol_store::blobs::Hasher::digest(Algorithm::Sha256, &bytes);
        let by_digest = Reference::Digest(digest.clone());
        self.put_manifest(
            ctx,
            &request.repository,
            &by_digest,
            media::MANIFEST,
            bytes.clone(),
        )
        .await?;
        for tag in &request.tags {
            self.put_manifest(
                ctx,
                &request.repository,
                &tag.parse()?,
                media::MANIFEST,
                bytes.clone(),
            )
            .await?;
        }
        let commit = request.labels.get("org.opencontainers.image.revision");
        self.announce(
            &request.repository,
            &request.tags,
            commit.map(String::as_str).unwrap_or_default(),
            request.chain.as_deref(),
            &digest,
        )
        .await?;
        let size = descriptors.iter().map(|layer| layer.size).sum();
        Ok(Built {
            digest,
            size,
            entries,
            layers_new,
            layers: descriptors.len(),
        })
    }

    /// Puts a layer among the blobs.
    pub(super) async fn store_layer(&self, layer: &Layer) -> Result<(), RegistryError> {
        let mut file = tokio::fs::File::open(layer.file.path())
            .await
            .map_err(RegistryError::io("a layer"))?;
        let mut writer = self.blobs().writer(Algorithm::Sha256).await?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let length = file
                .read(&mut buffer)
                .await
                .map_err(RegistryError::io("a layer"))?;
            if length == 0 {
                break;
            }
            writer.write(&buffer[..length]).await?;
        }
        writer.finish(Some(&layer.digest)).await?;
        Ok(())
    }

    /// Says that there is an image.
    pub(super) async fn announce(
        &self,
        repository: &Repository,
        tags: &[String],
        commit: &str,
        chain: Option<&str>,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        let Some(project) = repository.project() else {
            return Ok(());
        };
        let purl = format!(
            "pkg:oci/{repository}@{}",
            digest.to_string().replace(':', "%3A")
        );
        let content = json!({
            "change": { "id": if commit.is_empty() { "unknown" } else { commit }, "source": format!("/{project}") },
        });
        let mut event = NewEvent::new(event::ARTIFACT_PACKAGED, &purl)
            .project(project)
            .content(content)
            .custom(json!({ "digest": digest, "tags": tags }));
        if let Some(chain) = chain {
            event = event.chain(chain.to_owned());
        }
        self.record(event).await
    }
}

/// The image configuration. No time of day is in it: the same input gives the same digest.
fn configuration(request: &BuildRequest, base: &Base, diff_ids: &[String]) -> Value {
    let mut config = base.config.clone();
    let mut env: Vec<String> = config["Env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str())
        .filter(|entry| {
            !request
                .env
                .contains_key(entry.split('=').next().unwrap_or_default())
        })
        .map(str::to_owned)
        .collect();
    if !env.iter().any(|entry| entry.starts_with("PATH=")) && !request.env.contains_key("PATH") {
        env.push("PATH=/app/.venv/bin:/app/node_modules/.bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    }
    env.extend(
        request
            .env
            .iter()
            .map(|(name, value)| format!("{name}={value}")),
    );
    config["Env"] = json!(env);
    config["WorkingDir"] = json!(format!("/{APP_DIR}"));
    if let Some(command) = &request.command {
        config["Entrypoint"] = Value::Null;
        config["Cmd"] = json!(["/bin/sh", "-c", format!("exec {command}")]);
        if command.contains(['&', ';', '|', '\n'])
            || command
                .trim_start()
                .starts_with(|c: char| !c.is_alphanumeric() && !"./_$".contains(c))
        {
            config["Cmd"] = json!(["/bin/sh", "-c", command]);
        }
    }
    let mut labels = config["Labels"].as_object().cloned().unwrap_or_default();
    for (name, value) in &request.labels {
        labels.insert(name.clone(), json!(value));
    }
    if request.base.is_none() {
        labels.insert(HOST_LABEL.to_owned(), json!(request.host.join(" ")));
    }
    config["Labels"] = Value::Object(labels);
    json!({
        "architecture": base.architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}
