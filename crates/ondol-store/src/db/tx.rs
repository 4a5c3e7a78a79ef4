//! One transaction, whichever engine runs it.
//!
//! What talks to a driver returns a boxed future made here. The body of an `async fn` is compiled
//! again in every crate that awaits it; without this wall, each room would compile both drivers
//! once per operation.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;

use ondol_types::Timestamp;
use sqlx::postgres::PgArguments;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments, Postgres, SqlSafeStr, SqlStr, Sqlite};

use super::row::{self, Row};
use super::value::{Kind, Params, Value};
use crate::error::StoreError;

/// What a transaction closure returns.
pub type TxFuture<'a, T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send + 'a>>;

/// What an operation of the store returns.
pub(crate) type StoreFuture<'a, T> = TxFuture<'a, T, StoreError>;

pub(super) enum Engine {
    Sqlite(sqlx::Transaction<'static, Sqlite>),
    Postgres(sqlx::Transaction<'static, Postgres>),
}

/// An open transaction. `'env` is what the closure borrows from its surroundings.
pub struct Tx<'env> {
    pub(super) engine: Engine,
    pub(super) writable: bool,
    pub(super) now: Timestamp,
    pub(super) source: std::sync::Arc<str>,
    pub(super) conflicted: bool,
    pub(super) last_event: Option<i64>,
    pub(super) env: PhantomData<&'env mut &'env ()>,
}

impl Tx<'_> {
    /// The moment this transaction began; every row of it carries the same one.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    pub(crate) fn note_event(&mut self, seq: i64) {
        self.last_event = Some(seq);
    }

    /// Runs a statement and returns how many rows it changed.
    pub fn execute(&mut self, sql: impl SqlSafeStr, params: Params) -> StoreFuture<'_, u64> {
        self.execute_str(sql.into_sql_str(), params)
    }

    fn execute_str(&mut self, sql: SqlStr, params: Params) -> StoreFuture<'_, u64> {
        Box::pin(async move {
            if !self.writable {
                return Err(StoreError::ReadOnly);
            }
            let operation = sql.clone();
            let outcome = match &mut self.engine {
                Engine::Sqlite(tx) => match sqlite_arguments(params) {
                    Ok(arguments) => sqlx::query_with(sql, arguments)
                        .execute(&mut **tx)
                        .await
                        .map(|done| done.rows_affected()),
                    Err(error) => Err(error),
                },
                Engine::Postgres(tx) => match postgres_arguments(params) {
                    Ok(arguments) => sqlx::query_with(sql, arguments)
                        .execute(&mut **tx)
                        .await
                        .map(|done| done.rows_affected()),
                    Err(error) => Err(error),
                },
            };
            outcome.map_err(|source| self.failed(&operation, source))
        })
    }

    /// Runs a statement and returns its rows. Statements with `RETURNING` are writes.
    pub fn fetch_all(&mut self, sql: impl SqlSafeStr, params: Params) -> StoreFuture<'_, Vec<Row>> {
        self.fetch_all_str(sql.into_sql_str(), params)
    }

    fn fetch_all_str(&mut self, sql: SqlStr, params: Params) -> StoreFuture<'_, Vec<Row>> {
        Box::pin(async move {
            let operation = sql.clone();
            let outcome = match &mut self.engine {
                Engine::Sqlite(tx) => match sqlite_arguments(params) {
                    Ok(arguments) => sqlx::query_with(sql, arguments)
                        .fetch_all(&mut **tx)
                        .await
                        .and_then(row::from_sqlite),
                    Err(error) => Err(error),
                },
                Engine::Postgres(tx) => match postgres_arguments(params) {
                    Ok(arguments) => sqlx::query_with(sql, arguments)
                        .fetch_all(&mut **tx)
                        .await
                        .and_then(row::from_postgres),
                    Err(error) => Err(error),
                },
            };
            outcome.map_err(|source| self.failed(&operation, source))
        })
    }

    /// The first row, if there is one.
    pub fn fetch_optional(
        &mut self,
        sql: impl SqlSafeStr,
        params: Params,
    ) -> StoreFuture<'_, Option<Row>> {
        self.fetch_optional_str(sql.into_sql_str(), params)
    }

    fn fetch_optional_str(&mut self, sql: SqlStr, params: Params) -> StoreFuture<'_, Option<Row>> {
        let rows = self.fetch_all_str(sql, params);
        Box::pin(async move { Ok(rows.await?.into_iter().next()) })
    }

    /// The only row of a statement that always has one.
    pub fn fetch_one(&mut self, sql: impl SqlSafeStr, params: Params) -> StoreFuture<'_, Row> {
        self.fetch_one_str(sql.into_sql_str(), params)
    }

    fn fetch_one_str(&mut self, sql: SqlStr, params: Params) -> StoreFuture<'_, Row> {
        let operation = sql.clone();
        let rows = self.fetch_all_str(sql, params);
        Box::pin(async move {
            rows.await?
                .into_iter()
                .next()
                .ok_or_else(|| StoreError::Database {
                    operation: shorten(&operation),
                    source: sqlx::Error::RowNotFound,
                })
        })
    }

    fn failed(&mut self, sql: &SqlStr, source: sqlx::Error) -> StoreError {
        self.conflicted |= is_conflict(&source);
        StoreError::Database {
            operation: shorten(sql),
            source,
        }
    }
}

fn shorten(sql: &SqlStr) -> String {
    let text = sql
        .as_str()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    text.chars().take(120).collect()
}

/// Whether the database asks for the whole transaction again: serialization failure and
/// deadlock in PostgreSQL, BUSY and its snapshot form in SQLite.
pub(super) fn is_conflict(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => matches!(
            error.code().as_deref(),
            Some("40001" | "40P01" | "5" | "517" | "6")
        ),
        _ => false,
    }
}

fn sqlite_arguments(params: Params) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for param in params {
        match param {
            Value::Null(_) => arguments.add(None::<i64>),
            Value::Int(number) => arguments.add(number),
            Value::Real(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text),
            Value::Blob(bytes) => arguments.add(bytes),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn postgres_arguments(params: Params) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for param in params {
        match param {
            Value::Null(Kind::Int) => arguments.add(None::<i64>),
            Value::Null(Kind::Real) => arguments.add(None::<f64>),
            Value::Null(Kind::Text) => arguments.add(None::<String>),
            Value::Null(Kind::Blob) => arguments.add(None::<Vec<u8>>),
            Value::Int(number) => arguments.add(number),
            Value::Real(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text),
            Value::Blob(bytes) => arguments.add(bytes),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
