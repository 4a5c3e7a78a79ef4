//! Rows of releases.

use ondol_store::{Row, StoreError, Tx, params};
use ondol_types::{Digest, EnvironmentName, ProjectName, ReleaseId};

use super::environment::sql;
use super::json;
use crate::model::Release;

const COLUMNS: &str = "id, project, environment, number, image, config, secrets, model, commit_id, run, chain, author, reason, origin, irreversible, commanded, created_at, activated_at";

fn release_of(row: &Row) -> Result<Release, StoreError> {
    Ok(Release {
        id: row.parse("id")?,
        project: row.parse("project")?,
        environment: row.parse("environment")?,
        number: row.get("number")?,
        image: row.parse("image")?,
        config: row.json("config")?,
        secrets: row.json("secrets")?,
        model: row.json_opt("model")?,
        commit: row.parse_opt("commit_id")?,
        run: row.parse_opt("run")?,
        chain: row.get("chain")?,
        author: row.get("author")?,
        reason: row.parse("reason")?,
        origin: row.get("origin")?,
        irreversible: row.get("irreversible")?,
        commanded: row.get("commanded")?,
        created_at: row.get("created_at")?,
        activated_at: row.get("activated_at")?,
    })
}

pub(crate) async fn insert_release(tx: &mut Tx<'_>, release: &Release) -> Result<(), StoreError> {
    tx.execute(
        sql(format!(
            "INSERT INTO deploy_release ({COLUMNS})
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)"
        )),
        params![
            release.id,
            &release.project,
            &release.environment,
            release.number,
            &release.image,
            json(&release.config)?,
            json(&release.secrets)?,
            release.model.as_ref().map(json).transpose()?,
            release.commit.clone(),
            release.run,
            release.chain.clone(),
            &release.author,
            release.reason.as_str(),
            release.origin,
            release.irreversible,
            release.commanded,
            release.created_at,
            release.activated_at,
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn release(tx: &mut Tx<'_>, id: ReleaseId) -> Result<Option<Release>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_release WHERE id = $1"
        )),
        params![id],
    )
    .await?
    .as_ref()
    .map(release_of)
    .transpose()
}

/// The release with a number.
pub(crate) async fn release_numbered(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    number: i64,
) -> Result<Option<Release>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_release WHERE project = $1 AND environment = $2 AND number = $3"
        )),
        params![project, environment, number],
    )
    .await?
    .as_ref()
    .map(release_of)
    .transpose()
}

/// Releases with a number below `before`, newest first.
pub(crate) async fn releases_before(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    before: i64,
    limit: u32,
) -> Result<Vec<Release>, StoreError> {
    tx.fetch_all(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_release WHERE project = $1 AND environment = $2 AND number < $3
             ORDER BY number DESC LIMIT $4"
        )),
        params![project, environment, before, limit],
    )
    .await?
    .iter()
    .map(release_of)
    .collect()
}

/// The newest release below `number` that served and is no repetition of another.
pub(crate) async fn served_before(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    number: i64,
) -> Result<Option<Release>, StoreError> {
    tx.fetch_optional(
        sql(format!(
            "SELECT {COLUMNS} FROM deploy_release
             WHERE project = $1 AND environment = $2 AND number < $3 AND activated_at IS NOT NULL AND origin IS NULL
             ORDER BY number DESC LIMIT 1"
        )),
        params![project, environment, number],
    )
    .await?
    .as_ref()
    .map(release_of)
    .transpose()
}

/// The number of the first release above `number` whose command was started and cannot be undone.
pub(crate) async fn irreversible_after(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    environment: &EnvironmentName,
    number: i64,
) -> Result<Option<i64>, StoreError> {
    tx.fetch_one(
        "SELECT MIN(number) AS number FROM deploy_release
         WHERE project = $1 AND environment = $2 AND number > $3 AND irreversible = 1 AND commanded = 1",
        params![project, environment, number],
    )
    .await?
    .get("number")
}

pub(crate) async fn mark_commanded(tx: &mut Tx<'_>, release: ReleaseId) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE deploy_release SET commanded = 1 WHERE id = $1",
        params![release],
    )
    .await?;
    Ok(())
}

pub(crate) async fn mark_activated(tx: &mut Tx<'_>, release: ReleaseId) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE deploy_release SET activated_at = $2 WHERE id = $1 AND activated_at IS NULL",
        params![release, now],
    )
    .await?;
    Ok(())
}

/// Every image that a kept release has.
pub(crate) async fn release_images(
    tx: &mut Tx<'_>,
) -> Result<Vec<(ProjectName, Digest)>, StoreError> {
    tx.fetch_all(
        "SELECT DISTINCT project, image FROM deploy_release",
        params![],
    )
    .await?
    .iter()
    .map(|row| Ok((row.parse("project")?, row.parse("image")?)))
    .collect()
}

/// What every environment has accepted, for the images in it.
pub(crate) async fn accepted_images(
    tx: &mut Tx<'_>,
) -> Result<Vec<(ProjectName, Digest)>, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT project, accepted FROM deploy_environment",
            params![],
        )
        .await?;
    let mut images = Vec::new();
    for row in rows {
        let accepted: crate::model::Accepted = row.json("accepted")?;
        if let Some(image) = accepted.image {
            images.push((row.parse("project")?, image.image));
        }
    }
    Ok(images)
}
