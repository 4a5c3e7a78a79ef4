//! The steps that Ondol carries out itself: validate, evaluate, image, deploy.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_auth::Ctx;
use ondol_data::DataService;
use ondol_deploy::{
    DeployError, DeployRequest, DeployService, ModelRef, Preview, Reason, Requested, Standing,
    Wanted,
};
use ondol_ml::{Judgement, Lineage, Models, NewVersion, VersionState, metrics_file};
use ondol_pipeline::model::Trigger;
use ondol_pipeline::{Action, ActionCtx, ActionOutcome, Actions};
use ondol_types::{
    Clock, Digest, EnvironmentName, ErrorKind, ModelName, Problem, ProjectName, StepName,
};
use serde_json::{Value, json};

use super::image::Image;

/// Every action by the name that the graph uses.
pub(in crate::serve) fn all(
    data: DataService,
    models: Models,
    image: Image,
    deploy: DeployService,
    clock: Arc<dyn Clock>,
) -> Actions {
    let mut actions: Actions = BTreeMap::new();
    actions.insert(
        "validate",
        Arc::new(Validate {
            data,
            clock: clock.clone(),
        }),
    );
    actions.insert(
        "evaluate",
        Arc::new(Evaluate {
            models,
            clock: clock.clone(),
        }),
    );
    actions.insert("image", Arc::new(image));
    actions.insert("deploy", Arc::new(Deploy { deploy, clock }));
    actions
}

fn missing(what: &str) -> Problem {
    Problem::new(
        ErrorKind::Internal,
        "pipeline.action.input",
        format!("the step was given no {what}"),
    )
}

/// The system's context, under the name of whoever caused the run.
pub(super) fn system(clock: &Arc<dyn Clock>, author: &str) -> Ctx {
    let mut ctx = Ctx::system(clock.clone());
    ctx.principal.name = author.to_owned();
    ctx
}

fn output<'o>(ctx: &'o ActionCtx, step: &str) -> Option<&'o Value> {
    let name: StepName = step.parse().ok()?;
    ctx.outputs.get(&name)
}

/// Checks a dataset version against the rules and lays its files out for training.
struct Validate {
    data: DataService,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Action for Validate {
    async fn run(&self, ctx: &ActionCtx) -> Result<ActionOutcome, Problem> {
        let data = ctx
            .run
            .data
            .as_ref()
            .ok_or_else(|| missing("data version"))?;
        let caller = system(&self.clock, &ctx.run.author);
        let rules = ctx
            .spec
            .data
            .get(&data.dataset)
            .cloned()
            .unwrap_or_default();
        let version = data.version.to_string();
        ctx.log
            .line(format!("checking {} version {}", data.dataset, data.number));
        let report = self
            .data
            .validate(&caller, &ctx.run.project, &data.dataset, &version, &rules)
            .await?;
        for finding in &report.findings {
            ctx.log.line(&finding.message);
        }
        if report.passed {
            ctx.log.line(report.summary());
        }
        let outputs = serde_json::to_value(&report).unwrap_or_default();
        if !report.passed {
            return Ok(ActionOutcome::Refused {
                reason: report.summary(),
                outputs,
            });
        }
        let folder = ctx.workspace.data(&data.dataset);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)
                .map_err(|error| Problem::internal("cannot clear the data folder", error))?;
        }
        if let Some(parent) = folder.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|error| Problem::internal("cannot make the data folder", error))?;
        }
        self.data
            .materialise(&caller, &ctx.run.project, &data.dataset, &version, &folder)
            .await?;
        Ok(ActionOutcome::Success(outputs))
    }
}

/// Registers what training left and lets the gate decide.
struct Evaluate {
    models: Models,
    clock: Arc<dyn Clock>,
}

