//! Workloads and the engines that run them.
//!
//! CI steps, training jobs, service replicas and functions are all a [`WorkloadSpec`]; an
//! [`Engine`] runs it.

pub mod backoff;
pub mod engine;
mod error;
pub mod model;

pub use engine::{Engine, LogLines};
pub use error::EngineError;
pub use model::{
    Capabilities, CgroupVersion, Command, Exit, Limits, LogLine, LogPolicy, LogPosition, LogQuery,
    LogStreamKind, Observation, PortRequest, Started, StopPolicy, StopSignal, Usage, WorkDir,
    WorkloadKind, WorkloadSpec, WorkloadState,
};
