//! Workloads and the engines that run them.
//!
//! CI steps, training jobs, service replicas and functions are all a [`WorkloadSpec`]; an
//! [`Engine`] runs it. The [`ProcessEngine`] is embedded: it runs programs of this host, each
//! below a shim ([`shim_main`]) that survives the control plane.
//!
//! | module | what |
//! |---|---|
//! | [`model`], [`engine`] | the vocabulary and the interface |
//! | `process` | the engine: start, observe, adopt, end |
//! | `shim` | the parent of one workload |
//! | `home`, `wire` | files and messages between the two, both versioned |
//! | [`log`] | bounded logs on disk, written by the shim, read by anybody |
//! | [`mask`] | secrets are taken out of text, in their usual encodings |
//! | `cgroup`, `procfs` | limits, accounting, and finding all that a program started |
//! | [`ports`], [`listening`] | which port a workload gets, and where it really listens |
//! | [`backoff`] | how long to wait before another start |
//! | `sys` | all `unsafe` of Ondol |
//!
//! What needs a root filesystem of its own is not for this engine: it is for people who trust
//! each other, and programs share the host's files and network.

pub mod backoff;
mod cgroup;
#[cfg(feature = "conformance")]
pub mod conformance;
pub mod engine;
mod error;
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
pub use engine::{Engine, LogLines};
pub use error::EngineError;
pub use mask::Masker;
pub use model::{
    Capabilities, CgroupVersion, Command, Exit, Limits, LogLine, LogPolicy, LogPosition, LogQuery,
    LogStreamKind, Observation, PortRequest, Started, StopPolicy, StopSignal, Usage, WorkDir,
    WorkloadKind, WorkloadSpec, WorkloadState,
};
pub use process::{Config, ProcessEngine, USUAL_PATH};
pub use shim::shim_main;
pub use sys::keep_inherited_descriptors;
