//! Retention as a loop, and the registry's part of the blob collection.

use std::sync::Arc;
use std::time::Duration;

use ondol_background::{Reconciler, Report};
use ondol_store::blobs::{BlobOwner, Marks};
use ondol_types::Problem;

use crate::service::{RegistryService, Retained};

/// Applies retention every ten minutes.
pub struct Retention {
    registry: RegistryService,
    retained: Arc<dyn Retained>,
}

impl Retention {
    /// The loop over a registry; `retained` says which images releases need.
    pub fn new(registry: RegistryService, retained: Arc<dyn Retained>) -> Self {
        Self { registry, retained }
    }
}

#[async_trait::async_trait]
impl Reconciler for Retention {
    fn name(&self) -> &'static str {
        "registry.retention"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let changed = self.registry.retain(&*self.retained).await?;
        Ok(Report {
            changed,
            ..Report::default()
        })
    }
}

#[async_trait::async_trait]
impl BlobOwner for RegistryService {
    fn name(&self) -> &'static str {
        "registry"
    }

    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem> {
        let mut after = String::new();
        loop {
            let page = self.held_digests(&after, 1_000).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.to_string();
            for digest in &page {
                marks.add(digest);
            }
        }
    }
}
