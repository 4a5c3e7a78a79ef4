//! Blobs of a repository: reading, mounting, uploading.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ondol_auth::{Action, Ctx};
use ondol_store::StoreError;
use ondol_types::{Algorithm, Digest, UploadId};

use super::RegistryService;
use crate::error::RegistryError;
use crate::model::Repository;
use crate::store;

impl RegistryService {
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
        ctx.require(Action::Read, repository.project())?;
        self.store
            .read::<_, StoreError, _>(|tx| Box::pin(store::blob_size(tx, repository, digest)))
            .await?
            .ok_or_else(|| RegistryError::BlobUnknown {
                repository: repository.to_string(),
                digest: digest.clone(),
            })
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
        self.blob_size(ctx, repository, digest).await?;
        Ok(self.blobs.open_file(digest).await?)
    }

    /// Takes a blob away from the repository; its bytes go when nobody holds them.
    ///
    /// # Errors
    /// [`RegistryError::BlobUnknown`].
    pub async fn delete_blob(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
    ) -> Result<(), RegistryError> {
        ctx.require(Action::Configure, repository.project())?;
        let removed = self
            .store
            .write::<_, StoreError, _>(|tx| Box::pin(store::unlink_blob(tx, repository, digest)))
            .await?;
        if removed {
            return Ok(());
        }
        Err(RegistryError::BlobUnknown {
            repository: repository.to_string(),
            digest: digest.clone(),
        })
    }

    /// Makes a blob of one repository part of another without moving bytes.
    /// `Ok(false)` when the source does not hold it or the asker may not read it there.
    ///
    /// # Errors
    /// When the asker may not push to `repository`.
    pub async fn mount(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        digest: &Digest,
        from: &Repository,
    ) -> Result<bool, RegistryError> {
        ctx.require(Action::Push, repository.project())?;
        if ctx.require(Action::Read, from.project()).is_err() {
            return Ok(false);
        }
        Ok(self
            .store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    match store::blob_size(tx, from, digest).await? {
                        Some(size) => store::link_blob(tx, repository, digest, size)
                            .await
                            .map(|()| true),
                        None => Ok(false),
                    }
                })
            })
            .await?)
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// [`RegistryError::Busy`] over the ceiling.
    pub async fn begin_upload(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        algorithm: Algorithm,
    ) -> Result<UploadId, RegistryError> {
        ctx.require(Action::Push, repository.project())?;
        let id = UploadId::generate(&*ctx.clock);
        let writer = self.blobs.writer(algorithm).await?;
        self.uploads
            .insert(id, repository.clone(), writer, self.config.max_uploads)?;
        Ok(id)
    }

    /// Appends a body to an upload and returns how many bytes it has now. `start` is where the
    /// client says the body begins, when it says so.
    ///
    /// # Errors
    /// [`RegistryError::UploadUnknown`], [`RegistryError::Range`], [`RegistryError::TooLarge`],
    /// [`RegistryError::Broken`].
    pub async fn append<S, E>(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        id: &UploadId,
        start: Option<u64>,
        body: S,
    ) -> Result<u64, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        ctx.require(Action::Push, repository.project())?;
        let upload = self.upload(repository, id).await?;
        let mut upload = upload.lock().await;
        let have = upload.received();
        if let Some(got) = start
            && got != have
        {
            return Err(RegistryError::Range { have, got });
        }
        upload.touch();
        let writer = upload
            .writer
            .as_mut()
            .ok_or_else(|| RegistryError::UploadUnknown(id.to_string()))?;
        let mut body = std::pin::pin!(body);
        // Small network reads are gathered so that the disk sees few large writes.
        let mut gathered: Vec<u8> = Vec::new();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| RegistryError::Broken(error.to_string()))?;
            if writer.size() + gathered.len() as u64 + chunk.len() as u64
                > self.config.max_blob_bytes
            {
                return Err(RegistryError::TooLarge {
                    what: "the blob".to_owned(),
                    limit: self.config.max_blob_bytes,
                });
            }
            gathered.extend_from_slice(&chunk);
            if gathered.len() >= 1 << 20 {
                writer.write(&gathered).await?;
                gathered.clear();
            }
        }
        writer.write(&gathered).await?;
        Ok(writer.size())
    }

    async fn upload(
        &self,
        repository: &Repository,
        id: &UploadId,
    ) -> Result<Arc<tokio::sync::Mutex<crate::uploads::Upload>>, RegistryError> {
        let unknown = || RegistryError::UploadUnknown(id.to_string());
        let upload = self.uploads.get(id).ok_or_else(unknown)?;
        // An upload belongs to the repository it was begun in.
        if upload.lock().await.repository != *repository {
            return Err(unknown());
        }
        Ok(upload)
    }

    /// How many bytes an upload has.
    ///
    /// # Errors
    /// [`RegistryError::UploadUnknown`].
    pub async fn upload_size(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        id: &UploadId,
    ) -> Result<u64, RegistryError> {
        ctx.require(Action::Push, repository.project())?;
        Ok(self.upload(repository, id).await?.lock().await.received())
    }

    /// Forgets an upload.
    ///
    /// # Errors
    /// [`RegistryError::UploadUnknown`].
    pub async fn cancel_upload(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        id: &UploadId,
    ) -> Result<(), RegistryError> {
        ctx.require(Action::Push, repository.project())?;
        self.upload(repository, id).await?;
        self.uploads.remove(id);
        Ok(())
    }

    /// Ends an upload: its bytes must have `digest`, and become a blob of the repository.
    ///
    /// # Errors
    /// [`RegistryError::DigestInvalid`] when they have another.
    pub async fn finish_upload(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        id: &UploadId,
        digest: &Digest,
    ) -> Result<u64, RegistryError> {
        ctx.require(Action::Push, repository.project())?;
        let upload = self.upload(repository, id).await?;
        let writer = upload
            .lock()
            .await
            .writer
            .take()
            .ok_or_else(|| RegistryError::UploadUnknown(id.to_string()))?;
        self.uploads.remove(id);
        let blob = writer
            .finish(Some(digest))
            .await
            .map_err(|error| match error {
                StoreError::Corrupted { expected, actual } => RegistryError::DigestInvalid(
                    format!("the upload was announced as {expected} and is {actual}"),
                ),
                other => other.into(),
            })?;
        let size = blob.size;
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(store::link_blob(tx, repository, digest, size))
            })
            .await?;
        Ok(size)
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
        ctx.require(Action::Push, repository.project())?;
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
