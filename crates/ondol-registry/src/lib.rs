//! Images: the registry that keeps them and the builder that makes them.
//!
//! - [`RegistryService`]: repositories, blobs, manifests, tags and referrers as the OCI
//!   distribution specification 1.1 has them. A repository is `<project>` or
//!   `<project>/<name>`; the project decides who may read and write.
//! - [`http`]: the `/v2/` protocol.
//! - [`image`]: OCI images from a folder without any container engine, and the way back from an
//!   image to a folder.
//!
//! - [`Retention`]: what nobody needs goes, by [`Rule`].
//! - [`Upstream`]: other registries, read through this one.
//!
//! A blob is readable through a repository only when a row links the two: knowing a digest
//! opens nothing.

mod config;
mod error;
pub mod http;
pub mod image;
mod model;
mod plan;
mod reconcile;
mod remote;
mod service;
mod store;
mod uploads;

pub use config::{Config, Upstream};
pub use error::RegistryError;
pub use model::{Descriptor, Manifest, Reference, Repository};
pub use plan::{Keep, Pattern, Rule};
pub use reconcile::Retention;
pub use service::{Chunk, Pulled, Put, RegistryService, Retained};
pub use store::MIGRATIONS;
