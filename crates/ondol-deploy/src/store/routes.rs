//! The row of the routing table, and which replicas it names.

use std::collections::BTreeSet;

use ondol_store::{StoreError, Tx, params};
use ondol_types::ReplicaId;

use super::json;
use crate::routes::RouteTable;

/// The newest generation and the newest that every live gateway had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Generations {
    pub(crate) newest: i64,
    pub(crate) acked: i64,
}

pub(crate) async fn generations(tx: &mut Tx<'_>) -> Result<Generations, StoreError> {
    let row = tx
        .fetch_one(
            "SELECT generation, acked FROM deploy_routes WHERE id = 1",
            params![],
        )
        .await?;
    Ok(Generations {
        newest: row.get("generation")?,
        acked: row.get("acked")?,
    })
}

/// The table as it was last persisted; `None` before the first.
pub(crate) async fn stored_table(tx: &mut Tx<'_>) -> Result<Option<RouteTable>, StoreError> {
    let row = tx
        .fetch_one("SELECT content FROM deploy_routes WHERE id = 1", params![])
        .await?;
    if row.get::<String>("content")?.is_empty() {
        return Ok(None);
    }
    row.json("content").map(Some)
}

/// Persists a table under its generation and notes who came and who left.
pub(crate) async fn store_table(tx: &mut Tx<'_>, table: &RouteTable) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_routes SET generation = $1, content = $2 WHERE id = 1",
        params![table.generation, json(table)?],
    )
    .await?;
    let named = table.replicas();
    let before: BTreeSet<ReplicaId> = tx
        .fetch_all(
            "SELECT endpoint FROM deploy_replica WHERE routed = 1",
            params![],
        )
        .await?
        .iter()
        .map(|row| row.parse("endpoint"))
        .collect::<Result<_, _>>()?;
    for id in named.difference(&before) {
        tx.execute(
            "UPDATE deploy_replica SET routed = 1, left_generation = NULL, out_at = NULL WHERE endpoint = $1",
            params![*id],
        )
        .await?;
    }
    for id in before.difference(&named) {
        tx.execute(
            "UPDATE deploy_replica SET routed = 0, left_generation = $2, out_at = NULL WHERE endpoint = $1",
            params![*id, table.generation],
        )
        .await?;
    }
    Ok(())
}

/// Every live gateway has persisted a generation.
pub(crate) async fn acknowledge(tx: &mut Tx<'_>, generation: i64) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE deploy_routes SET acked = $1 WHERE id = 1 AND acked < $1",
        params![generation],
    )
    .await?;
    tx.execute(
        "UPDATE deploy_replica SET out_at = $2
         WHERE routed = 0 AND left_generation <= $1 AND out_at IS NULL AND state <> 'stopped'",
        params![generation, now],
    )
    .await?;
    Ok(())
}
