//! What is kept, and what goes.

use ondol_store::{StoreError, Tx, params};
use ondol_types::{EnvironmentName, ProjectName, ReplicaId, RolloutId, Timestamp, WorkloadId};

/// Forgets releases that are neither among the newest `keep` nor in use by anything.
pub(crate) async fn prune_releases(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    keep: u32,
) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM deploy_release
         WHERE project = $1 AND environment = $2
           AND number <= (SELECT MAX(number) FROM deploy_release WHERE project = $1 AND environment = $2) - $3
           AND id NOT IN (SELECT current_release FROM deploy_environment
                          WHERE project = $1 AND name = $2 AND current_release IS NOT NULL)
           AND id NOT IN (SELECT release_id FROM deploy_replica
                          WHERE project = $1 AND environment = $2 AND state <> 'stopped')
           AND id NOT IN (SELECT to_release FROM deploy_rollout
                          WHERE project = $1 AND environment = $2 AND to_release IS NOT NULL
                            AND state NOT IN ('done', 'failed', 'aborted'))
           AND number NOT IN (SELECT target FROM deploy_rollout
                              WHERE project = $1 AND environment = $2 AND target IS NOT NULL
                                AND state NOT IN ('done', 'failed', 'aborted'))",
        params![project, environment, keep],
    )
    .await
}

/// Ended rollouts beyond the newest `keep` that nothing refers to, at most `limit`.
pub(crate) async fn old_rollouts(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    keep: u32,
    limit: u32,
) -> Result<Vec<RolloutId>, StoreError> {
    tx.fetch_all(
        "SELECT id FROM deploy_rollout
         WHERE project = $1 AND environment = $2 AND state IN ('done', 'failed', 'aborted')
           AND number <= (SELECT MAX(number) FROM deploy_rollout WHERE project = $1 AND environment = $2) - $3
           AND id NOT IN (SELECT serving_rollout FROM deploy_environment
                          WHERE project = $1 AND name = $2 AND serving_rollout IS NOT NULL)
           AND id NOT IN (SELECT rollout FROM deploy_replica WHERE project = $1 AND environment = $2)
         ORDER BY number LIMIT $4",
        params![project, environment, keep, limit],
    )
    .await?
    .iter()
    .map(|row| row.parse("id"))
    .collect()
}

pub(crate) async fn delete_rollout(tx: &mut Tx<'_>, id: RolloutId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM deploy_command WHERE rollout = $1", params![id])
        .await?;
    tx.execute("DELETE FROM deploy_rollout WHERE id = $1", params![id])
        .await?;
    Ok(())
}

/// Stopped replicas whose logs are no longer kept: older than `before`, or beyond the newest
/// `keep` of the environment; at most `limit`.
pub(crate) async fn old_replicas(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    before: Timestamp,
    keep: u32,
    limit: u32,
) -> Result<Vec<(ReplicaId, WorkloadId)>, StoreError> {
    tx.fetch_all(
        "SELECT id, workload FROM deploy_replica
         WHERE project = $1 AND environment = $2 AND state = 'stopped'
           AND (since < $3 OR id NOT IN (SELECT id FROM deploy_replica
                WHERE project = $1 AND environment = $2 AND state = 'stopped' ORDER BY since DESC, id DESC LIMIT $4))
         ORDER BY since LIMIT $5",
        params![project, environment, before, keep, limit],
    )
    .await?
    .iter()
    .map(|row| Ok((row.parse("id")?, row.parse("workload")?)))
    .collect()
}

pub(crate) async fn delete_replica(tx: &mut Tx<'_>, id: ReplicaId) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM deploy_replica WHERE id = $1 AND state = 'stopped'",
        params![id],
    )
    .await?;
    Ok(())
}

/// What the rows say about a workload that the engine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It should exist.
    Wanted,
    /// It should have ended; its log is kept.
    Ended,
    /// Its log is not kept any more.
    Expired,
    /// No row knows it.
    Unknown,
}

/// Whether a workload belongs to a replica that is to be there.
pub(crate) async fn claim_of_replica(
    tx: &mut Tx<'_>,
    workload: WorkloadId,
) -> Result<Claim, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT state FROM deploy_replica WHERE workload = $1",
            params![workload],
        )
        .await?;
    Ok(match row {
        None => Claim::Unknown,
        Some(row) if row.get::<String>("state")? == "stopped" => Claim::Ended,
        Some(_) => Claim::Wanted,
    })
}

/// Whether a workload belongs to a release command whose rollout still waits for it.
pub(crate) async fn claim_of_command(
    tx: &mut Tx<'_>,
    workload: WorkloadId,
    before: Timestamp,
) -> Result<Claim, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT c.ended_at, r.state FROM deploy_command c JOIN deploy_rollout r ON r.id = c.rollout WHERE c.workload = $1",
            params![workload],
        )
        .await?;
    let Some(row) = row else {
        return Ok(Claim::Unknown);
    };
    let ended: Option<Timestamp> = row.get("ended_at")?;
    let open = row.get::<String>("state")? == "releaseCommand";
    Ok(match ended {
        _ if open => Claim::Wanted,
        Some(ended) if ended < before => Claim::Expired,
        _ => Claim::Ended,
    })
}
