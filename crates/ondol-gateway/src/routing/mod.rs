//! From a host and a path to a replica.

mod matching;
mod registry;
mod replica;
mod table;

pub(crate) use matching::{Found, normalize_host};
pub(crate) use registry::Registry;
pub(crate) use replica::{
    NoReplica, Permit, ReplicaShared, TunnelEntry, TunnelOrder, WorkerReplica,
};
pub(crate) use table::{Table, WorkerRoute};
