//! A replica as requests see it: what all workers share, and each worker's own part.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use ondol_types::{EnvironmentName, ProjectName, ReleaseId, ReplicaId};

use crate::stats::ReleaseShard;
use crate::upstream::{Connection, Pool};

/// How long a replica that refused a connection is passed over while others can answer.
const COOL_DOWN: Duration = Duration::from_secs(1);

const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What all workers share about a replica.
#[derive(Debug)]
pub(crate) struct ReplicaShared {
    pub(crate) id: ReplicaId,
    pub(crate) release: ReleaseId,
    pub(crate) project: ProjectName,
    pub(crate) environment: EnvironmentName,
    pub(crate) address: SocketAddr,
    pub(crate) in_flight: AtomicU32,
    /// Whether new requests go to it.
    pub(crate) routed: AtomicBool,
    /// Set when its drain deadline has passed: exchanges that see it end.
    pub(crate) cut: AtomicBool,
    /// Grows whenever the replica starts or stops draining, so that an outdated drain ends.
    pub(crate) drain_epoch: AtomicU64,
    tunnels: Mutex<Tunnels>,
}

#[derive(Debug, Default)]
struct Tunnels {
    next: u64,
    open: HashMap<u64, Arc<TunnelSignal>>,
}

/// How a tunnel is told to end.
#[derive(Debug, Default)]
pub(crate) struct TunnelSignal {
    order: AtomicU8,
    pub(crate) waker: AtomicWaker,
}

/// What a tunnel has been told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TunnelOrder {
    /// Nothing: go on.
    Run,
    /// Say goodbye in the tunnel's own protocol, then end.
    Goodbye,
    /// End now.
    Cut,
}

impl TunnelSignal {
    pub(crate) fn order(&self) -> TunnelOrder {
        match self.order.load(Ordering::Acquire) {
            0 => TunnelOrder::Run,
            1 => TunnelOrder::Goodbye,
            _ => TunnelOrder::Cut,
        }
    }

    fn give(&self, order: TunnelOrder) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }
}

/// An open tunnel's entry; dropping it removes the tunnel from its replica.
#[derive(Debug)]
pub(crate) struct TunnelEntry {
    replica: Arc<ReplicaShared>,
    key: u64,
    pub(crate) signal: Arc<TunnelSignal>,
}

impl Drop for TunnelEntry {
    fn drop(&mut self) {
        self.replica
            .tunnels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
            .remove(&self.key);
    }
}

impl ReplicaShared {
    pub(crate) fn new(
        id: ReplicaId,
        release: ReleaseId,
        project: ProjectName,
        environment: EnvironmentName,
        address: SocketAddr,
    ) -> Self {
        Self {
            id,
            release,
            project,
            environment,
            address,
            in_flight: AtomicU32::new(0),
            routed: AtomicBool::new(true),
            cut: AtomicBool::new(false),
            drain_epoch: AtomicU64::new(0),
            tunnels: Mutex::default(),
        }
    }

    /// Enters a tunnel.
    pub(crate) fn open_tunnel(self: &Arc<Self>) -> TunnelEntry {
        let signal = Arc::new(TunnelSignal::default());
        let mut tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.next += 1;
        let key = tunnels.next;
        tunnels.open.insert(key, signal.clone());
        TunnelEntry {
            replica: self.clone(),
            key,
            signal,
        }
    }

    /// How many tunnels are open.
    pub(crate) fn tunnels(&self) -> usize {
        self.tunnels
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .open
            .len()
    }

    /// Tells every open tunnel.
    pub(crate) fn order_tunnels(&self, order: TunnelOrder) {
        let tunnels = self.tunnels.lock().unwrap_or_else(PoisonError::into_inner);
        tunnels.open.values().for_each(|signal| signal.give(order));
    }

    /// Whether nothing of it is in use.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0 && self.tunnels() == 0
    }
}

/// One worker's part of a replica: its idle connections and its shard of the counters.
#[derive(Debug)]
pub(crate) struct WorkerReplica {
    pub(crate) shared: Arc<ReplicaShared>,
    pub(crate) pool: Pool,
    pub(crate) stats: Arc<ReleaseShard>,
    pub(crate) requests: AtomicU64,
    pub(crate) errors: AtomicU64,
    epoch: Instant,
    cool_until_ms: AtomicU64,
    reported_ms: AtomicU64,
}

impl WorkerReplica {
    pub(crate) fn new(
        shared: Arc<ReplicaShared>,
        stats: Arc<ReleaseShard>,
        max_idle: usize,
    ) -> Self {
        Self {
            shared,
            pool: Pool::new(max_idle),
            stats,
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            epoch: Instant::now(),
            cool_until_ms: AtomicU64::new(0),
            reported_ms: AtomicU64::new(0),
        }
    }

    /// Passes the replica over for a moment, because it refused a connection.
    pub(crate) fn cool_down(&self) {
        let until = self.epoch.elapsed() + COOL_DOWN;
        self.cool_until_ms
            .store(until.as_millis() as u64, Ordering::Relaxed);
    }

    /// Notes that no connection could be made.
    pub(crate) fn refused(&self, error: &std::io::Error) {
        self.cool_down();
        self.errors.fetch_add(1, Ordering::Relaxed);
        self.stats.retries.fetch_add(1, Ordering::Relaxed);
        self.failed("replica.refused", &error.to_string());
    }

    /// Reports a failure, at most once in a while: a dead replica under load fails thousands of times.
    pub(crate) fn failed(&self, code: &str, reason: &str) {
        let now = self.epoch.elapsed().as_millis() as u64;
        let last = self.reported_ms.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < REPORT_EVERY.as_millis() as u64 {
            return;
        }
        self.reported_ms.store(now.max(1), Ordering::Relaxed);
        tracing::warn!(
            replica.id = %self.shared.id,
            replica.address = %self.shared.address,
            project = %self.shared.project,
            code,
            reason,
            "replica failed a request"
        );
    }

