//! The step `image`: a checkout becomes an image, packed by the registry, or built from its
//! Dockerfile by the container engine.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ondol_auth::{Ctx, Secrets};
use ondol_deploy::{DeployService, Preview};
use ondol_pipeline::{Action, ActionCtx, ActionOutcome, StepSecrets};
use ondol_registry::image::{BuildRequest, Built, ImportRequest};
use ondol_registry::{RegistryService, Repository};
use ondol_types::{Clock, EnvironmentName, ErrorKind, Problem, RelPath};
use ondol_workload::container::{BuildError, BuildLine, BuildSource};
use ondol_workload::{ContainerEngine, Limits};
use serde_json::json;

use super::actions::system;
use super::code::StoredSecrets;

/// Makes the image of a run.
pub(in crate::serve) struct Image {
    pub(in crate::serve) registry: RegistryService,
    pub(in crate::serve) engine: Option<ContainerEngine>,
    pub(in crate::serve) secrets: Secrets,
    pub(in crate::serve) deploy: DeployService,
    pub(in crate::serve) clock: Arc<dyn Clock>,
}

#[async_trait]
impl Action for Image {
    async fn run(&self, ctx: &ActionCtx) -> Result<ActionOutcome, Problem> {
        let caller = system(&self.clock, &ctx.run.author);
        let built = match &ctx.spec.build.dockerfile {
            None => self.pack(ctx, &caller).await?,
            Some(file) => {
                let Some(engine) = &self.engine else {
                    return Ok(ActionOutcome::Failed(format!(
                        "`{file}` needs the container engine, and this installation runs with `--engine process`: start it with `--engine auto` where Podman (package `podman`) or Docker is installed, or remove `build.dockerfile`"
                    )));
                };
                if !engine.was_used()
                    && let Err(error) = engine.reachable().await
                {
                    // Nothing that could be restarted, and was not: trying again does not help.
                    let problem = Problem::from(error);
                    let hint = problem.hint.unwrap_or_default();
                    return Ok(ActionOutcome::Failed(format!(
                        "`{file}` needs the container engine: {}; {hint}",
                        problem.message
                    )));
                }
                match self.build(ctx, &caller, engine, file).await? {
                    Ok(built) => built,
                    Err(reason) => return Ok(ActionOutcome::Failed(reason)),
                }
            }
        };
        ctx.log.line(format!(
            "image {} · {} entries, {} layers ({} new), {} bytes",
            built.digest.short(),
            built.entries,
            built.layers,
            built.layers_new,
            built.size
        ));
        Ok(ActionOutcome::Success(
            json!({ "digest": built.digest, "bytes": built.size, "layers": built.layers }),
        ))
    }
}

impl Image {
    /// The tags of the image: its commit, and its branch unless something newer of the branch was
    /// accepted for where it runs: a run that is retried does not move the tag back.
    async fn tags(&self, ctx: &ActionCtx, caller: &Ctx) -> Result<Vec<String>, Problem> {
        let run = &ctx.run;
        let environment = match &run.branch {
            Some(branch) if !run.trigger.is_production() => Preview::environment_of(branch),
            _ => EnvironmentName::production(),
        };
        let overtaken = self
            .deploy
            .is_overtaken(caller, &run.project, &environment, &run.chain)
            .await?;
        if overtaken {
            ctx.log
                .line("the tag of the branch stays with the newer image that was accepted before");
        }
        Ok(tags(ctx, !overtaken))
    }

    /// Packs the checkout with what was built in it.
    async fn pack(&self, ctx: &ActionCtx, caller: &Ctx) -> Result<Built, Problem> {
        let build = ctx.spec.build.clone();
        let keep = move |path: &std::path::Path| {
            let Some(path) = path.to_str() else {
                return false;
            };
            let included = build.include.is_empty()
                || build.include.iter().any(|pattern| pattern.matches(path));
            included && !build.exclude.iter().any(|pattern| pattern.matches(path))
        };
        let request = BuildRequest {
            repository: Repository::of(&ctx.run.project),
            tags: self.tags(ctx, caller).await?,
            root: ctx.workspace.source(),
            keep: Arc::new(keep),
            command: ctx.spec.service.as_ref().map(|service| service.run.clone()),
            env: ctx.spec.env.clone(),
            labels: labels(ctx),
            base: ctx.spec.build.base.as_ref().map(ToString::to_string),
            host: ctx.spec.build.tools.clone(),
            chain: Some(ctx.run.chain.clone()),
        };
        Ok(self.registry.build(caller, &request).await?)
    }

