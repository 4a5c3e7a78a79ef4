//! The registry's tables.

use ondol_store::{Migration, Row, StoreError, Tx, params};
use ondol_types::{Digest, Timestamp};

use crate::model::Repository;

/// Tables of this room.
pub const MIGRATIONS: &[Migration] = &[Migration {
    number: 500,
    name: "registry",
    sql: "CREATE TABLE registry_blob (
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    linked_at BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE INDEX registry_blob_digest ON registry_blob (digest);
CREATE TABLE registry_manifest (
    repository TEXT NOT NULL,
    digest TEXT NOT NULL,
    media_type TEXT NOT NULL,
    artifact_type TEXT,
    subject TEXT,
    annotations TEXT,
    size BIGINT NOT NULL,
    pushed_at BIGINT NOT NULL,
    PRIMARY KEY (repository, digest)
);
CREATE INDEX registry_manifest_digest ON registry_manifest (digest);
CREATE INDEX registry_manifest_subject ON registry_manifest (repository, subject);
CREATE TABLE registry_reference (
    repository TEXT NOT NULL,
    manifest TEXT NOT NULL,
    target TEXT NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY (repository, manifest, target)
);
CREATE INDEX registry_reference_target ON registry_reference (repository, target);
CREATE TABLE registry_tag (
    repository TEXT NOT NULL,
    tag TEXT NOT NULL,
    digest TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (repository, tag)
);
CREATE INDEX registry_tag_digest ON registry_tag (repository, digest);
",
}];

/// A stored manifest.
#[derive(Clone, Debug)]
pub(crate) struct ManifestRow {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: Option<serde_json::Value>,
    pub(crate) size: u64,
    pub(crate) pushed_at: Timestamp,
}

fn manifest(row: &Row) -> Result<ManifestRow, StoreError> {
    Ok(ManifestRow {
        digest: row.parse("digest")?,
        media_type: row.get("media_type")?,
        artifact_type: row.get("artifact_type")?,
        annotations: row.json_opt("annotations")?,
        size: row.get("size")?,
        pushed_at: row.get("pushed_at")?,
    })
}

const MANIFEST_COLUMNS: &str =
    "SELECT digest, media_type, artifact_type, annotations, size, pushed_at FROM registry_manifest";

fn sql(tail: &str) -> ondol_store::AssertSqlSafe<String> {
    ondol_store::AssertSqlSafe(format!("{MANIFEST_COLUMNS} {tail}"))
}

pub(crate) async fn link_blob(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
    size: u64,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO registry_blob (repository, digest, size, linked_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (repository, digest) DO UPDATE SET linked_at = $4",
        params![repository.as_str(), digest, size, now],
    )
    .await?;
    Ok(())
}

