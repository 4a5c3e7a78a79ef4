//! What all engines of this host share: one directory per workload, owned by a shim that outlives
//! the control plane.
//!
//! A fleet holds nothing that is not also in the workloads' directories. Opened again after its
//! process died, it finds every workload as it is: running below its shim, ended with an exit, or
//! lost with a shim that was killed. What a shim starts, and what is left to end when a shim is
//! gone, is the [`Backend`]'s.

mod observe;
mod start;
mod stream;

use std::collections::HashMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ondol_types::{Clock, CrashPoints, WorkloadId};
use tokio::sync::watch;

use crate::engine::LogLines;
use crate::error::EngineError;
use crate::home::{Home, IdentityFile, SpecFile, VERSION, make_private_dir, remove_tree};
use crate::model::{Exit, LogQuery, Observation, StopPolicy, Usage, WorkloadSpec, WorkloadState};
use crate::ports::{PortAllocator, ephemeral_range};
use crate::wire::{Operation, Request, Response, write_line};

pub(crate) use start::shim;

/// How long a shim may take to answer on its socket.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a shim may take, beyond the grace, to end everything and write the exit.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// How long a shim may take to leave after it has written the exit.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

/// Directories of workloads that are being removed.
const TRASH_PREFIX: &str = "removed-";

/// What is known of a workload that was ended without its shim.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub(crate) oom: bool,
    pub(crate) usage: Usage,
}

/// What differs between engines whose workloads have shims.
#[async_trait::async_trait]
pub(crate) trait Backend: Send + Sync {
    /// Refuses what it cannot run, before anything is made or taken.
    async fn admit(&self, spec: &WorkloadSpec) -> Result<(), EngineError>;

    /// Prepares an incarnation and hands it to a shim. Called at most once at a time for a
    /// workload; after an error nothing of the incarnation has run.
    async fn launch(
        &self,
        fleet: &Fleet,
        spec: WorkloadSpec,
        host_port: Option<u16>,
    ) -> Result<(), EngineError>;

    /// Ends everything that is left of a workload whose shim is gone.
    ///
    /// # Errors
    /// [`EngineError::Unreachable`] when it cannot be told whether anything lives: then the
    /// workload is neither running nor gone, but unknown.
    async fn settle(
        &self,
        home: &Home,
        spec: &SpecFile,
        identity: &IdentityFile,
    ) -> Result<Settled, EngineError>;
}

/// What a fleet needs to know.
pub(crate) struct FleetConfig {
    pub(crate) engine: &'static str,
    pub(crate) dir: PathBuf,
    pub(crate) shim_command: Vec<OsString>,
    pub(crate) ports: RangeInclusive<u16>,
}

/// The workloads of one engine.
pub(crate) struct Fleet {
    engine: &'static str,
    dir: PathBuf,
    shim_command: Vec<OsString>,
    clock: Arc<dyn Clock>,
    crash: Arc<dyn CrashPoints>,
    ports: Mutex<PortAllocator>,
    gates: Mutex<HashMap<WorkloadId, Arc<tokio::sync::Mutex<()>>>>,
    changes: watch::Sender<u64>,
    backend: Arc<dyn Backend>,
}

impl Fleet {
    /// Opens the directory, and finishes removals that the end of a former process cut short.
    /// Nothing is adopted yet.
    pub(crate) async fn open(
        config: FleetConfig,
        clock: Arc<dyn Clock>,
        crash: Arc<dyn CrashPoints>,
        backend: Arc<dyn Backend>,
    ) -> Result<Arc<Self>, EngineError> {
        let dir = config.dir.clone();
        let dir = blocking(move || {
            make_private_dir(&dir).map_err(EngineError::io("make", &dir))?;
            // Programs get paths below it, and they run elsewhere.
            let dir = dir
                .canonicalize()
                .map_err(EngineError::io("resolve", &dir))?;
            for entry in std::fs::read_dir(&dir)
                .map_err(EngineError::io("list", &dir))?
                .flatten()
            {
                if entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(TRASH_PREFIX)
                {
                    let _ = remove_tree(&entry.path());
                }
            }
            Ok::<_, EngineError>(dir)
        })
        .await?;
        // Two engines on one host must not go for the same ports at the same time.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &dir);
        let ports = PortAllocator::new(config.ports, ephemeral_range()).beginning_at(seed);
        Ok(Arc::new(Self {
            engine: config.engine,
            dir,
            shim_command: config.shim_command,
            clock,
            crash,
            ports: Mutex::new(ports),
            gates: Mutex::default(),
            changes: watch::Sender::new(0),
            backend,
        }))
    }

