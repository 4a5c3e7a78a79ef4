//! Changes of rows. Callers append the event in the same transaction.

use ondol_store::{Tx, params};
use ondol_types::{Digest, ProjectName};

use super::{COLUMNS, sql};
use crate::error::MlResult;
use crate::gate::Metrics;
use crate::model::{ModelEntry, ModelVersion, NewVersion, VersionState, metric_json};

/// Promotions that are kept per model.
const KEEP_PROMOTIONS: i64 = 100;

/// Inserts a version with the next number of its model, which is made when it is new.
pub(crate) async fn insert_version(
    tx: &mut Tx<'_>,
    new: &NewVersion,
    digest: &Digest,
    files: &[ModelEntry],
    author: &str,
) -> MlResult<ModelVersion> {
    tx.admit_project(&new.project).await?;
    let now = tx.now();
    let row = tx
        .fetch_one(
            "INSERT INTO model (project, name, champion, newest, created_at, updated_at) VALUES ($1, $2, NULL, 1, $3, $3)
             ON CONFLICT (project, name) DO UPDATE SET newest = model.newest + 1, updated_at = excluded.updated_at
             RETURNING newest",
            params![&new.project, &new.model, now],
        )
        .await?;
    let number: i64 = row.get("newest")?;
    let version = ModelVersion {
        project: new.project.clone(),
        model: new.model.clone(),
        version: number,
        digest: digest.clone(),
        size: files.iter().map(|file| file.size).sum(),
        lineage: new.lineage.clone(),
        metrics: new.metrics.clone(),
        primary_metric: new.primary_metric.clone(),
        params: new.params.clone(),
        state: VersionState::Candidate,
        reason: None,
        author: author.to_owned(),
        created_at: now,
        decided_at: None,
    };
    tx.execute(
        sql(format!(
            "INSERT INTO model_version ({COLUMNS})
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"
        )),
        params![
            &version.project,
            &version.model,
            number,
            digest,
            version.size,
            version.lineage.run,
            version.lineage.dataset.as_ref(),
            version.lineage.data.as_ref(),
            version.lineage.data_number,
            version.lineage.commit.as_ref(),
            metrics_text(&version.metrics),
            version.primary_metric.clone(),
            serde_json::json!(version.params),
            version.state.to_string(),
            None::<String>,
            author,
            new.chain.clone(),
            now,
            None::<i64>,
        ],
    )
    .await?;
    for file in files {
        tx.execute(
            "INSERT INTO model_file (project, model, version, path, digest, size) VALUES ($1, $2, $3, $4, $5, $6)",
            params![&version.project, &version.model, number, &file.path, &file.digest, file.size],
        )
        .await?;
    }
    Ok(version)
}

fn metrics_text(metrics: &Metrics) -> String {
    let object: serde_json::Map<String, serde_json::Value> = metrics
        .iter()
        .map(|(name, value)| (name.clone(), metric_json(*value)))
        .collect();
    serde_json::Value::Object(object).to_string()
}

pub(crate) async fn set_state(
    tx: &mut Tx<'_>,
    version: &ModelVersion,
    state: VersionState,
    reason: &str,
) -> MlResult<()> {
    let now = tx.now();
    tx.execute(
        "UPDATE model_version SET state = $4, reason = $5, decided_at = $6 WHERE project = $1 AND model = $2 AND version = $3",
        params![&version.project, &version.model, version.version, state.to_string(), reason, now],
    )
    .await?;
    Ok(())
}

/// Makes a version champion: archives the one before, moves the alias, remembers the change.
pub(crate) async fn promote(
    tx: &mut Tx<'_>,
    version: &ModelVersion,
    actor: &str,
    reason: &str,
) -> MlResult<()> {
    let now = tx.now();
    let key = || params![&version.project, &version.model];
    tx.execute(
        "UPDATE model_version SET state = 'archived' WHERE project = $1 AND model = $2 AND state = 'champion'",
        key(),
    )
    .await?;
    set_state(tx, version, VersionState::Champion, reason).await?;
    tx.execute(
        "UPDATE model SET champion = $3, updated_at = $4 WHERE project = $1 AND name = $2",
        params![&version.project, &version.model, version.version, now],
    )
    .await?;
    let row = tx
        .fetch_one("SELECT COALESCE(MAX(seq), 0) AS seq FROM model_promotion WHERE project = $1 AND model = $2", key())
        .await?;
    let seq = row.get::<i64>("seq")? + 1;
    tx.execute(
        "INSERT INTO model_promotion (project, model, seq, version, at, actor, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![&version.project, &version.model, seq, version.version, now, actor, reason],
    )
    .await?;
    tx.execute(
        "DELETE FROM model_promotion WHERE project = $1 AND model = $2 AND seq <= $3",
        params![&version.project, &version.model, seq - KEEP_PROMOTIONS],
    )
    .await?;
    Ok(())
}

pub(crate) async fn delete_version(tx: &mut Tx<'_>, version: &ModelVersion) -> MlResult<()> {
    for statement in [
        "DELETE FROM model_file WHERE project = $1 AND model = $2 AND version = $3",
        "DELETE FROM model_version WHERE project = $1 AND model = $2 AND version = $3",
    ] {
        let key = params![&version.project, &version.model, version.version];
        tx.execute(statement, key).await?;
    }
    Ok(())
}

/// Deletes everything that a project has.
pub(crate) async fn delete_project(tx: &mut Tx<'_>, project: &ProjectName) -> MlResult<()> {
    for statement in [
        "DELETE FROM model_file WHERE project = $1",
        "DELETE FROM model_promotion WHERE project = $1",
        "DELETE FROM model_version WHERE project = $1",
        "DELETE FROM model WHERE project = $1",
    ] {
        tx.execute(statement, params![project]).await?;
    }
    Ok(())
}
