//! Rows of tests that passed and failed on the same commit.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{CommitId, ProjectName, RunId, StepId, StepName, Timestamp};

use crate::model::{FlakyTest, TestReport};

/// The most tests of one project that are remembered.
const MOST: i64 = 1_000;
/// How many earlier reports of a commit are compared.
const REPORTS: u32 = 5;

/// Reports of the same stage on the same commit: of earlier runs, newest first, and of an earlier
/// attempt of this step.
pub(crate) async fn earlier_reports(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    commit: &CommitId,
    run: &RunId,
    step: &StepName,
) -> Result<Vec<TestReport>, StoreError> {
    tx.fetch_all(
        "SELECT t.report AS report FROM run r JOIN step s ON s.run = r.id JOIN test_report t ON t.step = s.id
         WHERE r.project = $1 AND r.commit_id = $2 AND s.name = $3 AND (r.state = 'finished' OR r.id = $4)
         ORDER BY r.seq DESC LIMIT $5",
        params![project, commit, step, run, REPORTS],
    )
    .await?
    .iter()
    .map(|row| row.json("report"))
    .collect()
}

/// Forgets what an earlier attempt of a step reported.
pub(crate) async fn drop_report(tx: &mut Tx<'_>, step: &StepId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM test_report WHERE step = $1", params![step])
        .await?;
    Ok(())
}

/// Counts a test that wavered.
pub(crate) async fn count_flaky(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    stage: &StepName,
    name: &str,
    run: &RunId,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO flaky_test (project, stage, name, times, first_at, last_at, last_run) VALUES ($1, $2, $3, 1, $4, $4, $5)
         ON CONFLICT (project, stage, name) DO UPDATE SET times = flaky_test.times + 1, last_at = excluded.last_at, last_run = excluded.last_run",
        params![project, stage, name, now, run],
    )
    .await?;
    tx.execute(
        "DELETE FROM flaky_test WHERE project = $1 AND last_at < (SELECT MIN(last_at) FROM
           (SELECT last_at FROM flaky_test WHERE project = $1 ORDER BY last_at DESC LIMIT $2) AS newest)",
        params![project, MOST],
    )
    .await?;
    Ok(())
}

fn from_row(row: &Row) -> Result<FlakyTest, StoreError> {
    Ok(FlakyTest {
        stage: row.parse("stage")?,
        name: row.get("name")?,
        times: row.get("times")?,
        first_at: row.get("first_at")?,
        last_at: row.get("last_at")?,
        last_run: row.parse("last_run")?,
    })
}

/// The tests of a project that wavered, by stage and name.
pub(crate) async fn list_flaky(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    after: (&str, &str),
    limit: u32,
) -> Result<Vec<FlakyTest>, StoreError> {
    tx.fetch_all(
        "SELECT stage, name, times, first_at, last_at, last_run FROM flaky_test
         WHERE project = $1 AND (stage > $2 OR (stage = $2 AND name > $3)) ORDER BY stage, name LIMIT $4",
        params![project, after.0, after.1, limit],
    )
    .await?
    .iter()
    .map(from_row)
    .collect()
}

/// Forgets tests that have not wavered since a moment.
pub(crate) async fn expire_flaky(tx: &mut Tx<'_>, before: Timestamp) -> Result<(), StoreError> {
    tx.execute("DELETE FROM flaky_test WHERE last_at < $1", params![before])
        .await?;
    Ok(())
}
