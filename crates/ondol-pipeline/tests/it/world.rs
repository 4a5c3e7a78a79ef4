//! Everything around the pipeline: repositories, specifications, actions, and the turning of
//! its loops.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use ondol_auth::Ctx;
use ondol_pipeline::model::{DataRef, RunState, StepOutcome};
use ondol_pipeline::plan::TrainingState;
use ondol_pipeline::{
    Action, ActionCtx, ActionOutcome, AutoTraining, Config, Deps, MIGRATIONS, Pipeline,
    ResolvedSpec, RunDetail, RunFilter, Sources, Specs, StepArguments, StepSecrets, StepTracking,
    TrackingVariables, Training,
};
use ondol_store::blobs::Blobs;
use ondol_store::events::{Event, EventFilter, NewEvent};
use ondol_store::testing::TestStore;
use ondol_store::{ProjectHold, Store, StoreError};
use ondol_types::event::{self, DatasetCommitted, PushReceived};
use ondol_types::{
    CommitId, CrashPoints, DatasetName, ErrorKind, ModelName, NoCrash, Problem, ProjectName,
    RefName, RunId, Secret, SecretName, SystemClock,
};
use ondol_workload::{Engine, LogQuery};
use serde_json::{Value, json};

use crate::engine::ShellEngine;

pub(crate) fn name<T: std::str::FromStr>(text: &str) -> T
where
    T::Err: std::fmt::Debug,
{
    text.parse().unwrap()
}

pub(crate) fn commit(text: char) -> CommitId {
    name(&text.to_string().repeat(40))
}

/// What an action is to do.
pub(crate) type Script = Arc<dyn Fn(&ActionCtx) -> Result<ActionOutcome, Problem> + Send + Sync>;

/// What the outside does and has seen; it outlives every pipeline.
#[derive(Default)]
pub(crate) struct Outside {
    /// `ondol.yaml` by commit, as JSON.
    pub(crate) specs: BTreeMap<CommitId, Value>,
    pub(crate) head: Option<CommitId>,
    pub(crate) training: TrainingState,
    pub(crate) secrets: BTreeMap<SecretName, Secret>,
    pub(crate) scripts: BTreeMap<&'static str, Script>,
    /// Actions that wait until they are told to stop.
    pub(crate) waits: BTreeSet<&'static str>,
    /// Every carrying out of an action, by name.
    pub(crate) acted: Vec<String>,
    /// Effects of actions by step, as an idempotent store of another room would hold them.
    pub(crate) effects: BTreeSet<String>,
}

#[derive(Clone)]
pub(crate) struct Ports(pub(crate) Arc<Mutex<Outside>>);

#[async_trait]
impl Sources for Ports {
    async fn head(&self, _: &ProjectName) -> Result<Option<CommitId>, Problem> {
        Ok(self.0.lock().unwrap().head.clone())
    }

    async fn default_branch(&self, _: &ProjectName) -> Result<RefName, Problem> {
        Ok(name("refs/heads/main"))
    }

    async fn checkout(
        &self,
        _: &ProjectName,
        commit: &CommitId,
        dest: &Path,
    ) -> Result<(), Problem> {
        assert!(
            std::fs::read_dir(dest).unwrap().next().is_none(),
            "the folder is empty"
        );
        std::fs::write(dest.join("commit"), commit.as_str()).unwrap();
        Ok(())
    }
}

#[async_trait]
impl Specs for Ports {
    async fn resolve(&self, _: &ProjectName, source: &Path) -> Result<ResolvedSpec, Problem> {
        let commit: CommitId = name(&std::fs::read_to_string(source.join("commit")).unwrap());
        let value = self.0.lock().unwrap().specs.get(&commit).cloned();
        let value = value
            .ok_or_else(|| Problem::new(ErrorKind::NotFound, "test.commit", "no such commit"))?;
        let spec = serde_json::from_value(value).map_err(|error| {
            Problem::new(
                ErrorKind::InvalidInput,
                "spec.invalid",
                format!("ondol.yaml:3: {error}"),
            )
        })?;
        Ok(ResolvedSpec {
            spec,
            explain: json!({ "from": "test" }),
            notes: Vec::new(),
        })
    }
}

