//! What the control thread does: changes generations, counts, drains, retires.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ondol_types::CrashPoints;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};

use super::worker::{Command, Phase, Shared, Worker};
use crate::control::GatewayStatus;
use crate::error::GatewayError;
use crate::routing::{Registry, TunnelOrder};
use crate::run_dir::RunDir;
use crate::snapshot::{Loaded, Snapshot, SnapshotFile};
use crate::stats::{Counters, Ledger};

/// A worker that does not answer for so long is stuck, and nothing may be acknowledged.
const BARRIER_WAIT: Duration = Duration::from_secs(5);
const PERSIST_EVERY: Duration = Duration::from_secs(1);
const FOLD_EVERY: u32 = 30;

/// How a gateway is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RetireOrder {
    /// Requests and tunnels still open after this are cut.
    pub(crate) deadline_ms: u64,
    /// WebSockets get a close frame after this.
    pub(crate) websocket_grace_ms: u64,
}

impl Default for RetireOrder {
    fn default() -> Self {
        Self {
            deadline_ms: 60_000,
            websocket_grace_ms: 5_000,
        }
    }
}

/// A gateway's control side.
pub(crate) struct Core {
    pub(crate) instance: String,
    pub(crate) version: String,
    pub(crate) run_dir: RunDir,
    pub(crate) workers: Vec<Arc<Worker>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) registry: Mutex<Registry>,
    pub(crate) listener: OwnedFd,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) finished: watch::Sender<bool>,
    retire: watch::Sender<Option<RetireOrder>>,
    crash: Arc<dyn CrashPoints>,
    snapshots: SnapshotFile,
    applied: tokio::sync::Mutex<Option<Snapshot>>,
    problem: Mutex<Option<String>>,
    ledger: Mutex<Ledger>,
    persisted: AtomicU64,
    started: Instant,
}

