//! The life of one incarnation: prepare, start, watch, end, report.
//!
//! Order matters for whoever dies in between. `spec.json` first; `identity.json` before the
//! program starts, so that an incarnation that may have run is never run again; `exit.json` only
//! after everything the program started is gone and its last output is in the log.

mod finish;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ondol_types::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, WaitOptions, WaitStatus, kill_process_group};

use super::child;
use super::control::Control;
use super::netns::{Holder, Netns};
use crate::cgroup::Dirs;
use crate::home::{Home, IdentityFile, VERSION};
use crate::log::{LineAssembler, LogWriter};
use crate::mask::Masker;
use crate::model::{LogStreamKind, PortRequest, StopPolicy, StopSignal};
use crate::procfs::ProcessIdentity;
use crate::sys::SignalFd;
use crate::wire::{LaunchOrder, Operation, Response};

/// How often the rest of a workload is looked for after its main process has stopped.
const REST_INTERVAL: Duration = Duration::from_millis(20);

const CHUNK_BYTES: usize = 64 << 10;

struct Output {
    pipe: OwnedFd,
    kind: LogStreamKind,
    lines: LineAssembler,
}

/// A stop that is under way.
struct Ending {
    deadline: Instant,
    killed: bool,
}

/// How the main process ended.
#[derive(Clone, Copy)]
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
}

/// Watches one workload.
pub(super) struct Supervisor<'c> {
    home: Home,
    order: LaunchOrder,
    clock: &'c dyn Clock,
    signals: SignalFd,
    control: Control,
    log: LogWriter,
    masker: Masker,
    outputs: Vec<Output>,
    chunk: Vec<u8>,
    group: Option<Dirs>,
    helpers: Vec<i32>,
    pid: i32,
    timeout: Option<Instant>,
    ended: Option<Ended>,
    childless: bool,
    ending: Option<Ending>,
    stopped: bool,
    timed_out: bool,
}

impl<'c> Supervisor<'c> {
    /// Prepares and starts. An error means that nothing of this incarnation has run; a program
    /// that could not be executed is no error but an exit.
    pub(super) fn start(
        home: Home,
        mut order: LaunchOrder,
        signals: SignalFd,
        clock: &'c dyn Clock,
    ) -> io::Result<Self> {
        let secrets = order.take_secrets();
        let masker = Masker::new(
            secrets
                .env
                .values()
                .chain(secrets.files.values())
                .chain(secrets.masks.iter()),
        );
        home.write_spec(&order.spec)?;
        let _ = std::fs::remove_file(home.path("exit.json"));
        let mut log = LogWriter::open(&home.log(), order.spec.log)?;
        let control = Control::bind(&home)?;
        child::place_secrets(&home, &secrets)?;
        let mut notices = std::mem::take(&mut order.notices);
        let group = match &order.cgroups {
            Some(base) => {
                let name = format!(
                    "{}-{}-{}",
                    order.spec.id,
                    order.spec.incarnation,
                    std::process::id()
                );
                let (group, more) = base.make(&name, &order.spec.limits)?;
                notices.extend(more);
                Some(group)
            }
            None => None,
        };
        let shim = ProcessIdentity::of(std::process::id() as i32).ok_or(io::ErrorKind::NotFound)?;
        let mut identity = IdentityFile {
            v: VERSION,
            incarnation: order.spec.incarnation,
            shim,
            child: None,
            started_at: None,
            cgroup: group.clone(),
            notices,
            container: None,
        };
        home.write_identity(&identity, true)?;
        for notice in &identity.notices {
            log.system(clock.now(), notice);
        }
        let mut this = Self {
            timeout: order.spec.timeout.map(|timeout| Instant::now() + timeout),
            home,
            clock,
            signals,
            control,
            log,
            masker,
            outputs: Vec::new(),
            chunk: vec![0; CHUNK_BYTES],
            group,
            helpers: Vec::new(),
            pid: 0,
            ended: None,
            childless: false,
            ending: None,
            stopped: false,
            timed_out: false,
            order,
        };
        match this.start_child(&secrets) {
            Ok(pid) => {
                this.pid = pid;
                identity.child = ProcessIdentity::of(pid);
                identity.started_at = Some(clock.now());
                // The program runs: from here on only its exit ends this function's work.
                if let Err(error) = this.home.write_identity(&identity, false) {
                    this.log.system(
                        clock.now(),
                        &format!("the identity of the program could not be stored: {error}"),
                    );
                }
            }
            Err(error) => {
                let argv = this.order.spec.command.argv();
                let (code, words) = child::start_failure(&argv, &this.order.spec.work_dir, &error);
                this.log.system(clock.now(), &words);
                this.ended = Some(Ended {
                    code: Some(code),
                    signal: None,
                });
            }
        }
        Ok(this)
    }

