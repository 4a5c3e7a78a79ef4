//! Rows of runs.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{CommitId, ProjectName, RunId};
use serde_json::Value;

use super::json;
use crate::model::{Run, RunState, Trigger};

pub(super) const COLUMNS: &str = "seq, id, project, number, cause, retry_of, lane, branch, commit_id, data, state, outcome, \
     reason, chain, author, notes, cancel, created_at, started_at, finished_at";

pub(super) fn from_row(row: &Row) -> Result<Run, StoreError> {
    Ok(Run {
        id: row.parse("id")?,
        seq: row.get("seq")?,
        project: row.parse("project")?,
        number: row.get("number")?,
        trigger: row.json("cause")?,
        retry_of: row.parse_opt("retry_of")?,
        lane: row.get("lane")?,
        branch: row.get("branch")?,
        commit: row.parse_opt("commit_id")?,
        data: row.json_opt("data")?,
        state: row.parse("state")?,
        outcome: row.parse_opt("outcome")?,
        reason: row.get("reason")?,
        chain: row.get("chain")?,
        author: row.get("author")?,
        notes: row.json("notes")?,
        cancel: row.json_opt("cancel")?,
        created_at: row.get("created_at")?,
        started_at: row.get("started_at")?,
        finished_at: row.get("finished_at")?,
    })
}

pub(super) async fn select(
    tx: &mut Tx<'_>,
    rest: &str,
    params: ondol_store::Params,
) -> Result<Vec<Run>, StoreError> {
    let sql = ondol_store::AssertSqlSafe(format!("SELECT {COLUMNS} FROM run {rest}"));
    tx.fetch_all(sql, params)
        .await?
        .iter()
        .map(from_row)
        .collect()
}

/// A run about to be made.
pub(crate) struct NewRun {
    pub(crate) id: RunId,
    pub(crate) project: ProjectName,
    pub(crate) trigger: Trigger,
    pub(crate) retry_of: Option<RunId>,
    pub(crate) commit: Option<CommitId>,
    pub(crate) lane: String,
    pub(crate) chain: String,
    pub(crate) author: String,
}

/// Makes a queued run with the next number of its project.
///
/// # Errors
/// [`StoreError::ProjectHeld`] when the project is being deleted.
pub(crate) async fn insert_run(tx: &mut Tx<'_>, new: NewRun) -> Result<Run, StoreError> {
    tx.admit_project(&new.project).await?;
    let seq: i64 = tx
        .fetch_one(
            "UPDATE run_head SET seq = seq + 1 WHERE id = 1 RETURNING seq",
            params![],
        )
        .await?
        .get("seq")?;
    let number: i64 = tx
        .fetch_one(
            "INSERT INTO run_project (project, number, forget_seq) VALUES ($1, 1, 0)
             ON CONFLICT (project) DO UPDATE SET number = run_project.number + 1 RETURNING number",
            params![&new.project],
        )
        .await?
        .get("number")?;
    let run = Run {
        id: new.id,
        seq,
        project: new.project,
        number,
        branch: new.trigger.branch().map(str::to_owned),
        commit: new.commit,
        lane: new.lane,
        trigger: new.trigger,
        retry_of: new.retry_of,
        data: None,
        state: RunState::Queued,
        outcome: None,
        reason: None,
        chain: new.chain,
        author: new.author,
        notes: Vec::new(),
        cancel: None,
        created_at: tx.now(),
        started_at: None,
        finished_at: None,
    };
    tx.execute(
        "INSERT INTO run (seq, id, project, number, cause, retry_of, lane, branch, commit_id, state, chain, author, notes, created_at, dirty)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, 0)",
        params![
            run.seq,
            run.id,
            &run.project,
            run.number,
            json(&run.trigger),
            run.retry_of,
            &run.lane,
            run.branch.clone(),
            run.commit.clone(),
            run.state.as_str(),
            &run.chain,
            &run.author,
            json(&run.notes),
            run.created_at,
        ],
    )
    .await?;
    Ok(run)
}

/// Writes everything of a run that can change. A run that has been started owns a workspace
/// until [`mark_clean`].
pub(crate) async fn save_run(tx: &mut Tx<'_>, run: &Run) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE run SET commit_id = $2, data = $3, state = $4, outcome = $5, reason = $6, notes = $7, cancel = $8,
             started_at = $9, finished_at = $10, dirty = CASE WHEN state = 'queued' AND $4 = 'running' THEN 1 ELSE dirty END
         WHERE seq = $1",
        params![
            run.seq,
            run.commit.clone(),
            run.data.as_ref().map(json),
            run.state.as_str(),
            run.outcome.map(|outcome| outcome.as_str()),
            run.reason.clone(),
            json(&run.notes),
            run.cancel.as_ref().map(json),
            run.started_at,
            run.finished_at,
        ],
    )
    .await?;
    Ok(())
}

/// A run by its id.
pub(crate) async fn load_run(tx: &mut Tx<'_>, id: &RunId) -> Result<Option<Run>, StoreError> {
    Ok(select(tx, "WHERE id = $1", params![id]).await?.pop())
}

