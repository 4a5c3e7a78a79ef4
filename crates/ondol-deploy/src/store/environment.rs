//! Rows of environments, of the hosts they claim, and of their volumes.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{EnvironmentName, ProjectName, ReleaseId, RolloutId, VolumeName};

use super::json;
use crate::model::{Accepted, Environment, Hold, Scale};

const COLUMNS: &str = "project, name, removing, hold_reason, hold_by, hold_at, current_release, serving_rollout, replicas, scale, created_at";

pub(super) fn environment_of(row: &Row) -> Result<Environment, StoreError> {
    let hold = match row.get::<Option<String>>("hold_reason")? {
        Some(reason) => Some(Hold {
            reason,
            by: row.get::<Option<String>>("hold_by")?.unwrap_or_default(),
            at: row.get("hold_at")?,
        }),
        None => None,
    };
    Ok(Environment {
        project: row.parse("project")?,
        name: row.parse("name")?,
        removing: row.get("removing")?,
        hold,
        current: row.parse_opt("current_release")?,
        serving: row.parse_opt("serving_rollout")?,
        replicas: row.get("replicas")?,
        scale: row.json_opt("scale")?,
        created_at: row.get("created_at")?,
    })
}

pub(crate) async fn environment(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<Option<Environment>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_environment WHERE project = $1 AND name = $2"
        )),
        params![project, name],
    )
    .await?
    .as_ref()
    .map(environment_of)
    .transpose()
}

pub(crate) async fn environments(
    tx: &mut Tx<'_>,
    project: Option<&ProjectName>,
) -> Result<Vec<Environment>, StoreError> {
    tx.fetch_all(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_environment WHERE ($1 = '' OR project = $1) ORDER BY project, name"
        )),
        params![project.map_or("", |project| project.as_str())],
    )
    .await?
    .iter()
    .map(environment_of)
    .collect()
}

/// Wraps SQL that was put together of constants.
pub(super) fn sql(text: String) -> ondol_store::AssertSqlSafe<String> {
    ondol_store::AssertSqlSafe(text)
}