#[async_trait]
impl Training for Ports {
    async fn state(
        &self,
        _: &ProjectName,
        _: Option<&DatasetName>,
        _: &ModelName,
    ) -> Result<TrainingState, Problem> {
        Ok(self.0.lock().unwrap().training.clone())
    }
}

#[async_trait]
impl StepSecrets for Ports {
    async fn values(
        &self,
        _: &ProjectName,
        names: &[SecretName],
    ) -> Result<BTreeMap<SecretName, Secret>, Problem> {
        let mut values = self.0.lock().unwrap().secrets.clone();
        values.retain(|name, _| names.contains(name));
        Ok(values)
    }
}

impl StepTracking for Ports {
    fn variables(
        &self,
        run: &ondol_pipeline::model::Run,
        step: &ondol_pipeline::model::Step,
        _: ondol_types::WorkloadId,
    ) -> TrackingVariables {
        let uri = format!("http://tracking/{}", run.project);
        let token = Secret::new(format!("token-of-{}", step.name));
        TrackingVariables {
            env: BTreeMap::from([("MLFLOW_TRACKING_URI".to_owned(), uri)]),
            secrets: BTreeMap::from([("MLFLOW_TRACKING_TOKEN".to_owned(), token)]),
        }
    }
}

impl StepArguments for Ports {
    fn train_auto(&self, training: &AutoTraining<'_>) -> Vec<String> {
        let script = format!(
            "cat {}/* > {}/model && echo '{{\"accuracy\": 1}}' > {}",
            training.data.display(),
            training.output.display(),
            training.metrics.display()
        );
        vec!["/bin/sh".into(), "-ec".into(), script]
    }
}

struct Scripted(&'static str, Arc<Mutex<Outside>>);

#[async_trait]
impl Action for Scripted {
    async fn run(&self, ctx: &ActionCtx) -> Result<ActionOutcome, Problem> {
        let script = {
            let mut outside = self.1.lock().unwrap();
            outside.acted.push(self.0.to_owned());
            outside.effects.insert(ctx.step.id.to_string());
            outside.scripts.get(self.0).cloned()
        };
        ctx.log.line(format!("{} of {}", self.0, ctx.run.project));
        let waits = self.1.lock().unwrap().waits.contains(self.0);
        if waits {
            ctx.cancel.cancelled().await;
            return Err(Problem::new(
                ErrorKind::Cancelled,
                "test.cancelled",
                "stopped waiting",
            ));
        }
        match script {
            Some(script) => script(ctx),
            None => Ok(ActionOutcome::Success(json!({ "by": self.0 }))),
        }
    }
}

pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) store: Store,
    pub(crate) engine: Arc<ShellEngine>,
    pub(crate) outside: Arc<Mutex<Outside>>,
    pub(crate) root: PathBuf,
    pub(crate) pipeline: Pipeline,
    pub(crate) ctx: Ctx,
    /// What runs steps instead of `engine`.
    other: Option<Arc<dyn Engine>>,
    _backend: TestStore,
}

/// A world on each database.
pub(crate) async fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for backend in ondol_store::testing::backends(MIGRATIONS).await {
        let root = backend.dir.path().to_owned();
        let engine = ShellEngine::new();
        let outside: Arc<Mutex<Outside>> = Arc::default();
        let store = backend.store.clone();
        let shell: Arc<dyn Engine> = engine.clone();
        let pipeline = build(&store, &shell, &outside, &root, Arc::new(NoCrash), |_| {});
        worlds.push(World {
            name: backend.name,
            store,
            engine,
            outside,
            root,
            pipeline,
            ctx: Ctx::system(Arc::new(SystemClock)),
            other: None,
            _backend: backend,
        });
    }
    worlds
}

