#![doc = include_str!("../README.md")]

mod config;
mod error;
mod forget;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
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
