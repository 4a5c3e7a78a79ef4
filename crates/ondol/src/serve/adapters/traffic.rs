//! The gateway as the deploy room sees it.

use async_trait::async_trait;
use ondol_deploy::{Applied, Counters, Hosts, ReleaseTraffic, ReplicaTraffic, RouteTable, Routes};
use ondol_gateway::{
    Backend, DrainPolicy, GatewayControl, Replica, Route, RouteState, SNAPSHOT_FORMAT, Snapshot,
    Timeouts,
};
use ondol_types::Problem;

/// Routes pushed to every live gateway.
pub(in crate::serve) struct GatewayRoutes {
    pub(in crate::serve) control: GatewayControl,
    /// The names of the gateway itself.
    pub(in crate::serve) own: Vec<String>,
}

/// The names under which the gateway serves `/apps/…`. One that listens on this machine alone
/// answers only to names of this machine, so that a page of a stranger's domain that resolves
/// here reaches nothing; one that is open to a network is told its names by `--host`, and without
/// any answers to all.
pub(in crate::serve) fn own_names(
    address: std::net::SocketAddr,
    configured: &[String],
) -> Vec<String> {
    if !address.ip().is_loopback() && configured.is_empty() {
        return vec!["*".to_owned()];
    }
    let mut names = vec![
        "localhost".to_owned(),
        "127.0.0.1".to_owned(),
        "[::1]".to_owned(),
    ];
    if !address.ip().is_unspecified() {
        names.push(match address.ip() {
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            ip => ip.to_string(),
        });
    }
    names.extend(configured.iter().cloned());
    names.sort();
    names.dedup();
    names
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn snapshot(table: RouteTable, own: &[String]) -> Snapshot {
    let routes = table.routes.into_iter().map(|route| Route {
        project: route.project,
        environment: route.environment,
        hosts: match route.hosts {
            Hosts::Own => own.to_vec(),
            Hosts::Named(names) => names,
        },
        path_prefix: route.path,
        strip_prefix: route.strip,
        backends: route
            .backends
            .into_iter()
            .map(|backend| Backend {
                release: backend.release,
                weight: backend.weight,
                replicas: backend
                    .replicas
                    .into_iter()
                    .map(|endpoint| Replica {
                        id: endpoint.id,
                        address: endpoint.address,
                    })
                    .collect(),
            })
            .collect(),
        max_body_bytes: None,
        max_in_flight_per_replica: 1_024,
        timeouts: Timeouts::default(),
        state: RouteState::Serving,
    });
    Snapshot {
        format: SNAPSHOT_FORMAT,
        generation: u64::try_from(table.generation).unwrap_or(0),
        routes: routes.collect(),
        drain: DrainPolicy {
            deadline_ms: millis(table.drain.requests),
            websocket_grace_ms: millis(table.drain.websockets),
        },
    }
}

#[async_trait]
impl Routes for GatewayRoutes {
    async fn apply(&self, table: RouteTable) -> Result<Applied, Problem> {
        let applied = self.control.apply(&snapshot(table, &self.own)).await?;
        Ok(Applied {
            generation: i64::try_from(applied.generation).unwrap_or(i64::MAX),
            gateways: applied.gateways.len() as u32,
        })
    }

    async fn generation(&self) -> Result<i64, Problem> {
        let newest = self
            .control
            .status()
            .await?
            .into_iter()
            .map(|status| status.generation)
            .max();
        Ok(newest.map_or(0, |generation| {
            i64::try_from(generation).unwrap_or(i64::MAX)
        }))
    }

    async fn counters(&self) -> Result<Counters, Problem> {
        let counted = self.control.counters().await?;
        let releases = counted.releases.iter().map(|release| {
            let traffic = ReleaseTraffic {
                requests: release.requests(),
                errors: release.errors(),
                in_flight: release.in_flight,
                durations: ondol_deploy::Histogram {
                    buckets: release.durations.buckets.clone(),
                    sum_micros: release.durations.sum_micros,
                },
            };
            (release.release, traffic)
        });
        let replicas = counted.replicas.iter().map(|replica| {
            let traffic = ReplicaTraffic {
                requests: replica.requests,
                errors: replica.errors,
                in_flight: replica.in_flight,
                tunnels: replica.tunnels,
            };
            (replica.replica, traffic)
        });
        Ok(Counters {
            releases: releases.collect(),
            replicas: replicas.collect(),
        })
    }
}
