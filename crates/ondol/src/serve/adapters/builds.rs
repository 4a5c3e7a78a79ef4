//! Images from Dockerfiles: the container engine builds them, the registry keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use ondol_auth::Ctx;
use ondol_pipeline::{ActionCtx, StepSecrets};
use ondol_registry::image::{Built, ImportRequest};
use ondol_registry::{RegistryService, Repository};
use ondol_types::{ErrorKind, Problem, RelPath, Secret};
use ondol_workload::container::{BuildRequest, BuiltImage};
use ondol_workload::{ContainerEngine, Limits};

/// Builds for the action `image`.
pub(in crate::serve) struct Builds {
    pub(in crate::serve) engine: ContainerEngine,
    pub(in crate::serve) registry: RegistryService,
    pub(in crate::serve) secrets: Arc<dyn StepSecrets>,
}

impl Builds {
    /// Builds the image of a run and keeps it under its tags. Doing it again costs what the caches
    /// of the engine and of the registry do not have.
    pub(super) async fn image(
        &self,
        ctx: &ActionCtx,
        caller: &Ctx,
        dockerfile: &RelPath,
        tags: Vec<String>,
        labels: BTreeMap<String, String>,
    ) -> Result<Built, Problem> {
        let project = ctx.run.project.clone();
        let build = &ctx.spec.build;
        let mut request = BuildRequest::new(project, ctx.workspace.source(), dockerfile.clone());
        request.context = build.context.clone();
        request.target = build.target.clone();
        request.args = build.args.clone();
        request.secrets = self.secrets(ctx).await?;
        request.labels = labels;
        request.limits = Limits {
            cpu_cores: build.limits.cpu,
            memory_bytes: build.limits.memory.map(|memory| memory.bytes()),
            pids: build.limits.pids,
        };
        // What a later push changes is later for whoever compares times.
        request.time = u64::try_from(ctx.run.created_at.as_micros() / 1_000_000).ok();
        let mut lines = |line: ondol_workload::container::BuildLine<'_>| ctx.log.line(line.text);
        let image = tokio::select! {
            built = self.engine.build(&request, &mut lines) => built?,
            () = ctx.cancel.cancelled() => {
                return Err(Problem::new(ErrorKind::Cancelled, "pipeline.cancelled", "cancelled"));
            }
        };
        let built = self.keep(ctx, caller, &image, tags).await?;
        // Without the name it is loaded from the registry when it is first run, which works too.
        if let Err(error) = self.engine.keep_built(&image.id, &built.digest).await {
            tracing::debug!(%error, "a built image has no name in its engine");
        }
        Ok(built)
    }

    async fn keep(
        &self,
        ctx: &ActionCtx,
        caller: &Ctx,
        image: &BuiltImage,
        tags: Vec<String>,
    ) -> Result<Built, Problem> {
        let request = ImportRequest {
            repository: Repository::of(&ctx.run.project),
            tags,
            id: image.id.clone(),
            commit: ctx.run.commit.as_ref().map(ToString::to_string),
            chain: Some(ctx.run.chain.clone()),
        };
        let mut built = match self.registry.import_known(caller, &request).await? {
            Some(known) => known,
            None => {
                let archive = self.engine.export(&image.id).await?;
                self.registry.import(caller, &request, archive).await?
            }
        };
        built.entries = image.entries;
        Ok(built)
    }

    async fn secrets(&self, ctx: &ActionCtx) -> Result<BTreeMap<String, Secret>, Problem> {
        let names = &ctx.spec.build.secrets;
        let mut values = self.secrets.values(&ctx.run.project, names).await?;
        names
            .iter()
            .map(|name| match values.remove(name) {
                Some(value) => Ok((name.to_string(), value)),
                None => Err(Problem::new(
                    ErrorKind::InvalidInput,
                    "pipeline.secret.unset",
                    format!("the build needs the secret `{name}`, which is not set: `ondol secret set {name}` sets it"),
                )),
            })
            .collect()
    }
}