    /// Takes over what is there: living workloads are watched again, lost ones are ended.
    pub(crate) async fn adopt_all(self: &Arc<Self>) -> Result<(), EngineError> {
        for id in self.ids().await? {
            match self.observe(&id).await {
                Ok(Some(observation)) if observation.state.exit().is_none() => {
                    if let Some(port) = observation.address.map(|address| address.port()) {
                        // Two living workloads cannot have one port, whatever the files say.
                        let _ = lock(&self.ports).reserve(port, &id);
                    }
                    tracing::info!(workload.id = %id, workload.incarnation = observation.incarnation, "workload adopted");
                    self.clone().watch(id);
                }
                Ok(_) => {}
                // One damaged directory must not keep all others from their engine.
                Err(error) => {
                    tracing::error!(workload.id = %id, error = %error, "workload not adopted")
                }
            }
        }
        Ok(())
    }

    pub(crate) fn shim_command(&self) -> &[OsString] {
        &self.shim_command
    }

    pub(crate) fn reached(&self, point: &'static str) {
        self.crash.reached(point);
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    pub(crate) fn home(&self, id: &WorkloadId) -> Home {
        Home::of(&self.dir, id)
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Serialises what changes a workload's directory.
    fn gate(&self, id: &WorkloadId) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = lock(&self.gates);
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        gates.entry(*id).or_default().clone()
    }

    /// The gate of a workload, unless something is changing it just now.
    pub(crate) fn try_gate(&self, id: &WorkloadId) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        self.gate(id).try_lock_owned().ok()
    }

    fn changed(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// The ids of all directories, in order.
    async fn ids(&self) -> Result<Vec<WorkloadId>, EngineError> {
        let dir = self.dir.clone();
        blocking(move || {
            let mut ids: Vec<WorkloadId> = std::fs::read_dir(&dir)
                .map_err(EngineError::io("list", &dir))?
                .flatten()
                .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
                .collect();
            ids.sort_unstable();
            Ok(ids)
        })
        .await
    }

    pub(crate) async fn known(&self, id: &WorkloadId) -> Result<Observation, EngineError> {
        self.observe(id).await?.ok_or(EngineError::NotFound(*id))
    }

    /// Every workload; one whose directory is damaged is left out and told in the log.
    pub(crate) async fn list(&self) -> Result<Vec<Observation>, EngineError> {
        let mut all = Vec::new();
        for id in self.ids().await? {
            match self.observe(&id).await {
                Ok(observation) => all.extend(observation),
                Err(error) => {
                    tracing::error!(workload.id = %id, error = %error, "workload not listed")
                }
            }
        }
        Ok(all)
    }

    /// Waits until the incarnation that is the latest now has ended.
    pub(crate) async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        let mut changes = self.changes.subscribe();
        let incarnation = self.known(id).await?.incarnation;
        loop {
            changes.borrow_and_update();
            let observation = self.known(id).await?;
            match observation.state {
                WorkloadState::Exited(exit) => return Ok(exit),
                // A newer incarnation can only have been started after this one ended.
                _ if observation.incarnation != incarnation => {
                    return Err(EngineError::NotFound(*id));
                }
                _ => {}
            }
            // The timer is for ends that nobody signals: a watcher that could not watch.
            let _ = tokio::time::timeout(Duration::from_secs(1), changes.changed()).await;
        }
    }

    pub(crate) async fn stop(
        &self,
        id: &WorkloadId,
        policy: StopPolicy,
    ) -> Result<Exit, EngineError> {
        let grace_millis = u64::try_from(policy.grace.as_millis()).unwrap_or(u64::MAX);
        let patience = policy.grace.saturating_add(END_PATIENCE);
        let operation = Operation::Stop {
            signal: policy.signal,
            grace_millis,
        };
        self.end(id, operation, patience).await
    }

    pub(crate) async fn kill(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.end(id, Operation::Kill, END_PATIENCE).await
    }

