//! Lists that clients page through, and the end of a project.

use ondol_auth::VisibleScope;
use ondol_store::{AssertSqlSafe, StoreError, Tx, params};
use ondol_types::{Digest, ProjectName};

use super::{ManifestRow, manifest, sql};
use crate::model::Repository;

pub(crate) async fn tags(
    tx: &mut Tx<'_>,
    repository: &Repository,
    last: &str,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    tx.fetch_all(
        "SELECT tag FROM registry_tag WHERE repository = $1 AND tag > $2 ORDER BY tag LIMIT $3",
        params![repository.as_str(), last, limit],
    )
    .await?
    .iter()
    .map(|row| row.get("tag"))
    .collect()
}

pub(crate) async fn repository_exists(
    tx: &mut Tx<'_>,
    repository: &Repository,
) -> Result<bool, StoreError> {
    let found = tx
        .fetch_optional(
            "SELECT 1 AS one FROM registry_repository WHERE name = $1",
            params![repository.as_str()],
        )
        .await?;
    Ok(found.is_some())
}

/// Repositories after `last`: of the projects in scope, and of `upstreams`.
pub(crate) async fn catalog(
    tx: &mut Tx<'_>,
    scope: &VisibleScope,
    upstreams: &[String],
    last: &str,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    let mut wanted = params![last, limit];
    let mut filter = String::new();
    if let VisibleScope::Projects(projects) = scope {
        let owners = projects.iter().map(ToString::to_string);
        for owner in owners.chain(upstreams.iter().cloned()) {
            let place = wanted.len();
            let or = if filter.is_empty() { "" } else { " OR " };
            filter.push_str(&format!(
                "{or}name = ${} OR name LIKE ${}",
                place + 1,
                place + 2
            ));
            let below = format!("{owner}/%");
            wanted.extend(params![owner, below]);
        }
        if filter.is_empty() {
            return Ok(Vec::new());
        }
        filter = format!("AND ({filter})");
    }
    tx.fetch_all(
        AssertSqlSafe(format!(
            "SELECT name FROM registry_repository WHERE name > $1 {filter} ORDER BY name LIMIT $2"
        )),
        wanted,
    )
    .await?
    .iter()
    .map(|row| row.get("name"))
    .collect()
}

/// Manifests whose subject is `subject`, oldest first, after the first `skip`.
pub(crate) async fn referrers(
    tx: &mut Tx<'_>,
    repository: &Repository,
    subject: &Digest,
    artifact_type: Option<&str>,
    skip: u32,
    limit: u32,
) -> Result<Vec<ManifestRow>, StoreError> {
    let rows = match artifact_type {
        None => {
            tx.fetch_all(
                sql("WHERE repository = $1 AND subject = $2 ORDER BY pushed_at, digest LIMIT $3 OFFSET $4"),
                params![repository.as_str(), subject, limit, skip],
            )
            .await?
        }
        Some(wanted) => {
            tx.fetch_all(
                sql("WHERE repository = $1 AND subject = $2 AND artifact_type = $5 ORDER BY pushed_at, digest LIMIT $3 OFFSET $4"),
                params![repository.as_str(), subject, limit, skip, wanted],
            )
            .await?
        }
    };
    rows.iter().map(manifest).collect()
}

pub(crate) async fn delete_project(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<(), StoreError> {
    let (exact, below) = (project.as_str(), format!("{project}/%"));
    for statement in [
        "DELETE FROM registry_tag WHERE repository = $1 OR repository LIKE $2",
        "DELETE FROM registry_reference WHERE repository = $1 OR repository LIKE $2",
        "DELETE FROM registry_manifest WHERE repository = $1 OR repository LIKE $2",
        "DELETE FROM registry_blob WHERE repository = $1 OR repository LIKE $2",
        "DELETE FROM registry_repository WHERE name = $1 OR name LIKE $2",
    ] {
        tx.execute(statement, params![exact, below.as_str()])
            .await?;
    }
    Ok(())
}