/// Makes the row; false when it was there.
///
/// # Errors
/// [`StoreError::ProjectHeld`] when the project is being deleted.
pub(crate) async fn create_environment(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<bool, StoreError> {
    tx.admit_project(project).await?;
    let now = tx.now();
    let made = tx
        .execute(
            "INSERT INTO deploy_environment (project, name, removing, accepted, next_release, next_rollout, created_at)
             VALUES ($1, $2, 0, '{}', 1, 1, $3) ON CONFLICT (project, name) DO NOTHING",
            params![project, name, now],
        )
        .await?;
    Ok(made == 1)
}

pub(crate) async fn accepted(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<Accepted, StoreError> {
    match tx
        .fetch_optional(
            "SELECT accepted FROM deploy_environment WHERE project = $1 AND name = $2",
            params![project, name],
        )
        .await?
    {
        Some(row) => row.json("accepted"),
        None => Ok(Accepted::default()),
    }
}

pub(crate) async fn set_accepted(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    accepted: &Accepted,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_environment SET accepted = $3 WHERE project = $1 AND name = $2",
        params![project, name, json(accepted)?],
    )
    .await?;
    Ok(())
}

pub(crate) async fn set_hold(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    hold: Option<&Hold>,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_environment SET hold_reason = $3, hold_by = $4, hold_at = $5 WHERE project = $1 AND name = $2",
        params![
            project,
            name,
            hold.map(|hold| hold.reason.clone()),
            hold.map(|hold| hold.by.clone()),
            hold.map(|hold| hold.at),
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn set_replicas(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    replicas: Option<u32>,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_environment SET replicas = $3 WHERE project = $1 AND name = $2",
        params![project, name, replicas],
    )
    .await?;
    Ok(())
}

/// Keeps what autoscaling made of the load.
pub(crate) async fn set_scale(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    scale: &Scale,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_environment SET scale = $3 WHERE project = $1 AND name = $2",
        params![project, name, json(scale)?],
    )
    .await?;
    Ok(())
}

pub(crate) async fn set_removing(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<u64, StoreError> {
    tx.execute(
        "UPDATE deploy_environment SET removing = 1 WHERE project = $1 AND name = $2 AND removing = 0",
        params![project, name],
    )
    .await
}

pub(crate) async fn set_current(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    release: ReleaseId,
    rollout: RolloutId,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_environment SET current_release = $3, serving_rollout = $4 WHERE project = $1 AND name = $2",
        params![project, name, release, rollout],
    )
    .await?;
    Ok(())
}

async fn take_number(
    tx: &mut Tx<'_>,
    statement: &'static str,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<i64, StoreError> {
    tx.fetch_one(statement, params![project, name])
        .await?
        .get("number")
}

pub(crate) async fn next_rollout_number(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<i64, StoreError> {
    let statement = "UPDATE deploy_environment SET next_rollout = next_rollout + 1
        WHERE project = $1 AND name = $2 RETURNING next_rollout - 1 AS number";
    take_number(tx, statement, project, name).await
}

pub(crate) async fn next_release_number(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<i64, StoreError> {
    let statement = "UPDATE deploy_environment SET next_release = next_release + 1
        WHERE project = $1 AND name = $2 RETURNING next_release - 1 AS number";
    take_number(tx, statement, project, name).await
}

/// Removes every row of an environment whose replicas have all ended.
pub(crate) async fn delete_environment(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM deploy_command WHERE rollout IN (SELECT id FROM deploy_rollout WHERE project = $1 AND environment = $2)",
        "DELETE FROM deploy_replica WHERE project = $1 AND environment = $2",
        "DELETE FROM deploy_rollout WHERE project = $1 AND environment = $2",
        "DELETE FROM deploy_host WHERE project = $1 AND environment = $2",
        "DELETE FROM deploy_environment WHERE project = $1 AND name = $2",
        "DELETE FROM deploy_release WHERE project = $1 AND environment = $2",
    ] {
        tx.execute(statement, params![project, name]).await?;
    }
    Ok(())
}

/// Removes what a project without environments has left.
pub(crate) async fn forget_project(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM deploy_command WHERE rollout IN (SELECT id FROM deploy_rollout WHERE project = $1)",
        "DELETE FROM deploy_replica WHERE project = $1",
        "DELETE FROM deploy_rollout WHERE project = $1",
        "DELETE FROM deploy_host WHERE project = $1",
        "DELETE FROM deploy_release WHERE project = $1",
        "DELETE FROM deploy_volume WHERE project = $1",
    ] {
        tx.execute(statement, params![project]).await?;
    }
    Ok(())
}

/// Who has a host and path prefix.
pub(crate) async fn host_owner(
    tx: &mut Tx<'_>,
    host: &str,
    path: &str,
) -> Result<Option<(ProjectName, EnvironmentName)>, StoreError> {
    match tx
        .fetch_optional(
            "SELECT project, environment FROM deploy_host WHERE host = $1 AND path = $2",
            params![host, path],
        )
        .await?
    {
        Some(row) => Ok(Some((row.parse("project")?, row.parse("environment")?))),
        None => Ok(None),
    }
}

pub(crate) async fn claim_host(
    tx: &mut Tx<'_>,
    host: &str,
    path: &str,
    project: &ProjectName,
    name: &EnvironmentName,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO deploy_host (host, path, project, environment) VALUES ($1, $2, $3, $4) ON CONFLICT (host, path) DO NOTHING",
        params![host, path, project, name],
    )
    .await?;
    Ok(())
}

/// Gives back every claim of an environment that is not among `kept`.
pub(crate) async fn keep_hosts(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &EnvironmentName,
    kept: &[(String, String)],
) -> Result<(), StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT host, path FROM deploy_host WHERE project = $1 AND environment = $2",
            params![project, name],
        )
        .await?;
    for row in rows {
        let claim: (String, String) = (row.get("host")?, row.get("path")?);
        if !kept.contains(&claim) {
            tx.execute(
                "DELETE FROM deploy_host WHERE host = $1 AND path = $2",
                params![claim.0, claim.1],
            )
            .await?;
        }
    }
    Ok(())
}

/// Notes a volume; false when it was known.
pub(crate) async fn note_volume(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    name: &VolumeName,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let made = tx
        .execute(
            "INSERT INTO deploy_volume (project, environment, name, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (project, environment, name) DO NOTHING",
            params![project, environment, name, now],
        )
        .await?;
    Ok(made == 1)
}

/// How far the log was followed.
pub(crate) async fn cursor(tx: &mut Tx<'_>, name: &str) -> Result<i64, StoreError> {
    match tx
        .fetch_optional(
            "SELECT seq FROM deploy_cursor WHERE name = $1",
            params![name],
        )
        .await?
    {
        Some(row) => row.get("seq"),
        None => Ok(0),
    }
}

pub(crate) async fn set_cursor(tx: &mut Tx<'_>, name: &str, seq: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO deploy_cursor (name, seq) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET seq = excluded.seq",
        params![name, seq],
    )
    .await?;
    Ok(())
}
