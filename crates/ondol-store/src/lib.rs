//! Where Ondol keeps things.
//!
//! - [`Store`]: one database behind two engines. SQLite in the data directory by default,
//!   PostgreSQL where a team outgrows one machine. The same SQL serves both: `$1` placeholders,
//!   `BIGINT`, `DOUBLE PRECISION`, `TEXT` and `BYTEA` columns, flags as integers, and
//!   `CAST(SUM(x) AS BIGINT)` because PostgreSQL sums integers into `NUMERIC`.
//! - [`events`]: the append-only CDEvents log, written in the transaction of each change.
//! - [`blobs`]: content-addressed bytes.
//! - [`DataDir`]: the layout and the lock of `ondol serve --data DIR`.
//!
//! A domain writes only its own tables, in its `store.rs`, through [`Store::write`]. The closure
//! may run again when the database asks for a retry, so it must not have side effects:
//!
//! ```ignore
//! store.write(|tx| Box::pin(async move {
//!     tx.execute("INSERT INTO thing (id, at) VALUES ($1, $2)", params![id, tx.now()]).await?;
//!     tx.append(NewEvent::new(event::REPOSITORY_CREATED, name)).await?;
//!     Ok(())
//! })).await
//! ```

pub mod blobs;
mod data_dir;
mod db;
mod error;
pub mod events;
#[cfg(feature = "testing")]
pub mod testing;

pub use data_dir::DataDir;
pub use db::{FromValue, IntoValue, Kind, Migration, Params, Row, Store, Tx, TxFuture, Value};
pub use error::StoreError;
pub use sqlx::{AssertSqlSafe, SqlSafeStr};

/// The migrations of this room: numbers 1 to 99.
pub const MIGRATIONS: &[Migration] = &[events::MIGRATION];
