//! `ondol.yaml`: what a project asks for, and why.
//!
//! This room is pure. It is given the files of a commit through [`Tree`] and the settings of
//! organization and environment, and answers with one [`Effective`] specification in which every
//! default is filled in, every value is explained and everything wrong has a line and a column.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | the effective types that other rooms read |
//! | [`expr`] | CEL expressions of `accept` and `check`: parse, evaluate, explain |
//! | `yaml`, `node`, `short`, `de` | text → tree with origins → full forms → types |
//! | `detect` | what the repository's own files say, one file per language |
//! | `resolve`, `derive` | the layers, what follows from them, the organization's locks |
//! | `check` | what must go together |
//! | `schema`, `reference` | JSON Schema and documentation, from the same types |

mod check;
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
