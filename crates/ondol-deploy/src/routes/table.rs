//! The routing table, computed whole from the rows: pure, so that the same rows always give the
//! same table and a crash between computing and applying loses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ondol_types::{EnvironmentName, ProjectName, ReleaseId, ReplicaId};
use serde::{Deserialize, Serialize};

use crate::model::{
    Environment, Release, ReleaseConfig, Replica, ReplicaState, Rollout, RolloutState,
};

/// Everything that is routed, at one generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Grows with every change.
    pub generation: i64,
    /// What is served. What is not named is not served.
    pub routes: Vec<Route>,
    /// How replicas end that are no longer named.
    pub drain: Drain,
}

/// How replicas end that are no longer named: the most patient of all environments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Requests still in progress after this are cut.
    pub requests: Duration,
    /// WebSockets get their close frame and are cut after this.
    pub websockets: Duration,
}

/// Which host names a route answers to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hosts {
    /// The names of the gateway itself, whatever they are.
    Own,
    /// These: exact, or `*.suffix`.
    Named(Vec<String>),
}

/// Where requests of some hosts below some path go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Whose.
    pub project: ProjectName,
    /// Where.
    pub environment: EnvironmentName,
    /// Which hosts.
    pub hosts: Hosts,
    /// Begins and ends with `/`.
    pub path: String,
    /// Whether the program sees paths without it.
    pub strip: bool,
    /// Releases and their shares. Empty while nothing is ready: the gateway says 503, not 404.
    pub backends: Vec<Backend>,
}

/// One release behind a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Which release.
    pub release: ReleaseId,
    /// Its number, for metrics.
    pub number: i64,
    /// Its share, in percent.
    pub weight: u32,
    /// Its replicas.
    pub replicas: Vec<Endpoint>,
}

/// One running instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The endpoint of a replica: another one for every execution, so that an id never has two
    /// addresses or two releases.
    pub id: ReplicaId,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What the data plane says to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The generation that every live gateway has persisted.
    pub generation: i64,
    /// How many gateways those were.
    pub gateways: u32,
}

impl RouteTable {
    /// Every replica that is named.
    pub fn replicas(&self) -> BTreeSet<ReplicaId> {
        self.routes
            .iter()
            .flat_map(|route| &route.backends)
            .flat_map(|backend| &backend.replicas)
            .map(|endpoint| endpoint.id)
            .collect()
    }
}

/// The rows of one environment that decide its routes.
pub(crate) struct Set<'a> {
    pub(crate) environment: &'a Environment,
    /// The current release, once there is one.
    pub(crate) current: Option<&'a Release>,
    /// The running rollout with the release that it brings.
    pub(crate) rollout: Option<(&'a Rollout, &'a Release)>,
    /// Replicas that are not stopped.
    pub(crate) replicas: Vec<&'a Replica>,
    /// Their releases.
    pub(crate) releases: &'a BTreeMap<ReleaseId, Arc<Release>>,
}

/// `/apps/<project>/`, and `/apps/<environment>.<project>/` for environments other than production.
pub fn path_of(project: &ProjectName, environment: &EnvironmentName) -> String {
    format!("/apps/{}/", label_of(project, environment))
}

fn label_of(project: &ProjectName, environment: &EnvironmentName) -> String {
    // Neither name can have a dot, so no two labels are alike.
    if *environment == EnvironmentName::production() {
        project.to_string()
    } else {
        format!("{environment}.{project}")
    }
}

/// Host and path prefixes that a configuration claims, besides the project's own.
pub(crate) fn claims(config: &ReleaseConfig) -> Vec<(String, String)> {
    let mut all = BTreeSet::new();
    for host in &config.service.hosts {
        for path in &config.service.paths {
            all.insert((host.to_string(), with_slash(path.as_str())));
        }
    }
    all.into_iter().collect()
}

fn with_slash(path: &str) -> String {
    if path.ends_with('/') {
        path.to_owned()
    } else {
        format!("{path}/")
    }
}

