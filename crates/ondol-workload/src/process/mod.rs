//! The embedded engine: programs of this host, each below a shim of its own.
//!
//! The engine holds nothing that is not also in the workloads' directories. Opened again after
//! its process died, it finds every workload as it is: running below its shim, ended with an
//! exit, or lost with a shim that was killed, in which case it ends what is left and says so.

mod interface;
mod launch;
mod prepare;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ondol_types::{Clock, CrashPoints, WorkloadId};
use tokio::sync::OnceCell;

use crate::cgroup::{Base, CgroupPreference};
use crate::error::EngineError;
use crate::fleet::{Fleet, FleetConfig, blocking};
use crate::model::Exit;
use crate::ports;

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
pub struct ProcessEngine {
    fleet: Arc<Fleet>,
    host: Arc<Host>,
}

/// What this engine knows of its host, and how it launches there.
struct Host {
    path: String,
    base_env: BTreeMap<String, String>,
    tool_dir: Option<PathBuf>,
    shim_command: Vec<OsString>,
    cgroups: Base,
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
        let preference = config.cgroups;
        let cgroups = blocking(move || Base::detect(preference)).await;
        for notice in &cgroups.notices {
            tracing::warn!(workload.engine = "process", notice = %notice, "the host lacks something");
        }
        let host = Arc::new(Host {
            path: config.path,
            base_env: config.base_env,
            tool_dir: config.tool_dir,
            shim_command: config.shim_command.clone(),
            cgroups,
            netns: OnceCell::new(),
        });
        let fleet = FleetConfig {
            engine: "process",
            dir: config.workloads_dir,
            shim_command: config.shim_command,
            ports: config.ports,
        };
        let fleet = Fleet::open(fleet, clock, crash, host.clone()).await?;
        fleet.adopt_all().await?;
        Ok(Self { fleet, host })
    }

    /// The directory of a workload's log, for [`crate::log::LogReader`].
    pub fn log_dir(&self, id: &WorkloadId) -> PathBuf {
        self.fleet.home(id).log()
    }

    /// Stops every living workload by its own stop policy, all at once, and waits for their ends:
    /// what Ctrl-C in the terminal of `serve` and `ondol stop` mean.
    pub async fn stop_all(&self) -> Vec<(WorkloadId, Result<Exit, EngineError>)> {
        self.fleet.stop_all().await
    }
}
