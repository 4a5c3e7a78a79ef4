//! What the registry does, whoever asks: clients through `/v2/`, the image step, the deploy room.

mod blobs;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ondol_auth::{Action, Ctx, Denied};
use ondol_store::blobs::{Blobs, Hasher};
use ondol_store::events::NewEvent;
use ondol_store::{Store, StoreError};
use ondol_types::{Algorithm, Digest, ProjectName, Timestamp, event};
use serde_json::json;

use crate::Config;
use crate::error::RegistryError;
use crate::model::{Descriptor, Manifest, Reference, Repository, media};
use crate::store::{self, NewManifest};
use crate::uploads::Uploads;

/// Which images must never be collected: those of releases that can be rolled back to.
#[async_trait::async_trait]
pub trait Retained: Send + Sync {
    /// The manifest digests that are in use.
    async fn images(&self) -> Result<Vec<Digest>, ondol_types::Problem>;
}

/// A manifest with its bytes.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// Its digest.
    pub digest: Digest,
    /// The media type it was pushed with.
    pub media_type: String,
    /// The bytes exactly as pushed.
    pub bytes: Bytes,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct RegistryService {
    store: Store,
    blobs: Blobs,
    uploads: Arc<Uploads>,
    config: Config,
}

impl RegistryService {
    /// A registry over these stores.
    pub fn new(store: Store, blobs: Blobs, config: Config) -> Self {
        Self {
            store,
            blobs,
            uploads: Arc::default(),
            config,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Appends an event of the builder.
    pub(crate) async fn record(&self, event: NewEvent) -> Result<(), RegistryError> {
        Ok(self
            .store
            .write::<_, StoreError, _>(|tx| {
                let event = event.clone();
                Box::pin(async move { tx.append(event).await.map(|_| ()) })
            })
            .await?)
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
        ctx.require(Action::Read, repository.project())?;
        let unknown = || RegistryError::ManifestUnknown {
            repository: repository.to_string(),
            reference: reference.to_string(),
        };
        let row = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let digest = match reference {
                        Reference::Digest(digest) => Some(digest.clone()),
                        Reference::Tag(tag) => store::tag_target(tx, repository, tag).await?,
                    };
                    match digest {
                        Some(digest) => store::manifest_by_digest(tx, repository, &digest).await,
                        None => Ok(None),
                    }
                })
            })
            .await?
            .ok_or_else(unknown)?;
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

    /// Stores a manifest, under a tag when the reference is one. Returns its digest and that of
    /// its subject.
    ///
    /// # Errors
    /// [`RegistryError::ManifestInvalid`], [`RegistryError::ManifestBlobUnknown`] when something
    /// it names was not pushed to this repository (subjects may come later).
    pub async fn put_manifest(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        reference: &Reference,
        content_type: &str,
        bytes: Bytes,
    ) -> Result<(Digest, Option<Digest>), RegistryError> {
        ctx.require(Action::Push, repository.project())?;
        if bytes.len() as u64 > self.config.max_manifest_bytes {
            return Err(RegistryError::TooLarge {
                what: "the manifest".to_owned(),
                limit: self.config.max_manifest_bytes,
            });
        }
        let manifest = Manifest::parse(&bytes, content_type)?;
        let algorithm = match reference {
            Reference::Digest(digest) => digest.algorithm(),
            Reference::Tag(_) => Algorithm::Sha256,
        };
        let digest = Hasher::digest(algorithm, &bytes);
        if let Reference::Digest(expected) = reference
            && *expected != digest
        {
            return Err(RegistryError::DigestInvalid(format!(
                "the manifest was announced as {expected} and is {digest}"
            )));
        }
        let size = self.blobs.put(algorithm, bytes).await?.size;
        let (digest_ref, manifest_ref) = (&digest, &manifest);
        let actor = ctx.principal.name.as_str();
        self.store
            .write::<_, RegistryError, _>(|tx| {
                Box::pin(async move {
                    for blob in &manifest_ref.blobs {
                        if store::blob_size(tx, repository, &blob.digest).await?.is_none() {
                            return Err(RegistryError::ManifestBlobUnknown(blob.digest.clone()));
                        }
                    }
                    // An index may list platforms that were left out of the copy, so its
                    // children are not required; what is here is held by the reference.
                    let known = store::manifest_by_digest(tx, repository, digest_ref).await?.is_some();
                    let targets = manifest_ref
                        .blobs
                        .iter()
                        .map(|blob| (&blob.digest, "blob"))
                        .chain(manifest_ref.manifests.iter().map(|child| (&child.digest, "manifest")))
                        .collect();
                    let new = NewManifest {
                        digest: digest_ref,
                        media_type: &manifest_ref.media_type,
                        artifact_type: manifest_ref.artifact_type.as_deref(),
                        subject: manifest_ref.subject.as_ref().map(|subject| &subject.digest),
                        annotations: manifest_ref.annotations.as_ref().map(|map| json!(map).to_string()),
                        size,
                        targets,
                    };
                    store::insert_manifest(tx, repository, &new).await?;
                    let mut moved = false;
                    if let Reference::Tag(tag) = reference {
                        moved = store::tag_target(tx, repository, tag).await?.as_ref() != Some(digest_ref);
                        store::set_tag(tx, repository, tag, digest_ref).await?;
                    }
                    if !known || moved {
                        let purl = format!("pkg:oci/{repository}@{}", digest_ref.to_string().replace(':', "%3A"));
                        tx.append(
                            NewEvent::new(event::ARTIFACT_PUBLISHED, purl)
                                .project(repository.project())
                                .actor(actor)
                                .custom(json!({ "repository": repository.as_str(), "reference": reference.to_string(), "mediaType": manifest_ref.media_type })),
                        )
                        .await?;
                    }
                    Ok(())
                })
            })
            .await?;
        Ok((digest, manifest.subject.map(|subject| subject.digest)))
    }

    /// Removes a tag, or a manifest with every tag of it.
    ///
    /// # Errors
    /// [`RegistryError::ManifestUnknown`]; [`RegistryError::InUse`] when a release needs it.
    pub async fn delete_manifest(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        reference: &Reference,
        retained: &dyn Retained,
    ) -> Result<(), RegistryError> {
        ctx.require(Action::Configure, repository.project())?;
        if let Reference::Digest(digest) = reference {
            let held = retained.images().await.map_err(|problem| {
                RegistryError::Store(StoreError::Event {
                    event_type: "retention".to_owned(),
                    problem: problem.to_string(),
                })
            })?;
            if held.contains(digest) {
                return Err(RegistryError::InUse(digest.clone()));
            }
        }
        let removed = self
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    match reference {
                        Reference::Tag(tag) => store::delete_tag(tx, repository, tag).await,
                        Reference::Digest(digest) => {
                            let removed = store::delete_manifest(tx, repository, digest).await?;
                            if removed {
                                let purl = format!(
                                    "pkg:oci/{repository}@{}",
                                    digest.to_string().replace(':', "%3A")
                                );
                                tx.append(
                                    NewEvent::new(event::ARTIFACT_DELETED, purl)
                                        .project(repository.project()),
                                )
                                .await?;
                            }
                            Ok(removed)
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

    /// Tags after `last` in order, at most `limit`, and whether there are more.
    ///
    /// # Errors
    /// A repository that does not exist is invisible.
    pub async fn tags(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        last: &str,
        limit: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        ctx.require(Action::Read, repository.project())?;
        let (exists, mut tags) = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    Ok((
                        store::repository_exists(tx, repository).await?,
                        store::tags(tx, repository, last, limit + 1).await?,
                    ))
                })
            })
            .await?;
        if !exists {
            return Err(Denied::Invisible(format!("repository `{repository}`")).into());
        }
        let more = tags.len() > limit as usize;
        tags.truncate(limit as usize);
        Ok((tags, more))
    }

    /// Repositories that the asker may read, after `last` in order.
    ///
    /// # Errors
    /// Only those of the store.
    pub async fn catalog(
        &self,
        ctx: &Ctx,
        last: &str,
        limit: u32,
    ) -> Result<(Vec<String>, bool), RegistryError> {
        let mut found = Vec::new();
        let mut cursor = last.to_owned();
        while found.len() <= limit as usize {
            let cursor_ref = cursor.as_str();
            let page = self
                .store
                .read::<_, StoreError, _>(|tx| Box::pin(store::repositories(tx, cursor_ref, 1_000)))
                .await?;
            let Some(end) = page.last().cloned() else {
                break;
            };
            found.extend(page.into_iter().filter(|name| {
                name.parse::<Repository>()
                    .is_ok_and(|repository| ctx.require(Action::Read, repository.project()).is_ok())
            }));
            cursor = end;
        }
        let more = found.len() > limit as usize;
        found.truncate(limit as usize);
        Ok((found, more))
    }

    /// Manifests whose subject is `digest`, as descriptors, optionally of one artifact type.
    ///
    /// # Errors
    /// Only of permission and store: an unknown subject has an empty list.
    pub async fn referrers(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        ctx.require(Action::Read, repository.project())?;
        let rows = self
            .store
            .read::<_, StoreError, _>(|tx| Box::pin(store::referrers(tx, repository, digest)))
            .await?;
        Ok(rows
            .into_iter()
            .filter(|row| {
                artifact_type.is_none_or(|wanted| row.artifact_type.as_deref() == Some(wanted))
            })
            .map(|row| Descriptor {
                artifact_type: row.artifact_type,
                annotations: row.annotations.and_then(|value| value.as_object().cloned()),
                ..Descriptor::new(&row.media_type, row.digest, row.size)
            })
            .collect())
    }

    /// A repository that has this manifest, for Ondol's own use: it asks nobody's permission.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn locate(&self, digest: &Digest) -> Result<Option<Repository>, RegistryError> {
        self.store
            .read::<_, StoreError, _>(|tx| Box::pin(store::repository_of(tx, digest)))
            .await?
            .map(|name| name.parse())
            .transpose()
    }

    /// The project's rows go; bytes go with the next collection.
    ///
    /// # Errors
    /// Only those of the store and of permission.
    pub async fn delete_project(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
    ) -> Result<(), RegistryError> {
        ctx.require(Action::DeleteProject, project)?;
        Ok(self
            .store
            .write::<_, StoreError, _>(|tx| Box::pin(store::delete_project(tx, project)))
            .await?)
    }

    /// One round of retention: tags beyond the newest [`Config::kept_tags`], then manifests that
    /// nothing holds for an hour, then their blob links. Images of releases stay. Returns how
    /// many manifests went.
    ///
    /// # Errors
    /// Those of the store and of `retained`.
    pub async fn retain(&self, retained: &dyn Retained) -> Result<u64, ondol_types::Problem> {
        let held = retained.images().await?;
        let before: Timestamp = self.store.clock().now().minus(Duration::from_secs(3_600));
        let mut removed = 0;
        let names = self
            .store
            .read::<_, StoreError, _>(|tx| Box::pin(store::repositories(tx, "", 10_000)))
            .await?;
        for repository in names
            .iter()
            .filter_map(|name| name.parse::<Repository>().ok())
        {
            let (repository, held, keep) = (&repository, &held, self.config.kept_tags);
            removed += self
                .store
                .write::<_, StoreError, _>(|tx| {
                    Box::pin(async move {
                        for (tag, digest) in store::surplus_tags(tx, repository, keep).await? {
                            if !held.contains(&digest) {
                                store::delete_tag(tx, repository, &tag).await?;
                            }
                        }
                        let mut removed = 0;
                        for row in store::loose_manifests(tx, repository, before, 500).await? {
                            if row.pushed_at < before && !held.contains(&row.digest) {
                                store::delete_manifest(tx, repository, &row.digest).await?;
                                removed += 1;
                            }
                        }
                        store::unlink_loose_blobs(tx, repository, before).await?;
                        Ok(removed)
                    })
                })
                .await?;
        }
        Ok(removed)
    }

    /// Digests that the registry holds, after `after` in text order: its part of the mark.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn held_digests(&self, after: &str, limit: u32) -> Result<Vec<Digest>, StoreError> {
        self.store
            .read::<_, StoreError, _>(|tx| Box::pin(store::linked_digests(tx, after, limit)))
            .await
    }

    /// Chooses the manifest of this machine's platform: the manifest itself, or the fitting
    /// child of an index.
    pub(crate) fn platform_child(index: &[u8]) -> Option<Descriptor> {
        let parsed = Manifest::parse(index, "").ok()?;
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        parsed.manifests.into_iter().find(|child| {
            child.platform.as_ref().is_some_and(|platform| {
                platform["os"] == "linux" && platform["architecture"] == architecture
            })
        })
    }
}

/// Whether a media type is an index.
pub(crate) fn is_index(media_type: &str) -> bool {
    media_type == media::INDEX || media_type == media::DOCKER_LIST
}
