//! OCI images without a container engine: a folder becomes layers, layers become a folder.

mod base;
mod build;
mod extensions;
mod layer;
mod reach;
mod relocate;
mod unpack;

pub use build::{BuildRequest, Built, HOST_LABEL};
pub use layer::Keep;
pub use unpack::Unpacked;

#[cfg(any(test, fuzzing))]
pub use base::fuzz as fuzz_reference;
#[cfg(any(test, fuzzing))]
pub use unpack::fuzz as fuzz_layer;
