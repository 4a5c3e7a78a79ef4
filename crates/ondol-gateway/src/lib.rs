#![doc = include_str!("../README.md")]

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