/// What a core is made of.
pub(crate) struct CoreParts {
    pub(crate) instance: String,
    pub(crate) version: String,
    pub(crate) run_dir: RunDir,
    pub(crate) workers: Vec<Arc<Worker>>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: OwnedFd,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) crash: Arc<dyn CrashPoints>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Core {
    pub(crate) fn new(parts: CoreParts) -> Self {
        let max_idle = parts.shared.limits.max_upstream_idle;
        Self {
            registry: Mutex::new(Registry::new(parts.workers.len(), max_idle)),
            snapshots: SnapshotFile::new(parts.run_dir.clone()),
            ledger: Mutex::new(Ledger::new(parts.run_dir.clone(), &parts.instance)),
            instance: parts.instance,
            version: parts.version,
            run_dir: parts.run_dir,
            workers: parts.workers,
            shared: parts.shared,
            listener: parts.listener,
            address: parts.address,
            crash: parts.crash,
            finished: watch::Sender::new(false),
            retire: watch::Sender::new(None),
            applied: tokio::sync::Mutex::new(None),
            problem: Mutex::new(None),
            persisted: AtomicU64::new(0),
            started: Instant::now(),
        }
    }

    /// Serves what the last snapshot on disk says, before anybody else is alive.
    pub(crate) fn restore(&self) {
        // The lock is free: nobody can apply before the control socket answers.
        let Ok(mut applied) = self.applied.try_lock() else {
            return;
        };
        let Loaded { snapshot, problem } = self.snapshots.load();
        if let Some(problem) = problem {
            tracing::error!(error = %problem, "the newest gateway snapshot cannot be used");
            *lock(&self.problem) = Some(problem.to_string());
        }
        if let Some(snapshot) = snapshot {
            let change = lock(&self.registry).change_to(&snapshot);
            for (worker, table) in self.workers.iter().zip(change.tables) {
                worker.set_table(table);
            }
            self.shared.generation.send_replace(snapshot.generation);
            *applied = Some(snapshot);
        }
    }

    /// Makes a snapshot durable and serves it; returns when nothing can see an older one.
    pub(crate) async fn apply(self: &Arc<Self>, snapshot: Snapshot) -> Result<u64, GatewayError> {
        snapshot.validate()?;
        let mut applied = self.applied.lock().await;
        if let Some(current) = &*applied {
            if current.generation > snapshot.generation {
                return Err(GatewayError::StaleGeneration {
                    offered: snapshot.generation,
                    current: current.generation,
                });
            }
            if current.generation == snapshot.generation {
                if *current != snapshot {
                    return Err(GatewayError::GenerationReused {
                        generation: snapshot.generation,
                    });
                }
                self.barrier().await?;
                return Ok(snapshot.generation);
            }
        }
        lock(&self.registry).check(&snapshot)?;
        self.crash.reached("gateway.apply.before");
        let (snapshots, snapshot) = (self.snapshots.clone(), Arc::new(snapshot));
        let writing = snapshot.clone();
        tokio::task::spawn_blocking(move || snapshots.store(&writing))
            .await
            .map_err(|error| GatewayError::protocol(error.to_string()))??;
        self.crash.reached("gateway.apply.durable");
        let change = lock(&self.registry).change_to(&snapshot);
        for replica in &change.returned {
            self.undrain(replica);
        }
        for (worker, table) in self.workers.iter().zip(change.tables) {
            worker.set_table(table);
        }
        let generation = snapshot.generation;
        let policy = snapshot.drain;
        *applied = Some(Arc::unwrap_or_clone(snapshot));
        *lock(&self.problem) = None;
        self.shared.generation.send_replace(generation);
        self.barrier().await?;
        for replica in change.removed {
            lock(&self.registry).close_idle(replica.id);
            self.drain(&replica, policy);
        }
        self.crash.reached("gateway.apply.swapped");
        Ok(generation)
    }

    /// Waits until every worker has passed a point at which no request is being routed.
    async fn barrier(&self) -> Result<(), GatewayError> {
        let mut passed = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let (done, wait) = oneshot::channel();
            let _ = worker.commands.send(Command::Barrier(done));
            passed.push(wait);
        }
        let all = async {
            for wait in passed {
                let _ = wait.await;
            }
        };
        tokio::time::timeout(BARRIER_WAIT, all)
            .await
            .map_err(|_| GatewayError::TimedOut {
                what: "the change of routes in every worker".into(),
                waited_seconds: BARRIER_WAIT.as_secs_f64(),
            })
    }

    /// What this process counted itself.
    fn live_counters(&self) -> Counters {
        let mut counters = lock(&self.registry).counters();
        for worker in &self.workers {
            worker.totals.add_to(&mut counters.totals);
            counters.totals.connections += worker.live.load(Ordering::Relaxed) as u64;
        }
        if let Some(log) = &self.shared.access_log {
            counters.totals.log_dropped += log.dropped.load(Ordering::Relaxed);
        }
        counters
    }

    /// Everything counted here and by the gateways before, and which those were.
    pub(crate) fn counters(&self) -> (Counters, Vec<String>) {
        let live = self.live_counters();
        let ledger = lock(&self.ledger);
        (ledger.total(live), ledger.folded().to_vec())
    }

    pub(crate) async fn status(&self) -> GatewayStatus {
        let generation = *self.shared.generation.borrow();
        GatewayStatus {
            instance: self.instance.clone(),
            process: std::process::id(),
            version: self.version.clone(),
            generation,
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            retiring: self.shared.phase() != Phase::Serving,
            address: self.address,
            connections: self
                .workers
                .iter()
                .map(|worker| worker.live.load(Ordering::Relaxed) as u64)
                .sum(),
            in_flight: self
                .workers
                .iter()
                .map(|worker| worker.in_flight.load(Ordering::Relaxed) as u64)
                .sum(),
            problem: lock(&self.problem).clone(),
        }
    }

    /// Writes the counters about once a second while they change, and takes over those of
    /// gateways that have ended.
    pub(crate) async fn keep_counters(self: Arc<Self>) {
        let mut until_fold = 0;
        loop {
            if until_fold == 0 {
                self.fold();
                let others = lock(&self.ledger).others().map_or(0, |others| others.len());
                // While another one lives it may end at any moment.
                until_fold = if others > 0 { 1 } else { FOLD_EVERY };
            }
            until_fold -= 1;
            tokio::time::sleep(PERSIST_EVERY).await;
            self.persist();
        }
    }

    pub(crate) fn fold(&self) {
        if let Err(error) = lock(&self.ledger).fold_dead(|| self.live_counters()) {
            tracing::warn!(error = %error, "cannot take over the counters of earlier gateways");
        }
    }

    pub(crate) fn persist(&self) {
        let live = self.live_counters();
        let totals = &live.totals;
        let mark = live
            .releases
            .iter()
            .map(|row| row.requests() + row.cancelled)
            .sum::<u64>()
            + live.routes.iter().flat_map(|row| row.classes).sum::<u64>()
            + totals.accepted
            + totals.unrouted;
        if self.persisted.swap(mark, Ordering::Relaxed) == mark {
            return;
        }
        if let Err(error) = lock(&self.ledger).write(live) {
            tracing::warn!(error = %error, "cannot write the gateway's counters");
        }
    }

    /// Starts retirement, once.
    pub(crate) fn begin_retirement(&self, order: RetireOrder) {
        self.retire.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(order);
            }
            first
        });
    }

    /// Waits for the order to retire and carries it out.
    pub(crate) async fn retire_when_told(self: Arc<Self>) {
        let mut orders = self.retire.subscribe();
        let Ok(order) = orders
            .wait_for(Option::is_some)
            .await
            .map(|order| order.unwrap_or_default())
        else {
            return;
        };
        let began = tokio::time::Instant::now();
        let deadline = began + Duration::from_millis(order.deadline_ms);
        tracing::info!(gateway.instance = %self.instance, deadline_ms = order.deadline_ms, "gateway retires");
        for worker in &self.workers {
            let _ = worker.commands.send(Command::StopAccepting);
        }
        // Connections accepted a moment ago have reached their workers behind this point.
        let _ = self.barrier().await;
        self.enter(Phase::Retiring);
        let goodbye = tokio::time::sleep_until(
            deadline.min(began + Duration::from_millis(order.websocket_grace_ms)),
        );
        let close_idle =
            tokio::time::sleep_until(deadline.min(began + self.shared.limits.retire_idle));
        tokio::pin!(goodbye, close_idle);
        let (mut said, mut closed) = (false, false);
        while tokio::time::Instant::now() < deadline && self.live() > 0 {
            tokio::select! {
                () = &mut goodbye, if !said => {
                    said = true;
                    lock(&self.registry).replicas().for_each(|replica| replica.order_tunnels(TunnelOrder::Goodbye));
                }
                () = &mut close_idle, if !closed => {
                    closed = true;
                    self.enter(Phase::IdleClosed);
                }
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        self.workers
            .iter()
            .for_each(|worker| worker.abort_connections());
        lock(&self.registry)
            .replicas()
            .for_each(|replica| replica.order_tunnels(TunnelOrder::Cut));
        let _ = self.barrier().await;
        self.finished.send_replace(true);
    }

    fn enter(&self, phase: Phase) {
        self.shared.enter(phase);
        self.workers
            .iter()
            .for_each(|worker| worker.wake_connections());
    }

    fn live(&self) -> usize {
        self.workers
            .iter()
            .map(|worker| worker.live.load(Ordering::Acquire))
            .sum()
    }
}
