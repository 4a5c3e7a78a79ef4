//! What can go wrong between a workload and its engine.

use std::io;
use std::path::PathBuf;

use ondol_types::{Classified, ErrorKind, WorkloadId};

/// Why an engine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no such workload.
    #[error("there is no workload {0}")]
    NotFound(WorkloadId),
    /// An incarnation of it runs, and what was asked needs it to have ended.
    #[error("workload {id} is still running its incarnation {incarnation}")]
    Running {
        /// Which workload.
        id: WorkloadId,
        /// What runs.
        incarnation: u64,
    },
    /// A newer incarnation exists than the one to be started.
    #[error("workload {id} has reached incarnation {known}, so {asked} will not be started")]
    Stale {
        /// Which workload.
        id: WorkloadId,
        /// What was to be started.
        asked: u64,
        /// What exists.
        known: u64,
    },
    /// The spec contradicts itself or names something that is not there.
    #[error("workload {id}: {problem}")]
    Spec {
        /// Which workload.
        id: WorkloadId,
        /// What is wrong with it.
        problem: String,
    },
    /// A volume would hide files that are already there.
    #[error("the volume cannot be placed at {}: something else is there", .0.display())]
    VolumeOccupied(PathBuf),
    /// The reserved range has no free port.
    #[error("no port is free between {first} and {last}")]
    PortsExhausted {
        /// The first port of the range.
        first: u16,
        /// The last port of the range.
        last: u16,
    },
    /// The port that the caller picked is in use.
    #[error("port {port} is in use by {owner}")]
    PortTaken {
        /// The port.
        port: u16,
        /// Who has it.
        owner: String,
    },
    /// The host does not allow network namespaces.
    #[error(
        "port {port} is fixed, which needs a network namespace, and this host forbids it: {reason}"
    )]
    NetnsForbidden {
        /// The port the program insists on.
        port: u16,
        /// What the kernel said.
        reason: String,
    },
    /// The shim could not be started, or ended before it had taken over.
    #[error("the shim of workload {id} did not start: {reason}")]
    Shim {
        /// Which workload.
        id: WorkloadId,
        /// What it said.
        reason: String,
    },
    /// A live shim did not answer.
    #[error("the shim of workload {id} does not answer")]
    ShimSilent {
        /// Which workload.
        id: WorkloadId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The log on disk is not readable.
    #[error("the log of workload {id} cannot be read")]
    Log {
        /// Which workload.
        id: WorkloadId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A stored file of a workload is not what this version writes.
    #[error("{} is damaged or from a newer version: {problem}", path.display())]
    Stored {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The container engine does not answer. Nothing is known about its workloads.
    #[error("the {engine} engine does not answer: {reason}")]
    Unreachable {
        /// Which engine.
        engine: &'static str,
        /// What was tried, and what came of it.
        reason: String,
    },
    /// The container engine answered, and refused.
    #[error("the container engine cannot {action}: {reason}")]
    Refused {
        /// What was asked.
        action: String,
        /// What it said.
        reason: String,
    },
    /// An image could not be had.
    #[error("the image {image} cannot be had: {reason}")]
    Image {
        /// Which image.
        image: String,
        /// Why.
        reason: String,
    },
    /// Something of that name exists in the engine that Ondol has not made.
    #[error("{what} {name} exists in the container engine, and this installation has not made it")]
    Foreign {
        /// What it is: a container, a network, a volume.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Policy forbids what the spec asks for.
    #[error("workload {id}: {problem}")]
    Forbidden {
        /// Which workload.
        id: WorkloadId,
        /// What is not allowed.
        problem: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl EngineError {
    /// An error of the file system with what was tried.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

impl Classified for EngineError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Running { .. }
            | Self::Stale { .. }
            | Self::VolumeOccupied(_)
            | Self::PortTaken { .. }
            | Self::Foreign { .. } => ErrorKind::Conflict,
            Self::Forbidden { .. } => ErrorKind::Forbidden,
            Self::Unreachable { .. } | Self::Refused { .. } | Self::Image { .. } => {
                ErrorKind::Unavailable
            }
            Self::Spec { .. } => ErrorKind::InvalidInput,
            Self::NetnsForbidden { .. } => ErrorKind::Unsupported,
            Self::PortsExhausted { .. } | Self::Shim { .. } | Self::ShimSilent { .. } => {
                ErrorKind::Unavailable
            }
            Self::Stored { .. } => ErrorKind::Corrupted,
            Self::Log { .. } => ErrorKind::Internal,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "workload.not_found",
            Self::Running { .. } => "workload.running",
            Self::Stale { .. } => "workload.incarnation.stale",
            Self::Spec { .. } => "workload.spec.invalid",
            Self::VolumeOccupied(_) => "workload.volume.occupied",
            Self::PortsExhausted { .. } => "workload.ports.exhausted",
            Self::PortTaken { .. } => "workload.port.taken",
            Self::NetnsForbidden { .. } => "workload.netns.forbidden",
            Self::Shim { .. } => "workload.shim.failed",
            Self::ShimSilent { .. } => "workload.shim.silent",
            Self::Log { .. } => "workload.log.unreadable",
            Self::Stored { .. } => "workload.stored.damaged",
            Self::Unreachable { .. } => "workload.engine.unreachable",
            Self::Refused { .. } => "workload.engine.refused",
            Self::Image { .. } => "workload.image.missing",
            Self::Foreign { .. } => "workload.name.foreign",
            Self::Forbidden { .. } => "workload.policy.forbidden",
            Self::Io { .. } => "workload.io",
        }
    }

    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Running { .. } => "stop it first",
            Self::VolumeOccupied(_) => {
                "move the files into the volume, or give the volume another path"
            }
            Self::PortsExhausted { .. } => {
                "widen the range with the setting workload.ports, or stop something"
            }
            Self::PortTaken { .. } => "choose another port, or let the engine pick one",
            Self::NetnsForbidden { .. } => {
                "let the program listen on $PORT and drop service.port, or run Ondol as root or with user namespaces allowed"
            }
            Self::Unreachable { .. } => {
                "install Podman (package `podman`) or Docker and start its API socket (`systemctl enable --now podman.socket`), or name another with `ondol serve --engine-address`"
            }
            Self::Foreign { .. } => "rename or remove it in the container engine, when it is yours",
            Self::Forbidden { .. } => "an administrator can allow it for this installation",
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "free space on the file system of the data directory"
            }
            _ => return None,
        };
        Some(text.to_owned())
    }
}