#[async_trait]
impl Action for Evaluate {
    async fn run(&self, ctx: &ActionCtx) -> Result<ActionOutcome, Problem> {
        let train = ctx.spec.train.as_ref().ok_or_else(|| missing("training"))?;
        let caller = system(&self.clock, &ctx.run.author);
        let (project, model) = (&ctx.run.project, &train.model);
        let known = self
            .models
            .version_of_run(&caller, project, model, ctx.run.id)
            .await?;
        let version = match known {
            Some(version) => version,
            None => {
                let folder = ctx.workspace.output();
                let metrics = metrics_file::find(&ctx.workspace.metrics(), &folder)?;
                let data = ctx.run.data.as_ref();
                let new = NewVersion {
                    project: project.clone(),
                    model: model.clone(),
                    lineage: Lineage {
                        dataset: data.map(|data| data.dataset.clone()),
                        data: data.map(|data| data.version.clone()),
                        data_number: data.map(|data| data.number),
                        commit: ctx.run.commit.clone(),
                        run: Some(ctx.run.id),
                    },
                    primary_metric: primary(&folder, &metrics),
                    metrics,
                    params: BTreeMap::new(),
                    chain: Some(ctx.run.chain.clone()),
                };
                self.models.register(&caller, new, &folder).await?
            }
        };
        let judged = if version.state == VersionState::Candidate {
            let judgement = Judgement {
                accept: train.accept.clone(),
                champion_on_new_data: None,
            };
            self.models
                .judge(&caller, project, model, version.version, &judgement)
                .await?
        } else {
            version
        };
        let reason = judged.reason.clone().unwrap_or_default();
        let verdict = format!("{model} version {}: {reason}", judged.version);
        let outputs = json!({
            "model": model, "version": judged.version, "digest": judged.digest, "state": judged.state,
            "metrics": judged.metrics, "reason": reason,
        });
        if judged.state == VersionState::Refused {
            return Ok(ActionOutcome::Refused {
                reason: verdict,
                outputs,
            });
        }
        ctx.log.line(verdict);
        Ok(ActionOutcome::Success(outputs))
    }
}

/// The metric that the built-in trainer compared its candidates by; of other trainings, the
/// usual one of its kind.
fn primary(folder: &std::path::Path, metrics: &ondol_ml::gate::Metrics) -> Option<String> {
    let report = std::fs::read(folder.join(ondol_ml::auto::REPORT_FILE)).ok();
    let chosen = report
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
        .and_then(|report| report["primaryMetric"].as_str().map(str::to_owned));
    chosen.or_else(|| ondol_ml::gate::usual_metric(metrics).map(str::to_owned))
}

/// Asks for a rollout and waits for its end. The step has succeeded only when a release with the
/// image and commit of the run became current; for data, one with the model version of the run.
/// It is skipped when something newer was accepted before, and has failed when the rollout
/// failed, was aborted, or was gone back from before it was live: retrying the run then asks anew.
struct Deploy {
    deploy: DeployService,
    clock: Arc<dyn Clock>,
}

/// How long one wait is; between two, the log says what happens.
const LOOK: Duration = Duration::from_millis(500);

#[async_trait]
impl Action for Deploy {
    async fn run(&self, ctx: &ActionCtx) -> Result<ActionOutcome, Problem> {
        let image: Digest = output(ctx, "image")
            .and_then(|image| image["digest"].as_str()?.parse().ok())
            .ok_or_else(|| missing("image"))?;
        let model = output(ctx, "evaluate").and_then(|evaluated| {
            Some(ModelRef {
                name: evaluated["model"].as_str()?.parse::<ModelName>().ok()?,
                version: evaluated["version"].as_i64()?,
                digest: evaluated["digest"]
                    .as_str()
                    .and_then(|text| text.parse().ok()),
            })
        });
        let caller = system(&self.clock, &ctx.run.author);
        let preview = preview_of(&ctx.run, &ctx.spec)?;
        let environment = match &preview {
            Some(preview) => Preview::environment_of(&preview.branch),
            None => EnvironmentName::production(),
        };
        if let Some(preview) = &preview {
            introduce(ctx, preview, &environment);
        }
        let request = DeployRequest {
            key: ctx.step.id.to_string(),
            project: ctx.run.project.clone(),
            environment: environment.clone(),
            preview,
            reason: if matches!(ctx.run.trigger, Trigger::Data { .. }) {
                Reason::Data
            } else {
                Reason::Push
            },
            image,
            spec: ctx.spec.clone(),
            model,
            run: Some(ctx.run.id),
            commit: ctx.run.commit.clone(),
            chain: Some(ctx.run.chain.clone()),
            author: Some(ctx.run.author.clone()),
        };
        let wanted = Wanted {
            image: request.image.clone(),
            commit: request.commit.clone(),
            model: request
                .model
                .clone()
                .filter(|_| request.reason == Reason::Data),
        };
        let requested = match self.request(ctx, &caller, request).await {
            Ok(requested) => requested,
            Err(gone @ DeployError::BranchGone { .. }) => {
                return Ok(ActionOutcome::Skipped(gone.to_string()));
            }
            Err(error) => return Err(error.into()),
        };
        let (mut said, mut paused) = (String::new(), false);
        loop {
            let followed = self
                .deploy
                .follow(&caller, requested.rollout, &wanted, LOOK)
                .await?;
            let rollout = followed.rollout;
            if rollout.message != said && !rollout.message.is_empty() {
                ctx.log.line(&rollout.message);
                said.clone_from(&rollout.message);
            }
            let outputs =
                json!({ "rollout": rollout.id, "release": rollout.to, "environment": environment });
            match followed.standing {
                Standing::Live { .. } => return Ok(ActionOutcome::Success(outputs)),
                Standing::Overtaken { reason } => return Ok(ActionOutcome::Skipped(reason)),
                Standing::Held => {
                    return Ok(ActionOutcome::Skipped("automatic rollouts are held since a rollback; push or `ondol rollout resume` lifts that".to_owned()));
                }
                Standing::NotLive { reason } => {
                    if let Some(failure) = &rollout.failure {
                        for line in failure_lines(failure) {
                            ctx.log.line(line);
                        }
                    }
                    return Ok(ActionOutcome::Failed(reason));
                }
                Standing::Paused => {
                    if !paused {
                        ctx.log.line(remedy(&ctx.run.project, &environment));
                    }
                    paused = true;
                    tokio::time::sleep(LOOK).await;
                }
                Standing::Open => paused = false,
            }
            if ctx.cancel.is_cancelled() {
                return Err(Problem::new(
                    ErrorKind::Cancelled,
                    "pipeline.cancelled",
                    "cancelled",
                ));
            }
        }
    }
}

