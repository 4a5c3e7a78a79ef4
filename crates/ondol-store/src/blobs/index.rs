//! Where each packed blob lies: a small SQLite database beside the packs.
//!
//! The index is derived. Packs describe themselves, so an index that is lost or behind is rebuilt
//! from them when it is opened: a pack without a row is adopted after every record of it was
//! hashed, and a row without a pack is dropped, so that the next push sends those bytes again.
//! The index is opened at the first use and holds a bounded cache, so a store with a million
//! chunks starts as fast as an empty one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ondol_types::{Algorithm, Clock, Digest, Timestamp};
use sqlx::AssertSqlSafe;

use super::pack;
use crate::db::{Migration, SqliteSizes, Store, Value};
use crate::error::StoreError;
use crate::params;

const MIGRATION: Migration = Migration {
    number: 1,
    name: "packs",
    sql: "CREATE TABLE pack (id BIGINT PRIMARY KEY, size BIGINT NOT NULL);
CREATE TABLE chunk (
    digest BYTEA PRIMARY KEY,
    pack BIGINT NOT NULL,
    position BIGINT NOT NULL,
    size BIGINT NOT NULL,
    touched BIGINT NOT NULL
) WITHOUT ROWID;
",
};

/// Digests per statement.
const BATCH: usize = 400;
const SIZES: SqliteSizes = SqliteSizes {
    readers: 2,
    cache_kib: 1_024,
    journal_kib: 1_024,
    checkpoint_pages: 256,
};

/// Where one packed blob lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) pack: i64,
    pub(super) position: u64,
    pub(super) size: u64,
    pub(super) touched: Timestamp,
}

/// A pack as the collection sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PackUse {
    pub(super) id: i64,
    pub(super) size: u64,
    pub(super) live: u64,
}

pub(super) struct Index {
    store: Store,
    packs: PathBuf,
    next: AtomicI64,
}

/// The key of a digest: one byte for its algorithm, then the hash.
pub(super) fn key(digest: &Digest) -> Vec<u8> {
    let mut key = vec![pack::algorithm_code(digest.algorithm())];
    key.extend_from_slice(&digest.to_bytes());
    key
}

fn digest_of(key: &[u8]) -> Result<Digest, StoreError> {
    let bad = || StoreError::Column {
        column: "digest".to_owned(),
        problem: "is not a key of the blob index".to_owned(),
    };
    let (code, hash) = key.split_first().ok_or_else(bad)?;
    let algorithm = pack::algorithm_of(*code).ok_or_else(bad)?;
    if hash.len() != algorithm.length() {
        return Err(bad());
    }
    Ok(Digest::from_bytes(algorithm, hash))
}

fn places(first: usize, count: usize) -> String {
    let mut text = String::with_capacity(count * 6);
    for index in first..first + count {
        if index > first {
            text.push_str(", ");
        }
        text.push('$');
        text.push_str(&index.to_string());
    }
    text
}

impl Index {
    /// Opens the index and brings it in line with the packs that are there.
    pub(super) async fn open(root: &Path, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        let store =
            Store::open_sqlite_sized(&root.join("index.db"), "/blobs", clock, SIZES).await?;
        store.migrate(&[MIGRATION]).await?;
        let index = Self {
            store,
            packs: root.join("packs"),
            next: AtomicI64::new(1),
        };
        index.reconcile().await?;
        Ok(index)
    }

