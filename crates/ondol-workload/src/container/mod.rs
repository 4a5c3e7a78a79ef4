//! The engine for images: Docker or Podman, over the Docker Engine API.
//!
//! It is built like the process engine: a directory and a shim per workload. The shim is attached
//! to its container from before the start until after the end, so lines are masked before they
//! are stored and none is lost while the control plane is away; the container engine stores none.
//! What is true about a workload stands in its directory and is written by its shim, so a list
//! asks the engine nothing, and an engine that does not answer is never taken for workloads that
//! are gone.
//!
//! | module | what |
//! |---|---|
//! | [`address`](Address) | where an engine may listen |
//! | `client` | the connection to it, and what its errors mean |
//! | `probe` | what it can do |
//! | [`spec`](ContainerSpec), `body` | what is asked for, and what that means to an engine |
//! | [`image`](ImageSource), `archive` | images and files on their way into it |
//! | [`build`](BuildRequest) | images from Dockerfiles |
//! | `surroundings`, `firewall`, `names` | networks, volumes, and whose they are |
//! | `launch` | making, starting, ending, sweeping |

mod address;
mod archive;
mod body;
mod build;
mod client;
mod firewall;
mod image;
mod interface;
mod launch;
mod names;
mod probe;
mod spec;
mod surroundings;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ondol_types::{Clock, CrashPoints, Digest, ProjectName, WorkloadId};

pub use address::{Address, AddressError, Surroundings, candidates};
pub use archive::Pieces;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub use build::fuzz_ignore;
pub use build::{
    BuildConfig, BuildError, BuildLine, BuildRequest, BuildSource, BuiltImage, CacheRule, Pruned,
};
pub use image::{ImageSource, NoImages, SourceError, StoredImage, StoredLayer};
pub use spec::{ContainerSpec, Entrypoint, ImageRef, NamedVolume, SharedDir};

pub(crate) use client::{is_missing, is_unreachable, negotiate, with_sources};
pub(crate) use launch::remove_container;

use crate::error::EngineError;
use crate::fleet::{Fleet, FleetConfig, blocking};
use crate::model::Exit;
use crate::ports;
use client::Finder;
use image::Images;
use names::Names;
use probe::Facts;

/// The file that says which installation the workloads' directory is of.
const INSTALLATION_FILE: &str = "installation";

/// The file that says that something was asked of the engine once.
const USED_FILE: &str = "used";

/// What the container engine needs to know.
#[derive(Clone)]
pub struct ContainerConfig {
    /// The directory of its workloads, which no other engine uses.
    pub workloads_dir: PathBuf,
    /// The program and first arguments that are a shim: the own executable and `shim`.
    pub shim_command: Vec<OsString>,
    /// Ports of the loopback at which containers are reached; those that are ephemeral on this
    /// host are left out.
    pub ports: RangeInclusive<u16>,
    /// Where to look for the engine, best first: see [`candidates`].
    pub addresses: Vec<Address>,
    /// Where stored images come from.
    pub images: Arc<dyn ImageSource>,
    /// Directories of Ondol's own below which work directories and volumes may be shared with
    /// containers. Nothing else of the host ever is.
    pub shared_dirs: Vec<PathBuf>,
    /// Capabilities that an administrator allows beyond those that stay inside a container.
    pub allowed_capabilities: BTreeSet<String>,
    /// What builds may use.
    pub builds: BuildConfig,
}

impl ContainerConfig {
    /// Defaults for a directory, an executable with the subcommand `shim`, and addresses.
    pub fn new(
        workloads_dir: impl Into<PathBuf>,
        executable: impl Into<PathBuf>,
        addresses: Vec<Address>,
    ) -> Self {
        Self {
            workloads_dir: workloads_dir.into(),
            shim_command: vec![executable.into().into(), "shim".into()],
            ports: ports::DEFAULT_RANGE,
            addresses,
            images: Arc::new(NoImages),
            shared_dirs: Vec::new(),
            allowed_capabilities: BTreeSet::new(),
            builds: BuildConfig::default(),
        }
    }
}

/// Runs workloads in containers.
#[derive(Clone)]
pub struct ContainerEngine {
    fleet: Arc<Fleet>,
    host: Arc<Host>,
}

/// The engine as this installation sees it.
struct Host {
    finder: Finder,
    names: Names,
    images: Images,
    shared_dirs: Vec<PathBuf>,
    allowed_capabilities: BTreeSet<String>,
    facts: Mutex<Option<Facts>>,
    builds: build::Builds,
    /// Held for reading while a start needs networks that nothing uses yet.
    surroundings: tokio::sync::RwLock<()>,
}

/// What a sweep has removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Containers of no living workload.
    pub containers: usize,
    /// Networks that nothing uses.
    pub networks: usize,
    /// Images that nothing needs.
    pub images: usize,
}