impl Deploy {
    /// Asks for the rollout. An environment that is being removed is waited for: its branch was
    /// deleted and pushed again.
    async fn request(
        &self,
        ctx: &ActionCtx,
        caller: &Ctx,
        request: DeployRequest,
    ) -> Result<Requested, DeployError> {
        let mut said = false;
        loop {
            match self.deploy.request(caller, request.clone()).await {
                Err(removing @ DeployError::Removing { .. }) if !ctx.cancel.is_cancelled() => {
                    if !said {
                        ctx.log.line(format!("{removing}; waiting for its end"));
                        said = true;
                    }
                    tokio::time::sleep(LOOK).await;
                }
                answer => return answer,
            }
        }
    }
}

/// The preview that a run is for; `None` for what may go to production.
fn preview_of(
    run: &ondol_pipeline::model::Run,
    spec: &ondol_spec::Spec,
) -> Result<Option<Preview>, Problem> {
    if run.trigger.is_production() {
        return Ok(None);
    }
    let branch = run.branch.clone().ok_or_else(|| {
        Problem::new(
            ErrorKind::Internal,
            "pipeline.action.branch",
            "the run is not for production, and has no branch either",
        )
    })?;
    Ok(Some(Preview {
        branch,
        expire: spec.previews.expire.duration(),
    }))
}

fn introduce(ctx: &ActionCtx, preview: &Preview, environment: &EnvironmentName) {
    ctx.log.line(format!(
        "a preview of branch `{}`, in the environment `{environment}`; it goes with the branch, or {} after the last push",
        preview.branch, ctx.spec.previews.expire
    ));
    let hosts = ctx
        .spec
        .service
        .as_ref()
        .is_some_and(|service| !service.hosts.is_empty());
    if hosts {
        ctx.log
            .line("the hosts of `service.hosts` stay with production");
    }
}

/// How a person lets a paused rollout go on, or gives it up.
pub(super) fn remedy(project: &ProjectName, environment: &EnvironmentName) -> String {
    let place = if *environment == EnvironmentName::production() {
        format!("--project {project}")
    } else {
        format!("--project {project} --environment {environment}")
    };
    format!(
        "`ondol rollout resume {place}` lets it go on, `ondol rollout abort {place}` gives it up"
    )
}

/// What helps to find the cause, for the log of the step.
fn failure_lines(failure: &ondol_deploy::Failure) -> Vec<String> {
    let value = serde_json::to_value(failure).unwrap_or_default();
    let mut lines = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Array(items) => lines.extend(items.iter().map(|item| match item {
                Value::String(text) => format!("  {name}: {text}"),
                other => format!("  {name}: {other}"),
            })),
            Value::String(text) if name != "message" && !text.is_empty() => {
                lines.push(format!("  {name}: {text}"))
            }
            _ => {}
        }
    }
    lines
}
