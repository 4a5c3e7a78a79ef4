//! The process's shape: one thread per core, each with a runtime, connections, idle upstream
//! connections and counters of its own, so that requests never cross threads; and one control
//! thread that changes what they serve.

mod client;
mod connection;
mod core;
mod drain;
mod janitor;
mod worker;

pub(crate) use client::{Client, Offer};
pub(crate) use core::{Core, CoreParts, RetireOrder};
pub(crate) use worker::{Phase, Shared, Worker, run as run_worker, stop as stop_worker};
