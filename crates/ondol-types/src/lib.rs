//! The vocabulary that every room of Ondol shares.
//!
//! Typed identifiers, validated names and paths, digests, error kinds, the clock, secrets that
//! do not print themselves, crash points and the contents of the events that rooms exchange.
//! Nothing in this crate reads a file, a socket, the environment or the wall clock, except
//! [`SystemClock`], which only a composition root may construct.

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
