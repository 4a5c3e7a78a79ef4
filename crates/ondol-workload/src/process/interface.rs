//! The engine's operations as callers see them.

use std::net::SocketAddr;

use ondol_types::WorkloadId;
use tokio::sync::watch;

use super::ProcessEngine;
use crate::cgroup::{Dirs, usage_now};
use crate::engine::{Engine, LogLines};
use crate::error::EngineError;
use crate::fleet::blocking;
use crate::listening;
use crate::model::{
    Capabilities, Exit, LogQuery, Observation, Started, StopPolicy, Usage, WorkloadSpec,
    WorkloadState,
};

#[async_trait::async_trait]
impl Engine for ProcessEngine {
    fn name(&self) -> &'static str {
        "process"
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
        let home = self.fleet.home(id);
        blocking(move || {
            let identity = home.identity()?;
            Ok(identity
                .map(|identity| usage_now(identity.cgroup.as_ref(), identity.shim.pid))
                .unwrap_or_default())
        })
        .await
    }

    async fn listening(&self, id: &WorkloadId) -> Result<Vec<SocketAddr>, EngineError> {
        let WorkloadState::Running { pid, .. } = self.fleet.known(id).await?.state else {
            return Ok(Vec::new());
        };
        let home = self.fleet.home(id);
        blocking(move || {
            let group = home.identity()?.and_then(|identity| identity.cgroup);
            let mut pids = crate::procfs::descendants(pid);
            pids.insert(pid);
            pids.extend(group.iter().flat_map(Dirs::pids));
            Ok(listening::listening(&pids))
        })
        .await
    }

    async fn capabilities(&self) -> Capabilities {
        let netns = self.host.netns().await;
        let mut notices = self.host.cgroups.notices.clone();
        let netns_outbound = netns.way.is_ok() && netns.outbound.is_some();
        match &netns.way {
            Err(reason) => {
                notices.push(format!("a fixed service.port is refused: no network namespace ({reason})"));
            }
            Ok(_) if !netns_outbound => notices.push(
                "a program with a fixed service.port has no outbound network: that needs slirp4netns and access to /dev/net/tun"
                    .to_owned(),
            ),
            Ok(_) => {}
        }
        let limits = |controller: &str| {
            self.host
                .cgroups
                .dirs
                .as_ref()
                .is_some_and(|dirs| dirs.has(controller))
        };
        Capabilities {
            cgroups: self.host.cgroups.version(),
            memory_limit: limits("memory"),
            cpu_limit: limits("cpu"),
            pids_limit: limits("pids"),
            netns: netns.way.is_ok(),
            netns_outbound,
            container: None,
            notices,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.fleet.subscribe()
    }
}