    /// Keeps a connection for the next request, unless none will come.
    pub(crate) fn give_back(&self, connection: Connection) {
        if self.shared.routed.load(Ordering::Acquire) {
            self.pool.give_back(connection);
        }
    }

    fn is_cool(&self) -> bool {
        let until = self.cool_until_ms.load(Ordering::Relaxed);
        until != 0 && (self.epoch.elapsed().as_millis() as u64) < until
    }

    fn load(&self) -> u32 {
        self.shared.in_flight.load(Ordering::Relaxed)
    }
}

/// The right to send one request to a replica; counted until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(crate) replica: Arc<WorkerReplica>,
}

impl Permit {
    fn acquire(replica: &Arc<WorkerReplica>, limit: u32) -> Option<Self> {
        let in_flight = &replica.shared.in_flight;
        if in_flight.fetch_add(1, Ordering::AcqRel) >= limit {
            in_flight.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self {
            replica: replica.clone(),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.replica.shared.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why no replica could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoReplica {
    /// None is there, or all were tried.
    Missing,
    /// All work on as many requests as they may.
    Full,
}

/// The least busy of some replicas: all are looked at when they are few, two random ones when many.
pub(crate) fn pick(
    replicas: &[Arc<WorkerReplica>],
    tried: &[Arc<WorkerReplica>],
    limit: u32,
    random: u64,
) -> Result<Permit, NoReplica> {
    const FEW: usize = 8;
    let open =
        |replica: &&Arc<WorkerReplica>| !tried.iter().any(|other| Arc::ptr_eq(other, replica));
    if replicas.len() > FEW && tried.is_empty() {
        let first = &replicas[(random as u32 as usize) % replicas.len()];
        let second = &replicas[((random >> 32) as usize) % replicas.len()];
        let better = if (first.is_cool(), first.load()) <= (second.is_cool(), second.load()) {
            first
        } else {
            second
        };
        if !better.is_cool()
            && let Some(permit) = Permit::acquire(better, limit)
        {
            return Ok(permit);
        }
    }
    let start = if replicas.is_empty() {
        0
    } else {
        (random >> 16) as usize % replicas.len()
    };
    let (behind, ahead) = replicas.split_at(start);
    let candidates = || ahead.iter().chain(behind).filter(open);
    let Some(best) = candidates().min_by_key(|replica| (replica.is_cool(), replica.load())) else {
        return Err(NoReplica::Missing);
    };
    if let Some(permit) = Permit::acquire(best, limit) {
        return Ok(permit);
    }
    candidates()
        .find_map(|replica| Permit::acquire(replica, limit))
        .ok_or(NoReplica::Full)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(count: usize) -> Vec<Arc<WorkerReplica>> {
        (0..count)
            .map(|index| {
                let shared = ReplicaShared::new(
                    ReplicaId::derived(&index.to_string()),
                    ReleaseId::derived("r"),
                    "web".parse().unwrap(),
                    EnvironmentName::production(),
                    "127.0.0.1:1".parse().unwrap(),
                );
                Arc::new(WorkerReplica::new(
                    Arc::new(shared),
                    Arc::new(ReleaseShard::new()),
                    4,
                ))
            })
            .collect()
    }

    #[test]
    fn work_spreads_evenly_over_few_and_many_replicas() {
        for count in [1, 3, 20] {
            let all = replicas(count);
            let mut random = 0x1234_5678_9abc_def1u64;
            let mut permits = Vec::new();
            for _ in 0..count * 10 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                permits.push(pick(&all, &[], 1_000, random).unwrap());
            }
            let loads: Vec<u32> = all.iter().map(|replica| replica.load()).collect();
            let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
            let spread = if count <= 8 { 0 } else { 8 };
            assert!(most - least <= spread, "{loads:?}");
            drop(permits);
            assert!(all.iter().all(|replica| replica.shared.is_quiet()));
        }
    }

    #[test]
    fn full_and_missing_are_told_apart_and_tried_ones_are_not_taken_again() {
        let all = replicas(2);
        let first = pick(&all, &[], 1, 7).unwrap();
        let second = pick(&all, &[], 1, 7).unwrap();
        assert!(!Arc::ptr_eq(&first.replica, &second.replica));
        assert_eq!(pick(&all, &[], 1, 7).unwrap_err(), NoReplica::Full);
        assert_eq!(pick(&[], &[], 1, 7).unwrap_err(), NoReplica::Missing);
        let tried = vec![all[0].clone(), all[1].clone()];
        drop((first, second));
        assert_eq!(pick(&all, &tried, 1, 7).unwrap_err(), NoReplica::Missing);
    }

    #[test]
    fn one_that_refused_is_passed_over_while_another_lives() {
        let all = replicas(2);
        all[0].cool_down();
        for random in 0..50u64 {
            let permit = pick(&all, &[], 10, random << 16).unwrap();
            assert!(Arc::ptr_eq(&permit.replica, &all[1]));
        }
        all[1].cool_down();
        assert!(pick(&all, &[], 10, 3).is_ok());
    }

    #[test]
    fn tunnels_hear_the_strongest_order() {
        let replica = replicas(1).remove(0).shared.clone();
        let entry = replica.open_tunnel();
        replica.order_tunnels(TunnelOrder::Cut);
        replica.order_tunnels(TunnelOrder::Goodbye);
        assert_eq!(entry.signal.order(), TunnelOrder::Cut);
        assert_eq!(replica.tunnels(), 1);
        drop(entry);
        assert!(replica.is_quiet());
    }
}
