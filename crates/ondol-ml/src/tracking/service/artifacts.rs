//! Files of runs and logged models. Their bytes are blobs that a row owns; they come and go as
//! streams and are visible only through the experiment that they belong to.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use ondol_auth::{Action, Ctx};
use ondol_store::Tx;
use ondol_store::blobs::BlobReader;
use ondol_types::Algorithm;

use super::{over, scope, store};
use crate::tracking::Tracking;
use crate::tracking::error::{Code, TrackingError, TrackingResult};
use crate::tracking::model::FileEntry;
use crate::tracking::plan::check;

/// Where files are: below a run or a logged model of an experiment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tracking) struct ArtifactPlace {
    experiment: i64,
    /// A run's id, or `models/` with a model's id.
    folder: String,
    /// Below that; empty for the folder itself.
    path: String,
}

impl ArtifactPlace {
    /// Reads `<experiment>/<run>/artifacts/…` or `<experiment>/models/<model>/artifacts/…`.
    pub(in crate::tracking) fn read(path: &str) -> TrackingResult<Self> {
        let path = path.trim_end_matches('/');
        check::artifact_path(path)?;
        let parts: Vec<&str> = path.split('/').collect();
        let unknown =
            || TrackingError::missing(format!("there is no run and no logged model at '{path}'"));
        let experiment = parts[0].parse().map_err(|_| unknown())?;
        let (folder, rest) = match parts.as_slice() {
            [_, "models", model, "artifacts", rest @ ..] => (format!("models/{model}"), rest),
            [_, run, "artifacts", rest @ ..] => ((*run).to_owned(), rest),
            _ => return Err(unknown()),
        };
        Ok(Self {
            experiment,
            folder,
            path: rest.join("/"),
        })
    }

    /// The same folder at another path.
    pub(in crate::tracking) fn at(mut self, path: &str) -> TrackingResult<Self> {
        let path = path.trim_end_matches('/');
        if !path.is_empty() {
            check::artifact_path(path)?;
        }
        self.path = path.to_owned();
        Ok(self)
    }
}

/// A file on its way to a client.
pub(in crate::tracking) struct Download {
    /// Its bytes.
    pub(in crate::tracking) reader: BlobReader,
    /// Their length.
    pub(in crate::tracking) size: u64,
}

/// May somebody do this with the files of a place? The run or model must be there.
async fn admitted(
    tx: &mut Tx<'_>,
    ctx: &Ctx,
    action: Action,
    place: &ArtifactPlace,
) -> TrackingResult<()> {
    scope::experiment(tx, ctx, action, place.experiment).await?;
    let there = match place.folder.strip_prefix("models/") {
        Some(model) => store::logged_model(tx, model)
            .await?
            .is_some_and(|model| model.experiment == place.experiment),
        None => store::run(tx, &place.folder)
            .await?
            .is_some_and(|run| run.experiment == place.experiment),
    };
    if there {
        return Ok(());
    }
    Err(TrackingError::missing(format!(
        "there is no run and no logged model at '{}/{}'",
        place.experiment, place.folder
    )))
}

