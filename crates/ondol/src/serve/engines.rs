//! The engines of this installation: processes always, containers unless they are not wanted.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ondol_deploy::{EngineKind, Offer};
use ondol_store::DataDir;
use ondol_types::{Clock, CrashPoints};
use ondol_workload::container::{Address, ImageSource, Surroundings, candidates};
use ondol_workload::{ContainerConfig, ContainerEngine, EngineError};

use crate::cli::EngineChoice;
use crate::environment::Environment;
use crate::error::{Failure, Outcome};

/// Ports of the loopback for processes and for containers: each engine knows its own alone.
pub(super) const PROCESS_PORTS: RangeInclusive<u16> = 20_000..=24_999;
const CONTAINER_PORTS: RangeInclusive<u16> = 25_000..=29_999;

/// What was decided about engines.
#[derive(Clone, Debug)]
pub(super) struct EngineSettings {
    choice: EngineChoice,
    addresses: Vec<Address>,
}

impl EngineSettings {
    /// From the command line and the environment.
    pub(super) fn new(
        choice: EngineChoice,
        address: Option<&str>,
        environment: &Environment,
    ) -> Outcome<Self> {
        let addresses = candidates(&Surroundings {
            configured: address,
            docker_host: environment.docker_host.as_deref(),
            container_host: environment.container_host.as_deref(),
            runtime_dir: environment.runtime_dir.as_deref(),
            home: environment.home(),
            root: rustix::process::geteuid().is_root(),
        })
        .map_err(|error| {
            Failure::usage(error.to_string()).hint(
                "write `unix:///run/podman/podman.sock` or `tcp://127.0.0.1:2375` behind --engine-address",
            )
        })?;
        Ok(Self { choice, addresses })
    }

    /// What a release can ask for.
    pub(super) fn offer(&self) -> Offer {
        Offer {
            container: self.choice != EngineChoice::Process,
            preferred: match self.choice {
                EngineChoice::Container => EngineKind::Container,
                EngineChoice::Auto | EngineChoice::Process => EngineKind::Process,
            },
        }
    }

    /// The container engine of a data directory. Where it is not wanted, it is opened all the same
    /// when there are workloads of an earlier start, so that they are seen and can end.
    pub(super) async fn open(
        &self,
        data: &DataDir,
        program: &Path,
        images: Arc<dyn ImageSource>,
        clock: Arc<dyn Clock>,
        crash: Arc<dyn CrashPoints>,
    ) -> Result<Option<ContainerEngine>, EngineError> {
        let workloads = data.folder("containers");
        if self.choice == EngineChoice::Process && !workloads.is_dir() {
            return Ok(None);
        }
        let mut config = ContainerConfig::new(workloads, program, self.addresses.clone());
        config.ports = CONTAINER_PORTS;
        config.images = images;
        config.shared_dirs = shared(data);
        for dir in &config.shared_dirs {
            std::fs::create_dir_all(dir).map_err(|source| EngineError::Io {
                action: "make",
                path: dir.clone(),
                source,
            })?;
        }
        ContainerEngine::open(config, clock, crash).await.map(Some)
    }
}

/// What of the data directory may appear in containers: never keys, blobs or databases.
fn shared(data: &DataDir) -> Vec<PathBuf> {
    let cache = data.folder("cache");
    vec![
        data.folder("volumes"),
        cache.join("models"),
        cache.join("runs"),
        cache.join("projects"),
    ]
}
