//! One database interface over two engines.

mod migrate;
mod pool;
mod row;
mod tx;
mod value;

pub use migrate::Migration;
pub(crate) use pool::SqliteSizes;
pub use pool::Store;
pub use row::{FromValue, Row};
pub(crate) use tx::StoreFuture;
pub use tx::{Tx, TxFuture};
pub use value::{IntoValue, Kind, Params, Value};
