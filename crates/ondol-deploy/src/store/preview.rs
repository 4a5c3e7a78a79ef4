//! Rows of branches that have, or had, an environment of their own.

use std::time::Duration;

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{EnvironmentName, EventId, ProjectName, Timestamp};

use super::environment::sql;
use crate::model::{Preview, PreviewRow};

const COLUMNS: &str = "project, environment, branch, ended";

fn preview_of(row: &Row) -> Result<PreviewRow, StoreError> {
    Ok(PreviewRow {
        project: row.parse("project")?,
        environment: row.parse("environment")?,
        branch: row.get("branch")?,
        ended: row.parse_opt("ended")?,
    })
}

pub(crate) async fn preview(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
) -> Result<Option<PreviewRow>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_preview WHERE project = $1 AND environment = $2"
        )),
        params![project, environment],
    )
    .await?
    .as_ref()
    .map(preview_of)
    .transpose()
}

/// How many environments of branches a project has.
pub(crate) async fn count_previews(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<u32, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS number FROM deploy_preview p
         JOIN deploy_environment e ON e.project = p.project AND e.name = p.environment
         WHERE p.project = $1",
        params![project],
    )
    .await?
    .get("number")
}

/// The branch was pushed: its environment lives from now on as long as it says.
pub(crate) async fn touch_preview(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    preview: &Preview,
) -> Result<(), StoreError> {
    let expires = tx.now().plus(preview.expire);
    tx.execute(
        "INSERT INTO deploy_preview (project, environment, branch, expires_at, ended, ended_at)
         VALUES ($1, $2, $3, $4, NULL, NULL)
         ON CONFLICT (project, environment) DO UPDATE SET expires_at = excluded.expires_at, ended = NULL, ended_at = NULL",
        params![project, environment, &preview.branch, expires],
    )
    .await?;
    Ok(())
}

/// The branch is gone. The row tells a run that is still under way, so it stays for a while.
pub(crate) async fn end_preview(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    branch: &str,
    by: EventId,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO deploy_preview (project, environment, branch, expires_at, ended, ended_at)
         VALUES ($1, $2, $3, $4, $5, $4)
         ON CONFLICT (project, environment) DO UPDATE SET ended = excluded.ended, ended_at = excluded.ended_at",
        params![project, environment, branch, now, by],
    )
    .await?;
    Ok(())
}

/// Environments whose branch was not pushed to for as long as they live.
pub(crate) async fn expired_previews(
    tx: &mut Tx<'_>,
    limit: u32,
) -> Result<Vec<PreviewRow>, StoreError> {
    let now = tx.now();
    tx.fetch_all(
        "SELECT p.project AS project, p.environment AS environment, p.branch AS branch, p.ended AS ended
         FROM deploy_preview p
         JOIN deploy_environment e ON e.project = p.project AND e.name = p.environment
         WHERE p.ended IS NULL AND p.expires_at <= $1 AND e.removing = 0 ORDER BY p.expires_at LIMIT $2",
        params![now, limit],
    )
    .await?
    .iter()
    .map(preview_of)
    .collect()
}

/// Rows whose environment is gone.
pub(crate) async fn past_previews(
    tx: &mut Tx<'_>,
    limit: u32,
) -> Result<Vec<PreviewRow>, StoreError> {
    tx.fetch_all(
        "SELECT p.project AS project, p.environment AS environment, p.branch AS branch, p.ended AS ended
         FROM deploy_preview p
         LEFT JOIN deploy_environment e ON e.project = p.project AND e.name = p.environment
         WHERE e.name IS NULL ORDER BY p.expires_at LIMIT $1",
        params![limit],
    )
    .await?
    .iter()
    .map(preview_of)
    .collect()
}

/// Forgets the volumes of an environment that is gone, and the branch itself unless a run that
/// began before `runs_end` may still ask for it. True when the row is gone.
pub(crate) async fn forget_preview(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    runs_end: Timestamp,
) -> Result<bool, StoreError> {
    if super::environment(tx, project, environment)
        .await?
        .is_some()
    {
        return Ok(false);
    }
    tx.execute(
        "DELETE FROM deploy_volume WHERE project = $1 AND environment = $2",
        params![project, environment],
    )
    .await?;
    let gone = tx
        .execute(
            "DELETE FROM deploy_preview WHERE project = $1 AND environment = $2
             AND (ended_at IS NULL OR ended_at < $3)",
            params![project, environment, runs_end],
        )
        .await?;
    Ok(gone == 1)
}

/// How long the row of a branch that is gone is kept for runs of it.
pub(crate) const RUNS_END: Duration = Duration::from_secs(2 * 24 * 60 * 60);
