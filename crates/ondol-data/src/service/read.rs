//! Lists, the log, what a version holds, and whether it still does.

use std::collections::HashMap;

use ondol_auth::{Action, Ctx};
use ondol_store::StoreError;
use ondol_types::{DatasetName, ProjectName, RelPath};

use super::DataService;
use crate::chunk::{ChunkRef, MAX_CHUNK_BYTES};
use crate::content::Located;
use crate::error::{DataError, DataResult};
use crate::model::{BadChunk, Dataset, FileInfo, Verification, Version, VersionDetail};
use crate::profiles::Profiles;
use crate::store;
use crate::tree::Tree;

/// Rows of a list at most.
const MAX_PAGE: u32 = 1_000;
/// Bad places that are listed.
const MAX_FINDINGS: usize = 100;
/// Chunks that are read and hashed together.
const TOGETHER: usize = 128;

impl DataService {
    /// The datasets of a project by name, after a name.
    ///
    /// # Errors
    /// [`DataError::Denied`].
    pub async fn list(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        after: &str,
        limit: u32,
    ) -> DataResult<Vec<Dataset>> {
        ctx.require(Action::Read, project)?;
        let limit = limit.clamp(1, MAX_PAGE);
        self.deps
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(store::list_datasets(tx, project, after, limit).await?) })
            })
            .await
    }

    /// The versions of a dataset, newest first, before a number.
    ///
    /// # Errors
    /// [`DataError::Denied`], [`DataError::NoDataset`].
    pub async fn log(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        before: Option<i64>,
        limit: u32,
    ) -> DataResult<Vec<Version>> {
        ctx.require(Action::Read, project)?;
        let (before, limit) = (before.unwrap_or(i64::MAX), limit.clamp(1, MAX_PAGE));
        self.deps
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move {
                    if store::find_dataset(tx, project, dataset).await?.is_none() {
                        return Err(DataError::NoDataset {
                            project: project.to_string(),
                            dataset: dataset.to_string(),
                        });
                    }
                    Ok(store::versions_before(tx, project, dataset, before, limit).await?)
                })
            })
            .await
    }

    /// A version with the schema and statistics of its tables.
    ///
    /// # Errors
    /// As [`DataService::version`], and when its statistics cannot be read.
    pub async fn show(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
    ) -> DataResult<VersionDetail> {
        let version = self.version(ctx, project, dataset, which).await?;
        let profiles = self.profiles(&version).await?;
        Ok(VersionDetail {
            version,
            tables: profiles.into_tables(),
        })
    }

    pub(super) async fn profiles(&self, version: &Version) -> DataResult<Profiles> {
        let commit = self.commit_of(version).await?;
        Profiles::read(&self.deps.blobs, &commit.statistics).await
    }

    /// The files of a version by path, after a path.
    ///
    /// # Errors
    /// As [`DataService::version`].
    pub async fn files(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
        after: Option<&RelPath>,
        limit: u32,
    ) -> DataResult<Vec<FileInfo>> {
        let version = self.version(ctx, project, dataset, which).await?;
        let commit = self.commit_of(&version).await?;
        let limit = limit.clamp(1, MAX_PAGE) as usize;
        let mut tree = Tree::open(&self.deps.blobs, commit.root()?, None).await?;
        let mut found = Vec::new();
        while found.len() < limit {
            let Some(files) = tree.next().await? else {
                break;
            };
            let later = files
                .into_iter()
                .filter(|file| after.is_none_or(|after| file.path > *after));
            found.extend(later.map(|file| FileInfo {
                path: file.path,
                size: file.size,
                executable: file.executable,
            }));
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Reads and hashes every chunk of a version. A chunk that rotted is forgotten by the blob
    /// store, so that pushing the same content again replaces it.
    ///
    /// # Errors
    /// As [`DataService::version`], and when the tree itself cannot be read.
    pub async fn verify(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
    ) -> DataResult<Verification> {
        let version = self.version(ctx, project, dataset, which).await?;
        let commit = self.commit_of(&version).await?;
        let mut tree = Tree::open(&self.deps.blobs, commit.root()?, None).await?;
        let mut outcome = Verification {
            files: 0,
            chunks: 0,
            bytes: 0,
            bad: 0,
            findings: Vec::new(),
        };
        // What is wrong with each chunk met, `None` for a sound one.
        let mut known: HashMap<crate::Key, Option<String>> = HashMap::new();
        let mut waiting: Vec<Located> = Vec::new();
        let mut chunks = 0;
        while let Some(files) = tree.next().await? {
            for file in files {
                let located = Located::of(&self.deps.blobs, file).await?;
                chunks += located.chunks.len();
                waiting.push(located);
                if chunks >= TOGETHER {
                    let files = std::mem::take(&mut waiting);
                    self.verify_files(files, &mut known, &mut outcome).await?;
                    chunks = 0;
                }
            }
        }
        self.verify_files(waiting, &mut known, &mut outcome).await?;
        Ok(outcome)
    }

    async fn verify_files(
        &self,
        files: Vec<Located>,
        known: &mut HashMap<crate::Key, Option<String>>,
        outcome: &mut Verification,
    ) -> DataResult<()> {
        let chunks: Vec<ChunkRef> = files
            .iter()
            .flat_map(|located| located.chunks.iter().copied())
            .collect();
        for batch in chunks.chunks(TOGETHER) {
            self.hash(batch, known, outcome).await?;
        }
        for located in files {
            outcome.files += 1;
            let mut offset = 0;
            for chunk in &located.chunks {
                if let Some(Some(problem)) = known.get(&chunk.key) {
                    outcome.bad += 1;
                    if outcome.findings.len() < MAX_FINDINGS {
                        outcome.findings.push(BadChunk {
                            file: located.file.path.clone(),
                            offset,
                            length: u64::from(chunk.len),
                            chunk: chunk.key.digest(),
                            problem: problem.clone(),
                        });
                    }
                }
                offset += u64::from(chunk.len);
            }
        }
        Ok(())
    }

    async fn hash(
        &self,
        chunks: &[ChunkRef],
        known: &mut HashMap<crate::Key, Option<String>>,
        outcome: &mut Verification,
    ) -> DataResult<()> {
        let mut fresh: Vec<ChunkRef> = chunks
            .iter()
            .filter(|chunk| !known.contains_key(&chunk.key))
            .copied()
            .collect();
        fresh.sort_unstable_by_key(|chunk| chunk.key);
        fresh.dedup_by_key(|chunk| chunk.key);
        let digests: Vec<_> = fresh.iter().map(|chunk| chunk.key.digest()).collect();
        outcome.chunks += fresh.len() as u64;
        outcome.bytes += fresh.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
        let limit = MAX_CHUNK_BYTES as u64;
        if self.deps.blobs.read_many(&digests, limit).await.is_ok() {
            known.extend(fresh.iter().map(|chunk| (chunk.key, None)));
            return Ok(());
        }
        for (chunk, digest) in fresh.iter().zip(digests) {
            let problem = match self.deps.blobs.read(&digest, limit).await {
                Ok(_) => None,
                Err(StoreError::NoBlob(_)) => Some("is missing".to_owned()),
                Err(StoreError::Corrupted { actual, .. }) => {
                    self.deps.blobs.forget_corrupted(&digest).await?;
                    Some(format!("holds other bytes now, with the digest {actual}"))
                }
                Err(error) => return Err(error.into()),
            };
            known.insert(chunk.key, problem);
        }
        Ok(())
    }

    /// Forgets a version that is not the newest. Its number is not used again; bytes that no
    /// other version has are collected later.
    ///
    /// # Errors
    /// As [`DataService::version`], and [`DataError::NewestStays`].
    pub async fn forget(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
    ) -> DataResult<Version> {
        ctx.require(Action::Configure, project)?;
        let version = self.version(ctx, project, dataset, which).await?;
        let number = version.number;
        self.deps
            .store
            .write::<_, DataError, _>(|tx| {
                Box::pin(async move {
                    let head = store::find_dataset(tx, project, dataset).await?;
                    if head.is_none_or(|head| head.number == number) {
                        return Err(DataError::NewestStays {
                            dataset: dataset.to_string(),
                            number,
                        });
                    }
                    Ok(store::delete_version(tx, project, dataset, number).await?)
                })
            })
            .await?;
        Ok(version)
    }
}
