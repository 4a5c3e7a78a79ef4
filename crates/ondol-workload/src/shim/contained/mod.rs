//! The shim of a workload in a container: attached to it from before its start until after its
//! end. It masks and stores what the program writes, ends it when asked, and writes how it ended.
//!
//! Order matters for whoever dies in between, as in [`super::supervise`]: `spec.json` first,
//! `identity.json` before the container is started, `exit.json` only after its end. The container
//! is removed last; one that is left behind belongs to no living workload and is swept.
//!
//! It is one thread: the client of the container engine is asynchronous, so there is a runtime of
//! this thread alone. It must never decide to start anything again, and never take silence of the
//! engine for the end of its workload: where it can see the first process of the container, the
//! kernel tells it of the end; where it cannot, the workload is unknown until the engine answers.

mod asked;
mod finish;
mod prepare;
mod signal;

use std::io;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::{AttachContainerOptions, InspectContainerOptions};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use ondol_types::{Clock, Timestamp};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::cgroup::Dirs;
use crate::container::{is_missing, is_unreachable, with_sources};
use crate::home::{Home, UnknownFile, VERSION};
use crate::log::{LineAssembler, LogWriter};
use crate::mask::Masker;
use crate::model::{LogStreamKind, StopPolicy, Usage};
use crate::procfs::ProcessIdentity;
use crate::sys::SignalFd;
use crate::wire::{ContainerOrder, LaunchOrder, LaunchReply, Operation, write_line};

/// After its output has ended, how long the end of a container may take to be seen before the
/// engine is asked.
const SETTLE: Duration = Duration::from_millis(200);

/// The same where the kernel does not tell of the end.
const MOMENT: Duration = Duration::from_millis(5);

/// The longest pause between two attempts to reach the engine.
const RETRY: Duration = Duration::from_secs(5);

/// How often the engine is asked whether a container has ended whose processes cannot be seen.
const LOOK: Duration = Duration::from_secs(1);

type Output = BoxStream<'static, Result<LogOutput, bollard::errors::Error>>;

/// Carries out an order for a container. The lock of the workload is held by the caller.
pub(super) fn run(
    home: Home,
    order: LaunchOrder,
    container: ContainerOrder,
    signals: SignalFd,
    clock: &dyn Clock,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        let started = prepare::start(home, order, container, clock).await;
        let (supervisor, output) = match started {
            Ok(started) => started,
            Err(error) => {
                let reply = LaunchReply::Failed(error.to_string());
                let _ = write_line(io::stdout().lock(), &reply);
                return Err(error);
            }
        };
        // An engine that died meanwhile will find the files.
        let _ = write_line(io::stdout().lock(), &LaunchReply::Started);
        super::close_standard_streams();
        supervisor.run(output, signals).await
    })
}

/// Removes a container that has ended. Called in a process of its own, so that nobody who waits for
/// the end waits for this as well.
pub(super) fn remove_main(address: &str, id: &str) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let address = address.parse().map_err(io::Error::other)?;
        let docker = crate::container::negotiate(&address)
            .await
            .map_err(io::Error::other)?;
        crate::container::remove_container(&docker, id)
            .await
            .map_err(io::Error::other)
    })
}

/// A stop that is under way.
struct Ending {
    deadline: Instant,
    killed: bool,
}

/// How it ended, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Ended {
    /// It did not start.
    Refused { code: i32 },
    /// It is over; the engine knows the code.
    Over,
    /// The container is not there any more.
    Removed,
}

/// Watches one container.
struct Supervisor<'c> {
    home: Home,
    order: LaunchOrder,
    container: ContainerOrder,
    clock: &'c dyn Clock,
    docker: Docker,
    asked: mpsc::Receiver<Operation>,
    log: LogWriter,
    masker: Masker,
    lines: [LineAssembler; 2],
    /// The last line of standard error, in which a first process says why it failed.
    last_error: Vec<u8>,
    /// The first process of the container, where this host shows it.
    first: Option<ProcessIdentity>,
    group: Option<Dirs>,
    oom: bool,
    usage: Usage,
    timeout: Option<Instant>,
    ended: Option<Ended>,
    ending: Option<Ending>,
    stopped: bool,
    timed_out: bool,
    /// When to look at the container, and the pause after that.
    look: Option<Instant>,
    pause: Duration,
    /// When the output ended last.
    silent_since: Instant,
    /// Since when the engine does not answer.
    away: Option<Timestamp>,
    unknown: bool,
}

enum Event {
    Output(Option<Result<LogOutput, bollard::errors::Error>>),
    FirstGone,
    Asked(Operation),
    Signal,
    Timer,
}