impl Tracking {
    /// The files and folders directly below a place. Of a file it is the empty list.
    pub(in crate::tracking) async fn list_files(
        &self,
        ctx: &Ctx,
        place: &ArtifactPlace,
    ) -> TrackingResult<Vec<FileEntry>> {
        let most = self.config().max_files;
        let prefix = if place.path.is_empty() {
            String::new()
        } else {
            format!("{}/", place.path)
        };
        let prefix = prefix.as_str();
        let files = self
            .inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    admitted(tx, ctx, Action::Read, place).await?;
                    Ok(
                        store::files_below(tx, place.experiment, &place.folder, prefix, most)
                            .await?,
                    )
                })
            })
            .await?;
        let mut entries: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for file in files {
            let rest = file.path.strip_prefix(prefix).unwrap_or(&file.path);
            match rest.split_once('/') {
                Some((folder, _)) => entries.insert(folder.to_owned(), None),
                None => entries.insert(rest.to_owned(), Some(file.size)),
            };
        }
        Ok(entries
            .into_iter()
            .map(|(path, size)| FileEntry { path, size })
            .collect())
    }

    /// Stores a file. Its bytes are durable before it has a name.
    pub(in crate::tracking) async fn put_file<S, E>(
        &self,
        ctx: &Ctx,
        place: &ArtifactPlace,
        mut body: S,
    ) -> TrackingResult<()>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin + Send,
        E: std::fmt::Display,
    {
        if place.path.is_empty() {
            return Err(TrackingError::invalid("Invalid path"));
        }
        let config = self.config();
        self.inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    admitted(tx, ctx, Action::Track, place).await?;
                    let count = store::count_files(tx, place.experiment, &place.folder).await?;
                    if count >= config.max_files {
                        return Err(over("files in a run or a logged model", config.max_files));
                    }
                    Ok(())
                })
            })
            .await?;
        let blobs = &self.inner().blobs;
        let mut writer = blobs.writer(Algorithm::Blake3).await?;
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| TrackingError::Body(error.to_string()))?;
            if writer.size() + chunk.len() as u64 > config.max_file_bytes {
                return Err(TrackingError::refused(
                    Code::RequestTooLarge,
                    format!(
                        "'{}' has more than the {} bytes that a file may have",
                        place.path, config.max_file_bytes
                    ),
                ));
            }
            writer.write(&chunk).await?;
        }
        let blob = writer.finish(None).await?;
        // From here to the commit nothing is collected.
        let _hold = blobs.hold().await;
        let here = blobs.touch_many(std::slice::from_ref(&blob.digest)).await?;
        if here != [true] {
            return Err(TrackingError::Again(format!(
                "'{}' was collected while it was stored",
                place.path
            )));
        }
        let file = store::StoredFile {
            path: place.path.clone(),
            digest: blob.digest,
            size: blob.size,
        };
        let file = &file;
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    admitted(tx, ctx, Action::Track, place).await?;
                    Ok(store::put_file(tx, place.experiment, &place.folder, file).await?)
                })
            })
            .await
    }

    /// Opens a file.
    pub(in crate::tracking) async fn open_file(
        &self,
        ctx: &Ctx,
        place: &ArtifactPlace,
    ) -> TrackingResult<Download> {
        let found = self
            .inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    admitted(tx, ctx, Action::Read, place).await?;
                    Ok(store::file(tx, place.experiment, &place.folder, &place.path).await?)
                })
            })
            .await?;
        let file = found
            .ok_or_else(|| TrackingError::missing(format!("No such artifact: '{}'", place.path)))?;
        let (reader, size) = self.inner().blobs.open_reader(&file.digest).await?;
        Ok(Download { reader, size })
    }

    /// Removes a file, or everything below a folder. What is not there is removed already.
    pub(in crate::tracking) async fn delete_files(
        &self,
        ctx: &Ctx,
        place: &ArtifactPlace,
    ) -> TrackingResult<()> {
        if place.path.is_empty() {
            return Err(TrackingError::invalid("Invalid path"));
        }
        self.inner()
            .store
            .write(|tx| {
                Box::pin(async move {
                    admitted(tx, ctx, Action::Track, place).await?;
                    store::delete_files(tx, place.experiment, &place.folder, &place.path).await?;
                    Ok(())
                })
            })
            .await
    }

    /// The place of a run's files, with its address.
    pub(in crate::tracking) async fn place_of_run(
        &self,
        ctx: &Ctx,
        id: &str,
    ) -> TrackingResult<(ArtifactPlace, String)> {
        let run = self
            .inner()
            .store
            .read(|tx| Box::pin(async move { scope::run(tx, ctx, Action::Read, id).await }))
            .await?;
        let place = ArtifactPlace {
            experiment: run.experiment,
            folder: run.id,
            path: String::new(),
        };
        Ok((place, run.artifact_uri))
    }

    /// The place of a logged model's files, with its address.
    pub(in crate::tracking) async fn place_of_model(
        &self,
        ctx: &Ctx,
        id: &str,
    ) -> TrackingResult<(ArtifactPlace, String)> {
        let model = self.logged_model(ctx, id).await?;
        let place = ArtifactPlace {
            experiment: model.experiment,
            folder: format!("models/{}", model.id),
            path: String::new(),
        };
        Ok((place, model.artifact_uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let place = |experiment, folder: &str, path: &str| ArtifactPlace {
            experiment,
            folder: folder.to_owned(),
            path: path.to_owned(),
        };
        let read = |path| ArtifactPlace::read(path).ok();
        assert_eq!(read("1/ab/artifacts"), Some(place(1, "ab", "")));
        assert_eq!(
            read("1/ab/artifacts/x/y.txt"),
            Some(place(1, "ab", "x/y.txt"))
        );
        assert_eq!(
            read("7/models/m-1/artifacts/MLmodel"),
            Some(place(7, "models/m-1", "MLmodel"))
        );
        for bad in [
            "",
            "1",
            "1/ab",
            "x/ab/artifacts",
            "1/ab/other/x",
            "1/ab/artifacts/../x",
            "1//artifacts",
            "1/models/m-1",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
