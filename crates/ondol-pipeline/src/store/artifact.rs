//! Rows of artifacts: whoever has one owns its bytes.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{Digest, RelPath, RunId, StepName};

use crate::model::Artifact;

fn from_row(row: &Row) -> Result<Artifact, StoreError> {
    Ok(Artifact {
        step: row.parse("step")?,
        path: row.parse("path")?,
        digest: row.parse("digest")?,
        bytes: row.get::<i64>("bytes")?.unsigned_abs(),
        executable: row.get::<i64>("executable")? != 0,
    })
}

/// Keeps the artifacts of a step; those of an earlier attempt go.
pub(crate) async fn save_artifacts(
    tx: &mut Tx<'_>,
    run: &RunId,
    step: &StepName,
    artifacts: &[Artifact],
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM artifact WHERE run = $1 AND step = $2",
        params![run, step],
    )
    .await?;
    for artifact in artifacts {
        tx.execute(
            "INSERT INTO artifact (run, step, path, digest, bytes, executable) VALUES ($1, $2, $3, $4, $5, $6)",
            params![
                run,
                step,
                &artifact.path,
                &artifact.digest,
                i64::try_from(artifact.bytes).unwrap_or(i64::MAX),
                i64::from(artifact.executable),
            ],
        )
        .await?;
    }
    Ok(())
}

/// Artifacts of a run behind a place, by step and path.
pub(crate) async fn list_artifacts(
    tx: &mut Tx<'_>,
    run: &RunId,
    step: Option<&StepName>,
    after: (&str, &str),
    limit: u32,
) -> Result<Vec<Artifact>, StoreError> {
    let (after_step, after_path) = after;
    let rows = match step {
        Some(step) => {
            tx.fetch_all(
                "SELECT step, path, digest, bytes, executable FROM artifact
                 WHERE run = $1 AND step = $2 AND path > $3 ORDER BY path LIMIT $4",
                params![run, step, after_path, limit],
            )
            .await?
        }
        None => {
            tx.fetch_all(
                "SELECT step, path, digest, bytes, executable FROM artifact
                 WHERE run = $1 AND (step > $2 OR (step = $2 AND path > $3)) ORDER BY step, path LIMIT $4",
                params![run, after_step, after_path, limit],
            )
            .await?
        }
    };
    rows.iter().map(from_row).collect()
}

/// One artifact.
pub(crate) async fn load_artifact(
    tx: &mut Tx<'_>,
    run: &RunId,
    step: &StepName,
    path: &RelPath,
) -> Result<Option<Artifact>, StoreError> {
    tx.fetch_optional(
        "SELECT step, path, digest, bytes, executable FROM artifact WHERE run = $1 AND step = $2 AND path = $3",
        params![run, step, path],
    )
    .await?
    .as_ref()
    .map(from_row)
    .transpose()
}

/// Digests that artifacts have, behind one of them, each once.
pub(crate) async fn artifact_digests(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<Digest>, StoreError> {
    tx.fetch_all(
        "SELECT DISTINCT digest FROM artifact WHERE digest > $1 ORDER BY digest LIMIT $2",
        params![after, limit],
    )
    .await?
    .iter()
    .map(|row| row.parse("digest"))
    .collect()
}
