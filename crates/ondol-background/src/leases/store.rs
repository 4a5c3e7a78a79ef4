//! The only SQL of leases.

use std::time::Duration;

use ondol_store::{Migration, StoreError, Tx, params};
use ondol_types::Timestamp;

use super::{Holder, LeaseInfo};

pub(crate) const MIGRATION: Migration = Migration {
    number: 200,
    name: "leases",
    sql: "CREATE TABLE lease (
    name TEXT PRIMARY KEY,
    installation TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    fence BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX lease_expiry ON lease (expires_at);
CREATE TABLE lease_head (id BIGINT PRIMARY KEY, fence BIGINT NOT NULL);
INSERT INTO lease_head (id, fence) VALUES (1, 0);
",
};

/// Takes the lease when it is free for `holder` and returns its fence. The counter is one for all
/// names, so that rows can be deleted and fences still only grow.
pub(super) async fn take(
    tx: &mut Tx<'_>,
    name: &str,
    holder: &Holder,
    ttl: Duration,
) -> Result<Option<i64>, StoreError> {
    let now = tx.now();
    let held = tx
        .fetch_optional(
            "SELECT fence FROM lease WHERE name = $1 AND expires_at > $2
               AND NOT (installation = $3 AND incarnation <> $4)",
            params![name, now, &holder.installation, &holder.incarnation],
        )
        .await?;
    if held.is_some() {
        return Ok(None);
    }
    let fence: i64 = tx
        .fetch_one(
            "UPDATE lease_head SET fence = fence + 1 WHERE id = 1 RETURNING fence",
            params![],
        )
        .await?
        .get("fence")?;
    tx.execute(
        "INSERT INTO lease (name, installation, incarnation, fence, expires_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (name) DO UPDATE SET installation = excluded.installation,
             incarnation = excluded.incarnation, fence = excluded.fence,
             expires_at = excluded.expires_at",
        params![
            name,
            &holder.installation,
            &holder.incarnation,
            fence,
            now.plus(ttl)
        ],
    )
    .await?;
    Ok(Some(fence))
}

pub(super) async fn is_current(
    tx: &mut Tx<'_>,
    name: &str,
    fence: i64,
) -> Result<bool, StoreError> {
    Ok(tx
        .fetch_optional(
            "SELECT fence FROM lease WHERE name = $1 AND fence = $2",
            params![name, fence],
        )
        .await?
        .is_some())
}

pub(super) async fn renew(
    tx: &mut Tx<'_>,
    name: &str,
    fence: i64,
    until: Timestamp,
) -> Result<bool, StoreError> {
    let changed = tx
        .execute(
            "UPDATE lease SET expires_at = $3 WHERE name = $1 AND fence = $2",
            params![name, fence, until],
        )
        .await?;
    Ok(changed == 1)
}

pub(super) async fn release(tx: &mut Tx<'_>, name: &str, fence: i64) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM lease WHERE name = $1 AND fence = $2",
        params![name, fence],
    )
    .await?;
    Ok(())
}

pub(super) async fn forget(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute("DELETE FROM lease WHERE expires_at < $1", params![before])
        .await?;
    Ok(())
}

pub(super) async fn list(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<LeaseInfo>, StoreError> {
    tx.fetch_all(
        "SELECT name, installation, fence, expires_at FROM lease ORDER BY name LIMIT $1",
        params![limit],
    )
    .await?
    .iter()
    .map(|row| {
        Ok(LeaseInfo {
            name: row.get("name")?,
            installation: row.get("installation")?,
            fence: row.get("fence")?,
            expires_at: row.get("expires_at")?,
        })
    })
    .collect()
}
