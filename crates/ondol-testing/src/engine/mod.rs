//! A container engine for tests, and a root filesystem for images.

mod podman;
mod site;
mod userland;

pub use podman::{Podman, Service, podman};
pub use site::{BASE, engine, site, with_engine};
pub use userland::userland;
