//! The routing table of the installation, and what came back through it.

mod apply;
mod table;
mod traffic;

pub(crate) use apply::RoutesLoop;
pub use table::{Applied, Backend, Drain, Endpoint, Hosts, Route, RouteTable, path_of};
pub(crate) use table::{Set, claims, plan_routes};
pub use traffic::{Counters, Histogram, ReleaseTraffic, ReplicaTraffic};