/// The whole table, without its generation. The order of `sets` does not matter.
pub(crate) fn plan_routes(sets: &[Set<'_>]) -> RouteTable {
    let mut sets: Vec<(&Set<'_>, &Release)> = sets
        .iter()
        .filter_map(|set| Some((set, shaping(set)?)))
        .collect();
    sets.sort_by_key(|(set, _)| (&set.environment.project, &set.environment.name));
    let mut table = RouteTable::default();
    // A host and path that appeared twice would make the data plane refuse the whole table, so
    // that one project could stop all others: names of our own come first, then each claim once.
    let mut taken: BTreeSet<(String, String)> = BTreeSet::new();
    for (set, release) in &sets {
        let service = &release.config.service;
        table.drain.requests = table.drain.requests.max(service.drain.duration());
        table.drain.websockets = table
            .drain
            .websockets
            .max(service.websocket_grace.duration());
        taken.insert((own_host(set), "/".to_owned()));
    }
    for (set, release) in sets.iter().filter(|(set, _)| !set.environment.removing) {
        let backends = backends(set);
        let route = |hosts: Hosts, path: String, strip: bool| Route {
            project: set.environment.project.clone(),
            environment: set.environment.name.clone(),
            hosts,
            path,
            strip,
            backends: backends.clone(),
        };
        table.routes.push(route(
            Hosts::Named(vec![own_host(set)]),
            "/".to_owned(),
            false,
        ));
        let path = path_of(&set.environment.project, &set.environment.name);
        table.routes.push(route(Hosts::Own, path, true));
        let mut by_path: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (host, path) in claims(&release.config) {
            if taken.insert((host.clone(), path.clone())) {
                by_path.entry(path).or_default().push(host);
            }
        }
        table.routes.extend(
            by_path
                .into_iter()
                .map(|(path, hosts)| route(Hosts::Named(hosts), path, false)),
        );
    }
    table
}

fn own_host(set: &Set<'_>) -> String {
    format!(
        "{}.localhost",
        label_of(&set.environment.project, &set.environment.name)
    )
}

/// The release whose configuration shapes the routes: the current one, and the new one as soon
/// as all traffic moves to it or there is no other.
fn shaping<'a>(set: &Set<'a>) -> Option<&'a Release> {
    match (set.current, set.rollout) {
        (_, Some((rollout, release))) if rollout.state == RolloutState::Swapping => Some(release),
        (Some(current), _) => Some(current),
        (None, rollout) => rollout.map(|(_, release)| release),
    }
}

/// Where requests go. A replica that answers its probes goes before one that does not, whosever it
/// is: what answers badly is better than nothing, and worse than everything else.
fn backends(set: &Set<'_>) -> Vec<Backend> {
    [ReplicaState::Ready, ReplicaState::Unhealthy]
        .into_iter()
        .map(|state| backends_of(set, state))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

fn backends_of(set: &Set<'_>, state: ReplicaState) -> Vec<Backend> {
    let serving = set
        .environment
        .serving
        .zip(set.current)
        .and_then(|(rollout, release)| backend(set, rollout, release, state));
    let routed = set.rollout.filter(|(rollout, _)| rollout.state.is_routed());
    let coming = routed.and_then(|(rollout, release)| backend(set, rollout.id, release, state));
    let canary = routed
        .filter(|(rollout, _)| rollout.state != RolloutState::Swapping)
        .map(|(rollout, release)| share(rollout, release));
    match (serving, coming, canary) {
        (Some(mut serving), Some(mut coming), Some(share)) => {
            (serving.weight, coming.weight) = (100 - share, share);
            vec![serving, coming]
        }
        // All traffic moves, or there is nothing else that it could go to.
        (_, Some(coming), _) => vec![coming],
        (Some(serving), None, _) => vec![serving],
        (None, None, _) => left(set, state),
    }
}

/// What a rollout left behind that ended while its replicas had traffic: it goes on until
/// something that is wanted answers. What never had traffic gets none here.
fn left(set: &Set<'_>, state: ReplicaState) -> Vec<Backend> {
    let kept = [
        set.environment.serving,
        set.rollout.map(|(rollout, _)| rollout.id),
    ];
    let owners: BTreeSet<(ReleaseId, ondol_types::RolloutId)> = set
        .replicas
        .iter()
        .filter(|replica| replica.routed && !kept.contains(&Some(replica.rollout)))
        .map(|replica| (replica.release, replica.rollout))
        .collect();
    let mut all: Vec<Backend> = owners
        .into_iter()
        .filter_map(|(release, rollout)| backend(set, rollout, set.releases.get(&release)?, state))
        .collect();
    let parts = all.len() as u32;
    for (index, backend) in all.iter_mut().enumerate() {
        backend.weight = 100 / parts + u32::from((index as u32) < 100 % parts);
    }
    all
}

/// The share of a canary at its step, in percent.
pub(crate) fn share(rollout: &Rollout, release: &Release) -> u32 {
    let steps = &release.config.release.steps;
    steps
        .get(rollout.phase.step as usize)
        .map_or(0, |step| u32::from(*step).min(100))
}

fn backend(
    set: &Set<'_>,
    rollout: ondol_types::RolloutId,
    release: &Release,
    state: ReplicaState,
) -> Option<Backend> {
    let mut replicas: Vec<Endpoint> = set
        .replicas
        .iter()
        .filter(|replica| replica.rollout == rollout && replica.state == state)
        .filter_map(|replica| {
            Some(Endpoint {
                id: replica.endpoint,
                address: replica.address?,
            })
        })
        .collect();
    replicas.sort_by_key(|endpoint| endpoint.id);
    (!replicas.is_empty()).then_some(Backend {
        release: release.id,
        number: release.number,
        weight: 100,
        replicas,
    })
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
