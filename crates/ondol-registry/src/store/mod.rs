//! The registry's tables: what a repository holds.

mod layers;
mod lists;
mod retention;

use ondol_store::{Migration, Row, StoreError, Tx, params};
use ondol_types::{Digest, Timestamp};

pub(crate) use layers::{forget_layers, known_layer, remember_layer};
pub(crate) use lists::{catalog, delete_project, referrers, repository_exists, tags};
pub(crate) use retention::{
    candidate, children, delete_tag_as, drop_empty_repositories, linked_digests, loose_blobs,
    oldest_blobs, repositories, unlink_loose, upstream_bytes, view,
};

use crate::model::Repository;

/// Tables of this room.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
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
    },
    Migration {
        number: 501,
        name: "registry repositories and use",
        sql: "CREATE TABLE registry_repository (
    name TEXT NOT NULL PRIMARY KEY,
    created_at BIGINT NOT NULL
);
INSERT INTO registry_repository (name, created_at)
    SELECT repository, MIN(at) FROM (
        SELECT repository, pushed_at AS at FROM registry_manifest
        UNION ALL SELECT repository, linked_at AS at FROM registry_blob) AS held
    GROUP BY repository;
ALTER TABLE registry_manifest ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
ALTER TABLE registry_tag ADD COLUMN checked_at BIGINT NOT NULL DEFAULT 0;
CREATE INDEX registry_blob_linked ON registry_blob (repository, linked_at);
",
    },
    Migration {
        number: 502,
        name: "registry layers of builds",
        sql: "CREATE TABLE registry_layer (
    diff_id TEXT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL
);
",
    },
];

/// A stored manifest.
#[derive(Clone, Debug)]
pub(crate) struct ManifestRow {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) artifact_type: Option<String>,
    pub(crate) annotations: Option<serde_json::Value>,
    pub(crate) size: u64,
    pub(crate) used_at: Timestamp,
}

fn manifest(row: &Row) -> Result<ManifestRow, StoreError> {
    Ok(ManifestRow {
        digest: row.parse("digest")?,
        media_type: row.get("media_type")?,
        artifact_type: row.get("artifact_type")?,
        annotations: row.json_opt("annotations")?,
        size: row.get("size")?,
        used_at: row.get("used_at")?,
    })
}

const MANIFEST_COLUMNS: &str =
    "SELECT digest, media_type, artifact_type, annotations, size, used_at FROM registry_manifest";

fn sql(tail: &str) -> ondol_store::AssertSqlSafe<String> {
    ondol_store::AssertSqlSafe(format!("{MANIFEST_COLUMNS} {tail}"))
}

/// Refuses rows of a project that is being deleted.
async fn admit(tx: &mut Tx<'_>, repository: &Repository) -> Result<(), StoreError> {
    match repository.project() {
        Some(project) => tx.admit_project(project).await,
        None => Ok(()),
    }
}

pub(crate) async fn link_blob(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
    size: u64,
) -> Result<(), StoreError> {
    admit(tx, repository).await?;
    let now = tx.now();
    tx.execute(
        "INSERT INTO registry_blob (repository, digest, size, linked_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (repository, digest) DO UPDATE SET linked_at = $4",
        params![repository.as_str(), digest, size, now],
    )
    .await?;
    found_repository(tx, repository).await
}

async fn found_repository(tx: &mut Tx<'_>, repository: &Repository) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO registry_repository (name, created_at) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
        params![repository.as_str(), now],
    )
    .await?;
    Ok(())
}

