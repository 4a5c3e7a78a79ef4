//! The rules a snapshot must keep before any of it is applied.

use std::collections::{HashMap, HashSet};

use super::{Route, SNAPSHOT_FORMAT, Snapshot};
use crate::error::GatewayError;

const MAX_ROUTES: usize = 20_000;
const MAX_HOSTS: usize = 64;
const MAX_BACKENDS: usize = 64;
const MAX_REPLICAS: usize = 1_000;
const MAX_PREFIX: usize = 256;
const MAX_WEIGHT: u32 = 1_000_000;
const MAX_WAIT_MS: u64 = 24 * 60 * 60 * 1_000;

impl Snapshot {
    /// Checks every rule; the error names the place.
    pub fn validate(&self) -> Result<(), GatewayError> {
        if self.format > SNAPSHOT_FORMAT || self.format == 0 {
            return Err(GatewayError::SnapshotNewer {
                found: self.format,
                known: SNAPSHOT_FORMAT,
            });
        }
        self.check()
            .map_err(|(place, reason)| GatewayError::SnapshotInvalid {
                generation: self.generation,
                place,
                reason,
            })
    }

    fn check(&self) -> Result<(), (String, String)> {
        if self.generation == 0 {
            return Err(("generation".into(), "begins at 1".into()));
        }
        if self.routes.len() > MAX_ROUTES {
            return Err((
                "routes".into(),
                format!("{} routes are more than {MAX_ROUTES}", self.routes.len()),
            ));
        }
        let mut places = HashSet::new();
        let mut replicas = HashMap::new();
        for (index, route) in self.routes.iter().enumerate() {
            let place = format!("route {index} of project `{}`", route.project);
            check_route(route).map_err(|reason| (place.clone(), reason))?;
            for host in &route.hosts {
                if !places.insert((host.as_str(), route.path_prefix.as_str())) {
                    return Err((
                        place,
                        format!("host `{host}` with prefix `{}` is taken", route.path_prefix),
                    ));
                }
            }
            for backend in &route.backends {
                for replica in &backend.replicas {
                    let identity = (
                        replica.address,
                        backend.release,
                        &route.project,
                        &route.environment,
                    );
                    let known = replicas.entry(replica.id).or_insert(identity);
                    if *known != identity {
                        return Err((
                            place,
                            format!(
                                "replica {} is named twice with different places",
                                replica.id
                            ),
                        ));
                    }
                }
            }
        }
        Ok(())
    }
}

fn check_route(route: &Route) -> Result<(), String> {
    if route.hosts.is_empty() || route.hosts.len() > MAX_HOSTS {
        return Err(format!(
            "has {} hosts instead of 1 to {MAX_HOSTS}",
            route.hosts.len()
        ));
    }
    if let Some(host) = route.hosts.iter().find(|host| !is_host_pattern(host)) {
        return Err(format!(
            "host `{host}` is not a lower-case name without port, `*.suffix` or `*`"
        ));
    }
    let prefix = &route.path_prefix;
    let clean = prefix.starts_with('/')
        && prefix.ends_with('/')
        && prefix.len() <= MAX_PREFIX
        && !prefix.contains("//")
        && !prefix.split('/').any(|part| part == "." || part == "..")
        && prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte));
    if !clean {
        return Err(format!(
            "path prefix `{prefix}` must begin and end with `/` and hold plain segments"
        ));
    }
    if route.backends.len() > MAX_BACKENDS {
        return Err(format!(
            "{} backends are more than {MAX_BACKENDS}",
            route.backends.len()
        ));
    }
    for backend in &route.backends {
        if backend.weight > MAX_WEIGHT {
            return Err(format!("weight {} is above {MAX_WEIGHT}", backend.weight));
        }
        if backend.replicas.len() > MAX_REPLICAS {
            return Err(format!(
                "{} replicas are more than {MAX_REPLICAS}",
                backend.replicas.len()
            ));
        }
        if let Some(replica) = backend
            .replicas
            .iter()
            .find(|replica| replica.address.port() == 0)
        {
            return Err(format!("replica {} has no port", replica.id));
        }
    }
    let timeouts = route.timeouts;
    let waits = [timeouts.connect_ms, timeouts.response_ms, timeouts.idle_ms];
    if waits.iter().any(|&wait| wait == 0 || wait > MAX_WAIT_MS) {
        return Err("every timeout is 1 ms to 24 h".into());
    }
    if route.max_in_flight_per_replica == 0 {
        return Err("a replica must be allowed at least one request".into());
    }
    Ok(())
}

fn is_host_pattern(host: &str) -> bool {
    if host == "*" {
        return true;
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    if let Some(inner) = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        return inner.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part.bytes().all(|byte| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte)
            })
    };
    name.len() <= 253 && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use ondol_types::{EnvironmentName, ReleaseId, ReplicaId};

    use super::*;
    use crate::snapshot::{Backend, Replica};

    fn snapshot() -> Snapshot {
        let backend = Backend {
            release: ReleaseId::derived("r1"),
            weight: 1,
            replicas: vec![Replica {
                id: ReplicaId::derived("a"),
                address: "127.0.0.1:9000".parse().unwrap(),
            }],
        };
        let routes = Route::pair(
            &"web".parse().unwrap(),
            &EnvironmentName::production(),
            vec!["web.localhost".into()],
            vec!["*".into()],
            vec![backend],
        );
        Snapshot {
            routes: routes.to_vec(),
            ..Snapshot::empty(1)
        }
    }

    #[test]
    fn a_sound_snapshot_passes() {
        snapshot().validate().unwrap();
    }

    #[test]
    fn each_broken_rule_is_named() {
        type Break = fn(&mut Snapshot);
        let cases: [(&str, Break); 9] = [
            ("begins at 1", |s| s.generation = 0),
            ("1 to 64", |s| s.routes[0].hosts.clear()),
            ("Web.localhost", |s| {
                s.routes[0].hosts = vec!["Web.localhost".into()]
            }),
            ("web:80", |s| s.routes[0].hosts = vec!["web:80".into()]),
            ("/apps/../", |s| {
                s.routes[1].path_prefix = "/apps/../".into()
            }),
            ("is taken", |s| s.routes.push(s.routes[0].clone())),
            ("has no port", |s| {
                s.routes[0].backends[0].replicas[0].address.set_port(0)
            }),
            ("named twice", |s| {
                s.routes[1].backends[0].replicas[0].address.set_port(9001)
            }),
            ("every timeout", |s| s.routes[0].timeouts.connect_ms = 0),
        ];
        for (expected, damage) in cases {
            let mut broken = snapshot();
            damage(&mut broken);
            let message = broken.validate().unwrap_err().to_string();
            assert!(
                message.contains(expected),
                "{message} should name {expected}"
            );
        }
    }

    #[test]
    fn a_newer_format_is_refused_as_such() {
        let mut newer = snapshot();
        newer.format = 2;
        assert!(matches!(
            newer.validate(),
            Err(GatewayError::SnapshotNewer { found: 2, known: 1 })
        ));
    }
}
