//! Rows of replicas.

use std::net::SocketAddr;

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{EnvironmentName, ProjectName, ReleaseId, ReplicaId, RolloutId, Timestamp};

use super::environment::sql;
use super::json;
use crate::model::{Probe, Replica, ReplicaState};

const COLUMNS: &str = "id, project, environment, release_id, rollout, workload, incarnation, endpoint, state, since, address, restarts, failures, fatal, next_start_at, started_at, detail, probes, routed, left_generation, out_at, created_at";

fn replica_of(row: &Row) -> Result<Replica, StoreError> {
    Ok(Replica {
        id: row.parse("id")?,
        project: row.parse("project")?,
        environment: row.parse("environment")?,
        release: row.parse("release_id")?,
        rollout: row.parse("rollout")?,
        workload: row.parse("workload")?,
        incarnation: row.get("incarnation")?,
        endpoint: row.parse("endpoint")?,
        state: row.parse("state")?,
        since: row.get("since")?,
        address: row.parse_opt("address")?,
        restarts: row.get("restarts")?,
        failures: row.get("failures")?,
        fatal: row.get("fatal")?,
        next_start_at: row.get("next_start_at")?,
        started_at: row.get("started_at")?,
        detail: row.get("detail")?,
        probes: row.json("probes")?,
        routed: row.get("routed")?,
        left_generation: row.get("left_generation")?,
        out_at: row.get("out_at")?,
        created_at: row.get("created_at")?,
    })
}

pub(crate) async fn insert_replica(
    tx: &mut Tx<'_>,
    place: (&ProjectName, &EnvironmentName),
    id: ReplicaId,
    release: ReleaseId,
    rollout: RolloutId,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO deploy_replica (id, project, environment, release_id, rollout, workload, incarnation, endpoint, state, since,
             restarts, failures, fatal, probes, routed, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, 1, $9, $7, $8, 0, 0, 0, '[]', 0, $8)",
        params![
            id,
            place.0,
            place.1,
            release,
            rollout,
            Replica::workload_of(id),
            ReplicaState::Starting.as_str(),
            now,
            Replica::endpoint_of(id, 1, release),
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn replica(tx: &mut Tx<'_>, id: ReplicaId) -> Result<Option<Replica>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_replica WHERE id = $1"
        )),
        params![id],
    )
    .await?
    .as_ref()
    .map(replica_of)
    .transpose()
}

/// Replicas that are not stopped, of one environment or of all, oldest first.
pub(crate) async fn live_replicas(
    tx: &mut Tx<'_>,
    place: Option<(&ProjectName, &EnvironmentName)>,
) -> Result<Vec<Replica>, StoreError> {
    let (project, environment) = place.map_or(("", ""), |(project, name)| {
        (project.as_str(), name.as_str())
    });
    tx.fetch_all(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_replica
             WHERE state <> 'stopped' AND ($1 = '' OR (project = $1 AND environment = $2)) ORDER BY created_at, id"
        )),
        params![project, environment],
    )
    .await?
    .iter()
    .map(replica_of)
    .collect()
}

/// The newest replicas of an environment, stopped ones too.
pub(crate) async fn recent_replicas(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    limit: u32,
) -> Result<Vec<Replica>, StoreError> {
    tx.fetch_all(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_replica WHERE project = $1 AND environment = $2
             ORDER BY created_at DESC, id DESC LIMIT $3"
        )),
        params![project, environment, limit],
    )
    .await?
    .iter()
    .map(replica_of)
    .collect()
}

/// Which incarnation of a replica, and the states that it must be in for a change to count.
#[derive(Clone, Copy)]
pub(crate) struct Guard<'a> {
    pub(crate) id: ReplicaId,
    pub(crate) incarnation: u64,
    pub(crate) states: &'a [ReplicaState],
}

async fn guarded(tx: &mut Tx<'_>, guard: Guard<'_>) -> Result<bool, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT incarnation, state FROM deploy_replica WHERE id = $1",
            params![guard.id],
        )
        .await?;
    let Some(row) = row else { return Ok(false) };
    let state: ReplicaState = row.parse("state")?;
    Ok(row.get::<u64>("incarnation")? == guard.incarnation && guard.states.contains(&state))
}