/// A blob link with the moment it was made or last asked for.
pub(crate) async fn blob_link(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<(u64, Timestamp)>, StoreError> {
    tx.fetch_optional(
        "SELECT size, linked_at FROM registry_blob WHERE repository = $1 AND digest = $2",
        params![repository.as_str(), digest],
    )
    .await?
    .map(|row| Ok((row.get("size")?, row.get("linked_at")?)))
    .transpose()
}

/// Notes that a blob link is in use; whether it is still there.
pub(crate) async fn touch_blob(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let touched = tx
        .execute(
            "UPDATE registry_blob SET linked_at = $3 WHERE repository = $1 AND digest = $2",
            params![repository.as_str(), digest, now],
        )
        .await?;
    Ok(touched > 0)
}

/// Repositories that hold a blob, at most a thousand.
pub(crate) async fn holders(tx: &mut Tx<'_>, digest: &Digest) -> Result<Vec<String>, StoreError> {
    tx.fetch_all(
        "SELECT repository FROM registry_blob WHERE digest = $1 ORDER BY repository LIMIT 1000",
        params![digest],
    )
    .await?
    .iter()
    .map(|row| row.get("repository"))
    .collect()
}

/// Manifests of a repository that name a digest, at most one.
pub(crate) async fn named_by(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<Digest>, StoreError> {
    tx.fetch_optional(
        "SELECT manifest FROM registry_reference WHERE repository = $1 AND target = $2 ORDER BY manifest LIMIT 1",
        params![repository.as_str(), digest],
    )
    .await?
    .map(|row| row.parse("manifest"))
    .transpose()
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
    admit(tx, repository).await?;
    let now = tx.now();
    tx.execute(
        "INSERT INTO registry_manifest (repository, digest, media_type, artifact_type, subject, annotations, size, pushed_at, used_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)
         ON CONFLICT (repository, digest) DO UPDATE SET pushed_at = $8, used_at = $8, media_type = $3",
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
    found_repository(tx, repository).await?;
    let manifests = new.targets.iter().filter(|(_, kind)| *kind == "manifest");
    let used = manifests.map(|(target, _)| *target).chain(new.subject);
    for digest in used {
        touch_manifest(tx, repository, digest).await?;
    }
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

/// Notes that a manifest is in use; whether it is here.
pub(crate) async fn touch_manifest(
    tx: &mut Tx<'_>,
    repository: &Repository,
    digest: &Digest,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let touched = tx
        .execute(
            "UPDATE registry_manifest SET used_at = $3 WHERE repository = $1 AND digest = $2",
            params![repository.as_str(), digest, now],
        )
        .await?;
    Ok(touched > 0)
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

/// What a tag names, and when an upstream was last asked about it.
pub(crate) async fn tag_target(
    tx: &mut Tx<'_>,
    repository: &Repository,
    tag: &str,
) -> Result<Option<(Digest, Timestamp)>, StoreError> {
    tx.fetch_optional(
        "SELECT digest, checked_at FROM registry_tag WHERE repository = $1 AND tag = $2",
        params![repository.as_str(), tag],
    )
    .await?
    .map(|row| Ok((row.parse("digest")?, row.get("checked_at")?)))
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
        "INSERT INTO registry_tag (repository, tag, digest, updated_at, checked_at) VALUES ($1, $2, $3, $4, $4)
         ON CONFLICT (repository, tag) DO UPDATE SET digest = $3, updated_at = $4, checked_at = $4",
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

/// Notes that a manifest is in use wherever it is, and returns those repositories.
pub(crate) async fn claim_manifest(
    tx: &mut Tx<'_>,
    digest: &Digest,
) -> Result<Vec<String>, StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE registry_manifest SET used_at = $2 WHERE digest = $1",
        params![digest, now],
    )
    .await?;
    tx.fetch_all(
        "SELECT repository FROM registry_manifest WHERE digest = $1 ORDER BY repository LIMIT 1000",
        params![digest],
    )
    .await?
    .iter()
    .map(|row| row.get("repository"))
    .collect()
}

/// Notes that an upstream still means the same by a tag.
pub(crate) async fn check_tag(
    tx: &mut Tx<'_>,
    repository: &Repository,
    tag: &str,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE registry_tag SET checked_at = $3 WHERE repository = $1 AND tag = $2",
        params![repository.as_str(), tag, now],
    )
    .await?;
    Ok(())
}
