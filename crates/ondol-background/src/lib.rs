//! Work that nobody waits for: reconcilers and leases.
//!
//! A [`Reconciler`] is woken by signal *and* by timer, is idempotent, takes no input, has no
//! inner retries, and returns a typed [`Report`] that a person can read. Start-up is the first
//! tick of every loop; recovery from a crash needs no other path.

mod runner;

pub use runner::{Activator, Background, LoopStatus, Outcome, Reconciler, Report};
