use ondol_spec::model::Service;
use ondol_types::{RolloutId, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::model::{Kind, Phase, Reason};

struct Place {
    environment: Environment,
    current: Option<Release>,
    rollout: Option<(Rollout, Release)>,
    replicas: Vec<Replica>,
    releases: BTreeMap<ReleaseId, Arc<Release>>,
}

impl Place {
    fn new(project: &str) -> Self {
        let environment = Environment {
            project: project.parse().unwrap(),
            name: EnvironmentName::production(),
            removing: false,
            hold: None,
            current: None,
            serving: None,
            replicas: None,
            scale: None,
            created_at: Timestamp::default(),
        };
        Self {
            environment,
            current: None,
            rollout: None,
            replicas: Vec::new(),
            releases: BTreeMap::new(),
        }
    }

    fn release(&self, number: i64, hosts: &[&str]) -> Release {
        let mut service = Service::new("serve");
        service.hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        Release {
            id: ReleaseId::derived(&format!("{}:{number}", self.environment.project)),
            project: self.environment.project.clone(),
            environment: self.environment.name.clone(),
            number,
            image: format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
            config: ReleaseConfig {
                format: ReleaseConfig::FORMAT,
                service,
                release: ondol_spec::model::Release::default(),
                secrets: Vec::new(),
                volumes: BTreeMap::new(),
                env: BTreeMap::new(),
                model: None,
            },
            secrets: BTreeMap::new(),
            model: None,
            commit: None,
            run: None,
            chain: None,
            author: "test".into(),
            reason: Reason::Push,
            origin: None,
            irreversible: false,
            commanded: false,
            created_at: Timestamp::default(),
            activated_at: None,
        }
    }

    fn replica(&mut self, release: &Release, rollout: RolloutId, state: ReplicaState) -> ReplicaId {
        let count = self.replicas.len();
        self.releases.insert(release.id, Arc::new(release.clone()));
        let id = ReplicaId::derived(&format!("{}:{count}", release.id));
        self.replicas.push(Replica {
            id,
            project: release.project.clone(),
            environment: release.environment.clone(),
            release: release.id,
            rollout,
            workload: Replica::workload_of(id),
            incarnation: 1,
            endpoint: Replica::endpoint_of(id, 1, release.id),
            state,
            since: Timestamp::default(),
            address: Some(SocketAddr::from(([127, 0, 0, 1], 20_000 + count as u16))),
            restarts: 0,
            failures: 0,
            fatal: false,
            next_start_at: None,
            started_at: Some(Timestamp::default()),
            detail: None,
            probes: Vec::new(),
            routed: false,
            left_generation: None,
            out_at: None,
            created_at: Timestamp::default(),
        });
        Replica::endpoint_of(id, 1, release.id)
    }

    fn serving(mut self, hosts: &[&str]) -> Self {
        let release = self.release(1, hosts);
        let rollout = RolloutId::derived("old");
        self.environment.current = Some(release.id);
        self.environment.serving = Some(rollout);
        self.replica(&release, rollout, ReplicaState::Ready);
        self.current = Some(release);
        self
    }

    fn rolling(mut self, state: RolloutState, step: u32, replica: ReplicaState) -> Self {
        let release = self.release(2, &[]);
        let id = RolloutId::derived("new");
        self.replica(&release, id, replica);
        let rollout = Rollout {
            id,
            project: release.project.clone(),
            environment: release.environment.clone(),
            number: 2,
            key: "k".into(),
            kind: Kind::Deploy,
            reason: Reason::Push,
            state,
            since: Timestamp::default(),
            strategy: ondol_spec::model::Strategy::Canary,
            from: None,
            to: Some(release.id),
            target: None,
            phase: Phase {
                step,
                ..Phase::default()
            },
            message: String::new(),
            failure: None,
            superseded_by: None,
            run: None,
            chain: None,
            author: "test".into(),
            not_before: None,
            created_at: Timestamp::default(),
            finished_at: None,
        };
        self.rollout = Some((rollout, release));
        self
    }

    fn set(&self) -> Set<'_> {
        Set {
            environment: &self.environment,
            current: self.current.as_ref(),
            rollout: self
                .rollout
                .as_ref()
                .map(|(rollout, release)| (rollout, release)),
            replicas: self.replicas.iter().collect(),
            releases: &self.releases,
        }
    }

    fn weights(&self) -> Vec<(i64, u32)> {
        let table = plan_routes(&[self.set()]);
        table.routes[0]
            .backends
            .iter()
            .map(|backend| (backend.number, backend.weight))
            .collect()
    }
}

