//! The embedded engine: programs of this host, each below a shim of its own.
//!
//! The engine holds nothing that is not also in the workloads' directories. Opened again after
//! its process died, it finds every workload as it is: running below its shim, ended with an
//! exit, or lost with a shim that was killed, in which case it ends what is left and says so.

mod interface;
mod launch;
mod observe;
mod prepare;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ondol_types::{Clock, CrashPoints, WorkloadId};
use tokio::sync::{OnceCell, watch};

use crate::cgroup::{Base, CgroupPreference};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::home::{Home, VERSION, make_private_dir, remove_tree};
use crate::model::{Exit, Observation, WorkloadState};
use crate::ports;
use crate::ports::{PortAllocator, ephemeral_range};
use crate::wire::{Operation, Request, Response, write_line};

/// How long a shim may take to answer on its socket.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);

/// How long a shim may take, beyond the grace, to end everything and write the exit.
const END_PATIENCE: Duration = Duration::from_secs(60);

/// Directories of workloads that are being removed.
const TRASH_PREFIX: &str = "removed-";

/// Where programs of this host usually are.
pub const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the process engine needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of all workloads: `workloads/` of the data directory.
    pub workloads_dir: PathBuf,
    /// The program and first arguments that are a shim: the own executable and `shim`.
    pub shim_command: Vec<OsString>,
    /// `PATH` of workloads that bring none.
    pub path: String,
    /// Variables of every workload, which its own override: where tools of this host have what
    /// they need, such as `RUSTUP_HOME`.
    pub base_env: BTreeMap<String, String>,
    /// Appended to the `PATH` of all workloads: where the `ondol` command is.
    pub tool_dir: Option<PathBuf>,
    /// Ports for workloads; those that are ephemeral on this host are left out.
    pub ports: RangeInclusive<u16>,
    /// Which control groups to use.
    pub cgroups: CgroupPreference,
}

impl Config {
    /// Defaults for a directory and an executable with the subcommand `shim`.
    pub fn new(workloads_dir: impl Into<PathBuf>, executable: impl Into<PathBuf>) -> Self {
        let executable = executable.into();
        Self {
            workloads_dir: workloads_dir.into(),
            tool_dir: executable.parent().map(Path::to_owned),
            shim_command: vec![executable.into(), "shim".into()],
            path: USUAL_PATH.to_owned(),
            base_env: BTreeMap::new(),
            ports: ports::DEFAULT_RANGE,
            cgroups: CgroupPreference::Auto,
        }
    }
}

/// Runs workloads as processes of this host.
#[derive(Clone)]
pub struct ProcessEngine(Arc<Inner>);

struct Inner {
    config: Config,
    clock: Arc<dyn Clock>,
    crash: Arc<dyn CrashPoints>,
    cgroups: Base,
    ports: Mutex<PortAllocator>,
    gates: Mutex<HashMap<WorkloadId, Arc<tokio::sync::Mutex<()>>>>,
    changes: watch::Sender<u64>,
    netns: OnceCell<Netns>,
}

/// What the host allows for network namespaces.
#[derive(Clone, Debug)]
struct Netns {
    /// The way that works, or what the kernel said.
    way: Result<NetnsWay, String>,
    outbound: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NetnsWay {
    Privileged,
    UserNamespace,
}

impl ProcessEngine {
    /// Opens the engine and adopts what it finds: living workloads are watched again, lost ones
    /// are ended and given their exit. Must be called inside a tokio runtime, by the one process
    /// that owns the data directory.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub async fn open(
        config: Config,
        clock: Arc<dyn Clock>,
        crash: Arc<dyn CrashPoints>,
    ) -> Result<Self, EngineError> {
        let dir = config.workloads_dir.clone();
        let preference = config.cgroups;
        let (dir, cgroups) = blocking(move || {
            make_private_dir(&dir).map_err(EngineError::io("make", &dir))?;
            // Programs get paths below it, and they run elsewhere.
            let dir = dir
                .canonicalize()
                .map_err(EngineError::io("resolve", &dir))?;
            // Removals that the end of a former engine cut short.
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
            Ok::<_, EngineError>((dir, Base::detect(preference)))
        })
        .await?;
        for notice in &cgroups.notices {
            tracing::warn!(workload.engine = "process", notice = %notice, "the host lacks something");
        }
        let config = Config {
            workloads_dir: dir,
            ..config
        };
        // Two engines on one host must not go for the same ports at the same time.
        let seed =
            std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), &config.workloads_dir);
        let ports = PortAllocator::new(config.ports.clone(), ephemeral_range()).beginning_at(seed);
        let inner = Inner {
            config,
            clock,
            crash,
            cgroups,
            ports: Mutex::new(ports),
            gates: Mutex::default(),
            changes: watch::Sender::new(0),
            netns: OnceCell::new(),
        };
        let engine = Self(Arc::new(inner));
        engine.adopt_all().await?;
        Ok(engine)
    }

    /// The directory of a workload's log, for [`crate::log::LogReader`].
    pub fn log_dir(&self, id: &WorkloadId) -> PathBuf {
        self.0.home(id).log()
    }

    /// Stops every living workload by its own stop policy, all at once, and waits for their ends:
    /// what Ctrl-C in the terminal of `serve` and `ondol stop` mean.
    pub async fn stop_all(&self) -> Vec<(WorkloadId, Result<Exit, EngineError>)> {
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
            let home = self.0.home(&id);
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

    async fn adopt_all(&self) -> Result<(), EngineError> {
        for id in self.0.ids().await? {
            match self.0.observe(&id).await {
                Ok(Some(observation)) if observation.state.exit().is_none() => {
                    if let Some(port) = observation.address.map(|address| address.port()) {
                        // Two living workloads cannot have one port, whatever the files say.
                        let _ = lock(&self.0.ports).reserve(port, &id);
                    }
                    tracing::info!(workload.id = %id, workload.incarnation = observation.incarnation, "workload adopted");
                    self.0.clone().watch(id);
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
}

impl Inner {
    fn home(&self, id: &WorkloadId) -> Home {
        Home::of(&self.config.workloads_dir, id)
    }

    /// Serialises what changes a workload's directory.
    fn gate(&self, id: &WorkloadId) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = lock(&self.gates);
        gates.retain(|_, gate| Arc::strong_count(gate) > 1);
        gates.entry(*id).or_default().clone()
    }

    fn changed(&self) {
        self.changes.send_modify(|generation| *generation += 1);
    }

    /// The ids of all directories, in order.
    async fn ids(&self) -> Result<Vec<WorkloadId>, EngineError> {
        let dir = self.config.workloads_dir.clone();
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

    async fn known(&self, id: &WorkloadId) -> Result<Observation, EngineError> {
        self.observe(id).await?.ok_or(EngineError::NotFound(*id))
    }

    /// Waits until the incarnation that is the latest now has ended.
    async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
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
        if let WorkloadState::Exited(exit) = self.known(id).await?.state {
            return Ok(exit);
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
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        // The work is never aborted, so it panicked; that must not be hidden.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
