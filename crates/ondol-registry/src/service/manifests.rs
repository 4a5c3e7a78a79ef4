//! Manifests and tags: reading, pushing, deleting.

use bytes::Bytes;
use ondol_auth::{Action, Ctx};
use ondol_store::blobs::Hasher;
use ondol_store::events::NewEvent;
use ondol_store::{StoreError, Tx};
use ondol_types::{Algorithm, Digest, event};
use serde_json::json;

use super::{DATED_AGAIN, LEAST, Pulled, RegistryService, Retained};
use crate::error::RegistryError;
use crate::model::{Manifest, Owner, Reference, Repository};
use crate::store::{self, ManifestRow, NewManifest};

/// How often a manifest is stored again when a collection took its bytes before its row stood.
const TRIES: u32 = 3;

/// A manifest on its way in.
#[derive(Clone, Debug)]
pub struct Put<'r> {
    /// Tag or digest that it is pushed as.
    pub reference: &'r Reference,
    /// More tags that it gets.
    pub tags: &'r [String],
    /// The media type that the client says.
    pub content_type: &'r str,
    /// The bytes.
    pub bytes: Bytes,
}

/// The package URL of a manifest.
pub(super) fn purl(repository: &Repository, digest: &Digest) -> String {
    format!(
        "pkg:oci/{repository}@{}",
        digest.to_string().replace(':', "%3A")
    )
}

