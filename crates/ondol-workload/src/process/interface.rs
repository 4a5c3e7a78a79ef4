//! The engine's operations as callers see them.

use std::net::SocketAddr;
use std::time::Duration;

use ondol_types::WorkloadId;
use tokio::sync::watch;

use super::{END_PATIENCE, ProcessEngine, TRASH_PREFIX, blocking, stream};
use crate::cgroup::{Dirs, usage_now};
use crate::engine::{Engine, LogLines};
use crate::error::EngineError;
use crate::home::remove_tree;
use crate::listening;
use crate::model::{
    Capabilities, Exit, LogQuery, Observation, Started, StopPolicy, Usage, WorkloadSpec,
    WorkloadState,
};
use crate::wire::Operation;

/// How long a shim may take to leave after it has written the exit.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

#[async_trait::async_trait]
impl Engine for ProcessEngine {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn start(&self, spec: WorkloadSpec) -> Result<Started, EngineError> {
        let inner = self.0.clone();
        // A caller that goes away must not leave a shim that nobody watches.
        let id = spec.id;
        let started = tokio::spawn(async move { inner.start(spec).await }).await;
        started.unwrap_or_else(|error| {
            Err(EngineError::Shim {
                id,
                reason: error.to_string(),
            })
        })
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, EngineError> {
        self.0.observe(id).await
    }

    async fn list(&self) -> Result<Vec<Observation>, EngineError> {
        let mut all = Vec::new();
        for id in self.0.ids().await? {
            match self.0.observe(&id).await {
                Ok(observation) => all.extend(observation),
                Err(error) => {
                    tracing::error!(workload.id = %id, error = %error, "workload not listed")
                }
            }
        }
        Ok(all)
    }

    async fn stop(&self, id: &WorkloadId, policy: StopPolicy) -> Result<Exit, EngineError> {
        let grace_millis = u64::try_from(policy.grace.as_millis()).unwrap_or(u64::MAX);
        let patience = policy.grace.saturating_add(END_PATIENCE);
        self.0
            .end(
                id,
                Operation::Stop {
                    signal: policy.signal,
                    grace_millis,
                },
                patience,
            )
            .await
    }

    async fn kill(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.0.end(id, Operation::Kill, END_PATIENCE).await
    }

    async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.0.wait(id).await
    }

    async fn logs(&self, id: &WorkloadId, query: LogQuery) -> Result<LogLines, EngineError> {
        self.0.known(id).await?;
        Ok(stream::lines(self.0.clone(), *id, query))
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), EngineError> {
        let gate = self.0.gate(id);
        let _gate = gate.lock().await;
        if let Some(observation) = self.0.observe_gated(id).await?
            && observation.state.exit().is_none()
        {
            return Err(EngineError::Running {
                id: *id,
                incarnation: observation.incarnation,
            });
        }
        let home = self.0.home(id);
        let deadline = std::time::Instant::now() + LEAVE_PATIENCE;
        while home.is_locked() {
            if std::time::Instant::now() >= deadline {
                let source = std::io::ErrorKind::TimedOut.into();
                return Err(EngineError::ShimSilent { id: *id, source });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Renamed first, so that a removal that is cut short leaves no half of a workload.
        let trash = self
            .0
            .config
            .workloads_dir
            .join(format!("{TRASH_PREFIX}{id}"));
        blocking(move || {
            remove_tree(&trash).map_err(EngineError::io("remove", &trash))?;
            match std::fs::rename(home.dir(), &trash) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                other => other.map_err(EngineError::io("remove", home.dir()))?,
            }
            remove_tree(&trash).map_err(EngineError::io("remove", &trash))
        })
        .await?;
        self.0.changed();
        Ok(())
    }

    async fn usage(&self, id: &WorkloadId) -> Result<Usage, EngineError> {
        if let WorkloadState::Exited(exit) = self.0.known(id).await?.state {
            return Ok(exit.usage);
        }
        let home = self.0.home(id);
        blocking(move || {
            let identity = home.identity()?;
            Ok(identity
                .map(|identity| usage_now(identity.cgroup.as_ref(), identity.shim.pid))
                .unwrap_or_default())
        })
        .await
    }

    async fn listening(&self, id: &WorkloadId) -> Result<Vec<SocketAddr>, EngineError> {
        let WorkloadState::Running { pid, .. } = self.0.known(id).await?.state else {
            return Ok(Vec::new());
        };
        let home = self.0.home(id);
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
        let netns = self.0.netns().await;
        let mut notices = self.0.cgroups.notices.clone();
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
            self.0
                .cgroups
                .dirs
                .as_ref()
                .is_some_and(|dirs| dirs.has(controller))
        };
        Capabilities {
            cgroups: self.0.cgroups.version(),
            memory_limit: limits("memory"),
            cpu_limit: limits("cpu"),
            pids_limit: limits("pids"),
            netns: netns.way.is_ok(),
            netns_outbound,
            notices,
        }
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }
}
