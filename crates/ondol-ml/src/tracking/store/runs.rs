//! Runs, parameters and tags.

use std::collections::HashMap;

use ondol_store::{Row, StoreError, Tx, Value, params};

use super::{Statement, fetch_in, insert_rows, scope_of, value_of};
use crate::tracking::model::{Metric, Pair, Run, RunInfo, RunStatus, Stage};

/// Columns of [`run_of`]: `r` is the run, `e` its experiment.
pub(in crate::tracking) const RUN_COLUMNS: &str = "r.no, r.id, r.experiment, e.project, r.name, r.user_id, r.status, \
     r.start_time, r.end_time, r.stage, r.artifact_uri, r.series, r.points";

pub(in crate::tracking) fn run_of(row: &Row) -> Result<RunInfo, StoreError> {
    let (status, stage): (String, String) = (row.get("status")?, row.get("stage")?);
    Ok(RunInfo {
        no: row.get("no")?,
        id: row.get("id")?,
        scope: scope_of(row, "project")?,
        experiment: row.get("experiment")?,
        name: row.get("name")?,
        user: row.get("user_id")?,
        status: RunStatus::read(&status).unwrap_or(RunStatus::Running),
        start: row.get("start_time")?,
        end: row.get("end_time")?,
        stage: Stage::from_column(&stage),
        artifact_uri: row.get("artifact_uri")?,
        series: row.get("series")?,
        points: row.get("points")?,
    })
}

/// One run.
pub(in crate::tracking) async fn run(
    tx: &mut Tx<'_>,
    id: &str,
) -> Result<Option<RunInfo>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(RUN_COLUMNS)
        .push(
            " FROM tracking_run r JOIN tracking_experiment e ON e.id = r.experiment WHERE r.id = ",
        )
        .bind(id);
    let rows = statement.fetch(tx).await?;
    rows.first().map(run_of).transpose()
}

pub(in crate::tracking) async fn insert_run(
    tx: &mut Tx<'_>,
    run: &RunInfo,
    tags: &[Pair],
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO tracking_run (no, id, experiment, name, user_id, status, start_time, end_time, stage, deleted_at,
            artifact_uri, series, points) VALUES ($1, $2, $3, $4, $5, $6, $7, NULL, 'active', NULL, $8, 0, 0)",
        params![
            run.no,
            &run.id,
            run.experiment,
            &run.name,
            &run.user,
            run.status.text(),
            run.start,
            &run.artifact_uri
        ],
    )
    .await?;
    set_tags(tx, run.no, tags).await
}