impl RegistryService {
    pub(super) async fn manifest_row(
        &self,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Option<ManifestRow>, RegistryError> {
        Ok(self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let digest = match reference {
                        Reference::Digest(digest) => Some(digest.clone()),
                        Reference::Tag(tag) => store::tag_target(tx, repository, tag)
                            .await?
                            .map(|(digest, _)| digest),
                    };
                    match digest {
                        Some(digest) => store::manifest_by_digest(tx, repository, &digest).await,
                        None => Ok(None),
                    }
                })
            })
            .await?)
    }

    pub(super) async fn pulled(&self, row: ManifestRow) -> Result<Pulled, RegistryError> {
        let bytes = self
            .blobs
            .read(&row.digest, self.config.max_manifest_bytes)
            .await?;
        Ok(Pulled {
            digest: row.digest,
            media_type: row.media_type,
            bytes,
        })
    }

    /// Reads a manifest with its bytes.
    ///
    /// # Errors
    /// [`RegistryError::ManifestUnknown`].
    pub async fn manifest(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        reference: &Reference,
    ) -> Result<Pulled, RegistryError> {
        self.authorize(ctx, Action::Read, repository)?;
        if let Owner::Upstream(name) = repository.owner() {
            return self.manifest_there(name, repository, reference).await;
        }
        let row = self
            .manifest_row(repository, reference)
            .await?
            .ok_or_else(|| RegistryError::ManifestUnknown {
                repository: repository.to_string(),
                reference: reference.to_string(),
            })?;
        self.date_manifest(repository, &row).await?;
        self.pulled(row).await
    }

    /// Whoever sees a manifest may refer to it next.
    pub(super) async fn date_manifest(
        &self,
        repository: &Repository,
        row: &ManifestRow,
    ) -> Result<(), RegistryError> {
        if self.now().since(row.used_at) >= DATED_AGAIN {
            let digest = &row.digest;
            self.store
                .write::<_, StoreError, _>(|tx| {
                    Box::pin(async move {
                        store::touch_manifest(tx, repository, digest)
                            .await
                            .map(|_| ())
                    })
                })
                .await?;
        }
        Ok(())
    }

    /// Stores a manifest, under a tag when the reference is one. Returns its digest and that of
    /// its subject.
    ///
    /// # Errors
    /// As [`RegistryService::push_manifest`].
    pub async fn put_manifest(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        reference: &Reference,
        content_type: &str,
        bytes: Bytes,
    ) -> Result<(Digest, Option<Digest>), RegistryError> {
        let put = Put {
            reference,
            tags: &[],
            content_type,
            bytes,
        };
        self.push_manifest(ctx, repository, put).await
    }

    /// Stores a manifest under any number of tags. Returns its digest and that of its subject.
    ///
    /// Its configuration and layers must be in this repository with the sizes that it says.
    /// Manifests that an index names, and a subject, may come later or never: an index may leave
    /// platforms out, and a signature may come before what it signs.
    ///
    /// # Errors
    /// [`RegistryError::ManifestInvalid`], [`RegistryError::ManifestBlobUnknown`],
    /// [`RegistryError::DigestInvalid`].
    pub async fn push_manifest(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        put: Put<'_>,
    ) -> Result<(Digest, Option<Digest>), RegistryError> {
        self.authorize(ctx, Action::Push, repository)?;
        if put.bytes.len() as u64 > self.config.max_manifest_bytes {
            return Err(RegistryError::TooLarge {
                what: "the manifest".to_owned(),
                limit: self.config.max_manifest_bytes,
            });
        }
        let manifest = Manifest::parse(&put.bytes, put.content_type)?;
        let algorithm = match put.reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = Hasher::digest(algorithm, &put.bytes);
        if let Reference::Digest(expected) = put.reference
            && *expected != digest
        {
            return Err(RegistryError::DigestInvalid(format!(
                "the manifest was announced as {expected} and is {digest}"
            )));
        }
        let mut tags: Vec<&str> = put.tags.iter().map(String::as_str).collect();
        if let Reference::Tag(tag) = put.reference {
            tags.push(tag);
        }
        let actor = ctx.principal.name.as_str();
        self.record_manifest(
            repository,
            &manifest,
            &digest,
            put.bytes.clone(),
            &tags,
            Some(actor),
        )
        .await?;
        Ok((digest, manifest.subject.map(|subject| subject.digest)))
    }

    /// The bytes, then the rows. `actor` is nobody for what comes from another registry, whose
    /// blobs come when they are asked for.
    pub(super) async fn record_manifest(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        digest: &Digest,
        bytes: Bytes,
        tags: &[&str],
        actor: Option<&str>,
    ) -> Result<(), RegistryError> {
        for _ in 0..TRIES {
            let size = self
                .blobs
                .put(digest.algorithm(), bytes.clone())
                .await?
                .size;
            let _hold = self.blobs.hold().await;
            if self.blobs.touch_many(std::slice::from_ref(digest)).await? != [true] {
                continue;
            }
            return self
                .store
                .write::<_, RegistryError, _>(|tx| {
                    Box::pin(async move {
                        if actor.is_some() {
                            check_blobs(tx, repository, manifest).await?;
                        }
                        let known = store::manifest_by_digest(tx, repository, digest)
                            .await?
                            .is_some();
                        store::insert_manifest(tx, repository, &row(manifest, digest, size))
                            .await?;
                        let mut moved = false;
                        for tag in tags {
                            let before = store::tag_target(tx, repository, tag).await?;
                            moved |= before.is_none_or(|(before, _)| before != *digest);
                            store::set_tag(tx, repository, tag, digest).await?;
                        }
                        match (actor, repository.project()) {
                            (Some(actor), Some(project)) if !known || moved => {
                                let event = NewEvent::new(
                                    event::ARTIFACT_PUBLISHED,
                                    purl(repository, digest),
                                )
                                .project(project)
                                .actor(actor)
                                .custom(json!({
                                    "repository": repository.as_str(),
                                    "reference": tags.first().map_or_else(|| digest.to_string(), |tag| (*tag).to_owned()),
                                    "mediaType": manifest.media_type,
                                }));
                                tx.append(event).await?;
                            }
                            _ => {}
                        }
                        Ok(())
                    })
                })
                .await;
        }
        Err(StoreError::NoBlob(digest.clone()).into())
    }

    /// Removes a tag, or a manifest with every tag of it.
    ///
    /// # Errors
    /// [`RegistryError::ManifestUnknown`]; [`RegistryError::InUse`] when a release needs it, and
    /// [`RegistryError::Named`] when an index of the repository does.
    pub async fn delete_manifest(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        reference: &Reference,
        retained: &dyn Retained,
    ) -> Result<(), RegistryError> {
        self.authorize(ctx, Action::Configure, repository)?;
        if let Reference::Digest(digest) = reference {
            let held = self.held(retained, repository).await?;
            if held.contains(digest) {
                return Err(RegistryError::InUse(digest.clone()));
            }
        }
        let actor = ctx.principal.name.as_str();
        let removed = self
            .store
            .write::<_, RegistryError, _>(|tx| {
                Box::pin(async move {
                    match reference {
                        Reference::Tag(tag) => Ok(store::delete_tag(tx, repository, tag).await?),
                        Reference::Digest(digest) => {
                            if let Some(by) = store::named_by(tx, repository, digest).await? {
                                let digest = digest.clone();
                                return Err(RegistryError::Named { digest, by });
                            }
                            remove_manifest(tx, repository, digest, actor).await
                        }
                    }
                })
            })
            .await?;
        if removed {
            return Ok(());
        }
        Err(RegistryError::ManifestUnknown {
            repository: repository.to_string(),
            reference: reference.to_string(),
        })
    }

    /// What releases need and what is claimed, with the children of every index among it.
    pub(super) async fn held(
        &self,
        retained: &dyn Retained,
        repository: &Repository,
    ) -> Result<std::collections::HashSet<Digest>, RegistryError> {
        let now = self.now();
        let claimed: Vec<Digest> = self
            .claims()
            .iter()
            .filter(|(_, at)| now.since(**at) < LEAST)
            .map(|(digest, _)| digest.clone())
            .collect();
        let images = retained.images().await.map_err(|problem| {
            RegistryError::Store(StoreError::Event {
                event_type: "retention".to_owned(),
                problem: problem.to_string(),
            })
        })?;
        let children = self
            .store
            .read::<_, StoreError, _>(|tx| Box::pin(store::children(tx, repository)))
            .await?;
        let held = images.into_iter().chain(claimed).collect();
        Ok(crate::plan::closure(held, &children))
    }
}

