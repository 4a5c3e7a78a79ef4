//! Starts the workload of a command step.
//!
//! The step has been claimed: its id and attempt number are in the database, and the engine
//! starts each at most once. So this can be repeated at every point.

use std::sync::Arc;
use std::time::Duration;

use ondol_spec::model::SecretForm;
use ondol_types::{ErrorKind, Problem};
use ondol_workload::{WorkDir, WorkloadKind, WorkloadSpec};
use tokio_util::sync::CancellationToken;

use super::services::Addresses;
use crate::error::PipelineError;
use crate::model::{CommandWork, Conclusion, Place, Run, Step, StepOutcome, StepState};
use crate::workspace::{Caches, Linked, Workspace, copy_tree, env, place_data, remove_tree};
use crate::{Inner, events};

/// How often a start that the platform could not carry out is tried again.
const START_TRIES: u32 = 5;

/// How long copying the checkout and starting the workload may take.
const START_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// What an error of the platform or of the user's making means for a step.
pub(super) enum Meaning {
    /// Later is fine.
    Again,
    /// It is the step's own failure.
    Failure,
    /// It is the platform's.
    Error,
}

pub(super) fn meaning(kind: ErrorKind) -> Meaning {
    match kind {
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::RateLimited => Meaning::Again,
        ErrorKind::Internal | ErrorKind::Corrupted | ErrorKind::Cancelled => Meaning::Error,
        _ => Meaning::Failure,
    }
}

/// Message and hint of a problem in one text.
pub(super) fn explained(problem: &Problem) -> String {
    match &problem.hint {
        Some(hint) => format!("{}; hint: {hint}", problem.chain()),
        None => problem.chain(),
    }
}

/// Seconds until the next try: 1, 2, 4 and so on, at most a minute.
pub(super) fn pause(faults: u32) -> Duration {
    Duration::from_secs(1 << faults.min(6)).min(Duration::from_secs(60))
}

impl Inner {
    pub(super) async fn launch(
        self: &Arc<Self>,
        run: &Run,
        step: &Step,
        called_off: &CancellationToken,
    ) {
        let Some(work) = step.definition.as_command() else {
            return;
        };
        let starting =
            tokio::time::timeout(START_TIMEOUT, self.try_launch(run, step, work, called_off));
        let problem = match starting.await {
            Ok(Ok(())) => return,
            Ok(Err(problem)) => problem,
            Err(_) => Problem::new(
                ErrorKind::Timeout,
                "pipeline.step.start",
                format!("it was not started within {} s", START_TIMEOUT.as_secs()),
            ),
        };
        if self.was_started(step).await {
            // It runs after all; the next tick finds it.
            return;
        }
        if let Err(error) = self.end_services(step).await {
            // Not recorded as failed while something of it may run: the next tick tries again.
            tracing::warn!(step.id = %step.id, error = %Problem::from(error).chain(), "cannot end what ran beside a step");
            tokio::time::sleep(Duration::from_secs(1)).await;
            return;
        }
        if let Err(error) = self.launch_failed(step, &problem).await {
            tracing::warn!(step.id = %step.id, error = %Problem::from(error).chain(), "cannot record that a step did not start");
        }
    }

    async fn try_launch(
        &self,
        run: &Run,
        step: &Step,
        work: &CommandWork,
        called_off: &CancellationToken,
    ) -> Result<(), Problem> {
        let contained = self.contained(step, work).await?;
        self.prepare(run, step, work).await?;
        let dir = work_dir(&self.workspace(&run.id), step, work);
        self.give_artifacts(run, step, &dir).await?;
        self.reached("pipeline.step.after-prepare");
        let beside = self.start_services(run, step, work, called_off).await?;
        let mut spec = self.workload(run, step, work, &beside).await?;
        if let Some(container) = contained {
            self.put_inside(run, step, container, &mut spec);
        }
        self.deps.engine.start(spec).await?;
        self.reached("pipeline.step.after-start");
        self.record_start(&step.id).await?;
        Ok(())
    }

    /// Lays out the folders of one attempt.
    async fn prepare(
        &self,
        run: &Run,
        step: &Step,
        work: &CommandWork,
    ) -> Result<(), PipelineError> {
        let workspace = self.workspace(&run.id);
        let caches = Caches::of(&self.config.cache, &run.project);
        let (run, step, work) = (run.clone(), step.clone(), work.clone());
        blocking(move || {
            let make = |path: &std::path::Path| {
                std::fs::create_dir_all(path).map_err(PipelineError::io("make", path))
            };
            let reports = workspace.reports(&step.name);
            remove_tree(&reports)?;
            make(&reports)?;
            make(&caches.tools())?;
            if work.place == Place::Copy {
                let how = match work.image {
                    Some(_) => Linked::Absent,
                    None => Linked::Links,
                };
                copy_tree(
                    &workspace.source(),
                    &workspace.copy(&step.name),
                    &work.links,
                    how,
                )?;
            }
            if let (Some(path), Some(data)) = (&work.data, &run.data) {
                remove_tree(&workspace.output())?;
                make(&workspace.output())?;
                remove_tree(&workspace.metrics())?;
                place_data(
                    &workspace.data(&data.dataset),
                    &workspace.copy(&step.name),
                    path,
                )?;
            }
            Ok(())
        })
        .await
    }

