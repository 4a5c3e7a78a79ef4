//! What a pusher sees: the run of the push, step by step, as `remote:` lines.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use ondol_api::Places;
use ondol_auth::Ctx;
use ondol_deploy::{DeployService, RolloutState};
use ondol_git::{PushProgress, Pushed};
use ondol_pipeline::model::{Run, RunOutcome, RunState, StepOutcome, StepState};
use ondol_pipeline::{Pipeline, RunDetail, RunFilter};
use ondol_types::{Clock, EnvironmentName, ProjectName, RunId};
use ondol_workload::{LogPosition, LogQuery};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::actions::remedy;

/// What is asked about a push.
type Rooms = (Pipeline, DeployService, Arc<Places>, Arc<dyn Clock>);

/// Follows the runs of a push. The pipeline is set once it exists: git is built before it.
#[derive(Default)]
pub(in crate::serve) struct RunProgress {
    pipeline: OnceLock<Rooms>,
}

impl RunProgress {
    pub(in crate::serve) fn connect(
        &self,
        pipeline: Pipeline,
        deploy: DeployService,
        places: Arc<Places>,
        clock: Arc<dyn Clock>,
    ) {
        let _ = self.pipeline.set((pipeline, deploy, places, clock));
    }
}

const PATIENCE_FOR_THE_RUN: Duration = Duration::from_secs(20);
const LOG_LINES: u64 = 20;

#[async_trait]
impl PushProgress for RunProgress {
    async fn follow(&self, push: &Pushed) -> BoxStream<'static, String> {
        let Some((pipeline, deploy, places, clock)) = self.pipeline.get().cloned() else {
            return stream::empty().boxed();
        };
        let chains: Vec<String> = push
            .updates
            .iter()
            .filter(|update| update.new.is_some() && update.name.branch().is_some())
            .filter_map(|update| update.chain.clone())
            .collect();
        if chains.is_empty() {
            return stream::empty().boxed();
        }
        let project = push.project.clone();
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(async move {
            let ctx = Ctx::system(clock);
            for chain in chains.into_iter().take(5) {
                let view = View {
                    pipeline: &pipeline,
                    deploy: &deploy,
                    places: &places,
                    ctx: &ctx,
                    project: &project,
                    lines: &sender,
                };
                if view.show(&chain).await.is_none() {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver).boxed()
    }
}

/// One run on its way to one pusher; `None` anywhere means that the pusher left.
struct View<'v> {
    pipeline: &'v Pipeline,
    deploy: &'v DeployService,
    places: &'v Places,
    ctx: &'v Ctx,
    project: &'v ProjectName,
    lines: &'v mpsc::Sender<String>,
}

impl View<'_> {
    async fn say(&self, line: impl Into<String>) -> Option<()> {
        self.lines.send(line.into()).await.ok()
    }

