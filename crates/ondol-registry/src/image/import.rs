//! An image that a container engine has built, on its way into the registry.
//!
//! Layers are compressed as the builder without an engine does it, always to the same bytes. One
//! that was compressed before is only compared, and an image that is here already is not asked
//! for, so that what a cached build costs is what has changed.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ondol_auth::{Action, Ctx};
use ondol_store::StoreError;
use ondol_store::blobs::Hasher;
use ondol_types::{Algorithm, Digest};
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::build::Built;
use super::exported::{Incoming, Packed, read};
use crate::error::RegistryError;
use crate::model::{Descriptor, Manifest, Reference, Repository, media};
use crate::service::RegistryService;
use crate::store;

/// Pieces between the network and the thread that reads.
const PIECES: usize = 8;

/// An image of an engine.
#[derive(Clone, Debug)]
pub struct ImportRequest {
    /// Where it is kept.
    pub repository: Repository,
    /// The tags it gets.
    pub tags: Vec<String>,
    /// What the engine calls it: the digest of its configuration, or of its manifest.
    pub id: Digest,
    /// The commit that it was built from.
    pub commit: Option<String>,
    /// The chain that the event joins.
    pub chain: Option<String>,
}

impl RegistryService {
    /// Gives an image its tags when the repository has it already, without asking the engine.
    ///
    /// # Errors
    /// When the asker may not push, or the stores fail.
    pub async fn import_known(
        &self,
        ctx: &Ctx,
        request: &ImportRequest,
    ) -> Result<Option<Built>, RegistryError> {
        let repository = &request.repository;
        self.may_import(ctx, request)?;
        let named = self
            .store()
            .read::<_, StoreError, _>(|tx| Box::pin(store::named_by(tx, repository, &request.id)))
            .await?;
        let Some(digest) = named else {
            return Ok(None);
        };
        let reference = Reference::Digest(digest);
        let pulled = match self.manifest(ctx, repository, &reference).await {
            Ok(pulled) => pulled,
            Err(RegistryError::ManifestUnknown { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let manifest = Manifest::parse(&pulled.bytes, &pulled.media_type)?;
        let is_its = manifest.media_type == media::MANIFEST
            && manifest.blobs.first().map(|config| &config.digest) == Some(&request.id);
        if !is_its {
            return Ok(None);
        }
        let layers = manifest.blobs[1..].to_vec();
        self.finish_import(ctx, request, pulled.bytes, &layers, 0)
            .await
            .map(Some)
    }

    /// Takes an image from the archive that an engine exports. The same image gives the same
    /// digest.
    ///
    /// # Errors
    /// [`RegistryError::Tree`] when the archive is not that image; those of the stores.
    pub async fn import<S, E>(
        &self,
        ctx: &Ctx,
        request: &ImportRequest,
        archive: S,
    ) -> Result<Built, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        self.may_import(ctx, request)?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let (registry, repository) = (self.clone(), request.repository.clone());
        let handle = Handle::current();
        let reading = tokio::task::spawn_blocking(move || {
            let known = |diff_id: &Digest| handle.block_on(registry.reuse(&repository, diff_id));
            read(Incoming::new(receiver), &known)
        });
        let mut archive = std::pin::pin!(archive);
        while let Some(piece) = archive.next().await {
            let piece = piece.map_err(|error| error.to_string());
            // A reader that has given up says why below.
            if sender.send(piece).await.is_err() {
                break;
            }
        }
        drop(sender);
        let image = reading
            .await
            .map_err(|error| RegistryError::io("the image")(std::io::Error::other(error)))??;
        let (config, layers) = image.resolve(&request.id)?;
        let mut descriptors = Vec::new();
        let mut layers_new = 0;
        for (diff_id, packed) in layers {
            let (digest, size) = match packed {
                Packed::Known { digest, size } => (digest, size),
                Packed::New(layer) => {
                    if self.blobs().size(&layer.digest).await?.is_none() {
                        self.store_layer(&layer).await?;
                        layers_new += 1;
                    }
                    let (digest, size) = (layer.digest.clone(), layer.size);
                    self.link(&request.repository, &digest, size).await?;
                    self.store()
                        .write::<_, StoreError, _>(|tx| {
                            Box::pin(store::remember_layer(tx, &diff_id, &digest, size))
                        })
                        .await?;
                    (digest, size)
                }
            };
            descriptors.push(Descriptor::new(media::LAYER_GZIP, digest, size));
        }
        let size = config.len() as u64;
        let config = self.put_blob(ctx, &request.repository, config).await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::MANIFEST,
            "config": Descriptor::new(media::CONFIG, config, size),
            "layers": descriptors,
        });
        let manifest = Bytes::from(manifest.to_string());
        self.finish_import(ctx, request, manifest, &descriptors, layers_new)
            .await
    }

    fn may_import(&self, ctx: &Ctx, request: &ImportRequest) -> Result<(), RegistryError> {
        let project = request
            .repository
            .project()
            .ok_or_else(|| RegistryError::Name(request.repository.to_string()))?;
        Ok(ctx.require(Action::Push, project)?)
    }

    /// A layer that was compressed before, made part of the repository; `None` when there is none
    /// any more.
    async fn reuse(
        &self,
        repository: &Repository,
        diff_id: &Digest,
    ) -> Result<Option<(Digest, u64)>, RegistryError> {
        let known = self
            .store()
            .read::<_, StoreError, _>(|tx| Box::pin(store::known_layer(tx, diff_id)))
            .await?;
        let Some((digest, size)) = known else {
            return Ok(None);
        };
        match self.link(repository, &digest, size).await {
            Ok(()) => Ok(Some((digest, size))),
            Err(RegistryError::Store(StoreError::NoBlob(_))) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn finish_import(
        &self,
        ctx: &Ctx,
        request: &ImportRequest,
        manifest: Bytes,
        layers: &[Descriptor],
        layers_new: usize,
    ) -> Result<Built, RegistryError> {
        let repository = &request.repository;
        let digest = Hasher::digest(Algorithm::Sha256, &manifest);
        let by_digest = Reference::Digest(digest.clone());
        let tags = request.tags.iter().map(|tag| tag.parse());
        for reference in [Ok(by_digest)].into_iter().chain(tags) {
            self.put_manifest(
                ctx,
                repository,
                &reference?,
                media::MANIFEST,
                manifest.clone(),
            )
            .await?;
        }
        let commit = request.commit.as_deref().unwrap_or_default();
        self.announce(
            repository,
            &request.tags,
            commit,
            request.chain.as_deref(),
            &digest,
        )
        .await?;
        Ok(Built {
            digest,
            size: layers.iter().map(|layer| layer.size).sum(),
            entries: 0,
            layers_new,
            layers: layers.len(),
        })
    }
}
