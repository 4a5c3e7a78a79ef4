#![doc = include_str!("../README.md")]

pub mod backoff;
mod cgroup;
mod check;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod container;
pub mod engine;
mod engines;
mod error;
mod fleet;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod home;
pub mod listening;
pub mod log;
pub mod mask;
pub mod model;
pub mod ports;
mod process;
mod procfs;
mod shim;
mod sys;
mod wire;

pub use cgroup::CgroupPreference;
pub use container::{ContainerConfig, ContainerEngine, ContainerSpec};
pub use engine::{Engine, LogLines};
pub use engines::Engines;
pub use error::EngineError;
pub use mask::Masker;
pub use model::{
    Capabilities, CgroupVersion, Command, ContainerCapabilities, Exit, Limits, LogLine, LogPolicy,
    LogPosition, LogQuery, LogStreamKind, Observation, PortRequest, Started, StopPolicy,
    StopSignal, Usage, WorkDir, WorkloadKind, WorkloadSpec, WorkloadState,
};
pub use process::{Config, ProcessEngine, USUAL_PATH};
pub use shim::shim_main;
pub use sys::keep_inherited_descriptors;
