//! Retention: which runs are too many or too old, and their deletion.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{ProjectName, RunId, StepId, Timestamp, WorkloadId};

use crate::model::{Definition, service_workloads};

/// A finished run that is to be forgotten, with what else it left.
#[derive(Clone, Debug)]
pub(crate) struct Expired {
    pub(crate) run: RunId,
    pub(crate) workloads: Vec<WorkloadId>,
    pub(crate) steps: Vec<StepId>,
}

/// Projects that have runs, after `after` by name.
pub(crate) async fn projects(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<ProjectName>, StoreError> {
    tx.fetch_all(
        "SELECT project FROM run_project WHERE project > $1 ORDER BY project LIMIT $2",
        params![after, limit],
    )
    .await?
    .iter()
    .map(|row| row.parse("project"))
    .collect()
}

async fn with_steps(tx: &mut Tx<'_>, rows: Vec<Row>) -> Result<Vec<Expired>, StoreError> {
    let mut expired = Vec::with_capacity(rows.len());
    for row in rows {
        let run: RunId = row.parse("id")?;
        let steps = tx
            .fetch_all(
                "SELECT id, workload, definition FROM step WHERE run = $1",
                params![run],
            )
            .await?;
        let mut one = Expired {
            run,
            workloads: Vec::new(),
            steps: Vec::new(),
        };
        for step in steps {
            let id: StepId = step.parse("id")?;
            let definition: Definition = step.json("definition")?;
            for (service, _) in definition.services() {
                one.workloads.extend(service_workloads(&id, service));
            }
            one.steps.push(id);
            one.workloads
                .extend(step.parse_opt::<WorkloadId>("workload")?);
        }
        expired.push(one);
    }
    Ok(expired)
}

/// Finished, clean runs of a project beyond the newest `keep`, oldest first.
pub(crate) async fn expired_by_count(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    keep: u32,
    limit: u32,
) -> Result<Vec<Expired>, StoreError> {
    let edge = tx
        .fetch_optional(
            "SELECT seq FROM run WHERE project = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2",
            params![project, keep],
        )
        .await?;
    let Some(edge) = edge else {
        return Ok(Vec::new());
    };
    let rows = tx
        .fetch_all(
            "SELECT id FROM run WHERE project = $1 AND state = 'finished' AND seq <= $2 AND dirty = 0 ORDER BY seq LIMIT $3",
            params![project, edge.get::<i64>("seq")?, limit],
        )
        .await?;
    with_steps(tx, rows).await
}

/// Clean runs that finished before a moment, oldest first.
pub(crate) async fn expired_by_age(
    tx: &mut Tx<'_>,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<Expired>, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT id FROM run WHERE state = 'finished' AND finished_at < $1 AND dirty = 0 ORDER BY finished_at LIMIT $2",
            params![before, limit],
        )
        .await?;
    with_steps(tx, rows).await
}

/// Clean runs of projects that an older version saw deleted: it marked them by their place.
pub(crate) async fn forgotten(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<Expired>, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT r.id AS id FROM run_project p JOIN run r ON r.project = p.project AND r.seq <= p.forget_seq
             WHERE p.forget_seq > 0 AND r.state = 'finished' AND r.dirty = 0 ORDER BY r.seq LIMIT $1",
            params![limit],
        )
        .await?;
    with_steps(tx, rows).await
}

/// Clean, finished runs of a project, oldest first.
pub(crate) async fn finished_of(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    limit: u32,
) -> Result<Vec<Expired>, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT id FROM run WHERE project = $1 AND state = 'finished' AND dirty = 0 ORDER BY seq LIMIT $2",
            params![project, limit],
        )
        .await?;
    with_steps(tx, rows).await
}

/// Whether a finished run of a project still has its workspace.
pub(crate) async fn has_dirty_runs(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<bool, StoreError> {
    Ok(tx
        .fetch_optional(
            "SELECT id FROM run WHERE project = $1 AND state = 'finished' AND dirty = 1 LIMIT 1",
            params![project],
        )
        .await?
        .is_some())
}

/// Forgets a project without runs: its runs are numbered from 1 again.
pub(crate) async fn forget_project(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM run_project WHERE project = $1
         AND NOT EXISTS (SELECT 1 FROM run WHERE run.project = run_project.project)",
        params![project],
    )
    .await?;
    tx.execute(
        "DELETE FROM flaky_test WHERE project = $1",
        params![project],
    )
    .await?;
    Ok(())
}

/// Deletes the rows of a finished run.
pub(crate) async fn forget_run(tx: &mut Tx<'_>, run: &RunId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM test_report WHERE run = $1", params![run])
        .await?;
    tx.execute("DELETE FROM artifact WHERE run = $1", params![run])
        .await?;
    tx.execute("DELETE FROM step WHERE run = $1", params![run])
        .await?;
    tx.execute("DELETE FROM run_spec WHERE run = $1", params![run])
        .await?;
    tx.execute(
        "DELETE FROM run WHERE id = $1 AND state = 'finished'",
        params![run],
    )
    .await?;
    Ok(())
}