/// The engine has started the incarnation.
pub(crate) async fn mark_started(
    tx: &mut Tx<'_>,
    guard: Guard<'_>,
    address: Option<SocketAddr>,
) -> Result<bool, StoreError> {
    if !guarded(tx, guard).await? {
        return Ok(false);
    }
    let now = tx.now();
    let changed = tx
        .execute(
            "UPDATE deploy_replica SET address = $2, started_at = $3, detail = NULL WHERE id = $1 AND started_at IS NULL",
            params![guard.id, address.map(|address| address.to_string()), now],
        )
        .await?;
    Ok(changed == 1)
}

/// Another state, with the probes that led to it.
pub(crate) async fn move_replica(
    tx: &mut Tx<'_>,
    guard: Guard<'_>,
    to: ReplicaState,
    detail: Option<&str>,
    probes: Option<&[Probe]>,
) -> Result<bool, StoreError> {
    if !guarded(tx, guard).await? {
        return Ok(false);
    }
    let now = tx.now();
    tx.execute(
        "UPDATE deploy_replica SET state = $2, since = $3, detail = COALESCE($4, detail), probes = COALESCE($5, probes) WHERE id = $1",
        params![guard.id, to.as_str(), now, detail.map(str::to_owned), probes.map(|probes| json(&probes)).transpose()?],
    )
    .await?;
    Ok(true)
}

/// What is known after the program of a replica ended, or could not be started.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) failures: u32,
    pub(crate) fatal: bool,
    pub(crate) next_start_at: Timestamp,
    pub(crate) detail: String,
    pub(crate) probes: Vec<Probe>,
    /// A greater one than the row has, when the engine knows of it.
    pub(crate) incarnation: u64,
}

pub(crate) async fn mark_failed(
    tx: &mut Tx<'_>,
    guard: Guard<'_>,
    ended: &Ended,
) -> Result<bool, StoreError> {
    if !guarded(tx, guard).await? {
        return Ok(false);
    }
    let now = tx.now();
    tx.execute(
        "UPDATE deploy_replica SET state = $2, since = $3, failures = $4, fatal = $5, next_start_at = $6, detail = $7,
             probes = $8, incarnation = $9 WHERE id = $1",
        params![
            guard.id,
            ReplicaState::Failed.as_str(),
            now,
            ended.failures,
            ended.fatal,
            ended.next_start_at,
            &ended.detail,
            json(&ended.probes)?,
            ended.incarnation.max(guard.incarnation),
        ],
    )
    .await?;
    Ok(true)
}

/// The intent to start it once more, as the next incarnation.
pub(crate) async fn mark_restarting(tx: &mut Tx<'_>, guard: Guard<'_>) -> Result<bool, StoreError> {
    if !guarded(tx, guard).await? {
        return Ok(false);
    }
    let Some(found) = replica(tx, guard.id).await? else {
        return Ok(false);
    };
    let next = found.incarnation + 1;
    let now = tx.now();
    tx.execute(
        "UPDATE deploy_replica SET state = $2, since = $3, incarnation = $4, endpoint = $5, restarts = restarts + 1,
             started_at = NULL, address = NULL, next_start_at = NULL WHERE id = $1",
        params![
            guard.id,
            ReplicaState::Starting.as_str(),
            now,
            next,
            Replica::endpoint_of(guard.id, next, found.release),
        ],
    )
    .await?;
    Ok(true)
}

/// Hands a standing replica over to a rollout that repeats its release.
pub(crate) async fn adopt_standby(
    tx: &mut Tx<'_>,
    replica: &Replica,
    release: ReleaseId,
    rollout: RolloutId,
) -> Result<u64, StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE deploy_replica SET release_id = $2, rollout = $3, state = $4, since = $5, endpoint = $7,
             left_generation = NULL, out_at = NULL
         WHERE id = $1 AND state = $6",
        params![
            replica.id,
            release,
            rollout,
            ReplicaState::Starting.as_str(),
            now,
            ReplicaState::Standby.as_str(),
            Replica::endpoint_of(replica.id, replica.incarnation, release),
        ],
    )
    .await
}

/// Replicas of a rollout that count among those it wants.
pub(crate) async fn wanted_of(tx: &mut Tx<'_>, rollout: RolloutId) -> Result<u32, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS number FROM deploy_replica
         WHERE rollout = $1 AND state IN ('starting', 'ready', 'unhealthy', 'failed')",
        params![rollout],
    )
    .await?
    .get("number")
}
