//! End-to-end tests of the released binary: each one starts a platform of its own and uses it as
//! a user does, by git, the command line, the API and requests to applications.
//!
//! `ONDOL_KILL_ALL=1` makes the kill harness visit every crash point, `ONDOL_SEED=n` repeats its
//! random instants, `ONDOL_KEEP=1` keeps the folder of a failed test.

mod bad_days;
mod clients;
mod containers;
mod crash;
mod environments;
mod events;
mod fixtures;
mod loop_code;
mod loop_data;
mod metrics;
mod secrets;
mod tracking;