fn build(
    store: &Store,
    engine: &Arc<dyn Engine>,
    outside: &Arc<Mutex<Outside>>,
    root: &Path,
    crash: Arc<dyn CrashPoints>,
    adjust: impl FnOnce(&mut Config),
) -> Pipeline {
    let ports = Arc::new(Ports(outside.clone()));
    let mut config = Config::new(
        root.join("workloads"),
        root.join("cache"),
        root.join("logs"),
        4,
    );
    adjust(&mut config);
    let mut actions: BTreeMap<&'static str, Arc<dyn Action>> = BTreeMap::new();
    for name in ["validate", "evaluate", "image", "deploy"] {
        actions.insert(name, Arc::new(Scripted(name, outside.clone())));
    }
    let deps = Deps {
        store: store.clone(),
        blobs: Blobs::open(&root.join("blobs")).unwrap(),
        engine: engine.clone(),
        clock: Arc::new(SystemClock),
        crash,
        sources: ports.clone(),
        specs: ports.clone(),
        training: ports.clone(),
        secrets: ports.clone(),
        tracking: ports.clone(),
        arguments: ports,
        actions,
    };
    Pipeline::new(config, deps)
}

impl World {
    /// A fresh process of the control plane over the same world.
    pub(crate) async fn restart(&mut self, crash: Arc<dyn CrashPoints>) {
        self.pipeline.stop().await;
        self.pipeline = build(
            &self.store,
            &self.runs_with(),
            &self.outside,
            &self.root,
            crash,
            |_| {},
        );
    }

    fn runs_with(&self) -> Arc<dyn Engine> {
        match &self.other {
            Some(other) => other.clone(),
            None => self.engine.clone(),
        }
    }

    /// A fresh process of the control plane whose steps another engine runs.
    pub(crate) async fn use_engine(&mut self, engine: Arc<dyn Engine>) {
        self.other = Some(engine);
        self.restart(Arc::new(NoCrash)).await;
    }

    /// The same with other settings.
    pub(crate) async fn reconfigure(&mut self, adjust: impl FnOnce(&mut Config)) {
        self.reconfigure_with(Arc::new(NoCrash), adjust).await;
    }

    /// The same with places to die at.
    pub(crate) async fn reconfigure_with(
        &mut self,
        crash: Arc<dyn CrashPoints>,
        adjust: impl FnOnce(&mut Config),
    ) {
        self.pipeline.stop().await;
        self.pipeline = build(
            &self.store,
            &self.runs_with(),
            &self.outside,
            &self.root,
            crash,
            adjust,
        );
    }

    pub(crate) fn spec(&self, at: char, spec: Value) {
        let mut outside = self.outside.lock().unwrap();
        outside.specs.insert(commit(at), spec);
        outside.head = Some(commit(at));
    }

    pub(crate) fn script(
        &self,
        action: &'static str,
        script: impl Fn(&ActionCtx) -> Result<ActionOutcome, Problem> + Send + Sync + 'static,
    ) {
        self.outside
            .lock()
            .unwrap()
            .scripts
            .insert(action, Arc::new(script));
    }

    async fn append(&self, event: NewEvent) {
        self.store
            .write::<_, StoreError, _>(|tx| {
                let event = event.clone();
                Box::pin(async move { tx.append(event).await })
            })
            .await
            .unwrap();
    }

    pub(crate) async fn push_to(&self, project: &str, branch: &str, new: Option<char>) {
        let project: ProjectName = name(project);
        let content = PushReceived {
            project: project.clone(),
            ref_name: RefName::of_branch(branch).unwrap(),
            old: None,
            new: new.map(commit),
            default_branch: branch == "main",
            pusher: "ann".into(),
        };
        self.append(
            NewEvent::new(event::PUSH_RECEIVED, &project)
                .content(content)
                .project(&project),
        )
        .await;
    }

    pub(crate) async fn push(&self, at: char) {
        self.push_to("web", "main", Some(at)).await;
    }

    pub(crate) async fn data(&self, dataset: &str, number: i64) {
        let data = data_ref(dataset, number);
        let content = DatasetCommitted {
            project: name("web"),
            dataset: data.dataset.clone(),
            version: data.version.clone(),
            number,
            parent: None,
            author: "bob".into(),
            message: "more rows".into(),
        };
        self.outside.lock().unwrap().training.newest = Some(data);
        let project: ProjectName = name("web");
        self.append(
            NewEvent::new(event::DATASET_COMMITTED, dataset)
                .content(content)
                .project(&project),
        )
        .await;
    }