    async fn workload(
        &self,
        run: &Run,
        step: &Step,
        work: &CommandWork,
        beside: &Addresses,
    ) -> Result<WorkloadSpec, Problem> {
        let workspace = self.workspace(&run.id);
        let caches = Caches::of(&self.config.cache, &run.project);
        let id = step.workload.ok_or_else(|| {
            Problem::new(
                ErrorKind::Internal,
                "pipeline.step.workload",
                format!("step {} has no workload id", step.id),
            )
        })?;
        let branch = self.branch_of(run).await?;
        let command = env::command(run, work, &workspace, &*self.deps.arguments);
        let mut spec = WorkloadSpec::new(
            id,
            u64::from(step.attempt),
            run.project.clone(),
            WorkloadKind::Once,
            command,
        );
        let places = match work.image {
            Some(_) => env::Places::inside(),
            None => env::Places::outside(step, &workspace, &caches),
        };
        spec.env = env::variables(run, step, work, &workspace, &places, &branch);
        for (name, value) in beside.variables(work.image.is_some()) {
            spec.env.entry(name).or_insert(value);
        }
        spec.labels = [("run", run.id.to_string()), ("step", step.name.to_string())]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        spec.work_dir = WorkDir::Existing(work_dir(&workspace, step, work));
        spec.timeout = Some(step.definition.timeout());
        spec.limits = super::services::limits(&work.limits);
        if !work.secrets.is_empty() {
            let names: Vec<_> = work
                .secrets
                .iter()
                .map(|secret| secret.name.clone())
                .collect();
            let mut values = self.deps.secrets.values(&run.project, &names).await?;
            for secret in &work.secrets {
                let name = &secret.name;
                let value = values.remove(name).ok_or_else(|| {
                    Problem::new(
                        ErrorKind::InvalidInput,
                        "pipeline.secret.missing",
                        format!("secret `{name}` is not set"),
                    )
                    .with_hint(format!("set it with `ondol secret set {name}`"))
                })?;
                match secret.form {
                    SecretForm::Env => {
                        spec.secret_env.insert(name.to_string(), value);
                    }
                    SecretForm::File => {
                        let file = name.as_str().parse().map_err(|error| {
                            Problem::internal(format!("secret `{name}` gives no file name"), error)
                        })?;
                        spec.secret_files.insert(file, value);
                    }
                }
            }
        }
        // A project that names a tracking server of its own is not told about this one, and above
        // all does not get a token for it, which its client would send there.
        let own = |name: &str| spec.env.contains_key(name) || spec.secret_env.contains_key(name);
        if work.tracked && !own("MLFLOW_TRACKING_URI") {
            let tracking = self.deps.tracking.variables(run, step, id);
            for (name, value) in tracking.env {
                spec.env.entry(name).or_insert(value);
            }
            spec.secret_env.extend(tracking.secrets);
        }
        Ok(spec)
    }

    /// The branch that a run's commit is on.
    pub(super) async fn branch_of(&self, run: &Run) -> Result<String, Problem> {
        if let Some(branch) = &run.branch {
            return Ok(branch.clone());
        }
        let default = self.deps.sources.default_branch(&run.project).await?;
        Ok(default.branch().unwrap_or(default.as_str()).to_owned())
    }

    /// Whether the engine knows this attempt although starting it reported an error.
    async fn was_started(&self, step: &Step) -> bool {
        let Some(workload) = &step.workload else {
            return false;
        };
        match self.deps.engine.observe(workload).await {
            Ok(found) => found.is_some_and(|found| found.incarnation == u64::from(step.attempt)),
            // Unknown: leave it claimed, and let the next tick look.
            Err(_) => true,
        }
    }

    async fn launch_failed(&self, step: &Step, problem: &Problem) -> Result<(), PipelineError> {
        let text = explained(problem);
        let meaning = meaning(problem.kind);
        self.change(&step.id, |run, now_step, now| {
            if now_step.state != StepState::Ready || now_step.attempt != step.attempt {
                return Ok(None);
            }
            if let Some(cancel) = &run.cancel {
                let ended = Conclusion::because(StepOutcome::Cancelled, cancel.reason.clone());
                now_step.finish(ended, now)?;
                return Ok(Some(vec![events::step_finished(run, now_step)]));
            }
            if problem.code == super::services::CALLED_OFF {
                let ended = Conclusion::because(StepOutcome::Cancelled, problem.message.clone());
                now_step.finish(ended, now)?;
                return Ok(Some(vec![events::step_finished(run, now_step)]));
            }
            match meaning {
                Meaning::Again if now_step.faults < START_TRIES => {
                    let moment = now.plus(pause(now_step.faults));
                    now_step.again(
                        moment,
                        true,
                        format!("it could not be started, and is tried again: {text}"),
                    )?;
                    return Ok(Some(Vec::new()));
                }
                Meaning::Failure => {
                    now_step.finish(Conclusion::because(StepOutcome::Failure, text.clone()), now)?
                }
                Meaning::Again | Meaning::Error => {
                    let reason = format!("it could not be started: {text}");
                    now_step.finish(Conclusion::because(StepOutcome::Error, reason), now)?;
                }
            }
            Ok(Some(vec![events::step_finished(run, now_step)]))
        })
        .await?;
        Ok(())
    }
}

/// Where a command works.
pub(super) fn work_dir(
    workspace: &Workspace,
    step: &Step,
    work: &CommandWork,
) -> std::path::PathBuf {
    match work.place {
        Place::Source => workspace.source(),
        Place::Copy => workspace.copy(&step.name),
    }
}

/// Runs file work on the threads that are meant for it.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, PipelineError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, PipelineError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => {
            let problem = Problem::internal("file work did not end well", error);
            Err(PipelineError::Elsewhere(problem))
        }
    }
}
