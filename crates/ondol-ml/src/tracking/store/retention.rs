//! What is removed for good: what lay in the bin for its time, and what belonged to projects
//! that are no more. In small steps, so that no transaction is long.

use ondol_store::{StoreError, Tx, params};
use ondol_types::ProjectName;

use crate::tracking::model::Scope;

/// Runs that were put into the bin before a moment, or whose experiment is no more.
pub(in crate::tracking) async fn expired_runs(
    tx: &mut Tx<'_>,
    before_ms: i64,
    limit: u32,
) -> Result<Vec<(i64, String, i64)>, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT no, id, experiment FROM tracking_run WHERE deleted_at IS NOT NULL AND deleted_at < $1
             ORDER BY deleted_at LIMIT $2",
            params![before_ms, limit],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.get("no")?, row.get("id")?, row.get("experiment")?)))
        .collect()
}

/// Removes the points of one series of a run; returns whether there was one.
pub(in crate::tracking) async fn purge_series(
    tx: &mut Tx<'_>,
    run: i64,
) -> Result<bool, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT key, series FROM tracking_metric WHERE run = $1 ORDER BY key LIMIT 1",
            params![run],
        )
        .await?;
    let Some(row) = row else {
        return Ok(false);
    };
    let (key, series): (String, i64) = (row.get("key")?, row.get("series")?);
    tx.execute(
        "DELETE FROM tracking_point WHERE run = $1 AND series = $2",
        params![run, series],
    )
    .await?;
    tx.execute(
        "DELETE FROM tracking_metric WHERE run = $1 AND key = $2",
        params![run, key],
    )
    .await?;
    Ok(true)
}

/// Removes a run whose points are gone, with its files.
pub(in crate::tracking) async fn purge_run(
    tx: &mut Tx<'_>,
    no: i64,
    id: &str,
    experiment: i64,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM tracking_param WHERE run = $1",
        "DELETE FROM tracking_tag WHERE run = $1",
        "DELETE FROM tracking_input WHERE run = $1",
        "DELETE FROM tracking_run_model WHERE run = $1",
        "DELETE FROM tracking_run WHERE no = $1",
    ] {
        tx.execute(statement, params![no]).await?;
    }
    tx.execute(
        "DELETE FROM tracking_artifact WHERE experiment = $1 AND folder = $2",
        params![experiment, id],
    )
    .await?;
    Ok(())
}

/// Removes logged models that were put into the bin before a moment, at most `limit`.
pub(in crate::tracking) async fn purge_models(
    tx: &mut Tx<'_>,
    before_ms: i64,
    limit: u32,
) -> Result<u64, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT id, experiment FROM tracking_model WHERE stage = 'deleted' AND updated_at < $1 LIMIT $2",
            params![before_ms, limit],
        )
        .await?;
    for row in &rows {
        let (id, experiment): (String, i64) = (row.get("id")?, row.get("experiment")?);
        purge_model(tx, &id, experiment).await?;
    }
    Ok(rows.len() as u64)
}

async fn purge_model(tx: &mut Tx<'_>, id: &str, experiment: i64) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM tracking_model_pair WHERE model = $1",
        "DELETE FROM tracking_model_metric WHERE model = $1",
        "DELETE FROM tracking_model WHERE id = $1",
    ] {
        tx.execute(statement, params![id]).await?;
    }
    tx.execute(
        "DELETE FROM tracking_artifact WHERE experiment = $1 AND folder = $2",
        params![experiment, format!("models/{id}")],
    )
    .await?;
    Ok(())
}

/// Removes experiments that are in the bin since before a moment and have no runs left.
pub(in crate::tracking) async fn purge_experiments(
    tx: &mut Tx<'_>,
    before_ms: i64,
    limit: u32,
) -> Result<u64, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT e.id FROM tracking_experiment e WHERE e.stage = 'deleted' AND e.updated_at < $1
                AND NOT EXISTS (SELECT 1 FROM tracking_run r WHERE r.experiment = e.id) LIMIT $2",
            params![before_ms, limit],
        )
        .await?;
    for row in &rows {
        let id: i64 = row.get("id")?;
        let models = tx
            .fetch_all(
                "SELECT id FROM tracking_model WHERE experiment = $1",
                params![id],
            )
            .await?;
        for model in &models {
            let model: String = model.get("id")?;
            purge_model(tx, &model, id).await?;
        }
        for statement in [
            "DELETE FROM tracking_dataset WHERE experiment = $1",
            "DELETE FROM tracking_artifact WHERE experiment = $1",
            "DELETE FROM tracking_experiment_tag WHERE experiment = $1",
            "DELETE FROM tracking_experiment WHERE id = $1",
        ] {
            tx.execute(statement, params![id]).await?;
        }
    }
    Ok(rows.len() as u64)
}

/// Gives up what a project had up to a moment: its experiments and runs go into the bin as if
/// they had been there for ever, under names that nobody asks for, and its registry goes at once.
pub(in crate::tracking) async fn abandon_project(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    until_ms: i64,
) -> Result<u64, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT id FROM tracking_experiment WHERE project = $1 AND created_at <= $2",
            params![project, until_ms],
        )
        .await?;
    for row in &rows {
        let id: i64 = row.get("id")?;
        tx.execute(
            "UPDATE tracking_experiment SET stage = 'deleted', updated_at = 0, project = $2, name = $3 WHERE id = $1",
            params![id, Scope::ABANDONED, id.to_string()],
        )
        .await?;
        tx.execute(
            "UPDATE tracking_run SET stage = 'deleted', deleted_at = 0 WHERE experiment = $1",
            params![id],
        )
        .await?;
    }
    for statement in [
        "DELETE FROM tracking_registered_tag WHERE project = $1 AND EXISTS (SELECT 1 FROM tracking_registered m
            WHERE m.project = $1 AND m.name = tracking_registered_tag.model AND m.created_at <= $2)",
        "DELETE FROM tracking_alias WHERE project = $1 AND EXISTS (SELECT 1 FROM tracking_registered m
            WHERE m.project = $1 AND m.name = tracking_alias.model AND m.created_at <= $2)",
        "DELETE FROM tracking_version WHERE project = $1 AND EXISTS (SELECT 1 FROM tracking_registered m
            WHERE m.project = $1 AND m.name = tracking_version.model AND m.created_at <= $2)",
        "DELETE FROM tracking_registered WHERE project = $1 AND created_at <= $2",
    ] {
        tx.execute(statement, params![project, until_ms]).await?;
    }
    Ok(rows.len() as u64)
}
