#![doc = include_str!("../README.md")]

mod artifacts;
mod error;
mod events;
mod follow;
mod forget;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod junit;
mod log;
mod logs;
pub mod model;
pub mod plan;
pub mod ports;
mod prune;
mod schedule;
mod service;
mod store;
mod workspace;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ondol_background::{Activator, Reconciler};
use ondol_store::Store;
use ondol_store::blobs::Blobs;
use ondol_types::{Clock, CrashPoints, LeaseId, ProjectName, RunId};
use ondol_workload::Engine;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

pub use error::PipelineError;
pub use log::ActionLog;
pub use logs::LogStream;
pub use ports::{
    Action, ActionCtx, ActionOutcome, Actions, AutoTraining, ResolvedSpec, Sources, Specs,
    StepArguments, StepSecrets, StepTracking, TrackingVariables, Training,
};
pub use service::{RunDetail, RunFilter, RunPage, RunWatch};
pub use store::MIGRATIONS;
pub use workspace::Workspace;

use schedule::Tasks;

/// Every named place at which a test may end the process, in the order of a run.
pub const CRASH_POINTS: &[&str] = &[
    "pipeline.follow.before-commit",
    "pipeline.follow.after-commit",
    "pipeline.run.before-start",
    "pipeline.run.after-start",
    "pipeline.step.before-claim",
    "pipeline.step.after-claim",
    "pipeline.step.after-prepare",
    "pipeline.step.services-started",
    "pipeline.step.after-start",
    "pipeline.step.after-record",
    "pipeline.step.before-finish",
    "pipeline.step.after-finish",
    "pipeline.action.after-claim",
    "pipeline.action.after-run",
    "pipeline.action.after-finish",
    "pipeline.checkout.after-source",
    "pipeline.checkout.before-graph",
    "pipeline.checkout.after-graph",
    "pipeline.run.before-finish",
    "pipeline.run.after-finish",
    "pipeline.run.after-clean",
    "pipeline.prune.after-files",
    "pipeline.forget.after-runs",
];

/// Settings of the pipeline.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the runs' workspaces, each `run-<id>`. On the same file system as `cache`.
    pub workspaces: PathBuf,
    /// Folder of what is kept between runs; it may be deleted while nothing runs.
    pub cache: PathBuf,
    /// Folder of the logs of actions.
    pub logs: PathBuf,
    /// Address under which people reach the installation, for links in events.
    pub public_url: Option<String>,
    /// How many steps work at the same time, over all projects. Default: the number of cores.
    pub max_steps: usize,
    /// How many runs are worked off at the same time.
    pub max_runs: usize,
    /// Whether a push also cancels the running run of its branch, not only queued ones.
    pub cancel_running: bool,
    /// How many runs of each project are kept.
    pub keep_runs: u32,
    /// How long finished runs are kept.
    pub keep_age: Duration,
    /// How many bytes the caches of one project may have.
    pub cache_max_bytes: u64,
    /// How many files one step may leave behind.
    pub artifact_files: usize,
    /// How many bytes they may have together.
    pub artifact_bytes: u64,
    /// How long an action may be silent before its holder counts as dead.
    pub lease: Duration,
    /// The longest sleep of the loops that are woken by signals.
    pub period: Duration,
}

impl Config {
    /// Defaults, with all folders below those given and one place per core.
    pub fn new(workspaces: PathBuf, cache: PathBuf, logs: PathBuf, cores: usize) -> Self {
        Self {
            workspaces,
            cache,
            logs,
            public_url: None,
            max_steps: cores.max(1),
            max_runs: 32,
            cancel_running: false,
            keep_runs: 500,
            keep_age: Duration::from_secs(90 * 86_400),
            cache_max_bytes: 4 << 30,
            artifact_files: 2_000,
            artifact_bytes: 2 << 30,
            lease: Duration::from_secs(30),
            period: Duration::from_secs(5),
        }
    }
}

/// What the pipeline works with.
pub struct Deps {
    /// The database and event log.
    pub store: Store,
    /// Where artifacts are kept.
    pub blobs: Blobs,
    /// What runs commands.
    pub engine: Arc<dyn Engine>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Named places at which a test may end the process.
    pub crash: Arc<dyn CrashPoints>,
    /// Where code comes from.
    pub sources: Arc<dyn Sources>,
    /// How specifications are read.
    pub specs: Arc<dyn Specs>,
    /// What is known about data and models.
    pub training: Arc<dyn Training>,
    /// Values of secrets.
    pub secrets: Arc<dyn StepSecrets>,
    /// Where steps log what they train.
    pub tracking: Arc<dyn StepTracking>,
    /// Command lines of built-in programs.
    pub arguments: Arc<dyn StepArguments>,
    /// `validate`, `evaluate`, `image`, `deploy`.
    pub actions: Actions,
}

