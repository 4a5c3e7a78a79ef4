//! Everything that outlives a generation: replicas by id and counters by release and route.
//!
//! A replica keeps its identity, its work in progress and its counters from one generation to the
//! next, and stays known until it has drained and its counts are part of the base.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ondol_types::{EnvironmentName, ProjectName, ReleaseId, ReplicaId};

use super::matching::Matcher;
use super::replica::{ReplicaShared, WorkerReplica};
use super::table::{RouteSpec, Table, WorkerBackend, WorkerRoute};
use crate::error::GatewayError;
use crate::snapshot::Snapshot;
use crate::stats::{
    Counters, Histogram, ReleaseCounters, ReleaseShard, ReplicaCounters, RouteCounters, RouteShard,
};

const KEPT_QUIET_REPLICAS: usize = 1_000;
const KEPT_QUIET_RELEASES: usize = 200;

type Place = (ProjectName, EnvironmentName);

#[derive(Debug)]
struct KnownReplica {
    shared: Arc<ReplicaShared>,
    per_worker: Vec<Arc<WorkerReplica>>,
}

impl KnownReplica {
    fn routed(&self) -> bool {
        self.shared.routed.load(Ordering::Acquire)
    }
}

/// What the control thread knows.
#[derive(Debug)]
pub(crate) struct Registry {
    workers: usize,
    max_idle: usize,
    replicas: HashMap<ReplicaId, KnownReplica>,
    releases: HashMap<(ReleaseId, Place), Vec<Arc<ReleaseShard>>>,
    routes: HashMap<Place, Vec<Arc<RouteShard>>>,
}

/// What changed with a generation.
#[derive(Debug)]
pub(crate) struct Change {
    /// One table for each worker.
    pub(crate) tables: Vec<Table>,
    /// Replicas that get no new requests from now on.
    pub(crate) removed: Vec<Arc<ReplicaShared>>,
    /// Replicas that get requests again.
    pub(crate) returned: Vec<Arc<ReplicaShared>>,
}

impl Registry {
    pub(crate) fn new(workers: usize, max_idle: usize) -> Self {
        Self {
            workers,
            max_idle,
            replicas: HashMap::new(),
            releases: HashMap::new(),
            routes: HashMap::new(),
        }
    }

    /// Refuses a snapshot that gives a known replica another place: its connections and counters
    /// belong to the old one.
    pub(crate) fn check(&self, snapshot: &Snapshot) -> Result<(), GatewayError> {
        for route in &snapshot.routes {
            for backend in &route.backends {
                for replica in &backend.replicas {
                    let Some(known) = self.replica(replica.id) else {
                        continue;
                    };
                    let same = known.address == replica.address
                        && known.release == backend.release
                        && known.project == route.project
                        && known.environment == route.environment;
                    if !same {
                        return Err(GatewayError::SnapshotInvalid {
                            generation: snapshot.generation,
                            place: format!("project `{}`", route.project),
                            reason: format!(
                                "replica {} was known at {} before",
                                replica.id, known.address
                            ),
                        });
                    }
                }
            }
        }
        Ok(())
    }