    /// Deletes a project as the room that knows projects does: the event, and the name held.
    pub(crate) async fn delete_project(&self, project: &str) -> ProjectHold {
        let project: &ProjectName = &name(project);
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let deleted = NewEvent::new(event::REPOSITORY_DELETED, project);
                    let (_, seq) = tx.append(deleted.project(project)).await?;
                    tx.hold_project(project, seq, "bob").await?;
                    Ok(tx.project_hold(project).await?.unwrap())
                })
            })
            .await
            .unwrap()
    }

    /// Gives the name of a deleted project back.
    pub(crate) async fn release_project(&self, hold: &ProjectHold) {
        self.store
            .write::<_, StoreError, _>(|tx| Box::pin(tx.release_project(hold)))
            .await
            .unwrap();
    }

    /// One tick of the loops but retention; true when there is more to do at once.
    pub(crate) async fn tick(&self) -> bool {
        let mut more = false;
        for (reconciler, _) in &self.pipeline.reconcilers()[..2] {
            more |= reconciler.tick().await.unwrap().more;
        }
        more
    }

    pub(crate) async fn prune(&self) -> u64 {
        self.pipeline.reconcilers()[2]
            .0
            .tick()
            .await
            .unwrap()
            .changed
    }

    /// Turns the loops until something holds.
    pub(crate) async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let began = std::time::Instant::now();
        // The log is read first, so that what was just pushed is known.
        self.tick().await;
        while !holds().await {
            assert!(
                began.elapsed() < Duration::from_secs(60),
                "{}: still not: {what}",
                self.name
            );
            if !self.tick().await {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        }
    }

    pub(crate) async fn runs(&self) -> Vec<ondol_pipeline::model::Run> {
        let mut page = self
            .pipeline
            .list_runs(&self.ctx, &RunFilter::default(), None, 200)
            .await
            .unwrap();
        page.runs.reverse();
        page.runs
    }

    /// Turns the loops until every run has finished and its workspace is gone.
    pub(crate) async fn settle(&self) {
        self.until("all runs finished", async || {
            let runs = self.runs().await;
            let clean = self.dirty().await == 0;
            !runs.is_empty() && clean && runs.iter().all(|run| run.state == RunState::Finished)
        })
        .await;
    }

    /// How many workspaces are not known to be gone.
    async fn dirty(&self) -> i64 {
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let sql = "SELECT COUNT(*) AS n FROM run WHERE dirty = 1";
                    tx.fetch_one(sql, ondol_store::params![]).await?.get("n")
                })
            })
            .await
            .unwrap()
    }

    pub(crate) async fn show(&self, id: &RunId) -> RunDetail {
        self.pipeline.show_run(&self.ctx, id).await.unwrap()
    }

    /// The newest run with everything in it.
    pub(crate) async fn newest(&self) -> RunDetail {
        let runs = self.runs().await;
        self.show(&runs.last().unwrap().id).await
    }

    pub(crate) async fn log(&self, detail: &RunDetail, step: &str) -> String {
        let stream = self
            .pipeline
            .logs(&self.ctx, &detail.run.id, &name(step), LogQuery::default())
            .await
            .unwrap();
        let lines: Vec<_> = stream.collect().await;
        lines
            .into_iter()
            .map(|line| line.unwrap().text)
            .collect::<Vec<_>>()
            .join("\n")
    }

    pub(crate) async fn events(&self, prefix: &str) -> Vec<Event> {
        let filter = EventFilter {
            type_prefix: Some(prefix.to_owned()),
            ..EventFilter::default()
        };
        let filter = &filter;
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move { tx.events_after(0, filter, 1_000).await })
            })
            .await
            .unwrap()
    }
}

pub(crate) fn data_ref(dataset: &str, number: i64) -> DataRef {
    DataRef {
        dataset: name(dataset),
        version: name(&format!("blake3:{number:064}")),
        number,
    }
}

/// `name:outcome` of every step.
pub(crate) fn outcomes(detail: &RunDetail) -> Vec<String> {
    let word = |outcome: Option<StepOutcome>| {
        outcome.map_or("-".to_owned(), |outcome| outcome.to_string())
    };
    detail
        .steps
        .iter()
        .map(|step| format!("{}:{}", step.name, word(step.outcome)))
        .collect()
}

pub(crate) fn service(test: &str) -> Value {
    json!({ "test": { "run": test }, "service": { "run": "python app.py" } })
}
