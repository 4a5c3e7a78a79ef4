//! OCI images without a container engine: a folder becomes layers, layers become a folder.

mod base;
mod build;
mod extensions;
mod layer;
mod parts;
mod relocate;
mod unpack;

pub use build::{BuildRequest, Built, HOST_LABEL};
pub use layer::Keep;
pub use parts::{Described, ImageParts};

#[cfg(any(test, fuzzing))]
pub use unpack::fuzz as fuzz_layer;