#[test]
fn a_project_answers_by_host_and_by_path() {
    let table = plan_routes(&[Place::new("web").serving(&[]).set()]);
    let places: Vec<_> = table
        .routes
        .iter()
        .map(|route| (&route.hosts, route.path.as_str(), route.strip))
        .collect();
    assert_eq!(
        places,
        [
            (&Hosts::Named(vec!["web.localhost".into()]), "/", false),
            (&Hosts::Own, "/apps/web/", true),
        ]
    );
    assert_eq!(table.drain.requests.as_secs(), 30);
}

#[test]
fn other_environments_have_names_that_no_project_can_have() {
    let mut place = Place::new("web").serving(&[]);
    place.environment.name = "staging".parse().unwrap();
    let table = plan_routes(&[place.set()]);
    assert_eq!(
        table.routes[0].hosts,
        Hosts::Named(vec!["staging.web.localhost".into()])
    );
    assert_eq!(table.routes[1].path, "/apps/staging.web/");
}

#[test]
fn traffic_moves_with_the_state_and_never_to_what_is_not_ready() {
    use ReplicaState::{Failed, Ready, Starting, Unhealthy};
    use RolloutState::{Paused, Probing, Shifting, Swapping};
    let weights = |state, step, replica| {
        Place::new("web")
            .serving(&[])
            .rolling(state, step, replica)
            .weights()
    };
    assert_eq!(weights(Probing, 0, Ready), [(1, 100)]);
    assert_eq!(weights(Shifting, 0, Ready), [(1, 90), (2, 10)]);
    assert_eq!(weights(Paused, 1, Ready), [(1, 50), (2, 50)]);
    assert_eq!(weights(Shifting, 0, Starting), [(1, 100)]);
    assert_eq!(weights(Swapping, 0, Ready), [(2, 100)]);
    assert_eq!(weights(Swapping, 0, Unhealthy), [(1, 100)]);
    assert_eq!(weights(Shifting, 0, Unhealthy), [(1, 100)]);
    assert_eq!(weights(Swapping, 0, Failed), [(1, 100)]);
    assert_eq!(
        Place::new("web").rolling(Swapping, 0, Ready).weights(),
        [(2, 100)]
    );
    assert_eq!(Place::new("web").rolling(Probing, 0, Ready).weights(), []);
}

#[test]
fn an_unhealthy_replica_serves_only_when_it_is_the_last() {
    let mut place = Place::new("web").serving(&[]);
    let release = place.current.clone().unwrap();
    let rollout = place.environment.serving.unwrap();
    let endpoints = |place: &Place| {
        plan_routes(&[place.set()]).routes[0].backends[0]
            .replicas
            .len()
    };
    place.replica(&release, rollout, ReplicaState::Unhealthy);
    assert_eq!(endpoints(&place), 1);
    place.replicas[0].state = ReplicaState::Unhealthy;
    assert_eq!(endpoints(&place), 2);
    place.replicas[0].state = ReplicaState::Draining;
    place.replicas[1].state = ReplicaState::Failed;
    let table = plan_routes(&[place.set()]);
    assert!(
        table.routes[0].backends.is_empty(),
        "the route stays, so that the gateway says 503"
    );
}

