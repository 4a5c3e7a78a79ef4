//! The end of an incarnation: everything it started is ended, its last output is kept, and its
//! exit is written, in this order.

use std::io;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{CHUNK_BYTES, Ended, Ending, Supervisor};
use crate::cgroup::Dirs;
use crate::home::remove_tree;
use crate::model::{Exit, Usage};
use crate::procfs;

/// How long killing may take before the rest is reported and left.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// The most output that is read after the end; what still writes then has escaped.
const DRAIN_BYTES: u64 = 64 << 20;

impl Supervisor<'_> {
    pub(super) fn kill_now(&mut self) {
        let now = Instant::now();
        self.ending = Some(Ending {
            deadline: now,
            killed: true,
        });
        self.kill_rest();
    }

    /// Living processes of the workload, found by group and by ancestry.
    pub(super) fn rest(&self) -> std::collections::BTreeSet<i32> {
        let mut rest = procfs::descendants(std::process::id() as i32);
        rest.extend(self.group.iter().flat_map(Dirs::pids));
        rest.retain(|pid| !self.helpers.contains(pid));
        rest
    }

    fn kill_rest(&mut self) {
        if let Some(group) = &self.group {
            group.kill_all(KILL_PATIENCE);
        }
        let deadline = Instant::now() + KILL_PATIENCE;
        loop {
            self.reap();
            let rest = self.rest();
            if rest.is_empty() {
                return;
            }
            if Instant::now() >= deadline {
                self.log.system(
                    self.clock.now(),
                    &format!("{} processes could not be killed", rest.len()),
                );
                return;
            }
            procfs::kill_round(|| self.rest());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everything that is left to do once the main process has ended.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.reap();
        if !self.childless || self.group.is_some() {
            self.kill_rest();
        }
        for helper in std::mem::take(&mut self.helpers) {
            procfs::signal_all(&[helper].into(), Signal::KILL);
        }
        let mut drained = 0;
        while drained < DRAIN_BYTES
            && !self.outputs.is_empty()
            && self.read_outputs(CHUNK_BYTES as u64)
        {
            drained += CHUNK_BYTES as u64;
        }
        let now = self.clock.now();
        let Self {
            outputs,
            masker,
            log,
            ..
        } = &mut self;
        for output in outputs {
            output.lines.finish(masker, |text, goes_on| {
                log.append(now, output.kind, goes_on, text)
            });
        }
        log.flush(now);
        let exit = self.exit();
        if exit.oom {
            self.log
                .system(now, "the kernel killed it for want of memory");
        }
        let _ = remove_tree(&self.home.path("secrets"));
        if let Some(group) = &self.group {
            group.remove();
        }
        // What cannot be stored now can be in a moment: a full disk is emptied by somebody, and
        // an exit that is not written would be taken for a shim that was killed.
        let incarnation = self.order.spec.incarnation;
        let mut result = self.home.write_exit(incarnation, &exit);
        for _ in 0..30 {
            if result.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_secs(1));
            result = self.home.write_exit(incarnation, &exit);
        }
        let _ = std::fs::remove_file(self.home.path("sock"));
        result
    }

    fn exit(&self) -> Exit {
        let ended = self.ended.unwrap_or(Ended {
            code: None,
            signal: None,
        });
        let (cpu, _, _) = self.group.as_ref().map_or((None, None, None), Dirs::usage);
        let own = procfs::Stat::of(std::process::id() as i32);
        let cpu_seconds = cpu.unwrap_or_else(|| own.map_or(0.0, |stat| stat.children_cpu_seconds));
        let memory_bytes = self.group.as_ref().and_then(Dirs::peak_memory).unwrap_or(0);
        let killed_for_memory = self.group.as_ref().is_some_and(Dirs::oom_killed);
        Exit {
            code: ended.code,
            signal: ended.signal,
            // A program that outlived the loss of one of its processes has not failed of it.
            oom: killed_for_memory && ended.code != Some(0),
            timed_out: self.timed_out,
            stopped: self.stopped,
            lost: false,
            at: self.clock.now(),
            usage: Usage {
                cpu_seconds,
                memory_bytes,
                pids: 0,
            },
        }
    }
}