pub(crate) async fn blob_size(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<u64>, StoreError> {
    tx.fetch_optional(
        "SELECT size FROM registry_blob WHERE repository = $1 AND digest = $2",
        params![repository.as_str(), digest],
    )
    .await?
    .map(|row| row.get("size"))
    .transpose()
}

pub(crate) async fn unlink_blob(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<bool, StoreError> {
    let removed = tx
        .execute(
            "DELETE FROM registry_blob WHERE repository = $1 AND digest = $2",
            params![repository.as_str(), digest],
        )
        .await?;
    Ok(removed > 0)
}

/// Every digest that some repository links, a page at a time: the mark of the collection.
pub(crate) async fn linked_digests(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<Digest>, StoreError> {
    tx.fetch_all(
        "SELECT digest FROM (SELECT digest FROM registry_blob UNION SELECT digest FROM registry_manifest) AS held
         WHERE digest > $1 ORDER BY digest LIMIT $2",
        params![after, limit],
    )
    .await?
    .iter()
    .map(|row| row.parse("digest"))
    .collect()
}

#[derive(Debug)]
pub(crate) struct NewManifest<'a> {
    pub(crate) digest: &'a Digest,
    pub(crate) media_type: &'a str,
    pub(crate) artifact_type: Option<&'a str>,
    pub(crate) subject: Option<&'a Digest>,
    pub(crate) annotations: Option<String>,
    pub(crate) size: u64,
    pub(crate) targets: Vec<(&'a Digest, &'static str)>,
}

pub(crate) async fn insert_manifest(
    tx: &mut Tx<'_>,
    repository: &Repository,
    new: &NewManifest<'_>,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO registry_manifest (repository, digest, media_type, artifact_type, subject, annotations, size, pushed_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
         ON CONFLICT (repository, digest) DO UPDATE SET pushed_at = $8",
        params![
            repository.as_str(),
            new.digest,
            new.media_type,
            new.artifact_type,
            new.subject,
            new.annotations.clone(),
            new.size,
            now
        ],
    )
    .await?;
    for (target, kind) in &new.targets {
        tx.execute(
            "INSERT INTO registry_reference (repository, manifest, target, kind) VALUES ($1, $2, $3, $4)
             ON CONFLICT (repository, manifest, target) DO NOTHING",
            params![repository.as_str(), new.digest, *target, *kind],
        )
        .await?;
    }
    Ok(())
}

pub(crate) async fn manifest_by_digest(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<ManifestRow>, StoreError> {
    tx.fetch_optional(
        sql("WHERE repository = $1 AND digest = $2"),
        params![repository.as_str(), digest],
    )
    .await?
    .as_ref()
    .map(manifest)
    .transpose()
}

pub(crate) async fn tag_target(
    tx: &mut Tx<'_>,
    repository: &Repository,
    tag: &str,
) -> Result<Option<Digest>, StoreError> {
    tx.fetch_optional(
        "SELECT digest FROM registry_tag WHERE repository = $1 AND tag = $2",
        params![repository.as_str(), tag],
    )
    .await?
    .map(|row| row.parse("digest"))
    .transpose()
}

pub(crate) async fn set_tag(
    tx: &mut Tx<'_>,
    repository: &Repository,
    tag: &str,
    digest: &Digest,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO registry_tag (repository, tag, digest, updated_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (repository, tag) DO UPDATE SET digest = $3, updated_at = $4",
        params![repository.as_str(), tag, digest, now],
    )
    .await?;
    Ok(())
}

pub(crate) async fn delete_tag(
    tx: &mut Tx<'_>,
    repository: &Repository,
    tag: &str,
) -> Result<bool, StoreError> {
    let removed = tx
        .execute(
            "DELETE FROM registry_tag WHERE repository = $1 AND tag = $2",
            params![repository.as_str(), tag],
        )
        .await?;
    Ok(removed > 0)
}

pub(crate) async fn delete_manifest(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<bool, StoreError> {
    let name = repository.as_str();
    tx.execute(
        "DELETE FROM registry_tag WHERE repository = $1 AND digest = $2",
        params![name, digest],
    )
    .await?;
    tx.execute(
        "DELETE FROM registry_reference WHERE repository = $1 AND manifest = $2",
        params![name, digest],
    )
    .await?;
    let removed = tx
        .execute(
            "DELETE FROM registry_manifest WHERE repository = $1 AND digest = $2",
            params![name, digest],
        )
        .await?;
    Ok(removed > 0)
}

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
            "SELECT 1 AS one FROM registry_manifest WHERE repository = $1
             UNION SELECT 1 AS one FROM registry_blob WHERE repository = $1 LIMIT 1",
            params![repository.as_str()],
        )
        .await?;
    Ok(found.is_some())
}

pub(crate) async fn repositories(
    tx: &mut Tx<'_>,
    last: &str,
    limit: u32,
) -> Result<Vec<String>, StoreError> {
    tx.fetch_all(
        "SELECT DISTINCT repository FROM registry_manifest WHERE repository > $1 ORDER BY repository LIMIT $2",
        params![last, limit],
    )
    .await?
    .iter()
    .map(|row| row.get("repository"))
    .collect()
}

pub(crate) async fn referrers(
    tx: &mut Tx<'_>,
    repository: &Repository,
    subject: &Digest,
) -> Result<Vec<ManifestRow>, StoreError> {
    tx.fetch_all(
        sql("WHERE repository = $1 AND subject = $2 ORDER BY pushed_at, digest LIMIT 1000"),
        params![repository.as_str(), subject],
    )
    .await?
    .iter()
    .map(manifest)
    .collect()
}

/// Manifests of a repository that nothing holds: older than `before`, not tagged, not part of an
/// index, not referring to something that is here.
pub(crate) async fn loose_manifests(
    tx: &mut Tx<'_>,
    repository: &Repository,
    before: Timestamp,
    limit: u32,
) -> Result<Vec<ManifestRow>, StoreError> {
    tx.fetch_all(
        sql("AS m WHERE repository = $1 AND pushed_at < $2
             AND NOT EXISTS (SELECT 1 FROM registry_tag t WHERE t.repository = m.repository AND t.digest = m.digest)
             AND NOT EXISTS (SELECT 1 FROM registry_reference r WHERE r.repository = m.repository AND r.target = m.digest)
             AND NOT EXISTS (SELECT 1 FROM registry_manifest s WHERE s.repository = m.repository AND s.digest = m.subject)
             ORDER BY pushed_at LIMIT $3"),
        params![repository.as_str(), before, limit],
    )
    .await?
    .iter()
    .map(manifest)
    .collect()
}

/// Blob links of a repository that no manifest of it names, older than `before`.
pub(crate) async fn unlink_loose_blobs(
    tx: &mut Tx<'_>,
    repository: &Repository,
    before: Timestamp,
) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM registry_blob WHERE repository = $1 AND linked_at < $2
         AND NOT EXISTS (SELECT 1 FROM registry_reference r
                         WHERE r.repository = registry_blob.repository AND r.target = registry_blob.digest)",
        params![repository.as_str(), before],
    )
    .await
}

