//! Clients that keep asking, and what went wrong for them.
//!
//! They behave as well-written clients do: an idempotent request is sent once more when a reused
//! keep-alive connection closes before any byte of its response (RFC 9110, 9.2.2), and a
//! WebSocket that the server closes by a close frame is opened again. Anything else that is not
//! an answer below 500 is a failure.

mod http;
mod socket;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::wait::{block_on, runtime};

/// How many clients of each kind, and what they ask. Paths are below `base`.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Address of the application, without a slash at the end.
    pub base: String,
    /// `Host` header, when it is another than the address says.
    pub host: Option<String>,
    /// Clients that ask `path` over keep-alive connections.
    pub keep_alive: usize,
    /// What they ask; an answer in JSON may name its `version`.
    pub path: String,
    /// Pause of those clients between two requests.
    pub pause: Duration,
    /// Clients that ask `/slow?seconds=N`.
    pub slow: usize,
    /// How long a slow request takes.
    pub slow_seconds: u64,
    /// Clients that send chunked bodies to `/upload`, answered with the number of bytes.
    pub uploads: usize,
    /// Bytes of each upload.
    pub upload_bytes: usize,
    /// Clients that talk to an echo at `/ws`.
    pub sockets: usize,
}

impl LoadPlan {
    /// Nothing but keep-alive clients.
    pub fn keep_alive(base: impl Into<String>, clients: usize) -> Self {
        Self {
            base: base.into(),
            host: None,
            keep_alive: clients,
            path: "/version".to_owned(),
            pause: Duration::from_millis(5),
            slow: 0,
            slow_seconds: 0,
            uploads: 0,
            upload_bytes: 0,
            sockets: 0,
        }
    }

    /// One client that asks every 50 ms: does it answer throughout?
    pub fn poll(base: impl Into<String>) -> Self {
        Self {
            pause: Duration::from_millis(50),
            ..Self::keep_alive(base, 1)
        }
    }
}

/// What the clients of one kind met.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Requests that ended, or messages of a WebSocket that came back.
    pub done: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were sent once more as the protocol allows, and WebSockets opened again
    /// after a close frame.
    pub repeated: u64,
}

/// What all clients met.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// By kind: `keep-alive`, `slow`, `upload`, `websocket`.
    pub kinds: BTreeMap<&'static str, Tally>,
    /// The first failures, each with its kind and moment.
    pub messages: Vec<String>,
    /// Which versions answered how often.
    pub versions: BTreeMap<String, u64>,
    /// The longest time between two answers to keep-alive clients.
    pub longest_gap: Duration,
}

impl LoadReport {
    /// Requests of all kinds that failed.
    pub fn failed(&self) -> u64 {
        self.kinds.values().map(|tally| tally.failed).sum()
    }

    /// Requests of all kinds that ended well.
    pub fn done(&self) -> u64 {
        self.kinds.values().map(|tally| tally.done).sum()
    }

    /// Checks that there was load and that none of it failed.
    ///
    /// # Panics
    /// When a request failed, or fewer than `least` ended well.
    #[track_caller]
    pub fn assert_no_failure(&self, least: u64) {
        assert_eq!(self.failed(), 0, "failed requests: {self:#?}");
        assert!(self.done() >= least, "there was hardly any load: {self:#?}");
    }
}

#[derive(Debug)]
struct Notes {
    began: Instant,
    report: Mutex<(LoadReport, Instant)>,
}

impl Notes {
    fn with(&self, change: impl FnOnce(&mut LoadReport)) {
        change(&mut self.report.lock().expect("the report").0);
    }

    fn done(&self, kind: &'static str) {
        self.with(|report| report.kinds.entry(kind).or_default().done += 1);
    }

    fn repeated(&self, kind: &'static str) {
        self.with(|report| report.kinds.entry(kind).or_default().repeated += 1);
    }

    fn failed(&self, kind: &'static str, why: impl std::fmt::Display) {
        let at = self.began.elapsed().as_secs_f64();
        self.with(|report| {
            report.kinds.entry(kind).or_default().failed += 1;
            if report.messages.len() < 20 {
                report.messages.push(format!("{at:.3} s {kind}: {why}"));
            }
        });
    }

    fn answered(&self, version: Option<String>) {
        let mut guard = self.report.lock().expect("the report");
        let now = Instant::now();
        let gap = now.duration_since(guard.1);
        guard.1 = now;
        guard.0.longest_gap = guard.0.longest_gap.max(gap);
        if let Some(version) = version {
            *guard.0.versions.entry(version).or_default() += 1;
        }
    }
}

/// Load under way.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    clients: Option<JoinSet<()>>,
    notes: Arc<Notes>,
}

impl Load {
    /// Starts every client of a plan.
    pub fn start(plan: LoadPlan) -> Self {
        let stop = CancellationToken::new();
        let notes = Arc::new(Notes {
            began: Instant::now(),
            report: Mutex::new((LoadReport::default(), Instant::now())),
        });
        let plan = Arc::new(plan);
        let mut clients = JoinSet::new();
        let handle = runtime().handle();
        for _ in 0..plan.keep_alive {
            clients.spawn_on(
                http::keep_alive(plan.clone(), notes.clone(), stop.clone()),
                handle,
            );
        }
        for _ in 0..plan.slow {
            clients.spawn_on(
                http::slow(plan.clone(), notes.clone(), stop.clone()),
                handle,
            );
        }
        for _ in 0..plan.uploads {
            clients.spawn_on(
                http::upload(plan.clone(), notes.clone(), stop.clone()),
                handle,
            );
        }
        for _ in 0..plan.sockets {
            clients.spawn_on(
                socket::talk(plan.clone(), notes.clone(), stop.clone()),
                handle,
            );
        }
        Self {
            stop,
            clients: Some(clients),
            notes,
        }
    }

    /// What was met so far.
    pub fn so_far(&self) -> LoadReport {
        self.notes.report.lock().expect("the report").0.clone()
    }

    /// Waits until so many requests have ended, so that there is load before something happens.
    #[track_caller]
    pub fn warmed_up(self, requests: u64) -> Self {
        crate::eventually("there is load", Duration::from_secs(60), || {
            let report = self.so_far();
            report.done() + report.failed() >= requests
        });
        self
    }

    /// Lets every client finish what it does and reports.
    pub fn finish(mut self) -> LoadReport {
        self.stop.cancel();
        if let Some(mut clients) = self.clients.take() {
            block_on(async { while clients.join_next().await.is_some() {} });
        }
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(mut clients) = self.clients.take() {
            clients.abort_all();
        }
    }
}