    /// Builds the tables of a snapshot and tells which replicas left or came back.
    pub(crate) fn change_to(&mut self, snapshot: &Snapshot) -> Change {
        let mut tables: Vec<Table> = (0..self.workers)
            .map(|_| Table {
                generation: snapshot.generation,
                matcher: Matcher::default(),
                replicas: Vec::new(),
            })
            .collect();
        let mut named = HashSet::new();
        let mut returned = Vec::new();
        for (index, route) in snapshot.routes.iter().enumerate() {
            let spec = Arc::new(RouteSpec::new(route));
            let place = (route.project.clone(), route.environment.clone());
            let shards = self.route_shards(&place);
            let mut backends: Vec<Vec<WorkerBackend>> =
                (0..self.workers).map(|_| Vec::new()).collect();
            for backend in &route.backends {
                let mut replicas: Vec<Vec<Arc<WorkerReplica>>> =
                    (0..self.workers).map(|_| Vec::new()).collect();
                for replica in &backend.replicas {
                    let stats = self.release_shards(backend.release, &place);
                    let (workers, max_idle) = (self.workers, self.max_idle);
                    let known = self.replicas.entry(replica.id).or_insert_with(|| {
                        let shared = Arc::new(ReplicaShared::new(
                            replica.id,
                            backend.release,
                            place.0.clone(),
                            place.1.clone(),
                            replica.address,
                        ));
                        let per_worker = (0..workers)
                            .map(|worker| {
                                Arc::new(WorkerReplica::new(
                                    shared.clone(),
                                    stats[worker].clone(),
                                    max_idle,
                                ))
                            })
                            .collect();
                        KnownReplica { shared, per_worker }
                    });
                    if !known.shared.routed.swap(true, Ordering::AcqRel) {
                        returned.push(known.shared.clone());
                    }
                    let first_time = named.insert(replica.id);
                    for (worker, mine) in known.per_worker.iter().enumerate() {
                        replicas[worker].push(mine.clone());
                        if first_time {
                            tables[worker].replicas.push(mine.clone());
                        }
                    }
                }
                for (worker, replicas) in replicas.into_iter().enumerate() {
                    backends[worker].push(WorkerBackend {
                        weight: backend.weight,
                        replicas,
                    });
                }
            }
            for (worker, backends) in backends.into_iter().enumerate() {
                let seed = (index as u64) << 32 | (worker as u64) << 16;
                let mine = Arc::new(WorkerRoute::new(
                    spec.clone(),
                    shards[worker].clone(),
                    backends,
                    seed,
                ));
                for host in &route.hosts {
                    tables[worker]
                        .matcher
                        .insert(host, &route.path_prefix, mine.clone());
                }
            }
        }
        let mut removed = Vec::new();
        for known in self.replicas.values() {
            if !named.contains(&known.shared.id)
                && known.shared.routed.swap(false, Ordering::AcqRel)
            {
                removed.push(known.shared.clone());
            }
        }
        self.forget_old(snapshot);
        Change {
            tables,
            removed,
            returned,
        }
    }

    fn route_shards(&mut self, place: &Place) -> Vec<Arc<RouteShard>> {
        let workers = self.workers;
        let fresh = || {
            (0..workers)
                .map(|_| Arc::new(RouteShard::default()))
                .collect()
        };
        self.routes
            .entry(place.clone())
            .or_insert_with(fresh)
            .clone()
    }

    fn release_shards(&mut self, release: ReleaseId, place: &Place) -> Vec<Arc<ReleaseShard>> {
        let workers = self.workers;
        let fresh = || {
            (0..workers)
                .map(|_| Arc::new(ReleaseShard::new()))
                .collect()
        };
        self.releases
            .entry((release, place.clone()))
            .or_insert_with(fresh)
            .clone()
    }

    /// Drops the oldest of what is long gone. Ids sort by time.
    fn forget_old(&mut self, snapshot: &Snapshot) {
        let mut quiet: Vec<ReplicaId> = self
            .replicas
            .values()
            .filter(|known| !known.routed() && known.shared.is_quiet())
            .map(|k| k.shared.id)
            .collect();
        if quiet.len() > KEPT_QUIET_REPLICAS {
            quiet.sort_unstable();
            for id in &quiet[..quiet.len() - KEPT_QUIET_REPLICAS] {
                self.replicas.remove(id);
            }
        }
        let used: HashSet<ReleaseId> = self
            .replicas
            .values()
            .filter(|k| k.routed() || !k.shared.is_quiet())
            .map(|k| k.shared.release)
            .collect();
        let mut idle: Vec<(ReleaseId, Place)> = self
            .releases
            .keys()
            .filter(|(release, _)| !used.contains(release))
            .cloned()
            .collect();
        if idle.len() > KEPT_QUIET_RELEASES {
            idle.sort_unstable();
            for key in &idle[..idle.len() - KEPT_QUIET_RELEASES] {
                self.releases.remove(key);
                self.replicas
                    .retain(|_, known| known.routed() || known.shared.release != key.0);
            }
        }
        let served: HashSet<Place> = snapshot
            .routes
            .iter()
            .map(|route| (route.project.clone(), route.environment.clone()))
            .collect();
        self.routes.retain(|place, _| served.contains(place));
    }

    /// A replica by id.
    pub(crate) fn replica(&self, id: ReplicaId) -> Option<&Arc<ReplicaShared>> {
        self.replicas.get(&id).map(|known| &known.shared)
    }

    /// Closes the idle connections to a replica that gets no new requests.
    pub(crate) fn close_idle(&self, id: ReplicaId) {
        if let Some(known) = self.replicas.get(&id) {
            known.per_worker.iter().for_each(|mine| mine.pool.clear());
        }
    }

