//! Uploads: begun, appended to, asked about, given up, finished.
//!
//! Bytes go from the network to the disk without being copied: reads are gathered until a batch
//! is worth a system call, and while one batch is hashed and written on a thread that may block,
//! the next one arrives. Only the end of an upload syncs.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ondol_auth::{Action, Ctx};
use ondol_store::StoreError;
use ondol_types::{Algorithm, Digest, UploadId};
use tokio::task::JoinHandle;

use super::{LEAST, RegistryService};
use crate::error::RegistryError;
use crate::model::Repository;
use crate::uploads::{ALGORITHMS, Upload, file_name};

/// Bytes that are worth a write.
const BATCH: usize = 1 << 20;
/// Staged files that are looked at when there are too many.
const LISTED: usize = 100_000;

/// The right to append, shared with the writes under way.
type Turn = tokio::sync::OwnedMutexGuard<()>;

/// What a client says about a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chunk {
    /// Where it begins.
    pub start: Option<u64>,
    /// How many bytes it has.
    pub length: Option<u64>,
}

impl RegistryService {
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
        self.authorize(ctx, Action::Push, repository)?;
        if let Some(project) = repository.project() {
            self.store
                .read::<_, StoreError, _>(|tx| Box::pin(tx.admit_project(project)))
                .await?;
        }
        let id = UploadId::generate(&*ctx.clock);
        self.make_room().await?;
        let file = file_name(&id, repository, algorithm);
        let staged = self.blobs.stage(&file, algorithm).await?;
        self.uploads.insert(file, staged);
        Ok(id)
    }

    /// Sees to it that one more upload fits: the one that lay still the longest makes room, if
    /// that is long enough.
    async fn make_room(&self) -> Result<(), RegistryError> {
        let limit = self.config.max_uploads;
        let there = self.blobs.staged(LISTED).await?;
        if there.len() < limit {
            return Ok(());
        }
        let now = self.blobs.now();
        let idle = there
            .into_iter()
            .filter(|entry| now.since(entry.touched) >= LEAST && !self.uploads.is_busy(&entry.name))
            .min_by_key(|entry| entry.touched);
        match idle {
            Some(entry) => {
                self.uploads.remove(&entry.name);
                self.blobs.discard_staged(&entry.name).await?;
                Ok(())
            }
            None => Err(RegistryError::Busy(limit)),
        }
    }

    /// Finds an upload, also one that an earlier process began.
    async fn upload(
        &self,
        repository: &Repository,
        id: &UploadId,
    ) -> Result<Arc<Upload>, RegistryError> {
        for algorithm in ALGORITHMS {
            let file = file_name(id, repository, algorithm);
            if let Some(upload) = self.uploads.get(&file) {
                return Ok(upload);
            }
        }
        for algorithm in ALGORITHMS {
            let file = file_name(id, repository, algorithm);
            if let Some(staged) = self.blobs.resume(&file, algorithm).await? {
                return Ok(self.uploads.insert(file, staged));
            }
        }
        Err(RegistryError::UploadUnknown(id.to_string()))
    }

    /// Appends a body to an upload and returns how many bytes it has now. What came before a
    /// connection broke stays.
    ///
    /// # Errors
    /// [`RegistryError::UploadUnknown`], [`RegistryError::Range`], [`RegistryError::TooLarge`],
    /// [`RegistryError::Broken`].
    pub async fn append<S, E>(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        id: &UploadId,
        chunk: Chunk,
        body: S,
    ) -> Result<u64, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        self.authorize(ctx, Action::Push, repository)?;
        let upload = self.upload(repository, id).await?;
        upload.overtaken.notify_waiters();
        let turn = Arc::new(upload.turn.clone().lock_owned().await);
        self.receive(&upload, &turn, id, chunk, body).await
    }

    /// Writes a body to the end of an upload. Whoever calls it has the turn.
    async fn receive<S, E>(
        &self,
        upload: &Arc<Upload>,
        turn: &Arc<Turn>,
        id: &UploadId,
        chunk: Chunk,
        body: S,
    ) -> Result<u64, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        let unknown = || RegistryError::UploadUnknown(id.to_string());
        let have = upload
            .staged()
            .as_ref()
            .map(|it| it.size())
            .ok_or_else(unknown)?;
        if let Some(got) = chunk.start
            && got != have
        {
            return Err(RegistryError::Range { have, got });
        }
        let too_large = || RegistryError::TooLarge {
            what: "the blob".to_owned(),
            limit: self.config.max_blob_bytes,
        };
        let mut body = std::pin::pin!(body);
        let mut overtaken = std::pin::pin!(upload.overtaken.notified());
        let (mut batch, mut gathered) = (Vec::new(), 0);
        let mut size = have;
        let mut writing: Option<JoinHandle<Result<(), RegistryError>>> = None;
        let outcome = loop {
            let next = tokio::select! {
                next = body.next() => next,
                () = &mut overtaken => break Err(RegistryError::Overtaken),
            };
            match next {
                None => break Ok(()),
                Some(Err(error)) => break Err(RegistryError::Broken(error.to_string())),
                Some(Ok(bytes)) => {
                    size += bytes.len() as u64;
                    if size > self.config.max_blob_bytes {
                        break Err(too_large());
                    }
                    gathered += bytes.len();
                    batch.push(bytes);
                }
            }
            if gathered >= BATCH {
                settled(writing.take()).await?;
                writing = Some(write(upload, turn, std::mem::take(&mut batch)));
                gathered = 0;
            }
        };
        settled(writing).await?;
        if !batch.is_empty() {
            settled(Some(write(upload, turn, batch))).await?;
        }
        outcome?;
        let size = upload
            .staged()
            .as_ref()
            .map(|it| it.size())
            .ok_or_else(unknown)?;
        match chunk.length {
            Some(length) if size - have != length => Err(RegistryError::Broken(format!(
                "the chunk was announced with {length} bytes and has {}",
                size - have
            ))),
            _ => Ok(size),
        }
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
        self.authorize(ctx, Action::Push, repository)?;
        let upload = self.upload(repository, id).await?;
        let size = upload.staged().as_ref().map(|it| it.size());
        size.ok_or_else(|| RegistryError::UploadUnknown(id.to_string()))
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
        self.authorize(ctx, Action::Push, repository)?;
        let upload = self.upload(repository, id).await?;
        upload.overtaken.notify_waiters();
        let _turn = upload.turn.lock().await;
        upload.staged().take();
        self.uploads.remove(&upload.file);
        self.blobs.discard_staged(&upload.file).await?;
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
        let nothing = futures_util::stream::empty::<Result<Bytes, std::convert::Infallible>>();
        self.complete(ctx, repository, id, digest, Chunk::default(), nothing)
            .await
    }

    /// Appends the last body of an upload and ends it.
    ///
    /// # Errors
    /// As [`RegistryService::append`] and [`RegistryService::finish_upload`].
    pub async fn complete<S, E>(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        id: &UploadId,
        digest: &Digest,
        chunk: Chunk,
        body: S,
    ) -> Result<u64, RegistryError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send,
        E: std::fmt::Display,
    {
        self.authorize(ctx, Action::Push, repository)?;
        let upload = self.upload(repository, id).await?;
        upload.overtaken.notify_waiters();
        let turn = Arc::new(upload.turn.clone().lock_owned().await);
        self.receive(&upload, &turn, id, chunk, body).await?;
        let staged = upload
            .staged()
            .take()
            .ok_or_else(|| RegistryError::UploadUnknown(id.to_string()))?;
        self.uploads.remove(&upload.file);
        let blob = staged.finish(digest).await.map_err(|error| match error {
            StoreError::Corrupted { expected, actual } => RegistryError::DigestInvalid(format!(
                "the upload was announced as {expected} and is {actual}"
            )),
            other => other.into(),
        })?;
        self.link(repository, digest, blob.size).await?;
        Ok(blob.size)
    }

    /// Forgets uploads that lay still too long, of this process and earlier ones.
    pub(super) async fn expire_uploads(&self) -> Result<u64, RegistryError> {
        let (now, mut removed) = (self.blobs.now(), 0);
        for entry in self.blobs.staged(LISTED).await? {
            let idle = now.since(entry.touched) >= self.config.upload_idle;
            if idle && !self.uploads.is_busy(&entry.name) {
                self.uploads.remove(&entry.name);
                removed += u64::from(self.blobs.discard_staged(&entry.name).await?);
            }
        }
        Ok(removed)
    }
}

/// Hashes and writes a batch where that may block. The work ends also when nobody waits for it.
fn write(
    upload: &Arc<Upload>,
    turn: &Arc<Turn>,
    batch: Vec<Bytes>,
) -> JoinHandle<Result<(), RegistryError>> {
    let (upload, turn) = (upload.clone(), turn.clone());
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut staged = upload.staged();
        let Some(staged) = staged.as_mut() else {
            return Ok(());
        };
        staged.append(&batch)?;
        staged.touch();
        Ok(())
    })
}

async fn settled(
    writing: Option<JoinHandle<Result<(), RegistryError>>>,
) -> Result<(), RegistryError> {
    match writing {
        None => Ok(()),
        Some(writing) => writing
            .await
            .map_err(|error| RegistryError::io("an upload")(std::io::Error::other(error)))?,
    }
}