fn row<'m>(manifest: &'m Manifest, digest: &'m Digest, size: u64) -> NewManifest<'m> {
    let blobs = manifest.blobs.iter().map(|blob| (&blob.digest, "blob"));
    let children = manifest.manifests.iter();
    NewManifest {
        digest,
        media_type: &manifest.media_type,
        artifact_type: manifest.artifact_type.as_deref(),
        subject: manifest.subject.as_ref().map(|subject| &subject.digest),
        annotations: manifest
            .annotations
            .as_ref()
            .map(|map| json!(map).to_string()),
        size,
        targets: blobs
            .chain(children.map(|child| (&child.digest, "manifest")))
            .collect(),
    }
}

/// Every blob that a manifest names is in the repository, and as long as the manifest says.
async fn check_blobs(
    tx: &mut Tx<'_>,
    repository: &Repository,
    manifest: &Manifest,
) -> Result<(), RegistryError> {
    for blob in manifest.blobs.iter().filter(|blob| !blob.is_elsewhere()) {
        match store::blob_size(tx, repository, &blob.digest).await? {
            None => return Err(RegistryError::ManifestBlobUnknown(blob.digest.clone())),
            Some(size) if size != blob.size => {
                return Err(RegistryError::ManifestInvalid(format!(
                    "{} has {size} bytes and not {}",
                    blob.digest, blob.size
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// A manifest with its tags, and the event that says so.
pub(super) async fn remove_manifest(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
    actor: &str,
) -> Result<bool, RegistryError> {
    let removed = store::delete_manifest(tx, repository, digest).await?;
    if removed && let Some(project) = repository.project() {
        let event = NewEvent::new(event::ARTIFACT_DELETED, purl(repository, digest))
            .project(project)
            .actor(actor);
        tx.append(event).await?;
    }
    Ok(removed)
}