/// Tags beyond the newest `keep`, oldest first, with what they point to.
pub(crate) async fn surplus_tags(
    tx: &mut Tx<'_>,
    repository: &Repository,
    keep: u32,
) -> Result<Vec<(String, Digest)>, StoreError> {
    tx.fetch_all(
        "SELECT tag, digest FROM registry_tag WHERE repository = $1 ORDER BY updated_at DESC, tag LIMIT 1000 OFFSET $2",
        params![repository.as_str(), keep],
    )
    .await?
    .iter()
    .map(|row| Ok((row.get("tag")?, row.parse("digest")?)))
    .collect()
}

pub(crate) async fn delete_project(
    tx: &mut Tx<'_>,
    project: &ondol_types::ProjectName,
) -> Result<(), StoreError> {
    let (exact, below) = (project.as_str(), format!("{project}/%"));
    for statement in [
        "DELETE FROM registry_tag WHERE repository = $1 OR repository LIKE $2",
        "DELETE FROM registry_reference WHERE repository = $1 OR repository LIKE $2",
        "DELETE FROM registry_manifest WHERE repository = $1 OR repository LIKE $2",
        "DELETE FROM registry_blob WHERE repository = $1 OR repository LIKE $2",
    ] {
        tx.execute(statement, params![exact, below.as_str()])
            .await?;
    }
    Ok(())
}

pub(crate) async fn repository_of(
    tx: &mut Tx<'_>,
    digest: &Digest,
) -> Result<Option<String>, StoreError> {
    tx.fetch_optional(
        "SELECT repository FROM registry_manifest WHERE digest = $1 ORDER BY repository LIMIT 1",
        params![digest],
    )
    .await?
    .map(|row| row.get("repository"))
    .transpose()
}
