//! Connections: one writer and several readers for SQLite, a pool for PostgreSQL.

use std::fmt;
use std::marker::PhantomData;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ondol_types::Clock;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, PgPool, SqlitePool};
use tokio::sync::watch;

use super::tx::{Engine, StoreFuture, Tx, TxFuture, is_conflict};
use crate::error::StoreError;

const ATTEMPTS: u32 = 12;
const READERS: u32 = 4;

enum Pools {
    Sqlite {
        writer: SqlitePool,
        readers: SqlitePool,
    },
    Postgres(PgPool),
}

/// How much a SQLite file may hold on to.
#[derive(Clone, Copy)]
pub(crate) struct SqliteSizes {
    /// Connections beside the writer.
    pub(crate) readers: u32,
    /// Page cache of each connection, in KiB.
    pub(crate) cache_kib: u32,
    /// What the write-ahead log keeps on disk after a checkpoint, in KiB.
    pub(crate) journal_kib: u32,
    /// Pages in the write-ahead log that make a checkpoint.
    pub(crate) checkpoint_pages: u32,
}

struct Inner {
    pools: Pools,
    clock: Arc<dyn Clock>,
    source: Arc<str>,
    appended: watch::Sender<i64>,
}

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0.pools {
            Pools::Sqlite { .. } => "Store(SQLite)",
            Pools::Postgres(_) => "Store(PostgreSQL)",
        })
    }
}

fn database(operation: &'static str) -> impl FnOnce(sqlx::Error) -> StoreError {
    move |source| StoreError::Database {
        operation: operation.to_owned(),
        source,
    }
}

impl Store {
    /// Opens or makes the SQLite database at `path`. `source` is the `context.source` of every
    /// event, a URI reference such as `/ondol`.
    pub async fn open_sqlite(
        path: &Path,
        source: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let sizes = SqliteSizes {
            readers: READERS,
            cache_kib: 4_096,
            journal_kib: 65_536,
            checkpoint_pages: 1_000,
        };
        Self::open_sqlite_sized(path, source, clock, sizes).await
    }