impl ContainerEngine {
    /// Opens the engine and adopts what it finds. The container engine need not answer: then
    /// starts fail as [`EngineError::Unreachable`] until it does. Must be called inside a tokio
    /// runtime, by the one process that owns the data directory.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub async fn open(
        config: ContainerConfig,
        clock: Arc<dyn Clock>,
        crash: Arc<dyn CrashPoints>,
    ) -> Result<Self, EngineError> {
        let dir = config.workloads_dir.clone();
        let shared = config.shared_dirs.clone();
        let made_up = WorkloadId::generate(&*clock).to_string();
        let (names, shared_dirs) = blocking(move || {
            crate::home::make_private_dir(&dir).map_err(EngineError::io("make", &dir))?;
            let dir = dir
                .canonicalize()
                .map_err(EngineError::io("resolve", &dir))?;
            let installation = installation(&dir, &made_up)?;
            // Compared with resolved paths later, so that no link leads out of them.
            let shared = shared
                .iter()
                .filter_map(|dir| dir.canonicalize().ok())
                .collect();
            Ok::<_, EngineError>((Names::new(installation, dir), shared))
        })
        .await?;
        let host = Arc::new(Host {
            finder: Finder::new(config.addresses),
            names,
            images: Images::new(config.images),
            shared_dirs,
            allowed_capabilities: config.allowed_capabilities,
            facts: Mutex::new(None),
            builds: build::Builds::new(config.builds, &config.workloads_dir, clock.clone()),
            surroundings: tokio::sync::RwLock::new(()),
        });
        let fleet = FleetConfig {
            engine: "container",
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

    /// Whether this engine has the workload, running or ended.
    pub fn has(&self, id: &WorkloadId) -> bool {
        self.fleet.home(id).dir().is_dir()
    }

    /// Stops every living workload by its own stop policy, all at once, and waits for their ends.
    pub async fn stop_all(&self) -> Vec<(WorkloadId, Result<Exit, EngineError>)> {
        self.fleet.stop_all().await
    }

    /// Removes what carries this installation's labels and nothing needs: containers of no living
    /// workload, unused networks, and stored images that are not among `keep`. Volumes stay. To be
    /// called after a start and from time to time.
    ///
    /// # Errors
    /// The engine does not answer, or refuses.
    pub async fn sweep(&self, keep: &[Digest]) -> Result<Swept, EngineError> {
        let (_, docker) = self.host.finder.client().await?;
        let containers = launch::sweep(&self.host, &self.fleet, &docker).await?;
        let _nobody_starts = self.host.surroundings.write().await;
        let networks = surroundings::remove_unused_networks(
            &docker,
            &self.host.names,
            &self.host.builds.networks(),
        )
        .await?;
        let images = image::collect(&docker, &self.host.names, keep).await?;
        Ok(Swept {
            containers,
            networks,
            images,
        })
    }

    /// Brings an image into the engine ahead of a start.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn prepare_image(&self, image: &ImageRef) -> Result<(), EngineError> {
        let (_, docker) = self.host.finder.client().await?;
        let images = &self.host.images;
        images
            .ensure(&docker, &self.host.names, image)
            .await
            .map(drop)
    }

    /// Removes what a project has in the engine: containers of no living workload, volumes with
    /// everything in them, networks. To be called when its workloads have ended. An installation
    /// that never started a container has nothing there, and no engine is asked.
    ///
    /// # Errors
    /// The engine does not answer, or a workload of the project lives.
    pub async fn forget_project(&self, project: &ProjectName) -> Result<(), EngineError> {
        if !self.was_used() {
            return Ok(());
        }
        let (_, docker) = self.host.finder.client().await?;
        launch::sweep(&self.host, &self.fleet, &docker).await?;
        let _alone = self.host.surroundings.write().await;
        surroundings::forget(&docker, &self.host.names, project).await
    }

    /// Whether this installation ever started a container.
    pub fn was_used(&self) -> bool {
        self.fleet.dir().join(USED_FILE).exists()
    }

    /// Whether any candidate answers.
    ///
    /// # Errors
    /// None does; the error says what was tried.
    pub async fn reachable(&self) -> Result<(), EngineError> {
        self.host.finder.client().await.map(drop)
    }

    /// Removes a volume of a project with everything in it.
    ///
    /// # Errors
    /// A workload uses it, or it is not of this installation.
    pub async fn remove_volume(
        &self,
        project: &ProjectName,
        name: &str,
    ) -> Result<(), EngineError> {
        let (_, docker) = self.host.finder.client().await?;
        surroundings::remove_volume(&docker, &self.host.names, project, name).await
    }
}

/// The id of the installation, made up once.
fn installation(dir: &std::path::Path, made_up: &str) -> Result<String, EngineError> {
    let path = dir.join(INSTALLATION_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::io("read", &path)(error))
        }
        _ => {
            let temporary = path.with_extension("tmp");
            std::fs::write(&temporary, made_up).map_err(EngineError::io("write", &temporary))?;
            std::fs::rename(&temporary, &path).map_err(EngineError::io("write", &path))?;
            Ok(made_up.to_owned())
        }
    }
}
