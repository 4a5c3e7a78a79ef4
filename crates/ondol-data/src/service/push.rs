//! A push: begin, ask what is missing, send it. Then it is committed ([`super::commit`]).

use std::collections::HashSet;
use std::fmt::Display;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ondol_auth::{Action, Ctx};
use ondol_types::{DatasetName, Digest, OperationId, ProjectName, UploadId};

use super::DataService;
use super::scope;
use crate::chunk::{CHUNKING, ChunkRef};
use crate::error::{DataError, DataResult};
use crate::key::Key;
use crate::model::{PushSession, UploadReceipt};
use crate::store::{self, Upload};
use crate::wire::{Decoder, Frame};

impl DataService {
    /// Begins a push.
    ///
    /// # Errors
    /// [`DataError::Denied`], [`DataError::NoProject`], [`DataError::TooLarge`] when too many
    /// pushes are open.
    pub async fn begin(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
    ) -> DataResult<PushSession> {
        ctx.require(Action::Push, project)?;
        if !self.deps.projects.exists(project).await? {
            return Err(DataError::NoProject(project.to_string()));
        }
        let now = self.deps.clock.now();
        let upload = Upload {
            id: UploadId::generate(&*self.deps.clock),
            project: project.clone(),
            dataset: dataset.clone(),
            author: ctx.principal.name.clone(),
            started_at: now,
            expires_at: now.plus(self.config.session),
            bytes: 0,
            version: None,
            changed: false,
        };
        let (row, limit) = (&upload, self.config.max_open_pushes);
        let head = self
            .deps
            .store
            .write::<_, DataError, _>(|tx| {
                Box::pin(async move {
                    let open = store::open_uploads(tx, project).await?;
                    if open >= limit {
                        return Err(DataError::TooLarge {
                            what: "the number of open pushes of the project".to_owned(),
                            actual: open + 1,
                            limit,
                        });
                    }
                    store::insert_upload(tx, row).await?;
                    Ok(store::find_dataset(tx, project, dataset).await?)
                })
            })
            .await?;
        self.deps.crash.reached("data.push.begun");
        Ok(PushSession {
            id: upload.id,
            head: head.map(|dataset| dataset.head),
            chunking: CHUNKING.to_owned(),
            max_request_bytes: self.config.max_request_bytes,
            expires_at: upload.expires_at,
        })
    }