    /// Opens a SQLite file with sizes of its own.
    pub(crate) async fn open_sqlite_sized(
        path: &Path,
        source: &str,
        clock: Arc<dyn Clock>,
        sizes: SqliteSizes,
    ) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .pragma(
                "journal_size_limit",
                (u64::from(sizes.journal_kib) * 1_024).to_string(),
            )
            .pragma("wal_autocheckpoint", sizes.checkpoint_pages.to_string())
            .pragma("cache_size", format!("-{}", sizes.cache_kib))
            .pragma("temp_store", "memory")
            // As PostgreSQL has it.
            .pragma("case_sensitive_like", "ON")
            .statement_cache_capacity(256)
            .disable_statement_logging();
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options.clone())
            .await
            .map_err(database("open"))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(sizes.readers)
            .min_connections(0)
            .test_before_acquire(false)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(database("open"))?;
        Ok(Self::new(Pools::Sqlite { writer, readers }, source, clock))
    }

    /// Connects to PostgreSQL by URL. A `search_path` in the URL's `options` is honoured.
    pub async fn open_postgres(
        url: &str,
        source: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StoreError> {
        let options: PgConnectOptions = url.parse().map_err(database("read the database URL"))?;
        let pool = PgPoolOptions::new()
            .max_connections(16)
            .acquire_timeout(Duration::from_secs(60))
            .connect_with(options.disable_statement_logging())
            .await
            .map_err(database("connect"))?;
        Ok(Self::new(Pools::Postgres(pool), source, clock))
    }

    fn new(pools: Pools, source: &str, clock: Arc<dyn Clock>) -> Self {
        let (appended, _) = watch::channel(0);
        Self(Arc::new(Inner {
            pools,
            clock,
            source: source.into(),
            appended,
        }))
    }

    /// The clock that rows and events are dated with.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.clock
    }

    /// Tells the sequence number of the newest event after each commit that appended one.
    /// Starts at 0: a follower reads once before it waits.
    pub fn appended(&self) -> watch::Receiver<i64> {
        self.0.appended.subscribe()
    }

    /// Runs a closure in one writing transaction and commits when it returns `Ok`.
    ///
    /// The closure runs again when the database reports a conflict, so it must change nothing
    /// but the transaction. SQLite serialises writers with `BEGIN IMMEDIATE`; PostgreSQL runs
    /// them serializable.
    ///
    /// # Errors
    /// What the closure returned, or [`StoreError`] from begin and commit.
    pub async fn write<'env, T, E, F>(&self, mut work: F) -> Result<T, E>
    where
        F: for<'a> FnMut(&'a mut Tx<'env>) -> TxFuture<'a, T, E> + Send,
        E: From<StoreError>,
        T: Send,
    {
        let mut attempts = Attempts::default();
        loop {
            let mut tx = self.begin_again(&mut attempts).await?;
            match work(&mut tx).await {
                Ok(value) => {
                    if self.commit(tx, &mut attempts).await? {
                        return Ok(value);
                    }
                }
                Err(error) => {
                    if !roll_back(tx, &mut attempts).await? {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Runs a closure that only reads, on one consistent snapshot.
    ///
    /// # Errors
    /// What the closure returned, or [`StoreError`] from begin.
    pub async fn read<'env, T, E, F>(&self, work: F) -> Result<T, E>
    where
        F: for<'a> FnOnce(&'a mut Tx<'env>) -> TxFuture<'a, T, E> + Send,
        E: From<StoreError>,
        T: Send,
    {
        let mut tx = self.begin(false).await?;
        let outcome = work(&mut tx).await;
        rollback(tx.engine).await;
        outcome
    }

    /// Begins a writing transaction, waiting out conflicts.
    fn begin_again<'a, 'env: 'a>(
        &'a self,
        attempts: &'a mut Attempts,
    ) -> StoreFuture<'a, Tx<'env>> {
        Box::pin(async move {
            loop {
                match self.begin(true).await {
                    Err(StoreError::Database { source, .. }) if is_conflict(&source) => {
                        attempts.failed().await?;
                    }
                    outcome => return outcome,
                }
            }
        })
    }

    /// Commits and tells followers of the log. `false` means that a conflict undid everything
    /// and that the work is to be done again.
    fn commit<'a>(&'a self, tx: Tx<'_>, attempts: &'a mut Attempts) -> StoreFuture<'a, bool> {
        let (engine, last_event) = (tx.engine, tx.last_event);
        Box::pin(async move {
            let outcome = match engine {
                Engine::Sqlite(tx) => tx.commit().await,
                Engine::Postgres(tx) => tx.commit().await,
            };
            match outcome {
                Ok(()) => {
                    if let Some(seq) = last_event {
                        self.0.appended.send_if_modified(|newest| {
                            let newer = seq > *newest;
                            *newest = (*newest).max(seq);
                            newer
                        });
                    }
                    Ok(true)
                }
                Err(error) if is_conflict(&error) => {
                    attempts.failed().await?;
                    Ok(false)
                }
                Err(error) => Err(database("commit")(error)),
            }
        })
    }

    fn begin<'a, 'env: 'a>(&'a self, writable: bool) -> StoreFuture<'a, Tx<'env>> {
        Box::pin(self.begin_now(writable))
    }

    async fn begin_now<'env>(&self, writable: bool) -> Result<Tx<'env>, StoreError> {
        let engine = match (&self.0.pools, writable) {
            (Pools::Sqlite { writer, .. }, true) => writer
                .begin_with("BEGIN IMMEDIATE")
                .await
                .map(Engine::Sqlite),
            (Pools::Sqlite { readers, .. }, false) => readers.begin().await.map(Engine::Sqlite),
            (Pools::Postgres(pool), true) => pool
                .begin_with("BEGIN ISOLATION LEVEL SERIALIZABLE")
                .await
                .map(Engine::Postgres),
            (Pools::Postgres(pool), false) => pool
                .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                .await
                .map(Engine::Postgres),
        }
        .map_err(database("begin"))?;
        Ok(Tx {
            engine,
            writable,
            now: self.0.clock.now(),
            source: self.0.source.clone(),
            conflicted: false,
            last_event: None,
            env: PhantomData,
        })
    }

    /// Closes every connection; SQLite checkpoints its log.
    pub async fn close(&self) {
        match &self.0.pools {
            Pools::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Pools::Postgres(pool) => pool.close().await,
        }
    }
}

/// Undoes a transaction whose work failed. `true` means that it failed by a conflict and is to be
/// done again.
fn roll_back<'a>(tx: Tx<'_>, attempts: &'a mut Attempts) -> StoreFuture<'a, bool> {
    let (engine, conflicted) = (tx.engine, tx.conflicted);
    Box::pin(async move {
        rollback(engine).await;
        if conflicted {
            attempts.failed().await?;
        }
        Ok(conflicted)
    })
}

fn rollback(engine: Engine) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let outcome = match engine {
            Engine::Sqlite(tx) => tx.rollback().await,
            Engine::Postgres(tx) => tx.rollback().await,
        };
        if let Err(error) = outcome {
            tracing::warn!(error = %error, "rollback failed; the connection is discarded");
        }
    })
}

/// How often a transaction was tried, and how long to wait before the next time.
#[derive(Default)]
struct Attempts(u32);

impl Attempts {
    /// Waits for the next attempt, if there is one.
    async fn failed(&mut self) -> Result<(), StoreError> {
        self.0 += 1;
        if self.0 >= ATTEMPTS {
            return Err(StoreError::Contended { attempts: ATTEMPTS });
        }
        let delay = Duration::from_millis(1 << self.0);
        tokio::time::sleep(delay.min(Duration::from_millis(250))).await;
        Ok(())
    }
}
