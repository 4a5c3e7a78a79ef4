//! Reading what runs left behind: files, and what their tests came to.

use ondol_auth::{Action as Permission, Ctx};
use ondol_store::blobs::BlobReader;
use ondol_types::{ProjectName, RelPath, RunId, StepName};

use super::MAX_PAGE;
use crate::error::PipelineError;
use crate::model::{Artifact, FlakyTest};
use crate::{Pipeline, store};

impl Pipeline {
    /// The artifacts of a run, or of one step of it, by step and path. `after` is the step and path
    /// of the last one of the page before.
    ///
    /// # Errors
    /// There is no such run or step, or the principal may not know of it.
    pub async fn artifacts(
        &self,
        ctx: &Ctx,
        run: &RunId,
        step: Option<&StepName>,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<Artifact>, PipelineError> {
        self.permitted(ctx, run, Permission::Read).await?;
        if let Some(step) = step {
            self.step_of(run, step).await?;
        }
        let limit = limit.clamp(1, MAX_PAGE * 3);
        self.0
            .artifacts_of(run, step, after.unwrap_or_default(), limit)
            .await
    }

    /// The tests of a project that passed and failed on the same commit, by stage and name. `after`
    /// is the stage and name of the last one of the page before.
    ///
    /// # Errors
    /// The principal may not read the project.
    pub async fn flaky_tests(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        after: Option<(&str, &str)>,
        limit: u32,
    ) -> Result<Vec<FlakyTest>, PipelineError> {
        ctx.require(Permission::Read, project)?;
        let (after, limit) = (after.unwrap_or_default(), limit.clamp(1, MAX_PAGE * 3));
        self.0
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::list_flaky(tx, project, after, limit).await?) })
            })
            .await
    }

    /// One artifact and its bytes.
    ///
    /// # Errors
    /// There is no such run or artifact, or the principal may not know of it.
    pub async fn artifact(
        &self,
        ctx: &Ctx,
        run: &RunId,
        step: &StepName,
        path: &RelPath,
    ) -> Result<(Artifact, BlobReader), PipelineError> {
        self.permitted(ctx, run, Permission::Read).await?;
        let deps = &self.0.deps;
        let found = deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::load_artifact(tx, run, step, path).await?) })
            })
            .await?;
        let artifact = found.ok_or_else(|| PipelineError::NoArtifact {
            run: *run,
            step: step.to_string(),
            path: path.to_string(),
        })?;
        let (reader, _) = deps.blobs.open_reader(&artifact.digest).await?;
        Ok((artifact, reader))
    }
}