    pub(super) async fn upload_of(&self, ctx: &Ctx, session: UploadId) -> DataResult<Upload> {
        let upload = self
            .deps
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(store::find_upload(tx, session).await?) })
            })
            .await?;
        let now = self.deps.clock.now();
        let upload = upload
            .filter(|upload| upload.expires_at > now && upload.author == ctx.principal.name)
            .ok_or_else(|| DataError::NoUpload(session.to_string()))?;
        ctx.require(Action::Push, &upload.project)?;
        Ok(upload)
    }

    /// Which of these chunks must be sent. The others are kept until the push ends.
    ///
    /// # Errors
    /// [`DataError::Denied`], [`DataError::NoUpload`], [`DataError::TooLarge`].
    pub async fn missing(
        &self,
        ctx: &Ctx,
        session: UploadId,
        keys: &[Key],
    ) -> DataResult<Vec<Key>> {
        at_most(
            "the number of digests of one question",
            keys.len() as u64,
            self.config.max_keys as u64,
        )?;
        let upload = self.upload_of(ctx, session).await?;
        let scope = self.scope(&upload).await?;
        let known: Vec<Key> = keys
            .iter()
            .filter(|key| scope.length(key).is_some())
            .copied()
            .collect();
        let epoch = self.deps.blobs.epoch();
        let absent: HashSet<Key> = self.absent(&known).await?.into_iter().collect();
        let here = known.iter().filter(|key| !absent.contains(key));
        scope.note_seen(here.copied(), epoch);
        let mut asked = HashSet::new();
        Ok(keys
            .iter()
            .filter(|key| scope.length(key).is_none() || absent.contains(key))
            .filter(|key| asked.insert(**key))
            .copied()
            .collect())
    }

    /// Those of these chunks that the blob store does not have; the others count as used now.
    pub(super) async fn absent(&self, keys: &[Key]) -> DataResult<Vec<Key>> {
        let digests: Vec<Digest> = keys.iter().map(Key::digest).collect();
        let here = self.deps.blobs.touch_many(&digests).await?;
        Ok(keys
            .iter()
            .zip(here)
            .filter(|(_, here)| !here)
            .map(|(key, _)| *key)
            .collect())
    }

    /// Takes a bundle of chunks as [`Frame`]s. What it returns for is durable.
    ///
    /// # Errors
    /// [`DataError::Wire`] when the body is malformed or cut off, a
    /// [`ondol_store::StoreError::Corrupted`] when a chunk does not have its digest,
    /// [`DataError::TooLarge`], and errors of the disk. Nothing of a refused bundle counts.
    pub async fn upload<S, E>(
        &self,
        ctx: &Ctx,
        session: UploadId,
        mut body: S,
    ) -> DataResult<UploadReceipt>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin + Send,
        E: Display,
    {
        let upload = self.upload_of(ctx, session).await?;
        if upload.version.is_some() {
            return Err(DataError::NoUpload(session.to_string()));
        }
        let epoch = self.deps.blobs.epoch();
        let mut decoder = Decoder::new();
        let mut writer = self.deps.blobs.pack_writer();
        let mut chunks: Vec<ChunkRef> = Vec::new();
        let (mut received, mut bytes_of_chunks) = (0u64, 0u64);
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| DataError::Wire(error.to_string()))?;
            received += part.len() as u64;
            at_most(
                "the size of one upload in bytes",
                received,
                self.config.max_request_bytes,
            )?;
            decoder.feed(&part);
            while let Some(frame) = decoder.next()? {
                match frame {
                    Frame::Chunk { key, bytes } => {
                        bytes_of_chunks += bytes.len() as u64;
                        at_most(
                            "the size of the push in bytes",
                            upload.bytes + bytes_of_chunks,
                            self.config.max_version_bytes,
                        )?;
                        chunks.push(ChunkRef {
                            key,
                            len: bytes.len() as u32,
                        });
                        writer.add(key.digest(), bytes).await?;
                    }
                    Frame::End { .. } => {}
                    Frame::File(_) | Frame::Head(_) => {
                        return Err(DataError::Wire("an upload holds only chunks".to_owned()));
                    }
                }
            }
        }
        decoder.finish()?;
        let packed = writer.finish().await?;
        self.deps.crash.reached("data.upload.stored");
        let record = scope::encode(&chunks);
        let record = record.as_slice();
        let part = OperationId::generate(&*self.deps.clock);
        let limit = self.config.max_parts;
        if !chunks.is_empty() {
            self.deps
                .store
                .write::<_, DataError, _>(|tx| {
                    Box::pin(async move {
                        let parts = store::count_parts(tx, session).await? + 1;
                        at_most("the number of requests of one push", parts, limit)?;
                        if store::add_part(tx, session, part, record, bytes_of_chunks).await? {
                            return Ok(());
                        }
                        // It expired, was committed, or went with its project meanwhile.
                        Err(DataError::NoUpload(session.to_string()))
                    })
                })
                .await?;
        }
        self.note_sent(&upload, &chunks, epoch);
        self.deps.crash.reached("data.upload.recorded");
        Ok(UploadReceipt {
            chunks: chunks.len() as u64,
            bytes: bytes_of_chunks,
            stored_bytes: packed.stored_bytes,
        })
    }
}

pub(super) fn at_most(what: &str, actual: u64, limit: u64) -> DataResult<()> {
    if actual > limit {
        return Err(DataError::TooLarge {
            what: what.to_owned(),
            actual,
            limit,
        });
    }
    Ok(())
}
