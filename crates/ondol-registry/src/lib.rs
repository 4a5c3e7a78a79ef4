//! Images: the registry that keeps them and the builder that makes them.
//!
//! - [`RegistryService`]: repositories, blobs, manifests, tags and referrers as the OCI
//!   distribution specification 1.1 has them. A repository is `<project>` or
//!   `<project>/<name>`; the project decides who may read and write.
//! - [`http`]: the `/v2/` protocol.
//! - [`image`]: OCI images from a folder without any container engine, and the way back from an
//!   image to a folder.
//!
//! A blob is readable through a repository only when a row links the two: knowing a digest
//! opens nothing.

mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod http;
pub mod image;
mod model;
mod reconcile;
mod service;
mod store;
mod uploads;

pub use error::RegistryError;
pub use model::{Descriptor, Manifest, Reference, Repository};
pub use reconcile::Retention;
pub use service::{Pulled, RegistryService, Retained};
pub use store::MIGRATIONS;

/// Ceilings of the registry.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Bytes of one blob.
    pub max_blob_bytes: u64,
    /// Bytes of one manifest; the specification suggests at least 4 MiB.
    pub max_manifest_bytes: u64,
    /// Uploads under way at once.
    pub max_uploads: usize,
    /// Tags that retention keeps per repository, newest first.
    pub kept_tags: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_blob_bytes: 20 << 30,
            max_manifest_bytes: 4 << 20,
            max_uploads: 256,
            kept_tags: 50,
        }
    }
}
