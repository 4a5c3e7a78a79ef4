//! What can be asked about models.

use ondol_auth::{Action, Ctx};
use ondol_types::{ModelName, ProjectName};

use super::{Models, champion_of};
use crate::error::{MlError, MlResult};
use crate::model::{Model, ModelEntry, ModelVersion, Promotion};
use crate::store;

/// Most entries of one page of a list.
pub(super) const MAX_PAGE: u32 = 1_000;

impl Models {
    /// The champion of a model, if it has one.
    ///
    /// # Errors
    /// When the permission is missing.
    pub async fn champion(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
    ) -> MlResult<Option<ModelVersion>> {
        ctx.require(Action::Read, project)?;
        self.store
            .read(|tx| Box::pin(async move { champion_of(tx, project, model).await }))
            .await
    }

    /// One version.
    ///
    /// # Errors
    /// [`MlError::NotFound`].
    pub async fn version(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        version: i64,
    ) -> MlResult<ModelVersion> {
        ctx.require(Action::Read, project)?;
        self.store
            .read(|tx| {
                Box::pin(async move {
                    Ok(store::find_version(tx, project, model, version)
                        .await?
                        .version)
                })
            })
            .await
    }

    /// The version that a run registered, if it did.
    ///
    /// # Errors
    /// When the permission is missing.
    pub async fn version_of_run(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        run: ondol_types::RunId,
    ) -> MlResult<Option<ModelVersion>> {
        ctx.require(Action::Read, project)?;
        let found = self
            .store
            .read(|tx| Box::pin(async move { store::find_by_run(tx, project, model, run).await }))
            .await?;
        Ok(found.map(|stored| stored.version))
    }

    /// The files of a version, by path.
    ///
    /// # Errors
    /// [`MlError::NotFound`].
    pub async fn files(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        version: i64,
    ) -> MlResult<Vec<ModelEntry>> {
        ctx.require(Action::Read, project)?;
        self.store
            .read(|tx| {
                Box::pin(async move {
                    store::find_version(tx, project, model, version).await?;
                    store::files(tx, project, model, version).await
                })
            })
            .await
    }

    /// One model.
    ///
    /// # Errors
    /// [`MlError::NotFound`].
    pub async fn model(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &ModelName,
    ) -> MlResult<Model> {
        ctx.require(Action::Read, project)?;
        let found = self
            .store
            .read(|tx| Box::pin(async move { store::find_model(tx, project, name).await }))
            .await?;
        found.ok_or_else(|| MlError::NotFound(format!("model `{name}` in project `{project}`")))
    }

    /// The models of a project whose names come behind `after`, by name.
    ///
    /// # Errors
    /// When the permission is missing.
    pub async fn models(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        after: &str,
        limit: u32,
    ) -> MlResult<Vec<Model>> {
        ctx.require(Action::Read, project)?;
        let limit = limit.clamp(1, MAX_PAGE);
        self.store
            .read(|tx| Box::pin(async move { store::list_models(tx, project, after, limit).await }))
            .await
    }

    /// The versions of a model below `before` (`i64::MAX` begins at the newest), newest first.
    ///
    /// # Errors
    /// When the permission is missing.
    pub async fn versions(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        before: i64,
        limit: u32,
    ) -> MlResult<Vec<ModelVersion>> {
        ctx.require(Action::Read, project)?;
        let limit = limit.clamp(1, MAX_PAGE);
        self.store
            .read(|tx| {
                Box::pin(
                    async move { store::list_versions(tx, project, model, before, limit).await },
                )
            })
            .await
    }

    /// The changes of the champion, newest first.
    ///
    /// # Errors
    /// When the permission is missing.
    pub async fn promotions(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        model: &ModelName,
        limit: u32,
    ) -> MlResult<Vec<Promotion>> {
        ctx.require(Action::Read, project)?;
        let limit = limit.clamp(1, MAX_PAGE);
        self.store
            .read(|tx| Box::pin(async move { store::promotions(tx, project, model, limit).await }))
            .await
    }
}