impl Supervisor<'_> {
    async fn run(mut self, mut output: Option<Output>, signals: SignalFd) -> io::Result<()> {
        let signal_fd = crate::sys::async_readable(signals.duplicate()?)?;
        let first = self.first.as_ref().and_then(|first| first.watch().ok());
        if self.ended.is_none() && first.is_none() {
            self.look = Some(Instant::now() + LOOK);
        }
        while self.ended.is_none() {
            let event = self.next(&mut output, first.as_ref(), &signal_fd).await;
            match event {
                Event::Output(Some(Ok(piece))) => self.take(piece),
                Event::Output(_) => {
                    output = None;
                    self.silent_since = Instant::now();
                    let settle = if first.is_some() { SETTLE } else { MOMENT };
                    self.look = Some(Instant::now() + settle);
                }
                Event::FirstGone => {
                    self.count();
                    self.ended = Some(Ended::Over);
                }
                Event::Asked(operation) => self.take_request(operation).await,
                Event::Signal => {
                    while signals.next().is_some() {
                        self.stopped = true;
                    }
                    if self.stopped {
                        let policy = self.order.spec.stop;
                        self.begin_stop(policy).await;
                    }
                }
                Event::Timer => {}
            }
            self.check_deadlines().await;
            if self.look.is_some_and(|at| Instant::now() >= at) {
                self.look_at_container(&mut output, first.is_some()).await;
            }
        }
        self.finish(output).await
    }

    async fn next(
        &mut self,
        output: &mut Option<Output>,
        first: Option<&AsyncFd<std::os::fd::OwnedFd>>,
        signals: &AsyncFd<std::os::fd::OwnedFd>,
    ) -> Event {
        let now = Instant::now();
        let mut until = self.look;
        let mut sooner = |at: Option<Instant>| until = [until, at].into_iter().flatten().min();
        match &self.ending {
            None => sooner(self.timeout),
            Some(ending) if !ending.killed => sooner(Some(ending.deadline)),
            Some(_) => {}
        }
        // Lines that are not finished are not waited for, finished ones are stored at once.
        let timer = async {
            match until {
                Some(at) => tokio::time::sleep(at.saturating_duration_since(now)).await,
                None => std::future::pending().await,
            }
        };
        let piece = async {
            match output {
                Some(output) => output.next().await,
                None => std::future::pending().await,
            }
        };
        let gone = async {
            match first {
                Some(first) => drop(first.readable().await),
                None => std::future::pending().await,
            }
        };
        // By chance, so that a flood of output keeps nobody else waiting.
        tokio::select! {
            piece = piece => Event::Output(piece),
            () = gone => Event::FirstGone,
            Some(operation) = self.asked.recv() => Event::Asked(operation),
            guard = signals.readable() => {
                if let Ok(mut guard) = guard {
                    guard.clear_ready();
                }
                Event::Signal
            }
            () = timer => Event::Timer,
        }
    }

    /// Stores a piece of output.
    fn take(&mut self, piece: LogOutput) {
        let (kind, bytes) = match piece {
            LogOutput::StdErr { message } => (LogStreamKind::Stderr, message),
            LogOutput::StdOut { message } | LogOutput::Console { message } => {
                (LogStreamKind::Stdout, message)
            }
            LogOutput::StdIn { .. } => return,
        };
        let now = self.clock.now();
        let Self {
            lines,
            masker,
            log,
            last_error,
            ..
        } = self;
        let stream = usize::from(kind == LogStreamKind::Stderr);
        lines[stream].push(masker, &bytes, |text, goes_on| {
            if kind == LogStreamKind::Stderr {
                last_error.clear();
                last_error.extend_from_slice(&text[..text.len().min(500)]);
            }
            log.append(now, kind, goes_on, text);
        });
        self.log.flush(now);
    }

    /// Finds out what has become of a container that is silent, and attaches again to one that
    /// runs.
    async fn look_at_container(&mut self, output: &mut Option<Output>, seen_by_host: bool) {
        self.look = None;
        let inspected = self
            .docker
            .inspect_container(&self.container.id, None::<InspectContainerOptions>)
            .await;
        match inspected {
            Ok(found) => {
                self.answers_again();
                let running = found.state.and_then(|state| state.running).unwrap_or(false);
                if !running {
                    if !seen_by_host {
                        self.ended = Some(Ended::Over);
                    } else {
                        // The kernel tells of it in a moment.
                        self.look = Some(Instant::now() + SETTLE);
                    }
                    return;
                }
                if output.is_none() && !self.is_silent_for_long() {
                    self.look = Some(Instant::now() + MOMENT * 4);
                    return;
                }
                if output.is_none() {
                    *output = attach(&self.docker, &self.container.id).await.ok();
                    let now = self.clock.now();
                    if output.is_some() {
                        self.log.system(now, "the container engine was away: lines that were written meanwhile may be missing");
                    } else {
                        self.retry();
                    }
                }
                if !seen_by_host && self.look.is_none() {
                    self.look = Some(Instant::now() + LOOK);
                }
            }
            Err(error) if is_missing(&error) => {
                self.answers_again();
                if seen_by_host && self.first.as_ref().is_some_and(ProcessIdentity::is_alive) {
                    // An engine that has forgotten a container which lives.
                    self.kill_now().await;
                    self.look = Some(Instant::now() + LOOK);
                } else {
                    self.ended = Some(Ended::Removed);
                }
            }
            Err(error) => {
                self.is_away(&with_sources(&error), seen_by_host);
                if is_unreachable(&error) {
                    self.reconnect().await;
                }
                self.retry();
            }
        }
    }

    /// Engines learn of an end a little later than its output ends, and to attach to a container that
    /// has ended means to some of them to prepare it for another start.
    fn is_silent_for_long(&self) -> bool {
        let lives = self.first.as_ref().is_none_or(ProcessIdentity::is_alive);
        lives && self.silent_since.elapsed() >= LOOK
    }

    fn retry(&mut self) {
        self.look = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(RETRY);
    }

    /// Another engine may listen at the address by now, with another version.
    async fn reconnect(&mut self) {
        if let Ok(address) = self.container.address.parse()
            && let Ok(docker) = crate::container::negotiate(&address).await
        {
            self.docker = docker;
        }
    }

    /// Notes that the engine does not answer, and that nobody can tell whether the program runs
    /// where the kernel does not tell either.
    fn is_away(&mut self, reason: &str, seen_by_host: bool) {
        let since = *self.away.get_or_insert_with(|| self.clock.now());
        if seen_by_host || self.unknown {
            return;
        }
        let unknown = UnknownFile {
            v: VERSION,
            incarnation: self.order.spec.incarnation,
            since,
            reason: reason.to_owned(),
        };
        self.unknown = self.home.write_unknown(Some(&unknown)).is_ok();
    }

    fn answers_again(&mut self) {
        self.pause = SETTLE;
        self.away = None;
        if self.unknown {
            self.unknown = self.home.write_unknown(None).is_err();
        }
    }

    /// Notes what the container uses and whether it lacked memory, while that can be read.
    fn count(&mut self) {
        let Some(group) = &self.group else {
            return;
        };
        let (cpu, _, _) = group.usage();
        self.usage.cpu_seconds = cpu.unwrap_or(0.0).max(self.usage.cpu_seconds);
        let peak = group.peak_memory().unwrap_or(0);
        self.usage.memory_bytes = peak.max(self.usage.memory_bytes);
        self.oom |= group.oom_killed();
    }

    async fn take_request(&mut self, operation: Operation) {
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
                })
                .await;
            }
            Operation::Kill => {
                self.stopped = true;
                self.kill_now().await;
            }
        }
    }

    async fn check_deadlines(&mut self) {
        let now = Instant::now();
        if self.ended.is_some() {
            return;
        }
        if self.ending.is_none() && self.timeout.is_some_and(|at| now >= at) {
            self.timed_out = true;
            let after = self.order.spec.timeout.unwrap_or_default();
            self.log.system(
                self.clock.now(),
                &format!("timed out after {:.3} s", after.as_secs_f64()),
            );
            let policy = self.order.spec.stop;
            self.begin_stop(policy).await;
        }
        let due = |ending: &Ending| !ending.killed && now >= ending.deadline;
        if self.ending.as_ref().is_some_and(due) {
            self.log.system(
                self.clock.now(),
                "did not stop within its grace, so it is killed",
            );
            self.kill_now().await;
        }
    }
}

/// Attaches to the output of a container, running or not yet.
async fn attach(docker: &Docker, id: &str) -> Result<Output, bollard::errors::Error> {
    let options = AttachContainerOptions {
        stream: true,
        stdout: true,
        stderr: true,
        ..AttachContainerOptions::default()
    };
    let attached = docker.attach_container(id, Some(options)).await?;
    // The writing end is dropped with the result: nothing is sent to the program.
    let bollard::container::AttachContainerResults { output, input } = attached;
    Ok(Box::pin(output.chain(futures_util::stream::once(
        async move {
            drop(input);
            Err(bollard::errors::Error::IOError {
                err: io::ErrorKind::UnexpectedEof.into(),
            })
        },
    ))))
}
