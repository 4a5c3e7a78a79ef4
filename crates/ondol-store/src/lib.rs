#![doc = include_str!("../README.md")]

pub mod blobs;
mod data_dir;
mod db;
mod error;
pub mod events;
mod hold;
#[cfg(feature = "testing")]
pub mod testing;

pub use data_dir::DataDir;
pub use db::{FromValue, IntoValue, Kind, Migration, Params, Row, Store, Tx, TxFuture, Value};
pub use error::StoreError;
pub use hold::{ForgetProject, Forgotten, ProjectHold};
pub use sqlx::{AssertSqlSafe, SqlSafeStr};

/// The migrations of this room: numbers 1 to 99.
pub const MIGRATIONS: &[Migration] = &[events::MIGRATION, hold::MIGRATION, events::rows::MIGRATION];
