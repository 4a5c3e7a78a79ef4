//! The engine's operations as callers see them.

use std::net::SocketAddr;

use bollard::query_parameters::StatsOptions;
use futures_util::StreamExt;
use ondol_types::WorkloadId;
use tokio::sync::watch;

use super::ContainerEngine;
use super::client::failed;
use crate::cgroup::{Dirs, usage_now};
use crate::engine::{Engine, LogLines};
use crate::error::EngineError;
use crate::fleet::blocking;
use crate::home::IdentityFile;
use crate::listening;
use crate::model::{
    Capabilities, Exit, LogQuery, Observation, Started, StopPolicy, Usage, WorkloadSpec,
    WorkloadState,
};
use crate::procfs;

#[async_trait::async_trait]
impl Engine for ContainerEngine {
    fn name(&self) -> &'static str {
        "container"
    }

    async fn start(&self, spec: WorkloadSpec) -> Result<Started, EngineError> {
        self.fleet.start(spec).await
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, EngineError> {
        self.fleet.observe(id).await
    }

    async fn list(&self) -> Result<Vec<Observation>, EngineError> {
        self.fleet.list().await
    }

    async fn stop(&self, id: &WorkloadId, policy: StopPolicy) -> Result<Exit, EngineError> {
        self.fleet.stop(id, policy).await
    }

    async fn kill(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.fleet.kill(id).await
    }

    async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.fleet.wait(id).await
    }

    async fn logs(&self, id: &WorkloadId, query: LogQuery) -> Result<LogLines, EngineError> {
        self.fleet.logs(id, query).await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), EngineError> {
        self.fleet.remove(id).await
    }

    async fn usage(&self, id: &WorkloadId) -> Result<Usage, EngineError> {
        if let WorkloadState::Exited(exit) = self.fleet.known(id).await?.state {
            return Ok(exit.usage);
        }
        let Some(identity) = self.identity(id).await? else {
            return Ok(Usage::default());
        };
        if let Some(first) = identity.child.clone().filter(|first| first.is_alive()) {
            let seen = blocking(move || {
                let group = Dirs::of_process(first.pid)?;
                Some(usage_now(Some(&group), first.pid))
            });
            if let Some(usage) = seen.await {
                return Ok(usage);
            }
        }
        self.usage_as_told(&identity).await
    }

    async fn listening(&self, id: &WorkloadId) -> Result<Vec<SocketAddr>, EngineError> {
        let first = self.identity(id).await?.and_then(|identity| identity.child);
        let Some(first) = first.filter(|first| first.is_alive()) else {
            self.fleet.known(id).await?;
            return Ok(Vec::new());
        };
        Ok(blocking(move || {
            let mut pids = procfs::descendants(first.pid);
            pids.insert(first.pid);
            listening::listening(&pids)
        })
        .await)
    }

    async fn capabilities(&self) -> Capabilities {
        self.host.capabilities().await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.fleet.subscribe()
    }
}

impl ContainerEngine {
    async fn identity(&self, id: &WorkloadId) -> Result<Option<IdentityFile>, EngineError> {
        let home = self.fleet.home(id);
        blocking(move || home.identity()).await
    }

    /// What the engine counts, where its processes cannot be seen from here.
    async fn usage_as_told(&self, identity: &IdentityFile) -> Result<Usage, EngineError> {
        let Some(container) = &identity.container else {
            return Ok(Usage::default());
        };
        let (_, docker) = self.host.finder.client().await?;
        let options = StatsOptions {
            stream: false,
            one_shot: true,
        };
        let mut answers = docker.stats(&container.id, Some(options)).boxed();
        let Some(answer) = answers.next().await else {
            return Ok(Usage::default());
        };
        let stats = answer.map_err(failed("say what a container uses"))?;
        let cpu = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage);
        Ok(Usage {
            cpu_seconds: cpu.unwrap_or(0) as f64 / 1e9,
            memory_bytes: stats
                .memory_stats
                .and_then(|memory| memory.usage)
                .unwrap_or(0),
            pids: stats
                .pids_stats
                .and_then(|pids| u32::try_from(pids.current?).ok())
                .unwrap_or(0),
        })
    }
}
