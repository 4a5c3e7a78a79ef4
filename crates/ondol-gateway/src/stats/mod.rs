//! Counting: what the hot path adds to, what others read, and the file that outlives a process.

mod counters;
mod histogram;
mod live;
mod persist;
mod prometheus;

pub use counters::{Counters, ReleaseCounters, ReplicaCounters, RouteCounters, Totals};
pub use histogram::Histogram;

pub(crate) use live::{Outcome, ReleaseShard, RouteShard, WorkerTotals};
pub(crate) use persist::{CountersFile, Ledger, counters_file_name};