/// Counters since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Runs that have finished.
    pub runs_finished: u64,
    /// Steps that have finished.
    pub steps_finished: u64,
    /// Runs that retention has deleted.
    pub runs_pruned: u64,
    /// Bytes of caches that were deleted.
    pub cache_bytes_freed: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub(crate) runs_finished: AtomicU64,
    pub(crate) steps_finished: AtomicU64,
    pub(crate) runs_pruned: AtomicU64,
    pub(crate) cache_bytes_freed: AtomicU64,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) deps: Deps,
    /// Names this process as the holder of actions.
    pub(crate) holder: String,
    pub(crate) changes: broadcast::Sender<RunId>,
    pub(crate) tasks: Tasks,
    pub(crate) counters: Counters,
    pub(crate) following: Activator,
    pub(crate) scheduling: Activator,
    pub(crate) pruning: Activator,
    /// Projects whose caches were used since they were last measured.
    pub(crate) trim_due: Mutex<BTreeSet<ProjectName>>,
}

impl Inner {
    pub(crate) fn reached(&self, point: &'static str) {
        self.deps.crash.reached(point);
    }

    /// Tells watchers and the scheduler that a run has changed.
    pub(crate) fn changed(&self, run: RunId) {
        // Nobody may be watching; that is no error.
        let _ = self.changes.send(run);
        self.scheduling.wake();
    }

    pub(crate) fn base(&self) -> Option<&str> {
        self.config.public_url.as_deref()
    }

    pub(crate) fn workspace(&self, run: &RunId) -> Workspace {
        Workspace::of(&self.config.workspaces, run)
    }

    pub(crate) fn action_log(&self, run: &RunId, step: &ondol_types::StepName) -> PathBuf {
        self.config
            .logs
            .join(run.to_string())
            .join(format!("{step}.log"))
    }
}

/// The room. Cheap to clone.
#[derive(Clone)]
pub struct Pipeline(pub(crate) Arc<Inner>);

impl Pipeline {
    /// Makes the room; nothing runs until the root spawns [`Pipeline::reconcilers`] and
    /// [`Pipeline::listen`].
    pub fn new(config: Config, deps: Deps) -> Self {
        let holder = LeaseId::generate(&*deps.clock).to_string();
        let (changes, _) = broadcast::channel(256);
        Self(Arc::new(Inner {
            config,
            deps,
            holder,
            changes,
            tasks: Tasks::default(),
            counters: Counters::default(),
            following: Activator::new(),
            scheduling: Activator::new(),
            pruning: Activator::new(),
            trim_due: Mutex::default(),
        }))
    }

    /// The loops of this room with what wakes them.
    pub fn reconcilers(&self) -> Vec<(Arc<dyn Reconciler>, Activator)> {
        let inner = &self.0;
        vec![
            (
                Arc::new(follow::Follower(inner.clone(), Default::default())),
                inner.following.clone(),
            ),
            (
                Arc::new(schedule::Scheduler(inner.clone())),
                inner.scheduling.clone(),
            ),
            (
                Arc::new(prune::Pruner::new(inner.clone())),
                inner.pruning.clone(),
            ),
        ]
    }

    /// Wakes the loops when events were appended or workloads have changed. Ends with `stop`.
    pub async fn listen(&self, stop: CancellationToken) {
        let inner = &self.0;
        let mut appended = inner.deps.store.appended();
        let mut workloads = inner.deps.engine.changes();
        let (mut log_open, mut engine_open) = (true, true);
        while log_open || engine_open {
            tokio::select! {
                () = stop.cancelled() => return,
                change = appended.changed(), if log_open => match change {
                    Ok(()) => inner.following.wake(),
                    Err(_) => log_open = false,
                },
                change = workloads.changed(), if engine_open => match change {
                    Ok(()) => inner.scheduling.wake(),
                    Err(_) => engine_open = false,
                },
            }
        }
    }

    /// Ends the tasks of this process. Workloads go on; actions are repeated by the next process.
    pub async fn stop(&self) {
        self.0.tasks.abort().await;
    }

    /// The place in the event log that this room has passed for good.
    ///
    /// # Errors
    /// [`PipelineError::Store`].
    pub async fn followed(&self) -> Result<i64, PipelineError> {
        let store = &self.0.deps.store;
        store
            .read::<_, PipelineError, _>(|tx| Box::pin(async move { Ok(store::cursor(tx).await?) }))
            .await
    }

    /// Counters since the start of the process.
    pub fn metrics(&self) -> Metrics {
        let counters = &self.0.counters;
        Metrics {
            runs_finished: counters.runs_finished.load(Ordering::Relaxed),
            steps_finished: counters.steps_finished.load(Ordering::Relaxed),
            runs_pruned: counters.runs_pruned.load(Ordering::Relaxed),
            cache_bytes_freed: counters.cache_bytes_freed.load(Ordering::Relaxed),
        }
    }
}
