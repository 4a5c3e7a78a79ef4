//! The client's end of a push and of a checkout, over any transport.
//!
//! The CLI brings a [`Transport`] over HTTP; tests bring one that calls the service. A push walks
//! the path, cuts and hashes in parallel, asks which chunks are missing, sends those in a few
//! bundles and commits the manifest. Only what is missing travels.

mod push;
mod receive;
mod walk;

use async_trait::async_trait;
use bytes::Bytes;
use ondol_types::{Problem, UploadId};

pub use push::{Progress, ProgressFn, PushOptions, push};
pub use receive::Receiver;
pub use walk::{LocalFile, walk};

use crate::key::Key;
use crate::model::{PushSession, Pushed, UploadReceipt};

/// How the client reaches the service. One transport belongs to one dataset of one project.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Begins a push.
    ///
    /// # Errors
    /// The service's problem, or the connection's.
    async fn begin(&self) -> Result<PushSession, Problem>;

    /// Asks which chunks must be sent.
    ///
    /// # Errors
    /// The service's problem, or the connection's.
    async fn missing(&self, session: UploadId, keys: &[Key]) -> Result<Vec<Key>, Problem>;

    /// Sends a bundle of chunks, a body of the codec in [`crate::wire`].
    ///
    /// # Errors
    /// The service's problem, or the connection's.
    async fn upload(&self, session: UploadId, body: Bytes) -> Result<UploadReceipt, Problem>;

    /// Sends the manifest, a body of the codec in [`crate::wire`].
    ///
    /// # Errors
    /// The service's problem, or the connection's.
    async fn commit(&self, session: UploadId, body: Bytes) -> Result<Pushed, Problem>;
}
