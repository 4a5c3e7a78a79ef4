//! The data plane: how requests from outside reach the replicas of a release.
//!
//! Three faces, all library functions that the `ondol` binary calls:
//!
//! - [`gateway_main`] (`ondol gateway`): a reverse proxy that serves the snapshot in its run
//!   directory, also when nobody else lives. Routes come over a control socket, are made durable,
//!   and only then acknowledged.
//! - [`keeper_main`] (`ondol keeper`): owns the listening socket, starts a gateway again when it
//!   dies, and replaces one by another without a refused connection.
//! - [`GatewayControl`] and [`KeeperClient`]: what `ondol serve` steers both with.
//!
//! | module | what it holds |
//! |---|---|
//! | `snapshot` | what to serve: model, rules, file |
//! | `routing` | host and path to route, weights, replicas, tables |
//! | `proxy` | one request's way: head, body, tunnel, account |
//! | `upstream` | HTTP/1.1 towards replicas: connections, framing |
//! | `server` | threads, client connections, generations, drains, retirement |
//! | `stats` | counters, durations, their file, Prometheus text |
//! | `access_log` | one JSON line for each request |
//! | `control`, `client` | the control protocol and its two ends |
//! | `keeper` | the process that outlives the others |
//!
//! Not here: TLS, HTTP/2 towards replicas (and with it gRPC), WebSockets over HTTP/2.

mod access_log;
mod client;
mod config;
mod control;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod gateway;
mod keeper;
mod proxy;
mod routing;
mod run_dir;
mod server;
mod snapshot;
mod stats;
mod upstream;

pub use client::{Applied, DrainStatus, GatewayControl};
pub use config::{AccessLogConfig, GatewayConfig, Limits, Listen};
pub use control::GatewayStatus;
pub use error::GatewayError;
pub use gateway::{RunningGateway, gateway_main};
pub use keeper::{
    KeeperClient, KeeperConfig, KeeperHandle, KeeperSpawn, KeeperStatus, keeper_main,
};
pub use snapshot::{
    Backend, DrainPolicy, Replica, Route, RouteState, SNAPSHOT_FORMAT, Snapshot, Timeouts,
};
pub use stats::{Counters, Histogram, ReleaseCounters, ReplicaCounters, RouteCounters, Totals};
