//! A container engine for tests, and a root filesystem for images.

mod podman;
mod userland;

pub use podman::{Podman, Service, podman};
pub use userland::userland;
