//! Experiments and their tags.

use ondol_store::{Row, StoreError, Tx, Value, params};

use super::{Statement, fetch_in, next_number, scope_of};
use crate::tracking::model::{Experiment, Pair, Scope, Stage};

pub(in crate::tracking) const EXPERIMENT_COLUMNS: &str =
    "e.id, e.project, e.name, e.location, e.stage, e.created_at, e.updated_at";

pub(in crate::tracking) fn experiment_of(row: &Row) -> Result<Experiment, StoreError> {
    let stage: String = row.get("stage")?;
    Ok(Experiment {
        id: row.get("id")?,
        scope: scope_of(row, "project")?,
        name: row.get("name")?,
        location: row.get("location")?,
        stage: Stage::from_column(&stage),
        created: row.get("created_at")?,
        updated: row.get("updated_at")?,
        tags: Vec::new(),
    })
}

/// Fills in the tags of experiments.
pub(in crate::tracking) async fn experiment_tags(
    tx: &mut Tx<'_>,
    experiments: &mut [Experiment],
) -> Result<(), StoreError> {
    let keys: Vec<Value> = experiments
        .iter()
        .map(|experiment| Value::Int(experiment.id))
        .collect();
    let rows = fetch_in(
        tx,
        "SELECT experiment, key, value FROM tracking_experiment_tag WHERE experiment",
        "ORDER BY experiment, key",
        &keys,
    )
    .await?;
    let places: std::collections::HashMap<i64, usize> = experiments
        .iter()
        .enumerate()
        .map(|(at, experiment)| (experiment.id, at))
        .collect();
    for row in rows {
        let id: i64 = row.get("experiment")?;
        if let Some(at) = places.get(&id) {
            experiments[*at].tags.push(Pair {
                key: row.get("key")?,
                value: row.get("value")?,
            });
        }
    }
    Ok(())
}

/// One experiment without its tags.
pub(in crate::tracking) async fn experiment(
    tx: &mut Tx<'_>,
    id: i64,
) -> Result<Option<Experiment>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(EXPERIMENT_COLUMNS)
        .push(" FROM tracking_experiment e WHERE e.id = ")
        .bind(id);
    let rows = statement.fetch(tx).await?;
    rows.first().map(experiment_of).transpose()
}

/// The experiments of a name in any scope, at most `limit`.
pub(in crate::tracking) async fn experiments_named(
    tx: &mut Tx<'_>,
    name: &str,
    limit: i64,
) -> Result<Vec<Experiment>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(EXPERIMENT_COLUMNS)
        .push(" FROM tracking_experiment e WHERE e.name = ")
        .bind(name)
        .push(" ORDER BY e.project LIMIT ")
        .bind(limit);
    let rows = statement.fetch(tx).await?;
    rows.iter().map(experiment_of).collect()
}

/// The experiment of a name in one scope.
pub(in crate::tracking) async fn experiment_in(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
) -> Result<Option<Experiment>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(EXPERIMENT_COLUMNS)
        .push(" FROM tracking_experiment e WHERE e.project = ")
        .bind(scope.column())
        .push(" AND e.name = ")
        .bind(name);
    let rows = statement.fetch(tx).await?;
    rows.first().map(experiment_of).transpose()
}

/// Makes an experiment; a given number is for the installation's default one alone.
pub(in crate::tracking) async fn insert_experiment(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    location: Option<&str>,
    number: Option<i64>,
    tags: &[Pair],
) -> Result<Experiment, StoreError> {
    let now = tx.now().as_millis();
    let id = match number {
        Some(number) => number,
        None => next_number(tx, "experiment").await?,
    };
    let location = location.map_or_else(|| format!("mlflow-artifacts:/{id}"), ToOwned::to_owned);
    tx.execute(
        "INSERT INTO tracking_experiment (id, project, name, location, stage, created_at, updated_at)
         VALUES ($1, $2, $3, $4, 'active', $5, $5)",
        params![id, scope.column(), name, &location, now],
    )
    .await?;
    for tag in tags {
        set_experiment_tag(tx, id, tag).await?;
    }
    Ok(Experiment {
        id,
        scope: scope.clone(),
        name: name.to_owned(),
        location,
        stage: Stage::Active,
        created: now,
        updated: now,
        tags: tags.to_vec(),
    })
}

pub(in crate::tracking) async fn set_experiment_tag(
    tx: &mut Tx<'_>,
    id: i64,
    tag: &Pair,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO tracking_experiment_tag (experiment, key, value) VALUES ($1, $2, $3)
         ON CONFLICT (experiment, key) DO UPDATE SET value = excluded.value",
        params![id, &tag.key, &tag.value],
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn delete_experiment_tag(
    tx: &mut Tx<'_>,
    id: i64,
    key: &str,
) -> Result<bool, StoreError> {
    let deleted = tx
        .execute(
            "DELETE FROM tracking_experiment_tag WHERE experiment = $1 AND key = $2",
            params![id, key],
        )
        .await?;
    Ok(deleted > 0)
}

pub(in crate::tracking) async fn count_experiment_tags(
    tx: &mut Tx<'_>,
    id: i64,
) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM tracking_experiment_tag WHERE experiment = $1",
        params![id],
    )
    .await?
    .get("n")
}

pub(in crate::tracking) async fn rename_experiment(
    tx: &mut Tx<'_>,
    id: i64,
    name: &str,
) -> Result<(), StoreError> {
    let now = tx.now().as_millis();
    tx.execute(
        "UPDATE tracking_experiment SET name = $2, updated_at = $3 WHERE id = $1",
        params![id, name, now],
    )
    .await?;
    Ok(())
}

/// Puts an experiment and its runs into the bin, or takes them out.
pub(in crate::tracking) async fn stage_experiment(
    tx: &mut Tx<'_>,
    id: i64,
    stage: Stage,
) -> Result<(), StoreError> {
    let now = tx.now();
    let deleted = (stage == Stage::Deleted).then_some(now.as_millis());
    tx.execute(
        "UPDATE tracking_experiment SET stage = $2, updated_at = $3 WHERE id = $1",
        params![id, stage.text(), now.as_millis()],
    )
    .await?;
    tx.execute(
        "UPDATE tracking_run SET stage = $2, deleted_at = $3 WHERE experiment = $1 AND stage <> $2",
        params![id, stage.text(), deleted],
    )
    .await?;
    Ok(())
}