    /// All replicas, routed or draining.
    pub(crate) fn replicas(&self) -> impl Iterator<Item = &Arc<ReplicaShared>> {
        self.replicas.values().map(|known| &known.shared)
    }

    /// What was counted by this process.
    pub(crate) fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        let mut in_flight: HashMap<ReleaseId, u64> = HashMap::new();
        for known in self.replicas.values() {
            *in_flight.entry(known.shared.release).or_default() +=
                u64::from(known.shared.in_flight.load(Ordering::Acquire));
        }
        for ((release, place), shards) in &self.releases {
            let mut row = ReleaseCounters {
                project: place.0.clone(),
                environment: place.1.clone(),
                release: *release,
                classes: [0; 5],
                cancelled: 0,
                truncated: 0,
                upstream_errors: 0,
                retries: 0,
                bytes_in: 0,
                bytes_out: 0,
                in_flight: in_flight.get(release).copied().unwrap_or(0),
                durations: Histogram::default(),
            };
            shards.iter().for_each(|shard| shard.add_to(&mut row));
            counters.releases.push(row);
        }
        for known in self.replicas.values() {
            let sum = |column: fn(&WorkerReplica) -> u64| {
                known.per_worker.iter().map(|mine| column(mine)).sum()
            };
            counters.replicas.push(ReplicaCounters {
                replica: known.shared.id,
                release: known.shared.release,
                project: known.shared.project.clone(),
                environment: known.shared.environment.clone(),
                routed: known.routed(),
                in_flight: u64::from(known.shared.in_flight.load(Ordering::Acquire)),
                tunnels: known.shared.tunnels() as u64,
                requests: sum(|mine| mine.requests.load(Ordering::Relaxed)),
                errors: sum(|mine| mine.errors.load(Ordering::Relaxed)),
            });
        }
        for (place, shards) in &self.routes {
            let mut row = RouteCounters {
                project: place.0.clone(),
                environment: place.1.clone(),
                classes: [0; 5],
                held: 0,
            };
            shards.iter().for_each(|shard| shard.add_to(&mut row));
            counters.routes.push(row);
        }
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Backend, Replica, Route};

    fn snapshot(generation: u64, replicas: &[&str]) -> Snapshot {
        let replicas = replicas
            .iter()
            .map(|name| Replica {
                id: ReplicaId::derived(name),
                address: "127.0.0.1:9".parse().unwrap(),
            })
            .collect();
        let routes = Route::pair(
            &"web".parse().unwrap(),
            &EnvironmentName::production(),
            vec!["web.localhost".into()],
            vec!["*".into()],
            vec![Backend {
                release: ReleaseId::derived("r"),
                weight: 1,
                replicas,
            }],
        );
        Snapshot {
            routes: routes.to_vec(),
            ..Snapshot::empty(generation)
        }
    }

    fn ids(replicas: &[Arc<ReplicaShared>]) -> Vec<ReplicaId> {
        replicas.iter().map(|replica| replica.id).collect()
    }

    #[test]
    fn replicas_keep_their_identity_across_generations() {
        let mut registry = Registry::new(2, 8);
        let first = registry.change_to(&snapshot(1, &["a", "b"]));
        assert_eq!((first.tables.len(), first.tables[0].replicas.len()), (2, 2));
        let kept = registry.replica(ReplicaId::derived("a")).unwrap().clone();
        let second = registry.change_to(&snapshot(2, &["b"]));
        assert_eq!(ids(&second.removed), [ReplicaId::derived("a")]);
        let third = registry.change_to(&snapshot(3, &["a", "b"]));
        assert_eq!(ids(&third.returned), [ReplicaId::derived("a")]);
        assert!(Arc::ptr_eq(
            &kept,
            registry.replica(ReplicaId::derived("a")).unwrap()
        ));
        assert_eq!(registry.counters().replicas.len(), 2);
    }

    #[test]
    fn what_is_long_gone_is_forgotten() {
        let mut registry = Registry::new(1, 8);
        for generation in 1..=1_200u64 {
            registry.change_to(&snapshot(generation, &[&format!("r{generation}")]));
        }
        assert!(registry.replicas.len() <= KEPT_QUIET_REPLICAS + 1);
        registry.change_to(&Snapshot::empty(2_000));
        assert!(registry.counters().routes.is_empty());
    }
}
