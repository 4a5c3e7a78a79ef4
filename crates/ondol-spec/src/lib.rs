#![doc = include_str!("../README.md")]

mod check;
pub mod compose;
mod de;
mod derive;
mod detect;
mod error;
pub mod expr;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod model;
mod nearest;
mod node;
mod reference;
mod resolve;
mod schema;
mod short;
mod tree;
mod yaml;

pub use error::{Fault, SpecError};
pub use model::Spec;
pub use node::Origin;
pub use reference::reference;
pub use resolve::{
    Effective, EnvironmentSettings, Explained, FILE_NAMES, Note, Organization, Sources, resolve,
};
pub use schema::json_schema;
pub use tree::{MemoryTree, Tree};
pub use yaml::{MAX_BYTES, MAX_DEPTH, MAX_VALUES};
