#![doc = include_str!("../README.md")]

mod clock;
mod crash;
mod digest;
mod error;
pub mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod id;
mod name;
mod path;
mod secret;

pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use crash::{CrashPoints, NoCrash};
pub use digest::{Algorithm, Digest, DigestError};
pub use error::{Classified, ErrorKind, Problem, ProblemResult};
pub use id::{
    DeliveryId, EventId, IdError, JobId, LeaseId, OperationId, ReleaseId, ReplicaId, RequestId,
    RolloutId, RunId, StepId, TokenId, UploadId, WorkloadId,
};
pub use name::{
    DatasetName, EnvironmentName, ModelName, NameError, OrganizationName, ProjectName, SecretName,
    StepName, VolumeName,
};
pub use path::{CommitId, PathError, RefName, RelPath};
pub use secret::Secret;
