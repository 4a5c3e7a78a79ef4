//! One thread that serves requests.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use ondol_types::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::client::{ConnectionState, Order};
use super::connection::serve;
use super::janitor;
use crate::access_log::AccessLog;
use crate::config::Limits;
use crate::proxy::Refusal;
use crate::routing::Table;
use crate::stats::WorkerTotals;

/// How far a gateway is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// It serves.
    Serving,
    /// It takes no new connections; those it has may send one more request.
    Retiring,
    /// Idle connections are closed.
    IdleClosed,
}

/// What all threads share.
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) trust_forwarded: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) access_log: Option<Arc<AccessLog>>,
    pub(crate) generation: watch::Sender<u64>,
    held: AtomicUsize,
    phase: AtomicU8,
}

impl Shared {
    pub(crate) fn new(
        limits: Limits,
        trust_forwarded: bool,
        clock: Arc<dyn Clock>,
        access_log: Option<Arc<AccessLog>>,
    ) -> Self {
        Self {
            limits,
            trust_forwarded,
            clock,
            access_log,
            generation: watch::Sender::new(0),
            held: AtomicUsize::new(0),
            phase: AtomicU8::new(0),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Retiring,
            _ => Phase::IdleClosed,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::AcqRel);
    }

    /// Lets a request wait until another generation than `generation` is in force.
    pub(crate) async fn wait_for_change(
        &self,
        generation: u64,
        until: tokio::time::Instant,
        gauge: &AtomicU64,
    ) -> Result<(), Refusal> {
        if self.held.fetch_add(1, Ordering::AcqRel) >= self.limits.max_held {
            self.held.fetch_sub(1, Ordering::AcqRel);
            return Err(Refusal::Overloaded);
        }
        gauge.fetch_add(1, Ordering::Relaxed);
        let _place = HeldPlace {
            held: &self.held,
            gauge,
        };
        let mut changes = self.generation.subscribe();
        let changed = changes.wait_for(|current| *current != generation);
        match tokio::time::timeout_at(until, changed).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::HeldTooLong),
        }
    }
}

struct HeldPlace<'a> {
    held: &'a AtomicUsize,
    gauge: &'a AtomicU64,
}

impl Drop for HeldPlace<'_> {
    fn drop(&mut self) {
        self.held.fetch_sub(1, Ordering::AcqRel);
        self.gauge.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a worker is told.
pub(crate) enum Command {
    /// Answer when nothing that runs now can still see an older table.
    Barrier(oneshot::Sender<()>),
    /// Serve a connection that another worker accepted.
    Adopt(std::net::TcpStream, SocketAddr),
    /// Take no more connections.
    StopAccepting,
    /// End.
    Exit,
}

/// What others know of a worker.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) totals: WorkerTotals,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) max_in_flight: usize,
    pub(crate) live: AtomicUsize,
    pub(crate) busy: Notify,
    pub(crate) commands: mpsc::UnboundedSender<Command>,
    max_connections: usize,
    table: Mutex<Arc<Table>>,
    connections: Mutex<HashMap<u64, Arc<ConnectionState>>>,
    next_connection: AtomicU64,
    peers: OnceLock<Vec<std::sync::Weak<Worker>>>,
}

