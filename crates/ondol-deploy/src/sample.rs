//! Readings of the gateway's counters and of what replicas use, for the rates that people see.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_types::{Problem, ReleaseId, ReplicaId};

use crate::error::DeployError;
use crate::plan::Sample;
use crate::room::{Reading, Room};
use crate::service::keep_reading;
use crate::store;

/// The load of one release in what was read, oldest first.
pub(crate) fn samples<'a>(
    readings: impl Iterator<Item = &'a Reading>,
    release: ReleaseId,
    replicas: &[ReplicaId],
) -> Vec<Sample> {
    readings
        .map(|(at, counters, usage)| {
            // A release that nobody asked for has no row: that is a count of zero.
            let traffic = counters.releases.get(&release);
            let cpu = replicas
                .iter()
                .filter_map(|id| Some((*id, usage.get(id)?.cpu_seconds)))
                .collect();
            Sample {
                at: *at,
                requests: traffic.map_or(0, |traffic| traffic.requests),
                in_flight: traffic.map_or(0, |traffic| traffic.in_flight),
                cpu,
            }
        })
        .collect()
}

/// Reads every few seconds and keeps a minute.
pub(crate) struct SampleLoop {
    pub(crate) room: Arc<Room>,
}

#[async_trait]
impl Reconciler for SampleLoop {
    fn name(&self) -> &'static str {
        "deploy.traffic"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(5)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let replicas = self
            .room
            .store
            .read::<_, DeployError, _>(|tx| {
                Box::pin(async move { Ok(store::live_replicas(tx, None).await?) })
            })
            .await?;
        let mut usage = BTreeMap::new();
        for replica in replicas.iter().filter(|replica| replica.state.is_up()) {
            if let Ok(used) = self.room.engine.usage(&replica.workload).await {
                usage.insert(replica.id, used);
            }
        }
        let counters = match self.room.routes.counters().await {
            Ok(counters) => counters,
            Err(_) if replicas.is_empty() => return Ok(Report::default()),
            Err(problem) => return Err(problem),
        };
        let seen = usage.len() as u64;
        let reading = (self.room.clock.now(), counters, usage);
        let mut readings = self
            .room
            .readings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        keep_reading(&mut readings, reading);
        Ok(Report {
            seen,
            ..Report::default()
        })
    }
}