    fn start_child(&mut self, secrets: &crate::wire::Secrets) -> io::Result<i32> {
        let mut join = None;
        let mut _holder: Option<Holder> = None;
        if let (PortRequest::Fixed(port), Some(host_port)) =
            (self.order.spec.port, self.order.spec.host_port)
        {
            let netns = Netns::make(
                &self.home,
                &self.order.shim_command,
                self.order.user_namespace,
                self.order.outbound.as_deref(),
                host_port,
                port,
            )?;
            if let Some(notice) = &netns.notice {
                self.log.system(self.clock.now(), notice);
            }
            self.helpers = netns.helpers;
            join = Some(netns.join);
            _holder = Some(netns.holder);
        }
        let started = child::start(&self.home, &self.order, secrets, self.group.as_ref(), join)?;
        let max_line = self.order.spec.log.max_line_bytes as usize;
        let output = |pipe, kind| Output {
            pipe,
            kind,
            lines: LineAssembler::new(max_line),
        };
        self.outputs = vec![
            output(started.stdout, LogStreamKind::Stdout),
            output(started.stderr, LogStreamKind::Stderr),
        ];
        Ok(started.child.id() as i32)
    }

    /// Watches until the end and reports it.
    pub(super) fn run(mut self) -> io::Result<()> {
        while !self.is_over() {
            self.wait()?;
            self.read_outputs(CHUNK_BYTES as u64);
            self.take_signals();
            self.take_requests();
            self.check_deadlines();
        }
        self.finish()
    }