impl Worker {
    pub(crate) fn new(
        index: usize,
        workers: usize,
        max_connections: usize,
        shared: Arc<Shared>,
    ) -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (commands, receiver) = mpsc::unbounded_channel();
        let worker = Self {
            index,
            totals: WorkerTotals::default(),
            in_flight: AtomicUsize::new(0),
            max_in_flight: shared.limits.max_in_flight.div_ceil(workers),
            live: AtomicUsize::new(0),
            busy: Notify::new(),
            commands,
            max_connections: max_connections.div_ceil(workers),
            table: Mutex::new(Arc::new(Table::empty())),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(0),
            peers: OnceLock::new(),
            shared,
        };
        (worker, receiver)
    }

    pub(crate) fn introduce(&self, peers: &[Arc<Worker>]) {
        let others = peers
            .iter()
            .filter(|peer| peer.index != self.index)
            .map(Arc::downgrade)
            .collect();
        let _ = self.peers.set(others);
    }

    /// The table in force. Only this worker and a change take the lock.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_table(&self, table: Table) {
        let new = Arc::new(table);
        let old = std::mem::replace(
            &mut *self.table.lock().unwrap_or_else(PoisonError::into_inner),
            new,
        );
        drop(old);
    }

    /// Does something for every connection.
    pub(crate) fn for_each_connection(&self, mut action: impl FnMut(&ConnectionState)) {
        let all: Vec<Arc<ConnectionState>> = self
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect();
        all.iter().for_each(|state| action(state));
    }

    pub(crate) fn wake_connections(&self) {
        self.for_each_connection(|state| state.waker.wake());
    }

    pub(crate) fn abort_connections(&self) {
        self.for_each_connection(|state| state.give(Order::Abort));
    }

    fn adopt(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let state = Arc::new(ConnectionState::new(self));
        let key = self.next_connection.fetch_add(1, Ordering::Relaxed);
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key, state.clone());
        self.busy.notify_one();
        let worker = self.clone();
        tokio::spawn(async move {
            serve(worker.clone(), state, stream, peer).await;
            worker
                .connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&key);
        });
    }

    /// Another worker that has clearly less to do.
    fn idler_peer(&self) -> Option<Arc<Worker>> {
        let mine = self.live.load(Ordering::Relaxed);
        let peers = self.peers.get()?;
        let least = peers
            .iter()
            .filter_map(std::sync::Weak::upgrade)
            .min_by_key(|peer| peer.live.load(Ordering::Relaxed))?;
        (mine > least.live.load(Ordering::Relaxed) + 1).then_some(least)
    }
}

/// Ends a worker's thread with everything on it.
pub(crate) fn stop(worker: &Worker) {
    let _ = worker.commands.send(Command::Exit);
}

/// The life of a worker's thread.
pub(crate) async fn run(
    worker: Arc<Worker>,
    listener: std::net::TcpListener,
    mut commands: mpsc::UnboundedReceiver<Command>,
) {
    let accepting = match TcpListener::from_std(listener) {
        Ok(listener) => Some(tokio::spawn(accept(worker.clone(), listener))),
        Err(error) => {
            tracing::error!(error = %error, "a worker cannot listen");
            None
        }
    };
    tokio::spawn(janitor::sweep(worker.clone()));
    while let Some(command) = commands.recv().await {
        match command {
            // The runtime has one thread: while this runs, no request is between looking at the
            // table and being counted at its replica.
            Command::Barrier(done) => drop(done.send(())),
            Command::Adopt(stream, peer) => {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    worker.adopt(stream, peer);
                }
            }
            // Waiting for a connection is the only place where this can stop it, so none is lost.
            Command::StopAccepting => accepting.iter().for_each(|task| task.abort()),
            Command::Exit => return,
        }
    }
}

async fn accept(worker: Arc<Worker>, listener: TcpListener) {
    let mut reported: Option<Instant> = None;
    loop {
        while worker.live.load(Ordering::Relaxed) >= worker.max_connections {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        match listener.accept().await {
            Ok((stream, peer)) => {
                worker.totals.accepted.fetch_add(1, Ordering::Relaxed);
                match worker.idler_peer() {
                    None => worker.adopt(stream, peer),
                    Some(other) => {
                        if let Ok(stream) = stream.into_std() {
                            let _ = other.commands.send(Command::Adopt(stream, peer));
                        }
                    }
                }
            }
            Err(error) => {
                // Out of descriptors or memory: others must finish first.
                if reported.is_none_or(|last| last.elapsed() > Duration::from_secs(10)) {
                    reported = Some(Instant::now());
                    tracing::warn!(error = %error, "cannot accept a connection");
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}
