//! The operations on projects.

mod deletion;
mod projects;
mod pushes;
mod reading;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ondol_auth::Authenticator;
use ondol_background::Activator;
use ondol_store::Store;
use ondol_types::{Clock, CrashPoints, OperationId, ProjectName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Config;
use crate::error::GitError;
use crate::hook::PushProgress;
use crate::repository::Repositories;

pub use deletion::Deletion;
pub(crate) use pushes::PushPhase;

/// What this room needs from the others.
pub struct Deps {
    /// The database.
    pub store: Store,
    /// Who asks.
    pub auth: Authenticator,
    /// Shows what a push started.
    pub progress: Arc<dyn PushProgress>,
    /// Where tests may kill the process.
    pub crash: Arc<dyn CrashPoints>,
}

/// A push whose git process runs now.
pub(crate) struct ActivePush {
    pub(crate) pusher: String,
    pub(crate) options: Vec<String>,
    /// Given back when the refs have moved, because following progress needs no slot.
    pub(crate) permit: Option<OwnedSemaphorePermit>,
    pub(crate) phase: PushPhase,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) store: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) auth: Authenticator,
    pub(crate) progress: Arc<dyn PushProgress>,
    pub(crate) crash: Arc<dyn CrashPoints>,
    pub(crate) repositories: Repositories,
    pub(crate) fetches: Arc<Semaphore>,
    pub(crate) pushes: Arc<Semaphore>,
    pub(crate) refs_activator: Activator,
    pub(crate) deletions: Activator,
    /// What remains of projects that are being deleted, as the last look found it.
    remains: Mutex<BTreeMap<ProjectName, Vec<String>>>,
    pub(crate) active: Mutex<HashMap<OperationId, ActivePush>>,
    /// Repositories that were looked through for what a killed git left.
    prepared: Mutex<HashSet<ProjectName>>,
    /// Making and deleting repositories.
    lifecycle: tokio::sync::Mutex<()>,
    /// Comparing refs of one project happens one after the other, so that an old observation is
    /// never recorded after a newer one.
    comparing: Mutex<HashMap<ProjectName, Arc<tokio::sync::Mutex<()>>>>,
}

/// The repositories of this installation. Cheap to clone.
#[derive(Clone)]
pub struct Git(pub(crate) Arc<Inner>);

impl Git {
    /// Opens the repositories below `config.root` and checks that git can be used.
    ///
    /// # Errors
    /// [`GitError::NoGit`], or [`GitError::Io`] when the folders cannot be made.
    pub async fn open(mut config: Config, deps: Deps) -> Result<Self, GitError> {
        config.run = std::path::absolute(&config.run).map_err(GitError::io("find", &config.run))?;
        let repositories = Repositories::open(
            &config.root,
            &config.git_program,
            &config.path,
            &config.hook_program,
        )
        .await?;
        Ok(Self(Arc::new(Inner {
            repositories,
            clock: deps.store.clock().clone(),
            store: deps.store,
            auth: deps.auth,
            progress: deps.progress,
            crash: deps.crash,
            fetches: Arc::new(Semaphore::new(config.limits.fetches)),
            pushes: Arc::new(Semaphore::new(config.limits.pushes)),
            config,
            refs_activator: Activator::new(),
            deletions: Activator::new(),
            remains: Mutex::default(),
            active: Mutex::default(),
            prepared: Mutex::default(),
            lifecycle: tokio::sync::Mutex::new(()),
            comparing: Mutex::default(),
        })))
    }

    /// Wakes [`RefsReconciler`](crate::RefsReconciler).
    pub fn activator(&self) -> Activator {
        self.0.refs_activator.clone()
    }

    /// Wakes [`DeletionReconciler`](crate::DeletionReconciler).
    pub fn deletions(&self) -> Activator {
        self.0.deletions.clone()
    }

    pub(crate) fn active(&self) -> MutexGuard<'_, HashMap<OperationId, ActivePush>> {
        self.0.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn comparing(&self, project: &ProjectName) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self
            .0
            .comparing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Locks that nobody holds or waits for need not be kept.
        if all.len() > 1_024 {
            all.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        all.entry(project.clone()).or_default().clone()
    }

    pub(crate) fn prepared(&self) -> MutexGuard<'_, HashSet<ProjectName>> {
        self.0
            .prepared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
