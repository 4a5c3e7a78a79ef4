//! Images: loaded from the store of this installation, or pulled by name. One image is had once,
//! however many workloads ask for it at one time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::Docker;
use bollard::models::ImageInspect;
use bollard::query_parameters::{
    CreateImageOptions, ImportImageOptions, ListImagesOptions, RemoveImageOptions,
};
use futures_util::StreamExt;
use ondol_types::{Algorithm, Digest};
use sha2::{Digest as _, Sha256};

use super::archive::{self, Pieces};
use super::client::{failed, is_missing, status, with_sources};
use super::names::Names;
use super::spec::ImageRef;
use crate::error::EngineError;

/// How long a pull or a load may take.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// Why a source does not give an image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// One layer as it is stored, compressed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLayer {
    /// The digest of its bytes.
    pub digest: Digest,
    /// How many bytes it has.
    pub bytes: u64,
}

/// The parts of an image for this machine's architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredImage {
    /// The bytes of its configuration, which its layers' digests are part of.
    pub config: Vec<u8>,
    /// Its layers, lowest first.
    pub layers: Vec<StoredLayer>,
}

impl StoredImage {
    /// What engines call the image: the digest of its configuration.
    pub fn id(&self) -> Digest {
        Digest::from_bytes(Algorithm::Sha256, &Sha256::digest(&self.config))
    }
}

/// Where the images of [`ImageRef::Stored`] come from.
#[async_trait::async_trait]
pub trait ImageSource: Send + Sync {
    /// The parts of the image whose manifest, or index of manifests, has this digest.
    async fn image(&self, digest: &Digest) -> Result<StoredImage, SourceError>;

    /// The bytes of one layer.
    async fn blob(&self, digest: &Digest) -> Result<Pieces, SourceError>;
}

/// A source that has nothing, for installations without a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoImages;

#[async_trait::async_trait]
impl ImageSource for NoImages {
    async fn image(&self, _: &Digest) -> Result<StoredImage, SourceError> {
        Err(SourceError("there is no store of images".to_owned()))
    }

    async fn blob(&self, _: &Digest) -> Result<Pieces, SourceError> {
        Err(SourceError("there is no store of images".to_owned()))
    }
}

/// What an image says about itself, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) id: String,
    pub(crate) user: Option<String>,
    pub(crate) env: Vec<String>,
    pub(crate) work_dir: Option<String>,
    pub(crate) program: Vec<String>,
}

impl Image {
    fn of(inspected: ImageInspect) -> Option<Self> {
        let config = inspected.config.unwrap_or_default();
        let entrypoint = config.entrypoint.unwrap_or_default().into_iter();
        Some(Self {
            id: inspected.id?,
            user: config.user.filter(|user| !user.is_empty()),
            env: config.env.unwrap_or_default(),
            work_dir: config.working_dir.filter(|dir| !dir.is_empty()),
            program: entrypoint.chain(config.cmd.unwrap_or_default()).collect(),
        })
    }
}

/// Brings images into the engine.
pub(crate) struct Images {
    source: Arc<dyn ImageSource>,
    under_way: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

impl Images {
    pub(crate) fn new(source: Arc<dyn ImageSource>) -> Self {
        Self {
            source,
            under_way: Mutex::default(),
        }
    }

    /// The image in the engine, brought there when it is not.
    pub(crate) async fn ensure(
        &self,
        docker: &Docker,
        names: &Names,
        image: &ImageRef,
    ) -> Result<Image, EngineError> {
        let reference = match image {
            ImageRef::Stored(digest) => format!("{}:{}", names.repository(), Names::tag(digest)),
            ImageRef::Named(name) => with_tag(name),
        };
        let turn = {
            let mut under_way = self
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            under_way.retain(|_, turn| Arc::strong_count(turn) > 1);
            under_way.entry(reference.clone()).or_default().clone()
        };
        let _turn = turn.lock().await;
        if let Some(found) = inspect(docker, &reference).await? {
            return Ok(found);
        }
        let missing = |reason: String| EngineError::Image {
            image: match image {
                ImageRef::Stored(digest) => digest.to_string(),
                ImageRef::Named(name) => name.clone(),
            },
            reason,
        };
        let brought = async {
            match image {
                ImageRef::Stored(digest) => self.load(docker, digest, &reference).await.map(Some),
                ImageRef::Named(_) => pull(docker, &reference).await.map(|()| None),
            }
        };
        let expected = tokio::time::timeout(PATIENCE, brought)
            .await
            .map_err(|_| {
                missing(format!(
                    "it took longer than {} minutes",
                    PATIENCE.as_secs() / 60
                ))
            })?
            .map_err(missing)?;
        let found = inspect(docker, &reference)
            .await?
            .ok_or_else(|| missing("the engine does not have it after all".to_owned()))?;
        match expected {
            Some(id) if !same_id(&found.id, &id) => {
                let _ = untag(docker, &reference).await;
                Err(missing(format!("the engine made {} of {id}", found.id)))
            }
            _ => Ok(found),
        }
    }