    async fn find(&self, chain: &str) -> Option<Run> {
        let began = std::time::Instant::now();
        let filter = RunFilter {
            project: Some(self.project.clone()),
            ..RunFilter::default()
        };
        while began.elapsed() < PATIENCE_FOR_THE_RUN {
            let page = self
                .pipeline
                .list_runs(self.ctx, &filter, None, 20)
                .await
                .ok()?;
            if let Some(run) = page.runs.into_iter().find(|run| run.chain == chain) {
                return Some(run);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    async fn show(&self, chain: &str) -> Option<()> {
        let Some(run) = self.find(chain).await else {
            return self
                .say("the push is safe; its run has not begun yet: see `ondol runs`")
                .await;
        };
        self.say(format!(
            "run #{}  (Ctrl-C leaves the view, not the run; `ondol run watch` comes back)",
            run.number
        ))
        .await?;
        let mut watch = self.pipeline.watch(self.ctx, &run.id).await.ok()?;
        let mut shown: BTreeMap<String, &'static str> = BTreeMap::new();
        let mut noted = 0;
        loop {
            let detail = self.pipeline.show_run(self.ctx, &run.id).await.ok()?;
            for note in detail.run.notes.iter().skip(noted) {
                self.say(format!("  note: {note}")).await?;
            }
            noted = detail.run.notes.len();
            self.steps(&detail, &mut shown).await?;
            if detail.run.state == RunState::Finished {
                return self.verdict(&detail).await;
            }
            if let Some(waits) = self.waits(&detail).await {
                for line in waits {
                    self.say(line).await?;
                }
                return Some(());
            }
            watch.wait(Duration::from_secs(1)).await;
        }
    }

    /// What is said to a pusher whose rollout waits for a person; the run goes on without them.
    async fn waits(&self, detail: &RunDetail) -> Option<[String; 3]> {
        let step = detail
            .steps
            .iter()
            .find(|step| step.name.as_str() == "deploy" && step.state == StepState::Running)?;
        let key = step.id.to_string();
        let rollout = self.deploy.waits_for_person(self.ctx, &key).await.ok()??;
        if rollout.state != RolloutState::Paused {
            return None;
        }
        Some([
            format!("  paused: rollout {}: {}", rollout.number, rollout.message),
            format!("  {}", remedy(self.project, &rollout.environment)),
            format!(
                "not live yet: run #{} goes on and waits for you",
                detail.run.number
            ),
        ])
    }

    async fn steps(
        &self,
        detail: &RunDetail,
        shown: &mut BTreeMap<String, &'static str>,
    ) -> Option<()> {
        for step in &detail.steps {
            let (word, failed) = match (step.state, step.outcome) {
                (StepState::Running, _) => ("…", false),
                (StepState::Finished, Some(StepOutcome::Success)) => ("✓", false),
                (StepState::Finished, Some(StepOutcome::Skipped)) => ("–", false),
                (StepState::Finished, Some(_)) => ("✗", true),
                _ => continue,
            };
            let name = step.name.to_string();
            if shown.get(&name) == Some(&word) {
                continue;
            }
            shown.insert(name.clone(), word);
            let took = match (step.started_at, step.finished_at) {
                (Some(from), Some(to)) => format!("  {:.1} s", to.since(from).as_secs_f64()),
                _ => String::new(),
            };
            let reason = step
                .reason
                .as_ref()
                .map(|reason| format!("  {reason}"))
                .unwrap_or_default();
            self.say(format!("  {word} {name}{took}{reason}")).await?;
            if failed {
                self.last_lines(detail.run.id, &step.name).await?;
            }
        }
        Some(())
    }

    /// The end of a failed step's log, where the cause usually stands.
    async fn last_lines(&self, run: RunId, step: &ondol_types::StepName) -> Option<()> {
        let query = LogQuery {
            from: LogPosition::Tail(LOG_LINES),
            follow: false,
            limit: Some(LOG_LINES),
        };
        let Ok(mut lines) = self.pipeline.logs(self.ctx, &run, step, query).await else {
            return Some(());
        };
        while let Some(Ok(line)) = lines.next().await {
            self.say(format!("    │ {}", line.text)).await?;
        }
        Some(())
    }

    async fn verdict(&self, detail: &RunDetail) -> Option<()> {
        let run = &detail.run;
        let took = match (run.started_at, run.finished_at) {
            (Some(from), Some(to)) => format!(" in {:.1} s", to.since(from).as_secs_f64()),
            _ => String::new(),
        };
        let reason = run
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        let deployed = detail
            .steps
            .iter()
            .find(|step| step.name.as_str() == "deploy");
        let why = deployed.and_then(|step| step.reason.clone());
        let environment = deployed
            .and_then(|step| step.outputs.as_ref()?["environment"].as_str()?.parse().ok())
            .unwrap_or_else(EnvironmentName::production);
        let deployed = deployed.and_then(|step| step.outcome);
        let line = match (run.outcome?, deployed) {
            (RunOutcome::Success, Some(StepOutcome::Success)) => {
                format!(
                    "live at {}  (run #{}{took})",
                    self.places.environment(self.project, &environment),
                    run.number
                )
            }
            (RunOutcome::Success, Some(_)) => format!(
                "run #{} passed{took}; not deployed: {}",
                run.number,
                why.unwrap_or_else(|| "see the note above".to_owned())
            ),
            (RunOutcome::Success, None) if run.trigger.is_production() => {
                format!(
                    "run #{} passed{took}; there is no service to deploy",
                    run.number
                )
            }
            (RunOutcome::Success, None) => format!(
                "run #{} passed{took}; only the default branch is deployed",
                run.number
            ),
            (outcome, _) => format!("run #{} {outcome}{took}{reason}", run.number),
        };
        self.say(line).await
    }
}