    fn is_over(&self) -> bool {
        match (&self.ended, &self.ending) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(_), Some(ending)) => ending.killed || self.childless || self.rest().is_empty(),
        }
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut until: Vec<Duration> = Vec::new();
        let now = Instant::now();
        if self.ending.is_none() {
            until.extend(self.timeout.map(|at| at.saturating_duration_since(now)));
        }
        if let Some(ending) = &self.ending {
            if !ending.killed {
                until.push(ending.deadline.saturating_duration_since(now));
            }
            if self.ended.is_some() {
                until.push(REST_INTERVAL);
            }
        }
        let timeout = until.into_iter().min().map(|wait| {
            // Rounded up, so that the loop does not spin through the last millisecond.
            let wait = wait + Duration::from_millis(1);
            Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: wait.subsec_nanos().into(),
            }
        });
        let mut fds: Vec<BorrowedFd<'_>> = vec![self.signals.as_fd()];
        fds.extend(self.control.descriptors());
        fds.extend(self.outputs.iter().map(|output| output.pipe.as_fd()));
        let mut fds: Vec<PollFd<'_>> = fds
            .into_iter()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads at most so many bytes of each stream into the log; true when there was any.
    fn read_outputs(&mut self, most: u64) -> bool {
        let Self {
            outputs,
            chunk,
            masker,
            log,
            clock,
            ..
        } = self;
        let mut any = false;
        outputs.retain_mut(|output| {
            let mut left = most;
            loop {
                match rustix::io::read(&output.pipe, &mut chunk[..]) {
                    Ok(0) => {
                        let now = clock.now();
                        output.lines.finish(masker, |text, goes_on| {
                            log.append(now, output.kind, goes_on, text)
                        });
                        return false;
                    }
                    Ok(read) => {
                        any = true;
                        let now = clock.now();
                        output.lines.push(masker, &chunk[..read], |text, goes_on| {
                            log.append(now, output.kind, goes_on, text);
                        });
                        left = left.saturating_sub(read as u64);
                        if left == 0 {
                            return true;
                        }
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    // Nothing more at the moment; any other error of a pipe cannot happen.
                    Err(_) => return true,
                }
            }
        });
        self.log.flush(self.clock.now());
        any
    }

    fn take_signals(&mut self) {
        while let Some(signal) = self.signals.next() {
            if signal == Signal::CHILD.as_raw() {
                self.reap();
            } else {
                let policy = self.order.spec.stop;
                self.stopped = true;
                self.begin_stop(policy);
            }
        }
    }

    /// Waits for every process that has ended: the program, helpers, and orphans, whose parent
    /// this process is as subreaper.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => self.reaped(pid.as_raw_nonzero().get(), status),
                Ok(None) => {
                    self.childless = false;
                    return;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => {
                    self.childless = true;
                    return;
                }
            }
        }
    }

    fn reaped(&mut self, pid: i32, status: WaitStatus) {
        if pid == self.pid {
            self.ended = Some(Ended {
                code: status.exit_status(),
                signal: status.terminating_signal(),
            });
        } else if let Some(index) = self.helpers.iter().position(|&helper| helper == pid) {
            self.helpers.swap_remove(index);
            if self.ended.is_none() {
                // Without its network the program is of no use; the reconciler replaces it.
                self.log.system(
                    self.clock.now(),
                    "a network helper of the workload ended, so it is killed",
                );
                self.kill_now();
            }
        }
    }

    fn take_requests(&mut self) {
        let mut operations = Vec::new();
        let pid = self.ended.is_none().then_some(self.pid);
        self.control.serve(|operation| {
            operations.push(operation);
            Response {
                v: VERSION,
                ok: true,
                error: None,
                pid,
            }
        });
        for operation in operations {
            match operation {
                Operation::Status => {}
                Operation::Stop {
                    signal,
                    grace_millis,
                } => {
                    self.stopped = true;
                    self.begin_stop(StopPolicy {
                        signal,
                        grace: Duration::from_millis(grace_millis),
                    });
                }
                Operation::Kill => {
                    self.stopped = true;
                    self.kill_now();
                }
            }
        }
    }

    fn check_deadlines(&mut self) {
        let now = Instant::now();
        if self.ending.is_none() && self.ended.is_none() && self.timeout.is_some_and(|at| now >= at)
        {
            self.timed_out = true;
            let after = self.order.spec.timeout.unwrap_or_default();
            self.log.system(
                self.clock.now(),
                &format!("timed out after {:.3} s", after.as_secs_f64()),
            );
            let policy = self.order.spec.stop;
            self.begin_stop(policy);
        }
        if self
            .ending
            .as_ref()
            .is_some_and(|ending| !ending.killed && now >= ending.deadline)
        {
            if self.ended.is_none() {
                self.log.system(
                    self.clock.now(),
                    "did not stop within its grace, so it is killed",
                );
            }
            self.kill_now();
        }
    }

    fn begin_stop(&mut self, policy: StopPolicy) {
        if self.ended.is_some() && self.ending.is_none() {
            return;
        }
        let deadline = Instant::now() + policy.grace.min(Duration::from_secs(24 * 60 * 60));
        match &mut self.ending {
            // A repeated stop may shorten the grace; it does not signal again.
            Some(ending) => ending.deadline = ending.deadline.min(deadline),
            None => {
                self.ending = Some(Ending {
                    deadline,
                    killed: false,
                });
                if let Ok(group) = crate::procfs::pid(self.pid) {
                    let _ = kill_process_group(group, signal_of(policy.signal));
                }
            }
        }
    }
}

pub(super) fn signal_of(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Hup => Signal::HUP,
        StopSignal::Usr1 => Signal::USR1,
        StopSignal::Usr2 => Signal::USR2,
    }
}