#[test]
fn a_canary_that_ended_keeps_its_traffic_until_something_wanted_answers() {
    let mut place =
        Place::new("web")
            .serving(&[])
            .rolling(RolloutState::Shifting, 0, ReplicaState::Ready);
    place.replicas[0].state = ReplicaState::Failed;
    assert_eq!(place.weights(), [(2, 100)]);
    // Its rollout was aborted, or a newer one takes its place.
    place.rollout = None;
    assert_eq!(place.weights(), [], "what never had traffic gets none");
    place.replicas[1].routed = true;
    assert_eq!(place.weights(), [(2, 100)]);
    place.replicas[0].state = ReplicaState::Unhealthy;
    assert_eq!(place.weights(), [(2, 100)]);
    place.replicas[1].state = ReplicaState::Unhealthy;
    assert_eq!(place.weights(), [(1, 100)]);
    place.replicas[0].state = ReplicaState::Ready;
    place.replicas[1].state = ReplicaState::Ready;
    assert_eq!(place.weights(), [(1, 100)]);
}

#[test]
fn no_host_and_path_appears_twice_whatever_is_claimed() {
    let one = Place::new("one").serving(&["shop.example.org", "two.localhost"]);
    let two = Place::new("two").serving(&["shop.example.org", "b.example.org"]);
    let table = plan_routes(&[two.set(), one.set()]);
    let mut seen = BTreeSet::new();
    for route in &table.routes {
        let Hosts::Named(hosts) = &route.hosts else {
            continue;
        };
        for host in hosts {
            assert!(
                seen.insert((host.clone(), route.path.clone())),
                "{host} twice"
            );
        }
    }
    let owner = |host: &str| {
        table.routes.iter().find(|route| matches!(&route.hosts, Hosts::Named(hosts) if hosts.iter().any(|its| its == host))).map(|route| route.project.to_string())
    };
    assert_eq!(owner("two.localhost").as_deref(), Some("two"));
    assert_eq!(owner("b.example.org").as_deref(), Some("two"));
}

#[test]
fn an_environment_on_its_way_out_has_no_routes() {
    let mut place = Place::new("web").serving(&[]);
    place.environment.removing = true;
    assert!(plan_routes(&[place.set()]).routes.is_empty());
}

fn states() -> impl Strategy<Value = (RolloutState, ReplicaState, ReplicaState, u32)> {
    let any = |all: &'static [ReplicaState]| proptest::sample::select(all);
    (
        proptest::sample::select(RolloutState::ALL),
        any(ReplicaState::ALL),
        any(ReplicaState::ALL),
        0u32..4,
    )
}

proptest! {
    #[test]
    fn shares_always_make_a_hundred((state, old, new, step) in states()) {
        let mut place = Place::new("web").serving(&[]).rolling(state, step, new);
        place.replicas[0].state = old;
        let weights = place.weights();
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        prop_assert!(weights.is_empty() || total == 100, "{weights:?}");
        // A replica that answers is never left out while nothing else serves.
        if old == ReplicaState::Ready {
            prop_assert!(!weights.is_empty());
        }
        for endpoint in plan_routes(&[place.set()]).routes.iter().flat_map(|route| &route.backends).flat_map(|backend| &backend.replicas) {
            let replica = place.replicas.iter().find(|replica| replica.endpoint == endpoint.id).unwrap();
            prop_assert!(matches!(replica.state, ReplicaState::Ready | ReplicaState::Unhealthy));
        }
    }

    #[test]
    fn the_order_of_the_rows_does_not_matter(swap in any::<bool>(), (state, old, new, step) in states()) {
        let mut one = Place::new("one").serving(&["a.example.org"]).rolling(state, step, new);
        one.replicas[0].state = old;
        let two = Place::new("two").serving(&["a.example.org"]);
        let sets = if swap { [two.set(), one.set()] } else { [one.set(), two.set()] };
        prop_assert_eq!(plan_routes(&sets), plan_routes(&[one.set(), two.set()]));
    }
}
