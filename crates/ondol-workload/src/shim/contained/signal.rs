//! Asking a program in a container to stop, and killing it.
//!
//! An engine signals the first process alone, and that passes the signal to its one child. A shell
//! does not pass it on, so what it started would never hear of it. Where this host shows the
//! processes, the whole process group of the program is signalled, as the process engine does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bollard::query_parameters::KillContainerOptions;
use rustix::process::{Signal, getpgid};

use super::{Ending, Supervisor};
use crate::model::{StopPolicy, StopSignal};
use crate::procfs::{self, ProcessIdentity};
use crate::shim::supervise::signal_of;

/// The longest grace there is.
const MOST_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

impl Supervisor<'_> {
    pub(super) async fn begin_stop(&mut self, policy: StopPolicy) {
        let deadline = Instant::now() + policy.grace.min(MOST_GRACE);
        match &mut self.ending {
            // A repeated stop may shorten the grace; it does not signal again.
            Some(ending) => ending.deadline = ending.deadline.min(deadline),
            None => {
                self.ending = Some(Ending {
                    deadline,
                    killed: false,
                });
                self.count();
                let group = self.program_group();
                if group.is_empty() {
                    self.ask_engine(name_of(policy.signal)).await;
                } else {
                    procfs::signal_all(&group, signal_of(policy.signal));
                }
            }
        }
    }

    pub(super) async fn kill_now(&mut self) {
        self.count();
        self.ending = Some(Ending {
            deadline: Instant::now(),
            killed: true,
        });
        // The kernel ends every process of the container with its first.
        match self.first.as_ref().filter(|first| first.is_alive()) {
            Some(first) => procfs::signal_all(&[first.pid].into(), Signal::KILL),
            None => self.ask_engine("SIGKILL").await,
        }
    }

    async fn ask_engine(&mut self, signal: &str) {
        let options = KillContainerOptions {
            signal: signal.to_owned(),
        };
        let asked = self
            .docker
            .kill_container(&self.container.id, Some(options))
            .await;
        if let Err(error) = asked {
            let words = format!("the container engine did not send {signal}: {error}");
            self.log.system(self.clock.now(), &words);
            // It may be away, or the container gone.
            self.look = Some(Instant::now());
        }
    }

    /// The program's main process and those of its group; empty when they cannot be seen.
    fn program_group(&self) -> BTreeSet<i32> {
        let Some(first) = self.first.as_ref().filter(|first| first.is_alive()) else {
            return BTreeSet::new();
        };
        let family = procfs::descendants(first.pid);
        let main = if self.container.init {
            let children = family
                .iter()
                .filter(|&&pid| procfs::Stat::of(pid).is_some_and(|stat| stat.parent == first.pid));
            // Orphans become its children as well, and they are younger.
            let oldest = children
                .min_by_key(|&&pid| ProcessIdentity::of(pid).map(|identity| identity.start_ticks));
            match oldest {
                Some(&pid) => pid,
                None => return BTreeSet::new(),
            }
        } else {
            first.pid
        };
        let group_of = |pid: i32| {
            procfs::pid(pid)
                .ok()
                .and_then(|pid| getpgid(Some(pid)).ok())
        };
        let Some(group) = group_of(main) else {
            return BTreeSet::new();
        };
        let mut found: BTreeSet<i32> = family
            .into_iter()
            .filter(|&pid| group_of(pid) == Some(group))
            .collect();
        found.insert(main);
        found
    }
}

fn name_of(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::Term => "SIGTERM",
        StopSignal::Int => "SIGINT",
        StopSignal::Quit => "SIGQUIT",
        StopSignal::Hup => "SIGHUP",
        StopSignal::Usr1 => "SIGUSR1",
        StopSignal::Usr2 => "SIGUSR2",
    }
}
