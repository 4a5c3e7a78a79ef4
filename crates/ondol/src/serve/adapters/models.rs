//! Models and data for the pipeline and the deploy room.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use ondol_auth::Ctx;
use ondol_data::{DataError, DataService};
use ondol_ml::Models;
use ondol_pipeline::model::DataRef;
use ondol_pipeline::plan::TrainingState;
use ondol_pipeline::{AutoTraining, StepArguments, Training};
use ondol_types::{Clock, DatasetName, ModelName, Problem, ProjectName};

/// What is known about data and models.
pub(in crate::serve) struct Known {
    pub(in crate::serve) data: DataService,
    pub(in crate::serve) models: Models,
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Training for Known {
    async fn state(
        &self,
        project: &ProjectName,
        dataset: Option<&DatasetName>,
        model: &ModelName,
    ) -> Result<TrainingState, Problem> {
        let ctx = Ctx::system(self.clock.clone());
        let newest = match dataset {
            None => None,
            Some(dataset) => match self.data.version(&ctx, project, dataset, "latest").await {
                Ok(version) => Some(DataRef {
                    dataset: version.dataset,
                    version: version.id,
                    number: version.number,
                }),
                Err(DataError::NoDataset { .. } | DataError::NoVersion { .. }) => None,
                Err(error) => return Err(error.into()),
            },
        };
        let champion = self.models.champion(&ctx, project, model).await?.is_some();
        Ok(TrainingState { newest, champion })
    }
}

#[async_trait]
impl ondol_deploy::Models for Known {
    async fn materialise(
        &self,
        project: &ProjectName,
        model: &ModelName,
        version: i64,
        dest: &Path,
    ) -> Result<(), Problem> {
        let ctx = Ctx::system(self.clock.clone());
        // The files appear by one rename, so a folder that is not empty is complete.
        if let Err(error) = std::fs::remove_dir(dest)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Ok(());
        }
        Ok(self
            .models
            .materialise(&ctx, project, model, version, dest)
            .await?)
    }
}

/// Command lines of built-in programs: this program's own.
pub(in crate::serve) struct OwnPrograms(pub(in crate::serve) std::path::PathBuf);

impl StepArguments for OwnPrograms {
    fn train_auto(&self, training: &AutoTraining<'_>) -> Vec<String> {
        crate::roles::train_arguments(&self.0, training.auto, &training.data, &training.output)
    }
}

/// Projects for the data room.
pub(in crate::serve) struct GitProjects(pub(in crate::serve) ondol_git::Git);

#[async_trait]
impl ondol_data::Projects for GitProjects {
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem> {
        Ok(self.0.exists(project).await?)
    }
}

#[async_trait]
impl ondol_registry::http::Projects for GitProjects {
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem> {
        Ok(self.0.exists(project).await?)
    }
}

#[async_trait]
impl ondol_ml::tracking::Projects for GitProjects {
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem> {
        Ok(self.0.exists(project).await?)
    }
}
