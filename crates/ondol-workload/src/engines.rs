//! Both engines as one, so that whoever runs workloads need not know which of them does: a
//! workload that names an image goes to the container engine, any other to the process engine.

use std::net::SocketAddr;
use std::path::PathBuf;

use ondol_types::WorkloadId;
use tokio::sync::watch;

use crate::container::ContainerEngine;
use crate::engine::{Engine, LogLines};
use crate::error::EngineError;
use crate::model::{
    Capabilities, Exit, LogQuery, Observation, Started, StopPolicy, Usage, WorkloadSpec,
};
use crate::process::ProcessEngine;

/// The engines of one installation.
#[derive(Clone)]
pub struct Engines {
    process: ProcessEngine,
    container: Option<ContainerEngine>,
    changes: watch::Sender<u64>,
}

impl Engines {
    /// Joins the engines. `None` for the second means that images are refused. Must be called
    /// inside a tokio runtime.
    pub fn new(process: ProcessEngine, container: Option<ContainerEngine>) -> Self {
        let changes = watch::Sender::new(0);
        let mut sources = vec![process.changes()];
        sources.extend(container.as_ref().map(Engine::changes));
        for mut source in sources {
            let changes = changes.clone();
            tokio::spawn(async move {
                while source.changed().await.is_ok() {
                    changes.send_modify(|generation| *generation += 1);
                }
            });
        }
        Self {
            process,
            container,
            changes,
        }
    }

    /// The engine for images, for what only it can do: sweeping, images, volumes.
    pub fn container(&self) -> Option<&ContainerEngine> {
        self.container.as_ref()
    }

    /// The directory of a workload's log, for [`crate::log::LogReader`].
    pub fn log_dir(&self, id: &WorkloadId) -> PathBuf {
        match self.container_with(id) {
            Some(container) => container.log_dir(id),
            None => self.process.log_dir(id),
        }
    }

    /// Stops every living workload by its own stop policy, all at once, and waits for their ends.
    pub async fn stop_all(&self) -> Vec<(WorkloadId, Result<Exit, EngineError>)> {
        let contained = async {
            match &self.container {
                Some(container) => container.stop_all().await,
                None => Vec::new(),
            }
        };
        let (mut all, contained) = tokio::join!(self.process.stop_all(), contained);
        all.extend(contained);
        all
    }

    fn container_with(&self, id: &WorkloadId) -> Option<&ContainerEngine> {
        self.container
            .as_ref()
            .filter(|container| container.has(id))
    }

    fn of(&self, id: &WorkloadId) -> &dyn Engine {
        match self.container_with(id) {
            Some(container) => container,
            None => &self.process,
        }
    }

    /// Forgets what the other engine has of a workload that now runs with this one. A workload is
    /// never known to both for longer than this takes.
    async fn leave(
        &self,
        other: &dyn Engine,
        id: &WorkloadId,
        incarnation: u64,
    ) -> Result<(), EngineError> {
        match other.observe(id).await? {
            // A start that was refused may have left a directory, by which a workload is found.
            None => other.remove(id).await,
            Some(seen) if seen.state.exit().is_none() => Err(EngineError::Running {
                id: *id,
                incarnation: seen.incarnation,
            }),
            Some(seen) if seen.incarnation >= incarnation => Err(EngineError::Stale {
                id: *id,
                asked: incarnation,
                known: seen.incarnation,
            }),
            Some(_) => other.remove(id).await,
        }
    }
}

#[async_trait::async_trait]
impl Engine for Engines {
    fn name(&self) -> &'static str {
        match self.container {
            Some(_) => "process and container",
            None => "process",
        }
    }

    async fn start(&self, spec: WorkloadSpec) -> Result<Started, EngineError> {
        match (&self.container, &spec.container) {
            (None, _) => self.process.start(spec).await,
            (Some(container), Some(_)) => {
                self.leave(&self.process, &spec.id, spec.incarnation)
                    .await?;
                container.start(spec).await
            }
            (Some(container), None) => {
                self.leave(container, &spec.id, spec.incarnation).await?;
                self.process.start(spec).await
            }
        }
    }

    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, EngineError> {
        self.of(id).observe(id).await
    }

    async fn list(&self) -> Result<Vec<Observation>, EngineError> {
        let mut all = self.process.list().await?;
        if let Some(container) = &self.container {
            all.extend(container.list().await?);
            all.sort_by_key(|seen| seen.id);
        }
        Ok(all)
    }

    async fn stop(&self, id: &WorkloadId, policy: StopPolicy) -> Result<Exit, EngineError> {
        self.of(id).stop(id, policy).await
    }

    async fn kill(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.of(id).kill(id).await
    }

    async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError> {
        self.of(id).wait(id).await
    }

    async fn logs(&self, id: &WorkloadId, query: LogQuery) -> Result<LogLines, EngineError> {
        self.of(id).logs(id, query).await
    }

    async fn remove(&self, id: &WorkloadId) -> Result<(), EngineError> {
        self.of(id).remove(id).await
    }

    async fn usage(&self, id: &WorkloadId) -> Result<Usage, EngineError> {
        self.of(id).usage(id).await
    }

    async fn listening(&self, id: &WorkloadId) -> Result<Vec<SocketAddr>, EngineError> {
        self.of(id).listening(id).await
    }

    async fn capabilities(&self) -> Capabilities {
        let mut can = self.process.capabilities().await;
        if let Some(container) = &self.container {
            let contained = container.capabilities().await;
            can.container = contained.container;
            // An engine that nobody has asked for anything yet need not be there.
            if container.was_used() {
                can.notices.extend(contained.notices);
            }
        }
        can
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}
