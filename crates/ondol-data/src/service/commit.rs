//! The end of a push: what was sent becomes a version.
//!
//! Until the commit nothing of it is visible. The commit is one transaction with the event, and
//! belongs to its session: repeated after a lost answer it gives the same version. A push that
//! did not see the newest version is refused rather than merged, because a version is the whole
//! content of its dataset.

use std::collections::HashMap;
use std::fmt::Display;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ondol_auth::Ctx;
use ondol_store::events::NewEvent;
use ondol_types::event::{DATASET_COMMITTED, DatasetCommitted};
use ondol_types::{RelPath, UploadId};

use super::DataService;
use super::manifest::check_chunks;
use super::push::at_most;
use super::scope::Scope;
use crate::chunk::ChunkRef;
use crate::commit::Commit;
use crate::error::{DataError, DataResult};
use crate::key::Key;
use crate::model::{CommitRequest, Dataset, FileEntry, Pushed, Version};
use crate::profiles::Profiles;
use crate::store::{self, Upload};
use crate::table::Format;
use crate::tree::Built;
use crate::wire::{Decoder, Frame};

/// How often a forced push follows a head that moves under it.
const FOLLOWS: u32 = 5;

impl DataService {
    /// Reads a commit from its body and makes it; see [`DataService::commit`].
    ///
    /// # Errors
    /// Those of [`DataService::commit`], and [`DataError::Wire`].
    pub async fn commit_body<S, E>(
        &self,
        ctx: &Ctx,
        session: UploadId,
        mut body: S,
    ) -> DataResult<Pushed>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin + Send,
        E: Display,
    {
        let mut decoder = Decoder::new();
        let mut request = CommitRequest::default();
        let mut received = 0u64;
        let mut begun = false;
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| DataError::Wire(error.to_string()))?;
            received += part.len() as u64;
            at_most(
                "the size of the manifest in bytes",
                received,
                self.config.max_manifest_bytes,
            )?;
            decoder.feed(&part);
            while let Some(frame) = decoder.next()? {
                match frame {
                    Frame::Head(head) if !begun => {
                        request.head = head;
                        begun = true;
                    }
                    Frame::File(file) if begun => {
                        request.files.push(file);
                        at_most(
                            "the number of files",
                            request.files.len() as u64,
                            self.config.max_files as u64,
                        )?;
                    }
                    Frame::End { .. } if begun => {}
                    _ => {
                        return Err(DataError::Wire(
                            "a commit is a head, then files, then the end".to_owned(),
                        ));
                    }
                }
            }
        }
        decoder.finish()?;
        self.commit(ctx, session, request).await
    }

    /// Makes the version. The same session gives the same answer again, whatever is asked.
    ///
    /// # Errors
    /// [`DataError::Moved`] when somebody pushed in between and `force` is not set,
    /// [`DataError::Incomplete`], [`DataError::Manifest`], and [`DataError::Table`] for a file
    /// that is not the table its name promises. Nothing is visible then.
    pub async fn commit(
        &self,
        ctx: &Ctx,
        session: UploadId,
        request: CommitRequest,
    ) -> DataResult<Pushed> {
        let upload = self.upload_of(ctx, session).await?;
        if let Some(done) = self.committed(&upload).await? {
            return Ok(done);
        }
        self.check_manifest(&request)?;
        let scope = self.scope(&upload).await?;
        let chunks = check_chunks(&request.files, &scope)?;
        let epoch = self.deps.blobs.epoch();
        self.require_present(&chunks, &request.files, &scope, epoch)
            .await?;
        let bytes = request.files.iter().map(|file| file.size).sum();
        let new_bytes = chunks
            .iter()
            .filter(|chunk| !scope.in_head(&chunk.key))
            .map(|chunk| u64::from(chunk.len))
            .sum();
        let tables: HashMap<RelPath, Vec<ChunkRef>> = request
            .files
            .iter()
            .filter(|file| Format::of(&file.path).is_some())
            .map(|file| (file.path.clone(), file.chunks.clone()))
            .collect();
        let head = request.head;
        let built = Built::from_files(request.files);
        let draft = Draft {
            upload: &upload,
            message: head.message.trim().to_owned(),
            chunks,
            epoch,
            bytes,
            new_bytes,
            built,
            tables,
        };
        for _ in 0..FOLLOWS {
            let newest = self.newest(&upload).await?;
            let expected = newest.as_ref().map(|dataset| &dataset.head);
            if !head.force && head.parent.as_ref() != expected {
                return Err(moved(&upload, newest.as_ref()));
            }
            match self.commit_on(ctx, &draft, newest).await {
                Err(DataError::Moved { .. }) if head.force => {}
                outcome => {
                    if outcome.is_ok() {
                        self.drop_scope(&upload);
                    }
                    return outcome;
                }
            }
        }
        let newest = self.newest(&upload).await?;
        Err(moved(&upload, newest.as_ref()))
    }

    async fn newest(&self, upload: &Upload) -> DataResult<Option<Dataset>> {
        let (project, dataset) = (&upload.project, &upload.dataset);
        self.deps
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(store::find_dataset(tx, project, dataset).await?) })
            })
            .await
    }

    /// The outcome of a push that is over.
    async fn committed(&self, upload: &Upload) -> DataResult<Option<Pushed>> {
        let Some(id) = &upload.version else {
            return Ok(None);
        };
        let version = self
            .deps
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(store::version_by_id(tx, id).await?) })
            })
            .await?;
        let version = version.ok_or_else(|| DataError::NoVersion {
            dataset: upload.dataset.to_string(),
            version: id.to_string(),
        })?;
        Ok(Some(Pushed {
            version,
            changed: upload.changed,
        }))
    }

    /// Looks for the chunks that this push has not seen in this epoch; those it has seen are
    /// pinned by the open push.
    async fn require_present(
        &self,
        chunks: &[ChunkRef],
        files: &[FileEntry],
        scope: &Scope,
        epoch: u64,
    ) -> DataResult<()> {
        let keys: Vec<Key> = chunks
            .iter()
            .map(|chunk| chunk.key)
            .filter(|key| !scope.was_seen(key, epoch))
            .collect();
        let absent = self.absent(&keys).await?;
        let Some(first) = absent.first() else {
            return Ok(());
        };
        let path = files
            .iter()
            .find(|file| file.chunks.iter().any(|chunk| chunk.key == *first))
            .or(files.first());
        match path {
            Some(file) => Err(DataError::Incomplete {
                missing: absent.len() as u64,
                path: file.path.clone(),
            }),
            None => Ok(()),
        }
    }

    async fn commit_on(
        &self,
        ctx: &Ctx,
        draft: &Draft<'_>,
        newest: Option<Dataset>,
    ) -> DataResult<Pushed> {
        let mut before = Profiles::default();
        if let Some(newest) = &newest {
            let commit = Commit::read(&self.deps.blobs, &newest.head).await?;
            if commit.tree == draft.built.root.digest() {
                return self.close_unchanged(draft.upload, newest).await;
            }
            before = match Profiles::read(&self.deps.blobs, &commit.statistics).await {
                Ok(profiles) => profiles,
                Err(error) => {
                    tracing::warn!(dataset.version = %newest.head, error = %error, "the statistics of the parent cannot be read; all tables are read again");
                    Profiles::default()
                }
            };
        }
        let profiles = Profiles::make(
            &self.deps.blobs,
            &self.deps.scratch,
            &draft.built.files,
            &draft.tables,
            &before,
        )
        .await?;
        let (version, event) = self
            .store_version(ctx, draft, newest.as_ref(), &profiles)
            .await?;
        self.deps.crash.reached("data.commit.stored");

        // From here to the end of the transaction no sweep takes anything away.
        let hold = self.deps.blobs.hold().await;
        if hold.epoch() != draft.epoch {
            let mut keys: Vec<Key> = draft.chunks.iter().map(|chunk| chunk.key).collect();
            keys.extend(draft.built.nodes.iter().map(|(key, _)| *key));
            if !self.absent(&keys).await?.is_empty() {
                return Err(DataError::Incomplete {
                    missing: 1,
                    path: draft.built.files[0].path.clone(),
                });
            }
        }
        let (row, content, upload, parent) = (
            &version,
            &event,
            draft.upload,
            newest.as_ref().map(|newest| &newest.head),
        );
        let most = (self.config.max_datasets, self.config.max_versions);
        let done = self
            .deps
            .store
            .write::<_, DataError, _>(|tx| {
                Box::pin(async move {
                    let now = store::find_upload(tx, upload.id)
                        .await?
                        .ok_or_else(|| DataError::NoUpload(upload.id.to_string()))?;
                    if now.version.is_some() {
                        return Ok(Some(now));
                    }
                    let newest = store::find_dataset(tx, &upload.project, &upload.dataset).await?;
                    if newest.as_ref().map(|newest| &newest.head) != parent {
                        return Err(moved(upload, newest.as_ref()));
                    }
                    match newest {
                        None => {
                            let datasets = store::count_datasets(tx, &row.project).await? + 1;
                            at_most("the number of datasets of a project", datasets, most.0)?;
                        }
                        Some(_) => {
                            let (project, dataset) = (&row.project, &row.dataset);
                            let versions = store::count_versions(tx, project, dataset).await? + 1;
                            at_most("the number of versions of a dataset", versions, most.1)?;
                        }
                    }
                    store::insert_version(tx, row).await.map_err(|error| {
                        // PostgreSQL notices a rival by the number before it does by the head.
                        if error.is_unique_violation() {
                            DataError::Moved {
                                dataset: row.dataset.to_string(),
                                number: row.number,
                            }
                        } else {
                            error.into()
                        }
                    })?;
                    store::put_dataset(tx, row).await?;
                    store::close_upload(tx, upload.id, &row.id, true).await?;
                    tx.append(
                        NewEvent::new(DATASET_COMMITTED, format!("{}/{}", row.dataset, row.number))
                            .project(&row.project)
                            .actor(row.author.clone())
                            .content(content),
                    )
                    .await?;
                    Ok(None)
                })
            })
            .await?;
        drop(hold);
        self.deps.crash.reached("data.commit.done");
        // The same session was committed by a request that ran beside this one.
        if let Some(upload) = done
            && let Some(pushed) = self.committed(&upload).await?
        {
            return Ok(pushed);
        }
        Ok(Pushed {
            version,
            changed: true,
        })
    }

    /// Stores the tree, the statistics and the commit object.
    async fn store_version(
        &self,
        ctx: &Ctx,
        draft: &Draft<'_>,
        newest: Option<&Dataset>,
        profiles: &Profiles,
    ) -> DataResult<(Version, DatasetCommitted)> {
        let (project, dataset) = (&draft.upload.project, &draft.upload.dataset);
        let mut writer = self.deps.blobs.pack_writer();
        for (key, bytes) in &draft.built.nodes {
            writer.add(key.digest(), bytes.clone()).await?;
        }
        let statistics = profiles.encode();
        let statistics_id = Key::of(&statistics).digest();
        writer.add(statistics_id.clone(), statistics).await?;
        let commit = Commit {
            format: Commit::FORMAT,
            project: project.clone(),
            dataset: dataset.clone(),
            number: newest.map_or(0, |newest| newest.number) + 1,
            tree: draft.built.root.digest(),
            parent: newest.map(|newest| newest.head.clone()),
            statistics: statistics_id,
            author: ctx.principal.name.clone(),
            message: draft.message.clone(),
            time: self.deps.clock.now(),
        };
        let (id, bytes) = commit.encode();
        writer.add(id.clone(), bytes).await?;
        writer.finish().await?;
        let event = DatasetCommitted {
            project: project.clone(),
            dataset: dataset.clone(),
            version: id.clone(),
            number: commit.number,
            parent: commit.parent.clone(),
            author: commit.author.clone(),
            message: commit.message.clone(),
        };
        let version = Version {
            project: project.clone(),
            dataset: dataset.clone(),
            number: commit.number,
            id,
            parent: commit.parent,
            message: commit.message,
            author: commit.author,
            created_at: commit.time,
            files: draft.built.files.len() as u64,
            bytes: draft.bytes,
            new_bytes: draft.new_bytes,
            rows: profiles.rows(),
        };
        Ok((version, event))
    }

    /// Ends a push that changed nothing.
    async fn close_unchanged(&self, upload: &Upload, newest: &Dataset) -> DataResult<Pushed> {
        let version = self
            .deps
            .store
            .write::<_, DataError, _>(|tx| {
                Box::pin(async move {
                    store::close_upload(tx, upload.id, &newest.head, false).await?;
                    Ok(store::version_by_id(tx, &newest.head).await?)
                })
            })
            .await?;
        let version = version.ok_or_else(|| moved(upload, Some(newest)))?;
        Ok(Pushed {
            version,
            changed: false,
        })
    }
}

/// A version that is ready but for its place in the history.
struct Draft<'a> {
    upload: &'a Upload,
    message: String,
    /// Distinct chunks.
    chunks: Vec<ChunkRef>,
    /// Sweeps begun when the chunks were last seen.
    epoch: u64,
    bytes: u64,
    new_bytes: u64,
    built: Built,
    tables: HashMap<RelPath, Vec<ChunkRef>>,
}

fn moved(upload: &Upload, newest: Option<&Dataset>) -> DataError {
    DataError::Moved {
        dataset: upload.dataset.to_string(),
        number: newest.map_or(0, |newest| newest.number),
    }
}