/// A run by its number in the project.
pub(crate) async fn load_run_by_number(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    number: i64,
) -> Result<Option<Run>, StoreError> {
    Ok(select(
        tx,
        "WHERE project = $1 AND number = $2",
        params![project, number],
    )
    .await?
    .pop())
}

/// All runs whose steps are worked off; the number of those is bounded.
pub(crate) async fn running_runs(tx: &mut Tx<'_>) -> Result<Vec<Run>, StoreError> {
    select(tx, "WHERE state = 'running' ORDER BY seq", params![]).await
}

/// The oldest queued run of every lane in which nothing runs, oldest first.
pub(crate) async fn lane_heads(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<Run>, StoreError> {
    select(
        tx,
        "WHERE seq IN (SELECT MIN(q.seq) FROM run q WHERE q.state = 'queued' GROUP BY q.project, q.lane)
           AND NOT EXISTS (SELECT 1 FROM run r WHERE r.state = 'running' AND r.project = run.project AND r.lane = run.lane)
         ORDER BY seq LIMIT $1",
        params![limit],
    )
    .await
}

/// Queued runs of a lane, oldest first.
pub(crate) async fn queued_in_lane(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    lane: &str,
) -> Result<Vec<Run>, StoreError> {
    select(
        tx,
        "WHERE state = 'queued' AND project = $1 AND lane = $2 ORDER BY seq LIMIT 1000",
        params![project, lane],
    )
    .await
}

/// Queued runs of a branch, oldest first, whatever they wait for.
pub(crate) async fn queued_of_branch(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    branch: &str,
) -> Result<Vec<Run>, StoreError> {
    select(
        tx,
        "WHERE project = $1 AND branch = $2 AND state = 'queued' ORDER BY seq LIMIT 1000",
        params![project, branch],
    )
    .await
}

/// The specification that the newest run of a branch has read, or of the project where none of
/// the branch has.
pub(crate) async fn newest_spec(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    branch: &str,
) -> Result<Option<Value>, StoreError> {
    let of_branch = tx
        .fetch_optional(
            "SELECT s.spec AS spec FROM run r JOIN run_spec s ON s.run = r.id
             WHERE r.project = $1 AND r.branch = $2 ORDER BY r.seq DESC LIMIT 1",
            params![project, branch],
        )
        .await?;
    let found = match of_branch {
        Some(row) => Some(row),
        None => {
            tx.fetch_optional(
                "SELECT s.spec AS spec FROM run r JOIN run_spec s ON s.run = r.id
                 WHERE r.project = $1 ORDER BY r.seq DESC LIMIT 1",
                params![project],
            )
            .await?
        }
    };
    found.map(|row| row.json("spec")).transpose()
}

/// Running runs of a lane; there is at most one.
pub(crate) async fn running_in_lane(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    lane: &str,
) -> Result<Vec<Run>, StoreError> {
    select(
        tx,
        "WHERE state = 'running' AND project = $1 AND lane = $2",
        params![project, lane],
    )
    .await
}

/// Runs of a project that have not finished.
pub(crate) async fn active_run_ids(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<Vec<RunId>, StoreError> {
    tx.fetch_all(
        "SELECT id FROM run WHERE project = $1 AND state IN ('queued', 'running') ORDER BY seq LIMIT 1000",
        params![project],
    )
    .await?
    .iter()
    .map(|row| row.parse("id"))
    .collect()
}

/// Finished runs whose workspace is still there.
pub(crate) async fn dirty_runs(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<Run>, StoreError> {
    select(
        tx,
        "WHERE dirty = 1 AND state = 'finished' ORDER BY seq LIMIT $1",
        params![limit],
    )
    .await
}

/// Whether the workspace of a run may still be there.
pub(crate) async fn is_dirty(tx: &mut Tx<'_>, id: &RunId) -> Result<bool, StoreError> {
    let row = tx
        .fetch_optional("SELECT dirty FROM run WHERE id = $1", params![id])
        .await?;
    row.map_or(Ok(false), |row| row.get("dirty"))
}

/// The workspace of a run is gone.
pub(crate) async fn mark_clean(tx: &mut Tx<'_>, id: &RunId) -> Result<(), StoreError> {
    tx.execute("UPDATE run SET dirty = 0 WHERE id = $1", params![id])
        .await?;
    Ok(())
}

/// Keeps the effective specification of a run and where each value came from.
pub(crate) async fn save_spec(
    tx: &mut Tx<'_>,
    id: &RunId,
    spec: &str,
    provenance: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO run_spec (run, spec, provenance) VALUES ($1, $2, $3)
         ON CONFLICT (run) DO UPDATE SET spec = excluded.spec, provenance = excluded.provenance",
        params![id, spec, provenance],
    )
    .await?;
    Ok(())
}

/// The effective specification of a run and where each value came from, once it is known.
pub(crate) async fn load_spec(
    tx: &mut Tx<'_>,
    id: &RunId,
) -> Result<Option<(Value, Value)>, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT spec, provenance FROM run_spec WHERE run = $1",
            params![id],
        )
        .await?;
    row.map(|row| Ok((row.get("spec")?, row.get("provenance")?)))
        .transpose()
}
