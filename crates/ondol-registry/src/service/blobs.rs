//! Blobs of a repository: reading, mounting, deleting.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use ondol_auth::{Action, Ctx};
use ondol_store::StoreError;
use ondol_types::{Algorithm, Digest};

use super::{DATED_AGAIN, RegistryService};
use crate::error::RegistryError;
use crate::model::{Owner, Repository};
use crate::store;

/// Bytes of a blob as they come.
pub(crate) type BlobStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Where the bytes of a blob are.
pub(crate) enum Content {
    /// Here.
    File(tokio::fs::File, u64),
    /// On their way from another registry; the last ones come when the digest was right.
    Arriving(BlobStream, u64),
}

impl RegistryService {
    fn blob_unknown(repository: &Repository, digest: &Digest) -> RegistryError {
        RegistryError::BlobUnknown {
            repository: repository.to_string(),
            digest: digest.clone(),
        }
    }

    /// The size of a blob that the repository links, dated as in use: a client that is told that
    /// it is here refers to it next.
    pub(super) async fn linked(
        &self,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<Option<u64>, RegistryError> {
        let link = self
            .store
            .read::<_, StoreError, _>(|tx| Box::pin(store::blob_link(tx, repository, digest)))
            .await?;
        let Some((size, linked_at)) = link else {
            return Ok(None);
        };
        if self.now().since(linked_at) < DATED_AGAIN {
            return Ok(Some(size));
        }
        let still = self
            .store
            .write::<_, StoreError, _>(|tx| Box::pin(store::touch_blob(tx, repository, digest)))
            .await?;
        Ok(still.then_some(size))
    }

    /// The size of a blob that the repository holds.
    ///
    /// # Errors
    /// [`RegistryError::BlobUnknown`] when it does not, even if the bytes are here for others.
    pub async fn blob_size(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<u64, RegistryError> {
        self.authorize(ctx, Action::Read, repository)?;
        if let Some(size) = self.linked(repository, digest).await? {
            return Ok(size);
        }
        match repository.owner() {
            Owner::Upstream(name) => self.blob_size_there(name, repository, digest).await,
            Owner::Project(_) => Err(Self::blob_unknown(repository, digest)),
        }
    }

    /// Opens a blob that the repository holds.
    ///
    /// # Errors
    /// As [`RegistryService::blob_size`].
    pub async fn blob(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(tokio::fs::File, u64), RegistryError> {
        match self.content(ctx, repository, digest, true).await? {
            Content::File(file, size) => Ok((file, size)),
            Content::Arriving(..) => Err(Self::blob_unknown(repository, digest)),
        }
    }

    /// Opens a blob, fetching it from another registry when it is one of that; `whole` waits until
    /// all of it is here.
    ///
    /// # Errors
    /// As [`RegistryService::blob_size`].
    pub(crate) async fn content(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
        whole: bool,
    ) -> Result<Content, RegistryError> {
        self.authorize(ctx, Action::Read, repository)?;
        let upstream = match repository.owner() {
            Owner::Upstream(name) => Some(name),
            Owner::Project(_) => None,
        };
        let held = match upstream {
            Some(_) => self.linked(repository, digest).await?.is_some(),
            None => self
                .store
                .read::<_, StoreError, _>(|tx| Box::pin(store::blob_size(tx, repository, digest)))
                .await?
                .is_some(),
        };
        if held {
            let (file, size) = self.blobs.open_file(digest).await?;
            return Ok(Content::File(file, size));
        }
        match upstream {
            Some(name) => self.blob_there(name, repository, digest, whole).await,
            None => Err(Self::blob_unknown(repository, digest)),
        }
    }

    /// Takes a blob away from the repository; its bytes go when nobody holds them.
    ///
    /// # Errors
    /// [`RegistryError::BlobUnknown`]; [`RegistryError::Named`] when a manifest of the repository
    /// needs it.
    pub async fn delete_blob(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        self.authorize(ctx, Action::Configure, repository)?;
        let removed = self
            .store
            .write::<_, RegistryError, _>(|tx| {
                Box::pin(async move {
                    if let Some(by) = store::named_by(tx, repository, digest).await? {
                        let digest = digest.clone();
                        return Err(RegistryError::Named { digest, by });
                    }
                    Ok(store::unlink_blob(tx, repository, digest).await?)
                })
            })
            .await?;
        if removed {
            return Ok(());
        }
        Err(Self::blob_unknown(repository, digest))
    }

    /// Makes a blob of another repository part of this one without moving bytes: of `from`, or of
    /// any that the asker may read. `Ok(false)` when there is none, and the answer is the same
    /// whether the asker may not read it or it does not exist.
    ///
    /// # Errors
    /// When the asker may not push to `repository`.
    pub async fn mount(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
        from: Option<&Repository>,
    ) -> Result<bool, RegistryError> {
        self.authorize(ctx, Action::Push, repository)?;
        let sources = match from {
            Some(from) => vec![from.clone()],
            None => self
                .store
                .read::<_, StoreError, _>(|tx| Box::pin(store::holders(tx, digest)))
                .await?
                .into_iter()
                .filter_map(|name| name.parse().ok())
                .collect(),
        };
        let readable: Vec<Repository> = sources
            .into_iter()
            .filter(|source| self.authorize(ctx, Action::Read, source).is_ok())
            .collect();
        if readable.is_empty() {
            return Ok(false);
        }
        // Under the hold no collection takes the bytes; dated, none that runs already does.
        let _hold = self.blobs.hold().await;
        if self.blobs.touch_many(std::slice::from_ref(digest)).await? != [true] {
            return Ok(false);
        }
        let readable = &readable;
        Ok(self
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    for source in readable {
                        if let Some(size) = store::blob_size(tx, source, digest).await? {
                            store::link_blob(tx, repository, digest, size).await?;
                            return Ok(true);
                        }
                    }
                    Ok(false)
                })
            })
            .await?)
    }

    /// Stores bytes at hand as a blob of the repository.
    ///
    /// # Errors
    /// When the asker may not push, or the disk is full.
    pub async fn put_blob(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        bytes: Bytes,
    ) -> Result<Digest, RegistryError> {
        self.authorize(ctx, Action::Push, repository)?;
        let blob = self.blobs.put(Algorithm::Sha256, bytes).await?;
        self.link(repository, &blob.digest, blob.size).await?;
        Ok(blob.digest)
    }

    /// Links a blob that is stored to the repository, under a hold so that no collection takes it
    /// in between.
    pub(crate) async fn link(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
    ) -> Result<(), RegistryError> {
        let _hold = self.blobs.hold().await;
        if self.blobs.touch_many(std::slice::from_ref(digest)).await? != [true] {
            return Err(StoreError::NoBlob(digest.clone()).into());
        }
        Ok(self
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(store::link_blob(tx, repository, digest, size))
            })
            .await?)
    }
}
