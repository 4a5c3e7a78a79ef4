#![doc = include_str!("../README.md")]

pub mod chunk;
pub mod client;
mod commit;
mod content;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
mod key;
pub mod model;
mod owner;
mod profiles;
mod reconcile;
mod rows;
mod service;
mod store;
pub mod table;
mod tree;
pub mod validate;
pub mod wire;

pub use error::{DataError, DataResult, TableFault};
pub use key::Key;
pub use owner::DatasetOwner;
pub use reconcile::{Collector, ExpiredPushes};
pub use service::{Config, DataService, Deps, FileStream, Projects};
pub use store::MIGRATIONS;
