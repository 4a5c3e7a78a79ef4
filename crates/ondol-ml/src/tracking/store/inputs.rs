//! What runs read and make: datasets and logged models.

use ondol_store::{Row, StoreError, Tx, Value, params};

use super::{fetch_in, insert_rows};
use crate::tracking::model::{Dataset, DatasetInput, Pair, RunInfo};

/// The tag of an input that says what the dataset is used for.
const CONTEXT: &str = "mlflow.data.context";

/// Adds datasets to a run. One that the experiment knows under the same name and digest is
/// reused; one that the run reads already stays as it is.
pub(in crate::tracking) async fn add_inputs(
    tx: &mut Tx<'_>,
    run: &RunInfo,
    inputs: &[DatasetInput],
) -> Result<(), StoreError> {
    let row = tx
        .fetch_one(
            "SELECT COALESCE(MAX(place), 0) AS place FROM tracking_input WHERE run = $1",
            params![run.no],
        )
        .await?;
    let mut place: i64 = row.get("place")?;
    for input in inputs {
        let dataset = &input.dataset;
        tx.execute(
            "INSERT INTO tracking_dataset (experiment, name, digest, source_type, source, schema_text, profile)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (experiment, name, digest) DO NOTHING",
            params![
                run.experiment,
                &dataset.name,
                &dataset.digest,
                &dataset.source_type,
                &dataset.source,
                dataset.schema.clone(),
                dataset.profile.clone()
            ],
        )
        .await?;
        place += 1;
        let context = input.tags.iter().find(|tag| tag.key == CONTEXT);
        let tags: Vec<[&str; 2]> = input
            .tags
            .iter()
            .map(|tag| [tag.key.as_str(), tag.value.as_str()])
            .collect();
        tx.execute(
            "INSERT INTO tracking_input (run, name, digest, experiment, place, context, tags)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (run, name, digest) DO NOTHING",
            params![
                run.no,
                &dataset.name,
                &dataset.digest,
                run.experiment,
                place,
                context.map(|tag| tag.value.clone()),
                serde_json::json!(tags)
            ],
        )
        .await?;
    }
    Ok(())
}

/// How many datasets and models a run reads and makes.
pub(in crate::tracking) async fn count_inputs(
    tx: &mut Tx<'_>,
    run: i64,
) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT (SELECT COUNT(*) FROM tracking_input WHERE run = $1)
            + (SELECT COUNT(*) FROM tracking_run_model WHERE run = $1) AS n",
        params![run],
    )
    .await?
    .get("n")
}

/// The datasets of runs, each with a row that says `run`.
pub(super) async fn inputs_of(
    tx: &mut Tx<'_>,
    runs: &[Value],
) -> Result<Vec<(Row, DatasetInput)>, StoreError> {
    let rows = fetch_in(
        tx,
        "SELECT i.run, i.name, i.digest, i.tags, d.source_type, d.source, d.schema_text, d.profile
         FROM tracking_input i JOIN tracking_dataset d
           ON d.experiment = i.experiment AND d.name = i.name AND d.digest = i.digest WHERE i.run",
        "ORDER BY i.run, i.place",
        runs,
    )
    .await?;
    rows.into_iter()
        .map(|row| {
            let tags: Vec<[String; 2]> = row.json("tags")?;
            let input = DatasetInput {
                dataset: Dataset {
                    name: row.get("name")?,
                    digest: row.get("digest")?,
                    source_type: row.get("source_type")?,
                    source: row.get("source")?,
                    schema: row.get("schema_text")?,
                    profile: row.get("profile")?,
                },
                tags: tags
                    .into_iter()
                    .map(|[key, value]| Pair { key, value })
                    .collect(),
            };
            Ok((row, input))
        })
        .collect()
}

/// Adds logged models that a run reads (`in`) or makes (`out`), with the step.
pub(in crate::tracking) async fn add_run_models(
    tx: &mut Tx<'_>,
    run: i64,
    direction: &str,
    models: &[(String, i64)],
) -> Result<(), StoreError> {
    let rows = models
        .iter()
        .map(|(model, step)| params![run, direction, model, *step])
        .collect();
    insert_rows(
        tx,
        "INSERT INTO tracking_run_model (run, direction, model, step)",
        "ON CONFLICT DO NOTHING",
        rows,
    )
    .await?;
    Ok(())
}
