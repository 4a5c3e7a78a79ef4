//! The bytes of models: from a folder into blobs, and back.

use std::path::{Path, PathBuf};

use ondol_auth::{Action, Ctx};
use ondol_store::blobs::Hasher;
use ondol_types::{Algorithm, ModelName, ProjectName, RelPath};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Models, ModelsConfig};
use crate::error::{MlError, MlResult};
use crate::model::ModelEntry;
use crate::store;

/// A file of a folder.
pub(super) struct Found {
    path: RelPath,
    file: PathBuf,
}

const BUFFER: usize = 256 << 10;

/// The files below a folder, by path. Symbolic links and special files are refused, because what
/// they stand for would not be what was trained.
pub(super) async fn scan(dir: &Path, config: &ModelsConfig) -> MlResult<Vec<Found>> {
    let (dir, max_files) = (dir.to_owned(), config.max_files);
    let scanned = tokio::task::spawn_blocking(move || walk(&dir, max_files)).await;
    scanned.map_err(|error| MlError::Internal(format!("listing the model ended early: {error}")))?
}

fn walk(dir: &Path, max_files: usize) -> MlResult<Vec<Found>> {
    let mut found = Vec::new();
    let mut folders = vec![(dir.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).map_err(|source| MlError::io("listing", &folder, source))?
        {
            let entry = entry.map_err(|source| MlError::io("listing", &folder, source))?;
            let file = entry.path();
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| {
                MlError::Invalid(format!("the file name {name:?} of the model is not UTF-8"))
            })?;
            let path = format!("{prefix}{name}");
            let kind = entry
                .file_type()
                .map_err(|source| MlError::io("reading", &file, source))?;
            if kind.is_dir() {
                folders.push((file, format!("{path}/")));
            } else if kind.is_file() {
                let path: RelPath = path
                    .parse()
                    .map_err(|error| MlError::Invalid(format!("a file of the model: {error}")))?;
                found.push(Found { path, file });
            } else {
                return Err(MlError::Invalid(format!(
                    "`{path}` of the model is not a regular file: write a copy instead of a link"
                )));
            }
            if found.len() + folders.len() > max_files {
                let what = "the number of files of the model".to_owned();
                return Err(MlError::TooLarge {
                    what,
                    actual: (found.len() + folders.len()) as u64,
                    limit: max_files as u64,
                });
            }
        }
    }
    if found.is_empty() {
        return Err(MlError::Invalid(
            "the output folder is empty: the training wrote no model into $ONDOL_OUTPUT_DIR"
                .to_owned(),
        ));
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

impl Models {
    /// Stores every file as a blob.
    pub(super) async fn store_files(&self, found: &[Found]) -> MlResult<Vec<ModelEntry>> {
        let mut files = Vec::with_capacity(found.len());
        let mut total = 0;
        for found in found {
            let entry = self
                .store_file(found, self.config.max_bytes - total)
                .await?;
            total += entry.size;
            files.push(entry);
        }
        Ok(files)
    }

    async fn store_file(&self, found: &Found, left: u64) -> MlResult<ModelEntry> {
        let unreadable = |source| MlError::io("reading", &found.file, source);
        let mut input = tokio::fs::File::open(&found.file)
            .await
            .map_err(unreadable)?;
        let mut writer = self.blobs.writer(Algorithm::Blake3).await?;
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = input.read(&mut buffer).await.map_err(unreadable)?;
            if length == 0 {
                break;
            }
            let size = writer.size() + length as u64;
            if size > left {
                let limit = self.config.max_bytes;
                return Err(MlError::TooLarge {
                    what: "the model in bytes".to_owned(),
                    actual: limit - left + size,
                    limit,
                });
            }
            writer.write(&buffer[..length]).await?;
        }
        let blob = writer.finish(None).await?;
        Ok(ModelEntry {
            path: found.path.clone(),
            digest: blob.digest,
            size: blob.size,
        })
    }

    /// Stores again what a collection took since it was stored.
    pub(super) async fn restore_missing(
        &self,
        found: &[Found],
        files: &[ModelEntry],
    ) -> MlResult<()> {
        let digests: Vec<_> = files.iter().map(|file| file.digest.clone()).collect();
        let here = self.blobs.touch_many(&digests).await?;
        for ((found, file), _) in found.iter().zip(files).zip(here).filter(|(_, here)| !here) {
            let again = self.store_file(found, self.config.max_bytes).await?;
            if again.digest != file.digest {
                return Err(MlError::Conflict(format!(
                    "`{}` of the model changed while it was stored",
                    file.path
                )));
            }
        }
        Ok(())
    }

    /// Writes the files of a version into `dir`, which must not exist: it appears whole, with
    /// every digest checked, or not at all.
    ///
    /// # Errors
    /// [`MlError::NotFound`] for the version, [`MlError::Corrupted`] when stored bytes are not
    /// what was registered, [`MlError::Conflict`] when `dir` exists.
    pub async fn materialise(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        version: i64,
        dir: &Path,
    ) -> MlResult<()> {
        ctx.require(Action::Read, project)?;
        let files = self
            .store
            .read(|tx| {
                Box::pin(async move {
                    store::find_version(tx, project, model, version).await?;
                    store::files(tx, project, model, version).await
                })
            })
            .await?;
        if tokio::fs::try_exists(dir)
            .await
            .map_err(|source| MlError::io("looking at", dir, source))?
        {
            return Err(MlError::Conflict(format!(
                "{} exists already",
                dir.display()
            )));
        }
        let mut partial = dir.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        // What a crash left here belongs to nobody.
        let _ = tokio::fs::remove_dir_all(&partial).await;
        let written = self.write_files(&files, &partial).await;
        if let Err(error) = written {
            let _ = tokio::fs::remove_dir_all(&partial).await;
            return Err(error);
        }
        self.crash.reached("ml.materialise.written");
        tokio::fs::rename(&partial, dir)
            .await
            .map_err(|source| MlError::io("naming", dir, source))
    }

    async fn write_files(&self, files: &[ModelEntry], dir: &Path) -> MlResult<()> {
        tokio::fs::create_dir_all(dir)
            .await
            .map_err(|source| MlError::io("making", dir, source))?;
        let mut buffer = vec![0; BUFFER];
        for file in files {
            let path = file.path.below(dir);
            let failed = |source| MlError::io("writing", &path, source);
            if let Some(folder) = path.parent() {
                tokio::fs::create_dir_all(folder).await.map_err(failed)?;
            }
            let mut output = tokio::fs::File::create(&path).await.map_err(failed)?;
            let (mut input, _) = self.blobs.open_reader(&file.digest).await?;
            let mut hasher = Hasher::new(file.digest.algorithm());
            loop {
                let length = input.read(&mut buffer).await.map_err(failed)?;
                if length == 0 {
                    break;
                }
                hasher.update(&buffer[..length]);
                output.write_all(&buffer[..length]).await.map_err(failed)?;
            }
            output.flush().await.map_err(failed)?;
            let actual = hasher.finish();
            if actual != file.digest {
                let what = format!(
                    "`{}` of the model is not what was registered: {actual} instead of {}",
                    file.path, file.digest
                );
                return Err(MlError::Corrupted(what));
            }
        }
        Ok(())
    }
}
