#![doc = include_str!("../README.md")]

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
