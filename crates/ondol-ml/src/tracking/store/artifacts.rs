//! Which files stand below which experiment. The bytes are in the blob store; these rows own them.
//!
//! A file's place is its experiment, its folder (a run's id, or `models/` with a model's id) and
//! the path below that.

use ondol_store::{StoreError, Tx, params};
use ondol_types::Digest;

use super::Statement;

/// A stored file.
pub(in crate::tracking) struct StoredFile {
    /// Its path below its folder.
    pub(in crate::tracking) path: String,
    /// Its bytes.
    pub(in crate::tracking) digest: Digest,
    /// Their length.
    pub(in crate::tracking) size: u64,
}

/// The smallest text that is greater than everything with a prefix.
fn behind(prefix: &str) -> String {
    // Prefixes end with `/`, and `0` is the character behind it.
    format!("{}0", &prefix[..prefix.len().saturating_sub(1)])
}

/// The files of a folder whose path begins with `prefix`, which is empty or ends with `/`.
pub(in crate::tracking) async fn files_below(
    tx: &mut Tx<'_>,
    experiment: i64,
    folder: &str,
    prefix: &str,
    limit: i64,
) -> Result<Vec<StoredFile>, StoreError> {
    let mut statement =
        Statement::new("SELECT path, digest, size FROM tracking_artifact WHERE experiment = ");
    statement
        .bind(experiment)
        .push(" AND folder = ")
        .bind(folder);
    if !prefix.is_empty() {
        statement
            .push(" AND path >= ")
            .bind(prefix)
            .push(" AND path < ")
            .bind(behind(prefix));
    }
    statement.push(" ORDER BY path LIMIT ").bind(limit);
    let rows = statement.fetch(tx).await?;
    rows.iter()
        .map(|row| {
            Ok(StoredFile {
                path: row.get("path")?,
                digest: row.parse("digest")?,
                size: row.get("size")?,
            })
        })
        .collect()
}

/// One file.
pub(in crate::tracking) async fn file(
    tx: &mut Tx<'_>,
    experiment: i64,
    folder: &str,
    path: &str,
) -> Result<Option<StoredFile>, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT path, digest, size FROM tracking_artifact WHERE experiment = $1 AND folder = $2 AND path = $3",
            params![experiment, folder, path],
        )
        .await?;
    row.map(|row| {
        Ok(StoredFile {
            path: row.get("path")?,
            digest: row.parse("digest")?,
            size: row.get("size")?,
        })
    })
    .transpose()
}

/// How many files a folder has.
pub(in crate::tracking) async fn count_files(
    tx: &mut Tx<'_>,
    experiment: i64,
    folder: &str,
) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM tracking_artifact WHERE experiment = $1 AND folder = $2",
        params![experiment, folder],
    )
    .await?
    .get("n")
}

/// Names a file, or gives another content to one that is there.
pub(in crate::tracking) async fn put_file(
    tx: &mut Tx<'_>,
    experiment: i64,
    folder: &str,
    file: &StoredFile,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO tracking_artifact (experiment, folder, path, digest, size, stored_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (experiment, folder, path) DO UPDATE SET digest = excluded.digest, size = excluded.size,
            stored_at = excluded.stored_at",
        params![experiment, folder, &file.path, &file.digest, file.size, now],
    )
    .await?;
    Ok(())
}

/// Removes a file, or everything below a path. Returns how many.
pub(in crate::tracking) async fn delete_files(
    tx: &mut Tx<'_>,
    experiment: i64,
    folder: &str,
    path: &str,
) -> Result<u64, StoreError> {
    let prefix = format!("{path}/");
    tx.execute(
        "DELETE FROM tracking_artifact WHERE experiment = $1 AND folder = $2
            AND (path = $3 OR (path >= $4 AND path < $5))",
        params![experiment, folder, path, &prefix, behind(&prefix)],
    )
    .await
}

/// Digests behind `after` in their order, for the collection of blobs.
pub(in crate::tracking) async fn artifact_digests_after(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<Digest>, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT DISTINCT digest FROM tracking_artifact WHERE digest > $1 ORDER BY digest LIMIT $2",
            params![after, limit],
        )
        .await?;
    rows.iter().map(|row| row.parse("digest")).collect()
}