    /// Stops every living workload by its own stop policy, all at once, and waits for their ends.
    pub(crate) async fn stop_all(&self) -> Vec<(WorkloadId, Result<Exit, EngineError>)> {
        let living: Vec<WorkloadId> = match self.list().await {
            Ok(all) => all
                .into_iter()
                .filter(|seen| seen.state.exit().is_none())
                .map(|seen| seen.id)
                .collect(),
            Err(error) => {
                tracing::error!(error = %error, "workloads not listed");
                return Vec::new();
            }
        };
        let ends = living.into_iter().map(|id| async move {
            let home = self.home(&id);
            let stored = blocking(move || home.spec()).await;
            let policy = stored
                .ok()
                .flatten()
                .map(|spec| spec.stop)
                .unwrap_or_default();
            (id, self.stop(&id, policy).await)
        });
        futures_util::future::join_all(ends).await
    }

    pub(crate) async fn logs(
        self: &Arc<Self>,
        id: &WorkloadId,
        query: LogQuery,
    ) -> Result<LogLines, EngineError> {
        self.known(id).await?;
        Ok(stream::lines(self.clone(), *id, query))
    }

    /// Forgets a workload that has ended.
    pub(crate) async fn remove(&self, id: &WorkloadId) -> Result<(), EngineError> {
        let gate = self.gate(id);
        let _gate = gate.lock().await;
        if let Some(observation) = self.observe_gated(id).await?
            && observation.state.exit().is_none()
        {
            return Err(EngineError::Running {
                id: *id,
                incarnation: observation.incarnation,
            });
        }
        let home = self.home(id);
        let deadline = std::time::Instant::now() + LEAVE_PATIENCE;
        while home.is_locked() {
            if std::time::Instant::now() >= deadline {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(EngineError::ShimSilent { id: *id, source });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Renamed first, so that a removal that is cut short leaves no half of a workload.
        let trash = self.dir.join(format!("{TRASH_PREFIX}{id}"));
        blocking(move || {
            remove_tree(&trash).map_err(EngineError::io("remove", &trash))?;
            match std::fs::rename(home.dir(), &trash) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(EngineError::io("remove", home.dir()))?,
            }
            remove_tree(&trash).map_err(EngineError::io("remove", &trash))
        })
        .await?;
        self.changed();
        Ok(())
    }

    /// Sends one request to a living shim.
    async fn ask(&self, id: &WorkloadId, op: Operation) -> Result<Response, EngineError> {
        let home = self.home(id);
        let answer = blocking(move || {
            let stream = home.with_socket_path(|path| UnixStream::connect(path))?;
            stream.set_read_timeout(Some(ANSWER_PATIENCE))?;
            stream.set_write_timeout(Some(ANSWER_PATIENCE))?;
            write_line(&stream, &Request { v: VERSION, op })?;
            let mut line = String::new();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(&stream), &mut line)?;
            Ok::<Response, std::io::Error>(serde_json::from_str(&line)?)
        })
        .await;
        answer.map_err(|source| EngineError::ShimSilent { id: *id, source })
    }

    /// Asks for an end and waits for it. A shim that does not answer or does not bring the end
    /// about is killed, and the rest is what happens to every lost workload.
    async fn end(
        &self,
        id: &WorkloadId,
        op: Operation,
        patience: Duration,
    ) -> Result<Exit, EngineError> {
        if let WorkloadState::Exited(exit) = self.known(id).await?.state {
            return Ok(exit);
        }
        let asked = self.ask(id, op).await;
        if asked.is_ok()
            && let Ok(exit) = tokio::time::timeout(patience, self.wait(id)).await
        {
            return exit;
        }
        // Between the question and the refusal it may have ended by itself.
        match self.known(id).await?.state {
            WorkloadState::Exited(exit) => return Ok(exit),
            WorkloadState::Unknown { reason, .. } => {
                return Err(EngineError::Unreachable {
                    engine: self.engine,
                    reason,
                });
            }
            _ => {}
        }
        tracing::warn!(workload.id = %id, "the shim does not bring the workload to its end, so it is killed");
        let home = self.home(id);
        blocking(move || {
            let identity = home.identity()?;
            if let Some(shim) = identity
                .map(|identity| identity.shim)
                .filter(|shim| shim.is_alive())
            {
                crate::procfs::signal_all(&[shim.pid].into(), rustix::process::Signal::KILL);
            }
            Ok::<(), EngineError>(())
        })
        .await?;
        match tokio::time::timeout(END_PATIENCE, self.wait(id)).await {
            Ok(exit) => exit,
            Err(_) => {
                let source = std::io::ErrorKind::TimedOut.into();
                Err(EngineError::ShimSilent { id: *id, source })
            }
        }
    }
}

/// Runs what waits for the disk away from the executor's threads.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work is never aborted, so it panicked; that must not be hidden.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
