//! OCI images without a container engine: a folder becomes layers, layers become a folder. And
//! images that an engine has built, taken over.

mod base;
mod build;
mod exported;
mod extensions;
mod import;
mod layer;
mod parts;
mod relocate;
mod unpack;

pub use build::{BuildRequest, Built, HOST_LABEL};
pub use import::ImportRequest;
pub use layer::Keep;
pub use parts::{Described, ImageParts};

#[cfg(any(test, fuzzing))]
pub use unpack::fuzz as fuzz_layer;