    async fn load(
        &self,
        docker: &Docker,
        digest: &Digest,
        reference: &str,
    ) -> Result<Digest, String> {
        let stored = self
            .source
            .image(digest)
            .await
            .map_err(|error| error.to_string())?;
        let id = stored.id();
        let pieces = archive::image(self.source.clone(), stored, reference.to_owned());
        let options = ImportImageOptions {
            quiet: true,
            ..ImportImageOptions::default()
        };
        let mut answer = docker.import_image_stream(options, pieces, None).boxed();
        while let Some(step) = answer.next().await {
            step.map_err(|error| with_sources(&error))?;
        }
        Ok(id)
    }
}

async fn pull(docker: &Docker, reference: &str) -> Result<(), String> {
    let options = CreateImageOptions {
        from_image: Some(reference.to_owned()),
        ..CreateImageOptions::default()
    };
    let mut steps = docker.create_image(Some(options), None, None).boxed();
    while let Some(step) = steps.next().await {
        step.map_err(|error| with_sources(&error))?;
    }
    Ok(())
}

async fn inspect(docker: &Docker, reference: &str) -> Result<Option<Image>, EngineError> {
    match docker.inspect_image(reference).await {
        Ok(inspected) => Ok(Image::of(inspected)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(failed(format!("look at the image {reference}"))(error)),
    }
}

/// Removes the tags of loaded images that are not in `keep` and that no container uses. Returns
/// how many.
pub(crate) async fn collect(
    docker: &Docker,
    names: &Names,
    keep: &[Digest],
) -> Result<usize, EngineError> {
    let repository = names.repository();
    let keep: Vec<String> = keep
        .iter()
        .map(|digest| format!("{repository}:{}", Names::tag(digest)))
        .collect();
    let options = ListImagesOptions {
        all: true,
        ..ListImagesOptions::default()
    };
    let all = docker.list_images(Some(options)).await;
    let all = all.map_err(failed("list its images"))?;
    let mut removed = 0;
    for tag in all.into_iter().flat_map(|image| image.repo_tags) {
        let ours = tag
            .strip_prefix(&repository)
            .is_some_and(|rest| rest.starts_with(':'));
        if ours && !keep.contains(&tag) && untag(docker, &tag).await? {
            removed += 1;
        }
    }
    Ok(removed)
}

/// False when it is in use.
async fn untag(docker: &Docker, reference: &str) -> Result<bool, EngineError> {
    let removed = docker
        .remove_image(reference, None::<RemoveImageOptions>, None)
        .await;
    match removed {
        Ok(_) => Ok(true),
        Err(error) if is_missing(&error) => Ok(true),
        Err(error) if status(&error) == Some(409) => Ok(false),
        Err(error) => Err(failed(format!("remove the image {reference}"))(error)),
    }
}

/// Without a tag, some engines pull every tag there is.
fn with_tag(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains([':', '@']) {
        name.to_owned()
    } else {
        format!("{name}:latest")
    }
}

fn same_id(found: &str, expected: &Digest) -> bool {
    found.strip_prefix("sha256:").unwrap_or(found) == expected.hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_without_a_tag_means_latest() {
        assert_eq!(with_tag("busybox"), "busybox:latest");
        assert_eq!(with_tag("host:5000/a/b"), "host:5000/a/b:latest");
        assert_eq!(with_tag("host:5000/a/b:1"), "host:5000/a/b:1");
        let by_digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(with_tag(&by_digest), by_digest);
    }
}
