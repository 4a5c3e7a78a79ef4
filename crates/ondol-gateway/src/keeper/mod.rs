//! The process that outlives the others: it owns the listening socket and keeps one gateway behind
//! it, whether or not anybody steers it.
//!
//! One keeper per run directory, by lock. It starts a gateway with the socket as standard input,
//! starts another at once when that one dies, and replaces it by starting the new one on the same
//! socket before the old one stops accepting. A keeper that comes after one that was killed takes
//! the socket back from the gateway that lives on.

mod adopt;
mod backoff;
mod client;
mod control;
mod process;
mod run;
mod setting;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use client::{KeeperClient, KeeperHandle, KeeperSpawn};
pub use run::keeper_main;

const LOCK: &str = "keeper.lock";
const SOCKET: &str = "keeper.sock";
const ADDRESS: &str = "gateway-address";

/// What a keeper is started with.
#[derive(Debug, Clone)]
pub struct KeeperConfig {
    /// The directory that it shares with gateways and the control plane.
    pub run_dir: PathBuf,
    /// Where to listen. Port 0 takes the port of last time if it is free, otherwise any.
    pub listen: SocketAddr,
    /// The program that is the gateway.
    pub gateway_exe: PathBuf,
    /// Its arguments. It must take its listening socket from standard input.
    pub gateway_args: Vec<OsString>,
    /// This program's version, for status.
    pub version: String,
    /// How long a gateway may take until it serves.
    pub ready_timeout: Duration,
}

/// What a keeper says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeeperStatus {
    /// Where the gateway listens.
    pub address: SocketAddr,
    /// The keeper's process id.
    pub process: u32,
    /// The keeper's version.
    pub version: String,
    /// The gateway's process id; none while it is being restarted.
    pub gateway_process: Option<u32>,
    /// The program that is the gateway.
    pub gateway_exe: PathBuf,
    /// How often a gateway died and was started again.
    pub restarts: u64,
    /// How the last gateway ended that was not told to, if one did.
    pub last_exit: Option<String>,
    /// Gateways that were replaced and finish their work.
    pub retiring: Vec<u32>,
    /// How long the keeper has been running.
    pub uptime_seconds: f64,
}
