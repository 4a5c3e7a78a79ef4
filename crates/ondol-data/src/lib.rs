//! Datasets: named data whose every push is an immutable version.
//!
//! A version is a commit (parent, message, author, time) over a content-addressed tree of files,
//! and files are chunks cut where their content says so. So a version, a comparison and a push
//! cost what changed. Schema and statistics of CSV, JSON Lines and Parquet files are made when
//! they are pushed; a file that is not the table its name promises is refused then, with its row
//! and column, and nothing is half-made.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | datasets, versions, differences |
//! | [`chunk`], `key` | cutting files; 32-byte digests |
//! | `tree` | prolly trees: build, read, compare |
//! | [`wire`] | the bytes of a push and of a checkout, shared by client and server |
//! | [`table`] | reading tables; schema and statistics |
//! | [`validate`] | the rules of `ondol.yaml` against a version |
//! | `service` | [`DataService`]: push, log, diff, checkout, verify, validate |
//! | [`client`] | the other end: walk, cut and hash in parallel, send what is missing, receive |
//! | `owner` | what the collection of blobs must keep |
//! | `reconcile` | expired pushes, and the collection itself |
//! | `store` | the only SQL |

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
