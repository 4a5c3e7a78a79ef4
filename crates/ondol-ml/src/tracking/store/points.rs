//! Metrics: every point, and the latest of each name.

use std::collections::{BTreeMap, HashSet};

use ondol_store::{Row, StoreError, Tx, Value, params};

use super::{Statement, fetch_in, insert_rows, value_of};
use crate::tracking::model::{Metric, RunInfo};

/// What decides which point is the latest: step, then time, then value. NaN counts as 0.
fn rank(metric: &Metric) -> (i64, i64, f64) {
    (metric.step, metric.timestamp, stored(metric.value).0)
}

/// A value as it is stored, and whether it is NaN. `-0` is 0, so that equal points are one.
fn stored(value: f64) -> (f64, bool) {
    if value.is_nan() {
        (0.0, true)
    } else {
        (value + 0.0, false)
    }
}

/// Adds points to a run. Points that are there already are not added again. Returns how many
/// series and points the run has now.
pub(in crate::tracking) async fn add_points(
    tx: &mut Tx<'_>,
    run: &RunInfo,
    metrics: &[Metric],
) -> Result<(i64, i64), StoreError> {
    let mut latest: BTreeMap<&str, &Metric> = BTreeMap::new();
    for metric in metrics {
        latest
            .entry(&metric.key)
            .and_modify(|known| {
                if rank(metric) > rank(known) {
                    *known = metric;
                }
            })
            .or_insert(metric);
    }
    let mut known: BTreeMap<String, (i64, (i64, i64, f64))> = BTreeMap::new();
    let keys: Vec<&&str> = latest.keys().collect();
    for chunk in keys.chunks(super::CHUNK) {
        let mut statement = Statement::new(
            "SELECT key, series, step, timestamp, value FROM tracking_metric WHERE run = ",
        );
        let size = chunk.len().next_power_of_two();
        let padded = chunk
            .iter()
            .copied()
            .chain(std::iter::repeat(chunk[chunk.len() - 1]))
            .take(size);
        statement
            .bind(run.no)
            .push(" AND key IN ")
            .list(padded.copied());
        for row in statement.fetch(tx).await? {
            let rank = (row.get("step")?, row.get("timestamp")?, row.get("value")?);
            known.insert(row.get("key")?, (row.get("series")?, rank));
        }
    }
    let mut series_count = run.series;
    let mut changed: Vec<Vec<Value>> = Vec::new();
    for (key, metric) in &latest {
        let (series, newer) = match known.get(*key) {
            Some((series, before)) => (*series, rank(metric) > *before),
            None => {
                series_count += 1;
                known.insert((*key).to_owned(), (series_count, rank(metric)));
                (series_count, true)
            }
        };
        if newer {
            let (value, is_nan) = stored(metric.value);
            changed.push(params![
                run.no,
                *key,
                series,
                metric.step,
                metric.timestamp,
                value,
                is_nan
            ]);
        }
    }
    let mut seen = HashSet::with_capacity(metrics.len());
    let mut points: Vec<Vec<Value>> = Vec::with_capacity(metrics.len());
    for metric in metrics {
        let Some((series, _)) = known.get(&metric.key) else {
            continue;
        };
        let (value, is_nan) = stored(metric.value);
        if seen.insert((
            *series,
            metric.timestamp,
            metric.step,
            value.to_bits(),
            is_nan,
        )) {
            points.push(params![
                run.no,
                *series,
                metric.timestamp,
                metric.step,
                value,
                is_nan
            ]);
        }
    }
    let added = insert_rows(
        tx,
        "INSERT INTO tracking_point (run, series, timestamp, step, value, is_nan)",
        "ON CONFLICT DO NOTHING",
        points,
    )
    .await?;
    insert_rows(
        tx,
        "INSERT INTO tracking_metric (run, key, series, step, timestamp, value, is_nan)",
        "ON CONFLICT (run, key) DO UPDATE SET step = excluded.step, timestamp = excluded.timestamp,
            value = excluded.value, is_nan = excluded.is_nan",
        changed,
    )
    .await?;
    let points = run.points + i64::try_from(added).unwrap_or(i64::MAX);
    tx.execute(
        "UPDATE tracking_run SET series = $2, points = $3 WHERE no = $1",
        params![run.no, series_count, points],
    )
    .await?;
    Ok((series_count, points))
}

/// Which part of a history is read.
pub(in crate::tracking) struct Window {
    /// First step.
    pub(in crate::tracking) start: Option<i64>,
    /// Last step.
    pub(in crate::tracking) end: Option<i64>,
    /// How many points are passed over.
    pub(in crate::tracking) offset: i64,
    /// How many are read.
    pub(in crate::tracking) limit: i64,
}

