//! What every part of this room shares.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ondol_background::Activator;
use ondol_store::Store;
use ondol_types::{Clock, CrashPoints, Digest, EnvironmentName, ProjectName, ReplicaId, Timestamp};
use ondol_workload::Engine;

use crate::execute::probe::{Ask, OverHttp};
use crate::model::Probes;
use crate::plan::{Limits, Offer};
use crate::ports::{Images, Models, Routes, SecretValues};
use crate::store::ReleaseCache;

/// What may be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where images and models are unpacked; may be deleted while nothing runs.
    pub cache: PathBuf,
    /// Where volumes live.
    pub volumes: PathBuf,
    /// Host names that no project may claim: those of the installation itself.
    pub reserved_hosts: Vec<String>,
    /// How many releases of an environment are kept at least, besides those in use.
    pub keep_releases: u32,
    /// How many ended rollouts of an environment are kept.
    pub keep_rollouts: u32,
    /// How long the logs of stopped replicas and release commands are kept.
    pub keep_logs: Duration,
    /// How many stopped replicas of an environment are kept at most.
    pub keep_replicas: u32,
    /// The most replicas that start or stop at one time.
    pub concurrency: usize,
    /// The most environments of branches that a project has at one time.
    pub max_previews: u32,
    /// How long a promoted model version waits for the rollout of the run that trained it.
    pub model_patience: Duration,
    /// Which engines there are.
    pub engines: Offer,
}

impl Config {
    /// The defaults, below a data directory.
    pub fn new(cache: PathBuf, volumes: PathBuf) -> Self {
        Self {
            cache,
            volumes,
            reserved_hosts: Vec::new(),
            keep_releases: 20,
            keep_rollouts: 100,
            keep_logs: Duration::from_secs(24 * 60 * 60),
            keep_replicas: 50,
            concurrency: 16,
            max_previews: 20,
            model_patience: Duration::from_secs(10),
            engines: Offer::default(),
        }
    }
}

/// What this room is given.
#[derive(Clone)]
pub struct Deps {
    /// The database.
    pub store: Store,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where tests may kill the process.
    pub crash: Arc<dyn CrashPoints>,
    /// What runs replicas and release commands.
    pub engine: Arc<dyn Engine>,
    /// Images.
    pub images: Arc<dyn Images>,
    /// Models.
    pub models: Arc<dyn Models>,
    /// Secrets.
    pub secrets: Arc<dyn SecretValues>,
    /// The data plane.
    pub routes: Arc<dyn Routes>,
}

/// One traffic reading with its time.
pub(crate) type Reading = (
    Timestamp,
    crate::routes::Counters,
    BTreeMap<ReplicaId, ondol_workload::Usage>,
);

pub(crate) struct Room {
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) crash: Arc<dyn CrashPoints>,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) models: Arc<dyn Models>,
    pub(crate) secrets: Arc<dyn SecretValues>,
    pub(crate) routes: Arc<dyn Routes>,
    pub(crate) ask: Arc<dyn Ask>,
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) boot: Timestamp,
    pub(crate) releases: ReleaseCache,
    pub(crate) probes: Mutex<BTreeMap<ReplicaId, Probes>>,
    pub(crate) readings: Mutex<std::collections::VecDeque<Reading>>,
    /// Starters read, the collector of unpacked images writes.
    pub(crate) unpacked: tokio::sync::RwLock<()>,
    unpacking: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    pub(crate) environments: Activator,
    pub(crate) route: Activator,
}

impl Room {
    pub(crate) fn new(deps: Deps, config: Config) -> Self {
        let boot = deps.clock.now();
        Self {
            store: deps.store,
            clock: deps.clock,
            crash: deps.crash,
            engine: deps.engine,
            images: deps.images,
            models: deps.models,
            secrets: deps.secrets,
            routes: deps.routes,
            ask: Arc::new(OverHttp),
            config,
            limits: Limits::default(),
            boot,
            releases: ReleaseCache::default(),
            probes: Mutex::default(),
            readings: Mutex::default(),
            unpacked: tokio::sync::RwLock::default(),
            unpacking: Mutex::default(),
            environments: Activator::new(),
            route: Activator::new(),
        }
    }

    pub(crate) fn wake_environments(&self) {
        self.environments.wake();
    }

    pub(crate) fn wake_routes(&self) {
        self.route.wake();
    }

    pub(crate) fn probes(&self) -> std::sync::MutexGuard<'_, BTreeMap<ReplicaId, Probes>> {
        self.probes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the files of an image stand.
    pub(crate) fn image_dir(&self, image: &Digest) -> PathBuf {
        self.config.cache.join("images").join(format!(
            "{}-{}",
            image.algorithm().name(),
            image.hex()
        ))
    }

    /// Where the files of a model version stand.
    pub(crate) fn model_dir(
        &self,
        project: &ProjectName,
        model: &crate::model::ModelRef,
    ) -> PathBuf {
        let models = self.config.cache.join("models").join(project.as_str());
        models
            .join(model.name.as_str())
            .join(model.version.to_string())
    }

    /// Where a volume lives. Other environments than production have their own: neither name has a dot.
    pub(crate) fn volume_dir(
        &self,
        project: &ProjectName,
        environment: &EnvironmentName,
        name: &str,
    ) -> PathBuf {
        self.volumes_dir(project, environment).join(name)
    }

    /// Where all volumes of an environment live.
    pub(crate) fn volumes_dir(
        &self,
        project: &ProjectName,
        environment: &EnvironmentName,
    ) -> PathBuf {
        let place = if *environment == EnvironmentName::production() {
            project.to_string()
        } else {
            format!("{project}.{environment}")
        };
        self.config.volumes.join(place)
    }

    /// One at a time per directory. Locks that nobody holds are forgotten.
    pub(crate) fn unpacking(&self, dir: &std::path::Path) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self
            .unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, lock| Arc::strong_count(lock) > 1);
        all.entry(dir.to_owned()).or_default().clone()
    }
}
