//! What the gateway is told to do: one immutable value per generation.
//!
//! A snapshot is complete: what it does not name is not served. Generations only grow; a gateway
//! refuses one below what it has, so that a control plane that was overtaken cannot undo a swap.

mod file;
mod validate;

use std::net::SocketAddr;

use ondol_types::{EnvironmentName, ProjectName, ReleaseId, ReplicaId};
use serde::{Deserialize, Serialize};

pub(crate) use file::{Loaded, SnapshotFile};

/// The newest format this version reads and the one it writes.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// All routes at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The format, [`SNAPSHOT_FORMAT`].
    pub format: u32,
    /// Grows with every change.
    pub generation: u64,
    /// What is served.
    pub routes: Vec<Route>,
    /// How replicas that are no longer named end.
    #[serde(default)]
    pub drain: DrainPolicy,
}

/// Where requests of some hosts below some path go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Whose route it is.
    pub project: ProjectName,
    /// Which of the project's environments.
    pub environment: EnvironmentName,
    /// Host names without port: exact, `*.suffix` for any name below, or `*` for any at all. The
    /// most specific wins before path prefixes are compared.
    pub hosts: Vec<String>,
    /// Begins and ends with `/`. The longest that fits wins.
    pub path_prefix: String,
    /// Whether the application sees paths without the prefix, and learns it from
    /// `X-Forwarded-Prefix`.
    #[serde(default)]
    pub strip_prefix: bool,
    /// Releases and their shares.
    pub backends: Vec<Backend>,
    /// The largest request body, in bytes; none is unlimited.
    #[serde(default)]
    pub max_body_bytes: Option<u64>,
    /// The most requests that one replica works on at a time.
    #[serde(default = "default_max_in_flight")]
    pub max_in_flight_per_replica: u32,
    /// How long each part of an exchange may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Whether requests are served now.
    #[serde(default)]
    pub state: RouteState,
}

fn default_max_in_flight() -> u32 {
    1_024
}

/// One release behind a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The release.
    pub release: ReleaseId,
    /// Its share relative to the others; zero gets nothing.
    pub weight: u32,
    /// Its running instances.
    pub replicas: Vec<Replica>,
}

/// One running instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Its identity: counters and drains are keyed by it.
    pub id: ReplicaId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// How long each part of an exchange with a replica may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// Until the TCP connection stands, in milliseconds.
    pub connect_ms: u64,
    /// Until the response begins, counted from the last byte of the request that went out.
    pub response_ms: u64,
    /// Between two parts of a response body.
    pub idle_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_ms: 2_000,
            response_ms: 60_000,
            idle_ms: 300_000,
        }
    }
}

/// Whether a route serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RouteState {
    /// Requests go to the backends.
    #[default]
    Serving,
    /// Requests wait until a later generation serves them, or for this long.
    Held {
        /// The longest wait, in milliseconds.
        max_wait_ms: u64,
    },
    /// Requests are refused with 503.
    Stopped,
}

/// How a replica that is no longer in the snapshot ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainPolicy {
    /// Requests still running after this are cut, in milliseconds.
    pub deadline_ms: u64,
    /// WebSockets get a close frame after this, in milliseconds.
    pub websocket_grace_ms: u64,
}

impl Default for DrainPolicy {
    fn default() -> Self {
        Self {
            deadline_ms: 60_000,
            websocket_grace_ms: 5_000,
        }
    }
}

impl Snapshot {
    /// A snapshot that serves nothing.
    pub fn empty(generation: u64) -> Self {
        Self {
            format: SNAPSHOT_FORMAT,
            generation,
            routes: Vec::new(),
            drain: DrainPolicy::default(),
        }
    }
}

impl Route {
    /// The two routes every application has: `<project>.localhost` (with any extra host names) and
    /// `/apps/<project>/` on the gateway's own names.
    pub fn pair(
        project: &ProjectName,
        environment: &EnvironmentName,
        hosts: Vec<String>,
        gateway_hosts: Vec<String>,
        backends: Vec<Backend>,
    ) -> [Route; 2] {
        let by_host = Route {
            project: project.clone(),
            environment: environment.clone(),
            hosts,
            path_prefix: "/".to_owned(),
            strip_prefix: false,
            backends,
            max_body_bytes: None,
            max_in_flight_per_replica: default_max_in_flight(),
            timeouts: Timeouts::default(),
            state: RouteState::Serving,
        };
        let by_path = Route {
            hosts: gateway_hosts,
            path_prefix: format!("/apps/{project}/"),
            strip_prefix: true,
            ..by_host.clone()
        };
        [by_host, by_path]
    }
}

/// A snapshot that keeps the rules is the same after it was stored.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(snapshot: &Snapshot) {
    if snapshot.validate().is_err() {
        return;
    }
    let stored = file::encode(snapshot).expect("a valid snapshot can be written");
    let read = file::decode(&stored, std::path::Path::new("snapshot"));
    assert_eq!(&read.expect("what was written is read"), snapshot);
}

/// Whatever lies in the file is a valid snapshot or refused.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_file(data: &[u8]) {
    if let Ok(snapshot) = file::decode(data, std::path::Path::new("snapshot")) {
        fuzz(&snapshot);
    }
}
