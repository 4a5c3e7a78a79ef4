//! One worker's view of a snapshot: what a request looks up. Each worker has its own, so that
//! reference counts are never shared between cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ondol_types::{EnvironmentName, ProjectName};

use super::matching::{Found, Matcher};
use super::replica::{NoReplica, Permit, WorkerReplica, pick};
use crate::snapshot::{Route, RouteState};
use crate::stats::RouteShard;

/// The golden ratio as a 64-bit fraction: its multiples spread evenly at every length.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// What of a route all workers share.
#[derive(Debug)]
pub(crate) struct RouteSpec {
    pub(crate) project: ProjectName,
    pub(crate) environment: EnvironmentName,
    pub(crate) prefix: Box<str>,
    pub(crate) strip_prefix: bool,
    pub(crate) max_body: u64,
    pub(crate) max_in_flight: u32,
    pub(crate) connect_timeout: Duration,
    pub(crate) response_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) state: RouteState,
}

impl RouteSpec {
    pub(crate) fn new(route: &Route) -> Self {
        Self {
            project: route.project.clone(),
            environment: route.environment.clone(),
            prefix: route.path_prefix.as_str().into(),
            strip_prefix: route.strip_prefix && route.path_prefix.len() > 1,
            max_body: route.max_body_bytes.unwrap_or(u64::MAX),
            max_in_flight: route.max_in_flight_per_replica,
            connect_timeout: Duration::from_millis(route.timeouts.connect_ms),
            response_timeout: Duration::from_millis(route.timeouts.response_ms),
            idle_timeout: Duration::from_millis(route.timeouts.idle_ms),
            state: route.state,
        }
    }

    /// The prefix that is stripped, without its last slash; empty when none is.
    pub(crate) fn stripped(&self) -> &str {
        if self.strip_prefix {
            &self.prefix[..self.prefix.len() - 1]
        } else {
            ""
        }
    }
}

/// A release's replicas and its share.
#[derive(Debug)]
pub(crate) struct WorkerBackend {
    pub(crate) weight: u32,
    pub(crate) replicas: Vec<Arc<WorkerReplica>>,
}

/// A route as one worker uses it.
#[derive(Debug)]
pub(crate) struct WorkerRoute {
    pub(crate) spec: Arc<RouteSpec>,
    pub(crate) stats: Arc<RouteShard>,
    backends: Vec<WorkerBackend>,
    total_weight: u64,
    sequence: AtomicU64,
}

impl WorkerRoute {
    pub(crate) fn new(
        spec: Arc<RouteSpec>,
        stats: Arc<RouteShard>,
        backends: Vec<WorkerBackend>,
        seed: u64,
    ) -> Self {
        let total_weight = backends
            .iter()
            .map(|backend| u64::from(backend.weight))
            .sum();
        Self {
            spec,
            stats,
            backends,
            total_weight,
            sequence: AtomicU64::new(seed),
        }
    }

    /// A replica for the next request: the release by weight, in it the least busy replica. A
    /// release without any replica left to try gives its share to the others.
    pub(crate) fn pick(&self, tried: &[Arc<WorkerReplica>]) -> Result<Permit, NoReplica> {
        if self.total_weight == 0 {
            return Err(NoReplica::Missing);
        }
        // A sequence instead of dice: the shares hold already after a few requests, which is what
        // a canary step with few samples needs.
        let random = self
            .sequence
            .fetch_add(1, Ordering::Relaxed)
            .wrapping_mul(GOLDEN);
        let mut place = ((u128::from(random) * u128::from(self.total_weight)) >> 64) as u64;
        let mut chosen = 0;
        for (index, backend) in self.backends.iter().enumerate() {
            let weight = u64::from(backend.weight);
            if place < weight {
                chosen = index;
                break;
            }
            place -= weight;
        }
        let scatter = random.rotate_left(29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mut failure = NoReplica::Missing;
        for offset in 0..self.backends.len() {
            let backend = &self.backends[(chosen + offset) % self.backends.len()];
            if backend.weight == 0 {
                continue;
            }
            match pick(&backend.replicas, tried, self.spec.max_in_flight, scatter) {
                Ok(permit) => return Ok(permit),
                // A full release keeps its share: sending its overflow elsewhere would turn a
                // canary of one percent into all traffic.
                Err(NoReplica::Full) => return Err(NoReplica::Full),
                Err(NoReplica::Missing) => failure = NoReplica::Missing,
            }
        }
        Err(failure)
    }
}

/// One worker's routes of one generation.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) generation: u64,
    pub(crate) matcher: Matcher<Arc<WorkerRoute>>,
    pub(crate) replicas: Vec<Arc<WorkerReplica>>,
}

impl Table {
    pub(crate) fn empty() -> Self {
        Self {
            generation: 0,
            matcher: Matcher::default(),
            replicas: Vec::new(),
        }
    }

    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Found<'_, Arc<WorkerRoute>>> {
        self.matcher.find(host, path)
    }
}

#[cfg(test)]
mod tests {
    use ondol_types::{ReleaseId, ReplicaId};
    use proptest::prelude::*;

    use super::super::replica::ReplicaShared;
    use super::*;
    use crate::stats::ReleaseShard;

    fn route(weights: &[u32]) -> WorkerRoute {
        let spec = Route::pair(
            &"web".parse().unwrap(),
            &EnvironmentName::production(),
            vec!["web".into()],
            vec!["*".into()],
            Vec::new(),
        );
        let backends = weights
            .iter()
            .enumerate()
            .map(|(index, &weight)| {
                let shared = ReplicaShared::new(
                    ReplicaId::derived(&index.to_string()),
                    ReleaseId::derived(&index.to_string()),
                    "web".parse().unwrap(),
                    EnvironmentName::production(),
                    "127.0.0.1:1".parse().unwrap(),
                );
                let replica =
                    WorkerReplica::new(Arc::new(shared), Arc::new(ReleaseShard::new()), 4);
                WorkerBackend {
                    weight,
                    replicas: vec![Arc::new(replica)],
                }
            })
            .collect();
        WorkerRoute::new(
            Arc::new(RouteSpec::new(&spec[0])),
            Arc::default(),
            backends,
            0,
        )
    }

    proptest! {
        #[test]
        fn shares_follow_the_weights_closely(weights in prop::collection::vec(0u32..100, 1..5), count in 50u32..400) {
            let route = route(&weights);
            let total: u32 = weights.iter().sum();
            if total == 0 {
                prop_assert_eq!(route.pick(&[]).unwrap_err(), NoReplica::Missing);
                return Ok(());
            }
            let mut got = vec![0u32; weights.len()];
            for _ in 0..count {
                let permit = route.pick(&[]).unwrap();
                let index = route.backends.iter().position(|b| Arc::ptr_eq(&b.replicas[0], &permit.replica)).unwrap();
                got[index] += 1;
            }
            for (weight, got) in weights.iter().zip(&got) {
                let exact = f64::from(*weight) / f64::from(total) * f64::from(count);
                prop_assert!((f64::from(*got) - exact).abs() <= 5.0, "{got} for {exact}");
            }
        }
    }

    #[test]
    fn a_release_whose_replicas_were_all_tried_gives_its_share_away() {
        let route = route(&[1, 1]);
        let tried = vec![route.backends[0].replicas[0].clone()];
        for _ in 0..10 {
            let permit = route.pick(&tried).unwrap();
            assert!(Arc::ptr_eq(&permit.replica, &route.backends[1].replicas[0]));
        }
    }
}
