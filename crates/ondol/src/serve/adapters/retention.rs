//! What releases need, told to those who would clean it away.

use std::sync::Arc;

use async_trait::async_trait;
use ondol_auth::Ctx;
use ondol_deploy::DeployService;
use ondol_types::{Clock, Digest, EnvironmentName, ModelName, Problem, ProjectName};

/// Releases as the reason why images and models stay.
pub(in crate::serve) struct Releases {
    pub(in crate::serve) deploy: DeployService,
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

#[async_trait]
impl ondol_registry::Retained for Releases {
    async fn images(&self) -> Result<Vec<Digest>, Problem> {
        Ok(self
            .deploy
            .referenced_images()
            .await?
            .into_iter()
            .map(|(_, digest)| digest)
            .collect())
    }
}

#[async_trait]
impl ondol_ml::VersionsInUse for Releases {
    async fn in_use(&self, project: &ProjectName) -> Result<Vec<(ModelName, i64)>, Problem> {
        let ctx = Ctx::system(self.clock.clone());
        let mut found = Vec::new();
        let mut names: Vec<EnvironmentName> = self
            .deploy
            .status(&ctx, project)
            .await?
            .into_iter()
            .map(|status| status.environment.name)
            .collect();
        names.dedup();
        for name in names {
            let mut before = None;
            loop {
                let page = self
                    .deploy
                    .releases(&ctx, project, &name, before, 200)
                    .await?;
                found.extend(
                    page.items
                        .into_iter()
                        .filter_map(|release| release.model)
                        .map(|model| (model.name, model.version)),
                );
                before = page.next;
                if before.is_none() {
                    break;
                }
            }
        }
        Ok(found)
    }
}
