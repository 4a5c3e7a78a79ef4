//! Rows of steps.

use ondol_store::{AssertSqlSafe, Params, Row, StoreError, Tx, params};
use ondol_types::{RunId, StepId, StepName};

use super::json;
use crate::model::{Definition, Step};

const COLUMNS: &str = "id, run, ordinal, name, definition, needs, state, outcome, attempt, faults, workload, exit_code, \
     reason, outputs, not_before, holder, fence, lease_until, started_at, finished_at";

fn from_row(row: &Row) -> Result<Step, StoreError> {
    let definition: Definition = row.json("definition")?;
    Ok(Step {
        id: row.parse("id")?,
        run: row.parse("run")?,
        ordinal: row.get("ordinal")?,
        name: row.parse("name")?,
        label: definition.matrix.as_ref().map(|of| of.label.clone()),
        kind: definition.kind(),
        needs: row.json("needs")?,
        state: row.parse("state")?,
        outcome: row.parse_opt("outcome")?,
        attempt: row.get("attempt")?,
        faults: row.get("faults")?,
        workload: row.parse_opt("workload")?,
        exit_code: row
            .get::<Option<i64>>("exit_code")?
            .and_then(|code| i32::try_from(code).ok()),
        reason: row.get("reason")?,
        outputs: row.json_opt("outputs")?,
        repeatable: definition.repeatable,
        allow_failure: definition.allow_failure,
        not_before: row.get("not_before")?,
        definition,
        holder: row.get("holder")?,
        fence: row.get("fence")?,
        lease_until: row.get("lease_until")?,
        started_at: row.get("started_at")?,
        finished_at: row.get("finished_at")?,
    })
}

async fn select(tx: &mut Tx<'_>, rest: &str, params: Params) -> Result<Vec<Step>, StoreError> {
    let sql = AssertSqlSafe(format!("SELECT {COLUMNS} FROM step {rest}"));
    tx.fetch_all(sql, params)
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// Makes a step; one that exists already is left as it is.
pub(crate) async fn insert_step(tx: &mut Tx<'_>, step: &Step) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO step (id, run, ordinal, name, definition, needs, state, outcome, attempt, faults, workload, reason, fence, finished_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (id) DO NOTHING",
        params![
            step.id,
            step.run,
            step.ordinal,
            &step.name,
            json(&step.definition),
            json(&step.needs),
            step.state.as_str(),
            step.outcome.map(|outcome| outcome.as_str()),
            step.attempt,
            step.faults,
            step.workload,
            step.reason.clone(),
            step.fence,
            step.finished_at,
        ],
    )
    .await?;
    Ok(())
}

/// Writes everything of a step that can change.
pub(crate) async fn save_step(tx: &mut Tx<'_>, step: &Step) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE step SET state = $2, outcome = $3, attempt = $4, faults = $5, exit_code = $6, reason = $7, outputs = $8,
             not_before = $9, holder = $10, fence = $11, lease_until = $12, started_at = $13, finished_at = $14
         WHERE id = $1",
        params![
            step.id,
            step.state.as_str(),
            step.outcome.map(|outcome| outcome.as_str()),
            step.attempt,
            step.faults,
            step.exit_code,
            step.reason.clone(),
            step.outputs.as_ref().map(json),
            step.not_before,
            step.holder.clone(),
            step.fence,
            step.lease_until,
            step.started_at,
            step.finished_at,
        ],
    )
    .await?;
    Ok(())
}

/// A step by its id.
pub(crate) async fn load_step(tx: &mut Tx<'_>, id: &StepId) -> Result<Option<Step>, StoreError> {
    Ok(select(tx, "WHERE id = $1", params![id]).await?.pop())
}

/// A step by its name in a run.
pub(crate) async fn load_step_of(
    tx: &mut Tx<'_>,
    run: &RunId,
    name: &StepName,
) -> Result<Option<Step>, StoreError> {
    Ok(
        select(tx, "WHERE run = $1 AND name = $2", params![run, name])
            .await?
            .pop(),
    )
}

/// The steps of a run in order.
pub(crate) async fn load_steps(tx: &mut Tx<'_>, run: &RunId) -> Result<Vec<Step>, StoreError> {
    select(tx, "WHERE run = $1 ORDER BY ordinal", params![run]).await
}
