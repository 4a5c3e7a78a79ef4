//! The other processes of a platform.

use rustix::process::Signal;

use super::{PATIENCE, Platform};
use crate::process::{self, Running};
use crate::wait::eventually_some;

impl Platform {
    /// Every process of the data directory.
    pub fn processes(&self) -> Vec<Running> {
        process::of_directory(&self.data)
    }

    fn role(&self, role: &str) -> Option<i32> {
        // A retiring gateway is older than the one that serves.
        self.processes()
            .iter()
            .rev()
            .find(|process| process.is_role(role))
            .map(|process| process.pid)
    }

    /// Process id of the gateway.
    #[track_caller]
    pub fn gateway_pid(&self) -> i32 {
        eventually_some("a gateway runs", PATIENCE, || self.role("gateway"))
    }

    /// Process id of the keeper.
    #[track_caller]
    pub fn keeper_pid(&self) -> i32 {
        eventually_some("a keeper runs", PATIENCE, || self.role("keeper"))
    }

    /// Kills the gateway as a machine does.
    #[track_caller]
    pub fn kill9_gateway(&self) {
        process::send(self.gateway_pid(), Signal::KILL);
    }

    /// Kills the keeper as a machine does.
    #[track_caller]
    pub fn kill9_keeper(&self) {
        process::send(self.keeper_pid(), Signal::KILL);
    }
}
