//! What a gateway is started with.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ondol_types::{Clock, CrashPoints};

/// What a gateway is started with.
#[derive(Clone)]
pub struct GatewayConfig {
    /// Where it finds its snapshot and puts its control socket.
    pub run_dir: PathBuf,
    /// Where it takes connections from.
    pub listen: Listen,
    /// Threads that serve requests; none is one for each core.
    pub workers: Option<NonZeroUsize>,
    /// Ceilings.
    pub limits: Limits,
    /// Where requests are logged; none is nowhere.
    pub access_log: Option<AccessLogConfig>,
    /// Whether a proxy that may be believed stands before the gateway: then `X-Forwarded-*` of
    /// requests is kept and added to, otherwise it is replaced.
    pub trust_forwarded: bool,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Named places at which a test may kill the process.
    pub crash: Arc<dyn CrashPoints>,
    /// The version that status shows, for deciding about replacement.
    pub version: String,
}

/// Where connections come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    /// The keeper's listening socket is standard input.
    Inherited,
    /// An address of its own, for tests and for running without a keeper.
    Address(SocketAddr),
}

/// Ceilings of a gateway.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Client connections open at a time; further ones wait in the system's queue. Lowered to what
    /// the limit of open files allows.
    pub max_connections: usize,
    /// Requests in progress at a time; further ones get 503.
    pub max_in_flight: usize,
    /// Requests that wait for held routes at a time.
    pub max_held: usize,
    /// The largest request head, in bytes.
    pub max_head_bytes: usize,
    /// The most header fields of a request.
    pub max_header_fields: usize,
    /// The most concurrent streams of an HTTP/2 connection.
    pub max_streams: u32,
    /// How long a client may take to send a request's head.
    pub head_timeout: Duration,
    /// How long a client connection may be idle between requests.
    pub idle_timeout: Duration,
    /// How long a client may neither send the body it announced nor take the answer.
    pub stall_timeout: Duration,
    /// Idle connections that each worker keeps to each replica.
    pub max_upstream_idle: usize,
    /// How long idle client connections are kept while the gateway is being replaced.
    pub retire_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 20_000,
            max_in_flight: 20_000,
            max_held: 5_000,
            max_head_bytes: 64 * 1024,
            max_header_fields: 100,
            max_streams: 250,
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            max_upstream_idle: 512,
            retire_idle: Duration::from_secs(3),
        }
    }
}

/// Where and how much is logged.
#[derive(Debug, Clone)]
pub struct AccessLogConfig {
    /// The file; older ones have `.1`, `.2` … behind their name.
    pub path: PathBuf,
    /// A file that has grown to this is put aside.
    pub max_bytes: u64,
    /// So many older files are kept.
    pub max_files: u32,
    /// Whether query strings are logged with their values. They often carry secrets.
    pub with_query: bool,
}

impl AccessLogConfig {
    /// The usual bounds for a file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            max_bytes: 64 * 1024 * 1024,
            max_files: 3,
            with_query: false,
        }
    }
}
