#![doc = include_str!("../README.md")]

pub mod leases;
mod runner;

pub use runner::{Activator, Background, LoopStatus, Outcome, Reconciler, Report};

/// The migrations of this room: numbers 200 to 299.
pub const MIGRATIONS: &[ondol_store::Migration] = &[leases::MIGRATION];