pub(in crate::tracking) async fn update_run(
    tx: &mut Tx<'_>,
    run: &RunInfo,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE tracking_run SET name = $2, status = $3, end_time = $4 WHERE no = $1",
        params![run.no, &run.name, run.status.text(), run.end],
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn stage_run(
    tx: &mut Tx<'_>,
    no: i64,
    stage: Stage,
) -> Result<(), StoreError> {
    let deleted = (stage == Stage::Deleted).then_some(tx.now().as_millis());
    tx.execute(
        "UPDATE tracking_run SET stage = $2, deleted_at = $3 WHERE no = $1",
        params![no, stage.text(), deleted],
    )
    .await?;
    Ok(())
}

fn pair_rows(run: i64, pairs: &[Pair]) -> Vec<Vec<Value>> {
    pairs
        .iter()
        .map(|pair| params![run, &pair.key, &pair.value])
        .collect()
}

/// Sets tags; their keys must differ.
pub(in crate::tracking) async fn set_tags(
    tx: &mut Tx<'_>,
    run: i64,
    tags: &[Pair],
) -> Result<(), StoreError> {
    insert_rows(
        tx,
        "INSERT INTO tracking_tag (run, key, value)",
        "ON CONFLICT (run, key) DO UPDATE SET value = excluded.value",
        pair_rows(run, tags),
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn delete_tag(
    tx: &mut Tx<'_>,
    run: i64,
    key: &str,
) -> Result<bool, StoreError> {
    let deleted = tx
        .execute(
            "DELETE FROM tracking_tag WHERE run = $1 AND key = $2",
            params![run, key],
        )
        .await?;
    Ok(deleted > 0)
}

/// Adds parameters that are not there; their keys must differ. Those that are there with another
/// value come back with the value they have.
pub(in crate::tracking) async fn add_params(
    tx: &mut Tx<'_>,
    run: i64,
    params: &[Pair],
) -> Result<Vec<Pair>, StoreError> {
    let added = insert_rows(
        tx,
        "INSERT INTO tracking_param (run, key, value)",
        "ON CONFLICT (run, key) DO NOTHING",
        pair_rows(run, params),
    )
    .await?;
    if added == params.len() as u64 {
        return Ok(Vec::new());
    }
    let mut statement = Statement::new("SELECT key, value FROM tracking_param WHERE run = ");
    statement
        .bind(run)
        .push(" AND key IN ")
        .list(params.iter().map(|pair| &pair.key))
        .push(" ORDER BY key");
    let rows = statement.fetch(tx).await?;
    let mut other = Vec::new();
    for row in rows {
        let pair = pair_of(&row)?;
        if !params.contains(&pair) {
            other.push(pair);
        }
    }
    Ok(other)
}

/// How many parameters and tags a run has.
pub(in crate::tracking) async fn count_pairs(tx: &mut Tx<'_>, run: i64) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT (SELECT COUNT(*) FROM tracking_param WHERE run = $1) + (SELECT COUNT(*) FROM tracking_tag WHERE run = $1) AS n",
        params![run],
    )
    .await?
    .get("n")
}

fn pair_of(row: &Row) -> Result<Pair, StoreError> {
    Ok(Pair {
        key: row.get("key")?,
        value: row.get("value")?,
    })
}

/// Runs with everything that was logged to them, in the order given.
pub(in crate::tracking) async fn with_data(
    tx: &mut Tx<'_>,
    infos: Vec<RunInfo>,
) -> Result<Vec<Run>, StoreError> {
    let keys: Vec<Value> = infos.iter().map(|info| Value::Int(info.no)).collect();
    let places: HashMap<i64, usize> = infos
        .iter()
        .enumerate()
        .map(|(at, info)| (info.no, at))
        .collect();
    let mut runs: Vec<Run> = infos
        .into_iter()
        .map(|info| Run {
            info,
            metrics: Vec::new(),
            params: Vec::new(),
            tags: Vec::new(),
            datasets: Vec::new(),
            model_inputs: Vec::new(),
            model_outputs: Vec::new(),
        })
        .collect();
    let place = |row: &Row| -> Result<usize, StoreError> {
        let no: i64 = row.get("run")?;
        places.get(&no).copied().ok_or_else(|| StoreError::Column {
            column: "run".to_owned(),
            problem: format!("{no} was not asked for"),
        })
    };
    let head = "SELECT run, key, step, timestamp, value, is_nan FROM tracking_metric WHERE run";
    for row in fetch_in(tx, head, "ORDER BY run, key", &keys).await? {
        runs[place(&row)?].metrics.push(Metric {
            key: row.get("key")?,
            value: value_of(&row)?,
            timestamp: row.get("timestamp")?,
            step: row.get("step")?,
            model_id: None,
            dataset_name: None,
            dataset_digest: None,
            run_id: None,
        });
    }
    let head = "SELECT run, key, value FROM tracking_param WHERE run";
    for row in fetch_in(tx, head, "ORDER BY run, key", &keys).await? {
        runs[place(&row)?].params.push(pair_of(&row)?);
    }
    let head = "SELECT run, key, value FROM tracking_tag WHERE run";
    for row in fetch_in(tx, head, "ORDER BY run, key", &keys).await? {
        runs[place(&row)?].tags.push(pair_of(&row)?);
    }
    for (row, input) in super::inputs_of(tx, &keys).await? {
        runs[place(&row)?].datasets.push(input);
    }
    let head = "SELECT run, direction, model, step FROM tracking_run_model WHERE run";
    for row in fetch_in(tx, head, "ORDER BY run, direction, step, model", &keys).await? {
        let (direction, model): (String, String) = (row.get("direction")?, row.get("model")?);
        let run = &mut runs[place(&row)?];
        if direction == "in" {
            run.model_inputs.push(model);
        } else {
            run.model_outputs.push((model, row.get("step")?));
        }
    }
    Ok(runs)
}

/// How many runs there are, those in the bin included.
pub(in crate::tracking) async fn count_all_runs(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.fetch_one("SELECT COUNT(*) AS n FROM tracking_run", params![])
        .await?
        .get("n")
}