    /// Builds by the Dockerfile and takes the result into the registry. The inner error is the
    /// repository's own.
    async fn build(
        &self,
        ctx: &ActionCtx,
        caller: &Ctx,
        engine: &ContainerEngine,
        file: &RelPath,
    ) -> Result<Result<Built, String>, Problem> {
        let spec = &ctx.spec.build;
        let mut request = ondol_workload::container::BuildRequest::new(
            ctx.run.project.clone(),
            ctx.workspace.source(),
            file.clone(),
        );
        request.context = spec.context.clone();
        request.target = spec.target.clone();
        request.args = spec.args.clone();
        request.labels = labels(ctx);
        request.limits = Limits {
            cpu_cores: spec.limits.cpu,
            memory_bytes: spec.limits.memory.map(|size| size.bytes()),
            pids: spec.limits.pids,
        };
        // What a later push changes is later for whoever compares times.
        request.time = u64::try_from(ctx.run.created_at.as_micros() / 1_000_000).ok();
        let stored = StoredSecrets {
            secrets: self.secrets.clone(),
            clock: self.clock.clone(),
        };
        let values = StepSecrets::values(&stored, &ctx.run.project, &spec.secrets).await?;
        if let Some(unset) = spec.secrets.iter().find(|name| !values.contains_key(*name)) {
            return Ok(Err(format!(
                "the secret `{unset}` of `build.secrets` is not set: `ondol secret set {unset} --project {}`",
                ctx.run.project
            )));
        }
        request.secrets = values
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect();
        let log = ctx.log.clone();
        let mut lines = move |line: BuildLine<'_>| match line.source {
            BuildSource::Engine => log.line(line.text),
            BuildSource::Command => log.line(format!("  {}", line.text)),
        };
        let building = async {
            let built = engine.build(&request, &mut lines).await?;
            ctx.log.line(format!(
                "sent {} files, {} bytes",
                built.entries, built.bytes
            ));
            Ok::<_, BuildError>(built)
        };
        let built = tokio::select! {
            built = building => built,
            () = ctx.cancel.cancelled() => {
                return Err(Problem::new(
                    ErrorKind::Cancelled,
                    "pipeline.cancelled",
                    "the build was cancelled",
                ));
            }
        };
        let built = match built {
            Ok(built) => built,
            Err(error) if error.is_infrastructure() => return Err(error.into()),
            Err(error) => {
                let problem = Problem::from(error);
                return Ok(Err(match problem.hint {
                    Some(hint) => format!("{}; {hint}", problem.message),
                    None => problem.message,
                }));
            }
        };
        let import = ImportRequest {
            repository: Repository::of(&ctx.run.project),
            tags: self.tags(ctx, caller).await?,
            id: built.id.clone(),
            commit: ctx.run.commit.as_ref().map(ToString::to_string),
            chain: Some(ctx.run.chain.clone()),
        };
        let mut image = match self.registry.import_known(caller, &import).await? {
            Some(known) => known,
            None => {
                let archive = engine.export(&built.id).await?;
                self.registry.import(caller, &import, archive).await?
            }
        };
        image.entries = built.entries;
        // The engine has what the registry has just taken from it; without this it is sent back.
        if let Err(error) = engine.keep_built(&built.id, &image.digest).await {
            tracing::warn!(image = %image.digest, error = %error, "a built image is not named in the engine");
        }
        Ok(Ok(image))
    }
}

/// What the image says about where it comes from.
fn labels(ctx: &ActionCtx) -> BTreeMap<String, String> {
    let commit = ctx.run.commit.as_ref();
    let mut labels = BTreeMap::from([(
        "org.opencontainers.image.title".to_owned(),
        ctx.run.project.to_string(),
    )]);
    if let Some(commit) = commit {
        labels.insert(
            "org.opencontainers.image.revision".to_owned(),
            commit.to_string(),
        );
    }
    labels
}

/// The tags: the commit, and the branch as far as a tag can say it.
fn tags(ctx: &ActionCtx, newest: bool) -> Vec<String> {
    let commit = ctx.run.commit.as_ref();
    let mut tags: Vec<String> = commit
        .map(|commit| commit.as_str().to_owned())
        .into_iter()
        .collect();
    if let Some(branch) = ctx.run.branch.as_ref().filter(|_| newest) {
        let tag: String = branch
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "._-".contains(c) {
                    c
                } else {
                    '-'
                }
            })
            .take(100)
            .collect();
        tags.push(tag.trim_start_matches(['.', '-']).to_owned());
        tags.retain(|tag| !tag.is_empty());
    }
    tags
}
