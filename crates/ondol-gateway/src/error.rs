//! What can go wrong in the gateway, its keeper, and the client that steers them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use ondol_types::{Classified, ErrorKind};

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// A snapshot breaks a rule; nothing of it was applied.
    #[error("snapshot of generation {generation}: {place}: {reason}")]
    SnapshotInvalid {
        /// The generation that was offered.
        generation: u64,
        /// Where in the snapshot.
        place: String,
        /// Which rule.
        reason: String,
    },
    /// A stored snapshot is not what was written.
    #[error("the gateway snapshot `{}` is damaged: {reason}", path.display())]
    SnapshotCorrupted {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A snapshot was written by a newer version.
    #[error("the gateway snapshot has format {found}, and this version reads up to format {known}")]
    SnapshotNewer {
        /// The format found.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// A generation below the one in force: its sender was overtaken.
    #[error("generation {offered} is older than generation {current}, which is in force")]
    StaleGeneration {
        /// What was offered.
        offered: u64,
        /// What is in force.
        current: u64,
    },
    /// One generation number was used for two different snapshots.
    #[error("generation {generation} was applied before with different contents")]
    GenerationReused {
        /// The number.
        generation: u64,
    },
    /// Nobody serves.
    #[error("no gateway is running in `{}`", run_dir.display())]
    NoGateway {
        /// Where gateways were looked for.
        run_dir: PathBuf,
    },
    /// A gateway lives but does not answer.
    #[error("gateway {instance} lives but did not answer `{operation}`: {reason}")]
    NotAnswering {
        /// Which gateway.
        instance: String,
        /// What it was asked.
        operation: &'static str,
        /// How it failed.
        reason: String,
    },
    /// The other side refused, in its own words.
    #[error("{message}")]
    Refused {
        /// Its stable code.
        code: String,
        /// Its message.
        message: String,
    },
    /// A message on a control socket that is not of the protocol.
    #[error("the control message is not understood: {reason}")]
    Protocol {
        /// What is wrong with it.
        reason: String,
    },
    /// The listening address belongs to another program.
    #[error("address {address} is in use by another program")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The listening address cannot be used.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A keeper holds this directory already.
    #[error("another keeper owns `{}`", run_dir.display())]
    KeeperRunning {
        /// The directory.
        run_dir: PathBuf,
    },
    /// The keeper did not come up.
    #[error("the gateway keeper did not start: {reason}")]
    KeeperStart {
        /// What it said, or how it ended.
        reason: String,
    },
    /// A new gateway did not come up; the old one was left alone.
    #[error("the new gateway did not become ready, the old one keeps serving: {reason}")]
    ReplaceFailed {
        /// What happened to the new one.
        reason: String,
    },
    /// Something that was waited for did not come in time.
    #[error("{what} did not happen within {waited_seconds} s")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        waited_seconds: f64,
    },
    /// The system refused a file or socket operation.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl GatewayError {
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source: source.into(),
        }
    }

    pub(crate) fn protocol(reason: impl Into<String>) -> Self {
        Self::Protocol {
            reason: reason.into(),
        }
    }
}

impl Classified for GatewayError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::SnapshotInvalid { .. } | Self::Protocol { .. } => ErrorKind::InvalidInput,
            Self::SnapshotCorrupted { .. } => ErrorKind::Corrupted,
            Self::SnapshotNewer { .. } => ErrorKind::Unsupported,
            Self::StaleGeneration { .. } | Self::GenerationReused { .. } => ErrorKind::Conflict,
            Self::KeeperRunning { .. } | Self::AddressInUse { .. } => ErrorKind::Conflict,
            Self::NoGateway { .. } | Self::NotAnswering { .. } | Self::Refused { .. } => {
                ErrorKind::Unavailable
            }
            Self::Listen { .. } | Self::KeeperStart { .. } | Self::ReplaceFailed { .. } => {
                ErrorKind::Unavailable
            }
            Self::TimedOut { .. } => ErrorKind::Timeout,
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Unavailable,
                _ => ErrorKind::Internal,
            },
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::SnapshotInvalid { .. } => "gateway.snapshot.invalid",
            Self::SnapshotCorrupted { .. } => "gateway.snapshot.corrupted",
            Self::SnapshotNewer { .. } => "gateway.snapshot.newer",
            Self::StaleGeneration { .. } => "gateway.generation.stale",
            Self::GenerationReused { .. } => "gateway.generation.reused",
            Self::NoGateway { .. } => "gateway.process.none",
            Self::NotAnswering { .. } => "gateway.process.silent",
            Self::Refused { .. } => "gateway.control.refused",
            Self::Protocol { .. } => "gateway.control.malformed",
            Self::AddressInUse { .. } => "gateway.listen.in-use",
            Self::Listen { .. } => "gateway.listen.failed",
            Self::KeeperRunning { .. } => "gateway.keeper.locked",
            Self::KeeperStart { .. } => "gateway.keeper.start",
            Self::ReplaceFailed { .. } => "gateway.replace.failed",
            Self::TimedOut { .. } => "gateway.wait.timeout",
            Self::Io { .. } => "gateway.io",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::AddressInUse { .. } => Some(
                "stop that program, or choose another address with --gateway-listen HOST:PORT"
                    .into(),
            ),
            Self::Listen { address, .. } => Some(format!(
                "check that {} is an address of this machine and the port may be bound",
                address.ip()
            )),
            Self::SnapshotCorrupted { .. } => Some(
                "nothing to do: the control plane writes it again at its next reconciliation"
                    .into(),
            ),
            Self::SnapshotNewer { .. } => {
                Some("start the newer version, or `ondol stop` before going back".into())
            }
            Self::NoGateway { .. } => {
                Some("`ondol serve` starts it; `ondol status` shows whether it runs".into())
            }
            Self::NotAnswering { .. } => {
                Some("if it stays so, end that process: its keeper starts another".into())
            }
            Self::KeeperRunning { .. } => {
                Some("one data directory has one keeper; `ondol stop` ends it".into())
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use ondol_types::Problem;

    use super::*;

    #[test]
    fn errors_name_the_thing_and_what_to_do() {
        let problem = Problem::from(GatewayError::AddressInUse {
            address: "127.0.0.1:8080".parse().unwrap(),
        });
        assert_eq!(problem.kind, ErrorKind::Conflict);
        assert!(problem.message.contains("127.0.0.1:8080"));
        assert!(problem.hint.unwrap().contains("--gateway-listen"));
    }
}
