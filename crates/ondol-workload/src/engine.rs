//! The one interface to everything that runs workloads. Its callers are reconcilers: every
//! operation can be repeated after a crash, and the engine never decides to run anything again.

use std::net::SocketAddr;
use std::pin::Pin;

use futures_util::Stream;
use ondol_types::WorkloadId;
use tokio::sync::watch;

use crate::error::EngineError;
use crate::model::{
    Capabilities, Exit, LogLine, LogQuery, Observation, Started, StopPolicy, Usage, WorkloadSpec,
};

/// Lines of a log as they are read. Dropping it ends the reading.
pub type LogLines = Pin<Box<dyn Stream<Item = Result<LogLine, EngineError>> + Send>>;

/// Runs workloads.
#[async_trait::async_trait]
pub trait Engine: Send + Sync {
    /// A short name such as `process`, for people and labels.
    fn name(&self) -> &'static str;

    /// Starts an incarnation, at most once: when it has been started before, by whomever, it is
    /// only observed, also if it has exited. A program that cannot be executed is not an error
    /// here: it exits with 126 or 127 and the log says why.
    ///
    /// # Errors
    /// An older incarnation still runs or a newer one exists ([`EngineError::Running`],
    /// [`EngineError::Stale`]); the spec asks for what the host cannot do; the disk is full.
    async fn start(&self, spec: WorkloadSpec) -> Result<Started, EngineError>;

    /// The latest incarnation of a workload; `None` when there is no such workload.
    async fn observe(&self, id: &WorkloadId) -> Result<Option<Observation>, EngineError>;

    /// Every workload that was not removed, exited ones too, ordered by id.
    async fn list(&self) -> Result<Vec<Observation>, EngineError>;

    /// Asks the program to stop, kills what is left after the grace, and waits for the end.
    /// Of a workload that has ended it returns the exit; a second call may shorten the grace.
    async fn stop(&self, id: &WorkloadId, policy: StopPolicy) -> Result<Exit, EngineError>;

    /// Kills everything of the workload and waits for the end.
    async fn kill(&self, id: &WorkloadId) -> Result<Exit, EngineError>;

    /// Waits for the end of the incarnation that is the latest now.
    async fn wait(&self, id: &WorkloadId) -> Result<Exit, EngineError>;

    /// Reads the log, also of a workload that has ended, and across its incarnations.
    async fn logs(&self, id: &WorkloadId, query: LogQuery) -> Result<LogLines, EngineError>;

    /// Forgets a workload with its directory, log and exit. One that is unknown is no error.
    ///
    /// # Errors
    /// [`EngineError::Running`] while it runs.
    async fn remove(&self, id: &WorkloadId) -> Result<(), EngineError>;

    /// What it uses; of a workload that has ended, what it used in total.
    async fn usage(&self, id: &WorkloadId) -> Result<Usage, EngineError>;

    /// Where the program's processes listen for TCP, so that one which ignores `PORT` can be
    /// told where it was found. Addresses are as the program sees them.
    async fn listening(&self, id: &WorkloadId) -> Result<Vec<SocketAddr>, EngineError>;

    /// What this host can do.
    async fn capabilities(&self) -> Capabilities;

    /// Changes whenever a workload has started or ended: the signal for reconcilers, who must
    /// have a timer as well.
    fn changes(&self) -> watch::Receiver<u64>;
}
