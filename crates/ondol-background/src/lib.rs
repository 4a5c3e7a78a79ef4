//! Work that nobody waits for: reconcilers and leases.
//!
//! A [`Reconciler`] is woken by signal *and* by timer, is idempotent, takes no input, has no
//! inner retries, and returns a typed [`Report`] that a person can read. Start-up is the first
//! tick of every loop; recovery from a crash needs no other path.
//!
//! Running work is held by a [`leases::Lease`] with a fencing token.

pub mod leases;
mod runner;

pub use runner::{Activator, Background, LoopStatus, Outcome, Reconciler, Report};

/// The migrations of this room: numbers 200 to 299.
pub const MIGRATIONS: &[ondol_store::Migration] = &[leases::MIGRATION];
