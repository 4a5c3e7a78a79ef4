//! Logged models.

use std::collections::HashMap;

use ondol_store::{Row, StoreError, Tx, Value, params};

use super::{Statement, fetch_in, insert_rows, scope_of, value_of};
use crate::tracking::model::{LoggedModel, Metric, ModelStatus, Pair, Stage};

pub(in crate::tracking) const MODEL_COLUMNS: &str = "m.id, m.experiment, e.project, m.name, m.artifact_uri, m.model_type, \
     m.source_run, m.status, m.stage, m.created_at, m.updated_at";

pub(in crate::tracking) fn model_of(row: &Row) -> Result<LoggedModel, StoreError> {
    let (status, stage): (String, String) = (row.get("status")?, row.get("stage")?);
    Ok(LoggedModel {
        id: row.get("id")?,
        scope: scope_of(row, "project")?,
        experiment: row.get("experiment")?,
        name: row.get("name")?,
        artifact_uri: row.get("artifact_uri")?,
        model_type: row.get("model_type")?,
        source_run: row.get("source_run")?,
        status: ModelStatus::read(&status).unwrap_or(ModelStatus::Pending),
        stage: Stage::from_column(&stage),
        created: row.get("created_at")?,
        updated: row.get("updated_at")?,
        params: Vec::new(),
        tags: Vec::new(),
        metrics: Vec::new(),
    })
}

/// One logged model without its pairs and metrics, also when it is in the bin.
pub(in crate::tracking) async fn logged_model(
    tx: &mut Tx<'_>,
    id: &str,
) -> Result<Option<LoggedModel>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(MODEL_COLUMNS)
        .push(" FROM tracking_model m JOIN tracking_experiment e ON e.id = m.experiment WHERE m.id = ")
        .bind(id);
    let rows = statement.fetch(tx).await?;
    rows.first().map(model_of).transpose()
}

/// Fills in parameters, tags and metrics.
pub(in crate::tracking) async fn model_data(
    tx: &mut Tx<'_>,
    models: &mut [LoggedModel],
) -> Result<(), StoreError> {
    let keys: Vec<Value> = models
        .iter()
        .map(|model| Value::Text(model.id.clone()))
        .collect();
    let places: HashMap<String, usize> = models
        .iter()
        .enumerate()
        .map(|(at, model)| (model.id.clone(), at))
        .collect();
    let head = "SELECT model, kind, key, value FROM tracking_model_pair WHERE model";
    for row in fetch_in(tx, head, "ORDER BY model, kind, key", &keys).await? {
        let (id, kind): (String, String) = (row.get("model")?, row.get("kind")?);
        let pair = Pair {
            key: row.get("key")?,
            value: row.get("value")?,
        };
        if let Some(at) = places.get(&id) {
            match kind.as_str() {
                "param" => models[*at].params.push(pair),
                _ => models[*at].tags.push(pair),
            }
        }
    }
    let head =
        "SELECT model, key, run, timestamp, step, value, is_nan, dataset_name, dataset_digest
        FROM tracking_model_metric WHERE model";
    for row in fetch_in(tx, head, "ORDER BY model, key, timestamp, step", &keys).await? {
        let id: String = row.get("model")?;
        let metric = Metric {
            key: row.get("key")?,
            value: value_of(&row)?,
            timestamp: row.get("timestamp")?,
            step: row.get("step")?,
            model_id: Some(id.clone()),
            dataset_name: row.get("dataset_name")?,
            dataset_digest: row.get("dataset_digest")?,
            run_id: Some(row.get("run")?),
        };
        if let Some(at) = places.get(&id) {
            models[*at].metrics.push(metric);
        }
    }
    Ok(())
}

pub(in crate::tracking) async fn insert_model(
    tx: &mut Tx<'_>,
    model: &LoggedModel,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO tracking_model (id, experiment, name, artifact_uri, model_type, source_run, status, stage, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'active', $8, $8)",
        params![
            &model.id,
            model.experiment,
            &model.name,
            &model.artifact_uri,
            model.model_type.clone(),
            model.source_run.clone(),
            model.status.word(),
            model.created
        ],
    )
    .await?;
    set_model_pairs(tx, &model.id, "param", &model.params).await?;
    set_model_pairs(tx, &model.id, "tag", &model.tags).await
}

/// Sets parameters (`param`) or tags (`tag`); their keys must differ.
pub(in crate::tracking) async fn set_model_pairs(
    tx: &mut Tx<'_>,
    id: &str,
    kind: &str,
    pairs: &[Pair],
) -> Result<(), StoreError> {
    let rows = pairs
        .iter()
        .map(|pair| params![id, kind, &pair.key, &pair.value])
        .collect();
    insert_rows(
        tx,
        "INSERT INTO tracking_model_pair (model, kind, key, value)",
        "ON CONFLICT (model, kind, key) DO UPDATE SET value = excluded.value",
        rows,
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn count_model_pairs(
    tx: &mut Tx<'_>,
    id: &str,
) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM tracking_model_pair WHERE model = $1",
        params![id],
    )
    .await?
    .get("n")
}

pub(in crate::tracking) async fn delete_model_tag(
    tx: &mut Tx<'_>,
    id: &str,
    key: &str,
) -> Result<bool, StoreError> {
    let deleted = tx
        .execute(
            "DELETE FROM tracking_model_pair WHERE model = $1 AND kind = 'tag' AND key = $2",
            params![id, key],
        )
        .await?;
    Ok(deleted > 0)
}

pub(in crate::tracking) async fn update_model(
    tx: &mut Tx<'_>,
    id: &str,
    status: ModelStatus,
    stage: Stage,
) -> Result<(), StoreError> {
    let now = tx.now().as_millis();
    tx.execute(
        "UPDATE tracking_model SET status = $2, stage = $3, updated_at = $4 WHERE id = $1",
        params![id, status.word(), stage.text(), now],
    )
    .await?;
    Ok(())
}

/// How many logged models an experiment has, those in the bin included.
pub(in crate::tracking) async fn count_models(
    tx: &mut Tx<'_>,
    experiment: i64,
) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM tracking_model WHERE experiment = $1",
        params![experiment],
    )
    .await?
    .get("n")
}
