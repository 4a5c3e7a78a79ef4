//! Rows of what tests reported.

use ondol_store::{StoreError, Tx, params};
use ondol_types::{RunId, StepId};

use super::json;
use crate::model::TestReport;

/// Keeps the report of a step; a later attempt replaces it.
pub(crate) async fn save_report(
    tx: &mut Tx<'_>,
    run: &RunId,
    step: &StepId,
    report: &TestReport,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO test_report (step, run, report) VALUES ($1, $2, $3)
         ON CONFLICT (step) DO UPDATE SET report = excluded.report",
        params![step, run, json(report)],
    )
    .await?;
    Ok(())
}

/// The reports of a run, in the order of its steps.
pub(crate) async fn load_reports(
    tx: &mut Tx<'_>,
    run: &RunId,
) -> Result<Vec<TestReport>, StoreError> {
    tx.fetch_all(
        "SELECT r.report AS report FROM test_report r JOIN step s ON s.id = r.step WHERE r.run = $1 ORDER BY s.ordinal",
        params![run],
    )
    .await?
    .iter()
    .map(|row| row.json("report"))
    .collect()
}
