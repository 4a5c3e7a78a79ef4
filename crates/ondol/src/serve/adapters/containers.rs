//! The container engine's view of the registry, and what removes what it no longer needs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use ondol_auth::Ctx;
use ondol_background::{Reconciler, Report};
use ondol_deploy::DeployService;
use ondol_registry::{RegistryService, Repository};
use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::{Clock, Digest, Problem};
use ondol_workload::container::{ImageSource, Pieces, SourceError, StoredImage, StoredLayer};
use ondol_workload::{ContainerEngine, EngineError};
use tokio_util::io::ReaderStream;

/// How much of a layer is read at once.
const PIECE: usize = 256 << 10;

/// Images of the embedded registry for the container engine.
pub(in crate::serve) struct StoredImages {
    pub(in crate::serve) registry: RegistryService,
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

impl StoredImages {
    async fn located(&self, digest: &Digest) -> Result<(Ctx, Repository), SourceError> {
        let found = self.registry.locate(digest).await.map_err(told)?;
        let repository =
            found.ok_or_else(|| SourceError(format!("no repository has the image {digest}")))?;
        Ok((Ctx::system(self.clock.clone()), repository))
    }
}

fn told(error: impl std::fmt::Display) -> SourceError {
    SourceError(error.to_string())
}

#[async_trait]
impl ImageSource for StoredImages {
    async fn image(&self, digest: &Digest) -> Result<StoredImage, SourceError> {
        let (ctx, repository) = self.located(digest).await?;
        let parts = self.registry.image_parts(&ctx, &repository, digest).await;
        let parts = parts.map_err(told)?;
        Ok(StoredImage {
            config: parts.config,
            layers: parts
                .layers
                .into_iter()
                .map(|layer| StoredLayer {
                    digest: layer.digest,
                    bytes: layer.size,
                })
                .collect(),
        })
    }

    async fn blob(&self, digest: &Digest) -> Result<Pieces, SourceError> {
        let file = self.registry.layer(digest).await.map_err(told)?;
        Ok(ReaderStream::with_capacity(file, PIECE).boxed())
    }
}

/// Removes containers, networks and images that nothing needs.
pub(in crate::serve) struct Swept {
    pub(in crate::serve) engine: ContainerEngine,
    pub(in crate::serve) deploy: DeployService,
}

#[async_trait]
impl Reconciler for Swept {
    fn name(&self) -> &'static str {
        "containers.sweep"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        if !self.engine.was_used() {
            return Ok(Report::default());
        }
        let images = self.deploy.referenced_images().await?;
        let keep: Vec<Digest> = images.into_iter().map(|(_, digest)| digest).collect();
        match self.engine.sweep(&keep).await {
            Ok(swept) => {
                let pruned = self.engine.prune_builds().await?;
                let swept = swept.containers + swept.networks + swept.images;
                Ok(Report {
                    seen: keep.len() as u64,
                    changed: (swept + pruned.images) as u64,
                    ..Report::default()
                })
            }
            // What is away has nothing to be swept of; it is asked again.
            Err(error @ EngineError::Unreachable { .. }) => Ok(Report {
                note: Some(error.to_string()),
                ..Report::default()
            }),
            Err(error) => Err(error.into()),
        }
    }
}

/// Volumes, networks and builds of deleted projects.
pub(in crate::serve) struct Forgetting(pub(in crate::serve) ContainerEngine);

#[async_trait]
impl ForgetProject for Forgetting {
    fn name(&self) -> &'static str {
        "containers"
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        self.0.forget_project(&hold.name).await?;
        self.0.forget_builds(&hold.name).await;
        Ok(Forgotten::Entirely)
    }
}