fn history_statement(columns: &str, run: &RunInfo, key: &str, window: &Window) -> Statement {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(columns)
        .push(" FROM tracking_metric m JOIN tracking_point p ON p.run = m.run AND p.series = m.series WHERE m.run = ")
        .bind(run.no)
        .push(" AND m.key = ")
        .bind(key);
    if let Some(start) = window.start {
        statement.push(" AND p.step >= ").bind(start);
    }
    if let Some(end) = window.end {
        statement.push(" AND p.step <= ").bind(end);
    }
    statement
}

fn point_of(row: &Row, key: &str) -> Result<Metric, StoreError> {
    Ok(Metric {
        key: key.to_owned(),
        value: value_of(row)?,
        timestamp: row.get("timestamp")?,
        step: row.get("step")?,
        model_id: None,
        dataset_name: None,
        dataset_digest: None,
        run_id: None,
    })
}

/// How many points a part of a history has.
pub(in crate::tracking) async fn history_length(
    tx: &mut Tx<'_>,
    run: &RunInfo,
    key: &str,
    window: &Window,
) -> Result<i64, StoreError> {
    let rows = history_statement("COUNT(*) AS n", run, key, window)
        .fetch(tx)
        .await?;
    rows.first().map_or(Ok(0), |row| row.get("n"))
}

/// A part of a history, oldest first.
pub(in crate::tracking) async fn history(
    tx: &mut Tx<'_>,
    run: &RunInfo,
    key: &str,
    window: &Window,
) -> Result<Vec<Metric>, StoreError> {
    let columns = "p.timestamp, p.step, p.value, p.is_nan";
    let mut statement = history_statement(columns, run, key, window);
    statement
        .push(" ORDER BY p.timestamp, p.step, p.value, p.is_nan LIMIT ")
        .bind(window.limit)
        .push(" OFFSET ")
        .bind(window.offset);
    let rows = statement.fetch(tx).await?;
    rows.iter().map(|row| point_of(row, key)).collect()
}

/// The points of a part of a history at some places, counted from 1.
pub(in crate::tracking) async fn history_at(
    tx: &mut Tx<'_>,
    run: &RunInfo,
    key: &str,
    window: &Window,
    places: &[i64],
) -> Result<Vec<Metric>, StoreError> {
    let columns = "p.timestamp, p.step, p.value, p.is_nan, \
        ROW_NUMBER() OVER (ORDER BY p.timestamp, p.step, p.value, p.is_nan) AS place";
    let inner = history_statement(columns, run, key, window);
    let mut found = Vec::with_capacity(places.len());
    for chunk in places.chunks(4_096) {
        let mut statement = Statement::new("SELECT timestamp, step, value, is_nan, place FROM (");
        statement.params.clone_from(&inner.params);
        statement
            .push(&inner.text)
            .push(") q WHERE q.place IN ")
            .list(chunk.iter().copied())
            .push(" ORDER BY q.place");
        for row in statement.fetch(tx).await? {
            found.push(point_of(&row, key)?);
        }
    }
    Ok(found)
}

/// Adds metrics to the logged models that they name. Only models of the run's experiment count.
pub(in crate::tracking) async fn add_model_metrics(
    tx: &mut Tx<'_>,
    run: &RunInfo,
    metrics: &[Metric],
) -> Result<(), StoreError> {
    let named: HashSet<&str> = metrics
        .iter()
        .filter_map(|metric| metric.model_id.as_deref())
        .collect();
    if named.is_empty() {
        return Ok(());
    }
    let keys: Vec<Value> = named
        .into_iter()
        .map(|id| Value::Text(id.to_owned()))
        .collect();
    let known = fetch_in(
        tx,
        "SELECT id, experiment FROM tracking_model WHERE id",
        "",
        &keys,
    )
    .await?
    .iter()
    .filter_map(|row| {
        let experiment: i64 = row.get("experiment").ok()?;
        (experiment == run.experiment).then(|| row.get::<String>("id").ok())?
    })
    .collect::<HashSet<String>>();
    let mut seen = HashSet::new();
    let rows = metrics
        .iter()
        .filter_map(|metric| {
            let model = metric.model_id.as_ref().filter(|id| known.contains(*id))?;
            let key = (
                model.clone(),
                metric.key.clone(),
                metric.timestamp,
                metric.step,
            );
            if !seen.insert(key) {
                return None;
            }
            let (value, is_nan) = stored(metric.value);
            Some(params![
                model,
                &metric.key,
                &run.id,
                metric.timestamp,
                metric.step,
                value,
                is_nan,
                metric.dataset_name.clone(),
                metric.dataset_digest.clone()
            ])
        })
        .collect();
    insert_rows(
        tx,
        "INSERT INTO tracking_model_metric (model, key, run, timestamp, step, value, is_nan, dataset_name, dataset_digest)",
        "ON CONFLICT (model, key, run, timestamp, step) DO UPDATE SET value = excluded.value, is_nan = excluded.is_nan",
        rows,
    )
    .await?;
    Ok(())
}