    async fn reconcile(&self) -> Result<(), StoreError> {
        let on_disk = pack::list(&self.packs)?;
        let known: HashMap<i64, u64> = self
            .store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.fetch_all("SELECT id, size FROM pack", params![])
                        .await?
                        .iter()
                        .map(|row| Ok((row.get("id")?, row.get::<i64>("size")? as u64)))
                        .collect()
                })
            })
            .await?;
        let newest = on_disk.iter().chain(known.keys()).max().copied();
        self.next.store(newest.unwrap_or(0) + 1, Ordering::Relaxed);
        for id in known.keys().filter(|id| !on_disk.contains(id)) {
            tracing::error!(
                blobs.pack = id,
                "a pack is missing; its chunks must be pushed again"
            );
            let id = *id;
            self.store
                .write::<_, StoreError, _>(|tx| {
                    Box::pin(async move {
                        tx.execute("DELETE FROM chunk WHERE pack = $1", params![id])
                            .await?;
                        tx.execute("DELETE FROM pack WHERE id = $1", params![id])
                            .await?;
                        Ok(())
                    })
                })
                .await?;
        }
        for id in on_disk.iter().filter(|id| !known.contains_key(id)) {
            let path = pack::path(&self.packs, *id);
            let scanned = tokio::task::spawn_blocking(move || pack::scan(&path))
                .await
                .map_err(|error| {
                    StoreError::io("scan", &self.packs)(std::io::Error::other(error))
                })??;
            if let Some(problem) = &scanned.problem {
                tracing::error!(blobs.pack = id, error = %problem, "a pack without an index entry is damaged");
            }
            tracing::info!(
                blobs.pack = id,
                blobs.count = scanned.records.len(),
                "adopting a pack that has no index entry"
            );
            self.add_pack(*id, scanned.size, &scanned.records).await?;
        }
        Ok(())
    }

    /// A number that no pack has had since the index was opened.
    pub(super) fn next_pack(&self) -> i64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Records a pack and what lies in it. Digests that have a place already keep it, and count
    /// as touched.
    pub(super) async fn add_pack(
        &self,
        id: i64,
        size: u64,
        records: &[pack::Record],
    ) -> Result<(), StoreError> {
        let rows: Vec<(Vec<u8>, u64, u64)> = records
            .iter()
            .map(|record| (key(&record.digest), record.position, record.size))
            .collect();
        let rows = &rows;
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.execute(
                        "INSERT INTO pack (id, size) VALUES ($1, $2)",
                        params![id, size],
                    )
                    .await?;
                    let now = tx.now();
                    for batch in rows.chunks(BATCH / 4) {
                        let mut sql =
                            "INSERT INTO chunk (digest, pack, position, size, touched) VALUES "
                                .to_owned();
                        let mut values = Vec::with_capacity(batch.len() * 5);
                        for (at, (key, position, size)) in batch.iter().enumerate() {
                            if at > 0 {
                                sql.push_str(", ");
                            }
                            sql.push('(');
                            sql.push_str(&places(at * 5 + 1, 5));
                            sql.push(')');
                            values.extend(params![key.as_slice(), id, *position, *size, now]);
                        }
                        sql.push_str(
                            " ON CONFLICT (digest) DO UPDATE SET touched = excluded.touched",
                        );
                        tx.execute(AssertSqlSafe(sql), values).await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The places of those digests that have one.
    pub(super) async fn locate(
        &self,
        digests: &[Digest],
    ) -> Result<HashMap<Digest, Location>, StoreError> {
        if digests.is_empty() {
            return Ok(HashMap::new());
        }
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let mut found = HashMap::with_capacity(digests.len());
                    for batch in digests.chunks(BATCH) {
                        let sql = format!(
                            "SELECT digest, pack, position, size, touched FROM chunk WHERE digest IN ({})",
                            places(1, batch.len())
                        );
                        let values = batch.iter().map(|digest| Value::Blob(key(digest))).collect();
                        for row in tx.fetch_all(AssertSqlSafe(sql), values).await? {
                            let location = Location {
                                pack: row.get("pack")?,
                                position: row.get::<i64>("position")? as u64,
                                size: row.get::<i64>("size")? as u64,
                                touched: row.get("touched")?,
                            };
                            found.insert(digest_of(&row.get::<Vec<u8>>("digest")?)?, location);
                        }
                    }
                    Ok(found)
                })
            })
            .await
    }

    /// Dates the digests that are still there with the present, and returns which those are.
    pub(super) async fn touch(&self, digests: &[Digest]) -> Result<Vec<Digest>, StoreError> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let now = tx.now();
                    let mut touched = Vec::with_capacity(digests.len());
                    for batch in digests.chunks(BATCH) {
                        let sql = format!(
                            "UPDATE chunk SET touched = $1 WHERE digest IN ({}) RETURNING digest",
                            places(2, batch.len())
                        );
                        let mut values = params![now];
                        values.extend(batch.iter().map(|digest| Value::Blob(key(digest))));
                        for row in tx.fetch_all(AssertSqlSafe(sql), values).await? {
                            touched.push(digest_of(&row.get::<Vec<u8>>("digest")?)?);
                        }
                    }
                    Ok(touched)
                })
            })
            .await
    }

    /// Forgets digests that nobody touched since `cutoff`; returns how many those were and
    /// their bytes.
    pub(super) async fn remove_untouched(
        &self,
        digests: &[Digest],
        cutoff: Timestamp,
    ) -> Result<(u64, u64), StoreError> {
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let (mut count, mut bytes) = (0, 0);
                    for batch in digests.chunks(BATCH) {
                        let sql = format!(
                            "DELETE FROM chunk WHERE touched < $1 AND digest IN ({}) RETURNING size",
                            places(2, batch.len())
                        );
                        let mut values = params![cutoff];
                        values.extend(batch.iter().map(|digest| Value::Blob(key(digest))));
                        for row in tx.fetch_all(AssertSqlSafe(sql), values).await? {
                            count += 1;
                            bytes += row.get::<i64>("size")? as u64;
                        }
                    }
                    Ok((count, bytes))
                })
            })
            .await
    }

    /// Forgets one digest, whatever its age.
    pub(super) async fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        let key = key(digest);
        let key = key.as_slice();
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.execute("DELETE FROM chunk WHERE digest = $1", params![key])
                        .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Digests older than `cutoff`, in order, after `after`.
    pub(super) async fn untouched_after(
        &self,
        after: Option<&Digest>,
        cutoff: Timestamp,
        limit: u32,
    ) -> Result<Vec<Digest>, StoreError> {
        let after = after.map(key).unwrap_or_default();
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.fetch_all(
                        "SELECT digest FROM chunk WHERE digest > $1 AND touched < $2 ORDER BY digest LIMIT $3",
                        params![after, cutoff, limit],
                    )
                    .await?
                    .iter()
                    .map(|row| digest_of(&row.get::<Vec<u8>>("digest")?))
                    .collect()
                })
            })
            .await
    }

    /// How many blobs are packed.
    pub(super) async fn count(&self) -> Result<u64, StoreError> {
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    let row = tx
                        .fetch_one("SELECT COUNT(*) AS n FROM chunk", params![])
                        .await?;
                    Ok(row.get::<i64>("n")? as u64)
                })
            })
            .await
    }

    /// Every pack with its size and the bytes in it that somebody can still reach.
    pub(super) async fn packs(&self) -> Result<Vec<PackUse>, StoreError> {
        self.store
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.fetch_all(
                        "SELECT p.id, p.size, COALESCE(c.live, 0) AS live FROM pack p
                         LEFT JOIN (SELECT pack, CAST(SUM(size) AS BIGINT) AS live FROM chunk GROUP BY pack) c
                         ON c.pack = p.id ORDER BY p.id",
                        params![],
                    )
                    .await?
                    .iter()
                    .map(|row| {
                        Ok(PackUse {
                            id: row.get("id")?,
                            size: row.get::<i64>("size")? as u64,
                            live: row.get::<i64>("live")? as u64,
                        })
                    })
                    .collect()
                })
            })
            .await
    }

    /// Replaces a pack by the one that its live records were copied to. Dates stay as they were.
    pub(super) async fn move_pack(
        &self,
        old: i64,
        new: Option<(i64, u64)>,
        records: &[pack::Record],
    ) -> Result<(), StoreError> {
        let rows: Vec<(Vec<u8>, u64)> = records
            .iter()
            .map(|record| (key(&record.digest), record.position))
            .collect();
        let rows = &rows;
        self.store
            .write::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    if let Some((id, size)) = new {
                        tx.execute(
                            "INSERT INTO pack (id, size) VALUES ($1, $2)",
                            params![id, size],
                        )
                        .await?;
                        for (key, position) in rows {
                            tx.execute(
                                "UPDATE chunk SET pack = $1, position = $2 WHERE digest = $3 AND pack = $4",
                                params![id, *position, key.as_slice(), old],
                            )
                            .await?;
                        }
                    }
                    tx.execute("DELETE FROM pack WHERE id = $1", params![old])
                        .await?;
                    Ok(())
                })
            })
            .await
    }
}

/// The algorithms that may stand in a pack.
pub(super) const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::Blake3, Algorithm::Sha256, Algorithm::Sha512];
