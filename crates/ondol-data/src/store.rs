//! The tables of this room: datasets, versions, and pushes in progress.

use ondol_store::{Migration, Row, StoreError, Tx, params};
use ondol_types::{DatasetName, Digest, OperationId, ProjectName, Timestamp, UploadId};

use crate::model::{Dataset, Version};

/// Migrations 800 to 899.
pub const MIGRATIONS: &[Migration] = &[Migration {
    number: 800,
    name: "datasets",
    sql: "CREATE TABLE dataset (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    head TEXT NOT NULL,
    number BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE dataset_version (
    project TEXT NOT NULL,
    dataset TEXT NOT NULL,
    number BIGINT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    parent TEXT,
    message TEXT NOT NULL,
    author TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    files BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    new_bytes BIGINT NOT NULL,
    row_count BIGINT,
    PRIMARY KEY (project, dataset, number)
);
CREATE TABLE dataset_upload (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    dataset TEXT NOT NULL,
    author TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    version TEXT,
    changed BIGINT NOT NULL
);
CREATE INDEX dataset_upload_project ON dataset_upload (project, dataset);
CREATE INDEX dataset_upload_expiry ON dataset_upload (expires_at);
CREATE TABLE dataset_upload_part (
    upload TEXT NOT NULL,
    part TEXT NOT NULL,
    chunks BYTEA NOT NULL,
    PRIMARY KEY (upload, part)
);
",
}];

/// A push in progress or done.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) id: UploadId,
    pub(crate) project: ProjectName,
    pub(crate) dataset: DatasetName,
    pub(crate) author: String,
    pub(crate) started_at: Timestamp,
    pub(crate) expires_at: Timestamp,
    pub(crate) bytes: u64,
    pub(crate) version: Option<Digest>,
    pub(crate) changed: bool,
}

fn dataset(row: &Row) -> Result<Dataset, StoreError> {
    Ok(Dataset {
        project: row.parse("project")?,
        name: row.parse("name")?,
        head: row.parse("head")?,
        number: row.get("number")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

fn version(row: &Row) -> Result<Version, StoreError> {
    let count = |column| row.get::<i64>(column).map(|number| number.max(0) as u64);
    Ok(Version {
        project: row.parse("project")?,
        dataset: row.parse("dataset")?,
        number: row.get("number")?,
        id: row.parse("id")?,
        parent: row.parse_opt("parent")?,
        message: row.get("message")?,
        author: row.get("author")?,
        created_at: row.get("created_at")?,
        files: count("files")?,
        bytes: count("bytes")?,
        new_bytes: count("new_bytes")?,
        rows: row
            .get::<Option<i64>>("row_count")?
            .map(|rows| rows.max(0) as u64),
    })
}

fn upload(row: &Row) -> Result<Upload, StoreError> {
    Ok(Upload {
        id: row.parse("id")?,
        project: row.parse("project")?,
        dataset: row.parse("dataset")?,
        author: row.get("author")?,
        started_at: row.get("started_at")?,
        expires_at: row.get("expires_at")?,
        bytes: row.get::<i64>("bytes")?.max(0) as u64,
        version: row.parse_opt("version")?,
        changed: row.get("changed")?,
    })
}

pub(crate) async fn find_dataset(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &DatasetName,
) -> Result<Option<Dataset>, StoreError> {
    tx.fetch_optional(
        "SELECT * FROM dataset WHERE project = $1 AND name = $2",
        params![project, name],
    )
    .await?
    .as_ref()
    .map(dataset)
    .transpose()
}

pub(crate) async fn list_datasets(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    after: &str,
    limit: u32,
) -> Result<Vec<Dataset>, StoreError> {
    tx.fetch_all(
        "SELECT * FROM dataset WHERE project = $1 AND name > $2 ORDER BY name LIMIT $3",
        params![project, after, limit],
    )
    .await?
    .iter()
    .map(dataset)
    .collect()
}

pub(crate) async fn put_dataset(tx: &mut Tx<'_>, version: &Version) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO dataset (project, name, head, number, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $5)
         ON CONFLICT (project, name) DO UPDATE SET head = excluded.head, number = excluded.number,
             updated_at = excluded.updated_at",
        params![
            &version.project,
            &version.dataset,
            &version.id,
            version.number,
            now
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn insert_version(tx: &mut Tx<'_>, version: &Version) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO dataset_version (project, dataset, number, id, parent, message, author,
             created_at, files, bytes, new_bytes, row_count)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        params![
            &version.project,
            &version.dataset,
            version.number,
            &version.id,
            version.parent.clone(),
            &version.message,
            &version.author,
            version.created_at,
            version.files,
            version.bytes,
            version.new_bytes,
            version.rows,
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn version_by_id(
    tx: &mut Tx<'_>,
    id: &Digest,
) -> Result<Option<Version>, StoreError> {
    tx.fetch_optional("SELECT * FROM dataset_version WHERE id = $1", params![id])
        .await?
        .as_ref()
        .map(version)
        .transpose()
}

pub(crate) async fn version_by_number(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    dataset: &DatasetName,
    number: i64,
) -> Result<Option<Version>, StoreError> {
    tx.fetch_optional(
        "SELECT * FROM dataset_version WHERE project = $1 AND dataset = $2 AND number = $3",
        params![project, dataset, number],
    )
    .await?
    .as_ref()
    .map(version)
    .transpose()
}

/// Versions whose id begins so, at most two: enough to know that a prefix is not unique.
pub(crate) async fn versions_by_prefix(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    dataset: &DatasetName,
    prefix: &str,
) -> Result<Vec<Version>, StoreError> {
    // Ids are lower-case hexadecimal, so `g` stands behind every continuation of the prefix.
    let (low, high) = (format!("blake3:{prefix}"), format!("blake3:{prefix}g"));
    tx.fetch_all(
        "SELECT * FROM dataset_version WHERE project = $1 AND dataset = $2 AND id >= $3 AND id < $4 LIMIT 2",
        params![project, dataset, low, high],
    )
    .await?
    .iter()
    .map(version)
    .collect()
}

pub(crate) async fn versions_before(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    dataset: &DatasetName,
    before: i64,
    limit: u32,
) -> Result<Vec<Version>, StoreError> {
    tx.fetch_all(
        "SELECT * FROM dataset_version WHERE project = $1 AND dataset = $2 AND number < $3
         ORDER BY number DESC LIMIT $4",
        params![project, dataset, before, limit],
    )
    .await?
    .iter()
    .map(version)
    .collect()
}

pub(crate) async fn delete_version(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    dataset: &DatasetName,
    number: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM dataset_version WHERE project = $1 AND dataset = $2 AND number = $3",
        params![project, dataset, number],
    )
    .await?;
    Ok(())
}

/// Ids of versions in order, after an id; for the collection.
pub(crate) async fn version_ids_after(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<Digest>, StoreError> {
    tx.fetch_all(
        "SELECT id FROM dataset_version WHERE id > $1 ORDER BY id LIMIT $2",
        params![after, limit],
    )
    .await?
    .iter()
    .map(|row| row.parse("id"))
    .collect()
}

/// Deletes everything that a project has.
pub(crate) async fn delete_project(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM dataset_upload_part WHERE upload IN (SELECT id FROM dataset_upload WHERE project = $1)",
        "DELETE FROM dataset_upload WHERE project = $1",
        "DELETE FROM dataset_version WHERE project = $1",
        "DELETE FROM dataset WHERE project = $1",
    ] {
        tx.execute(statement, params![project]).await?;
    }
    Ok(())
}

/// Begins a push. Everything else that is written for a project belongs to its row.
///
/// # Errors
/// [`StoreError::ProjectHeld`] when the project is being deleted.
pub(crate) async fn insert_upload(tx: &mut Tx<'_>, upload: &Upload) -> Result<(), StoreError> {
    tx.admit_project(&upload.project).await?;
    tx.execute(
        "INSERT INTO dataset_upload (id, project, dataset, author, started_at, expires_at, bytes, version, changed)
         VALUES ($1, $2, $3, $4, $5, $6, 0, NULL, 0)",
        params![
            upload.id,
            &upload.project,
            &upload.dataset,
            &upload.author,
            upload.started_at,
            upload.expires_at
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn find_upload(
    tx: &mut Tx<'_>,
    id: UploadId,
) -> Result<Option<Upload>, StoreError> {
    tx.fetch_optional("SELECT * FROM dataset_upload WHERE id = $1", params![id])
        .await?
        .as_ref()
        .map(upload)
        .transpose()
}

pub(crate) async fn open_uploads(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<u64, StoreError> {
    let now = tx.now();
    let row = tx
        .fetch_one(
            "SELECT COUNT(*) AS n FROM dataset_upload
             WHERE project = $1 AND version IS NULL AND expires_at > $2",
            params![project, now],
        )
        .await?;
    Ok(row.get::<i64>("n")?.max(0) as u64)
}

/// Notes what one request of a push sent; false when the push is there no longer.
pub(crate) async fn add_part(
    tx: &mut Tx<'_>,
    id: UploadId,
    part: OperationId,
    chunks: &[u8],
    bytes: u64,
) -> Result<bool, StoreError> {
    let open = tx
        .execute(
            "UPDATE dataset_upload SET bytes = bytes + $1 WHERE id = $2 AND version IS NULL",
            params![bytes, id],
        )
        .await?;
    if open == 0 {
        return Ok(false);
    }
    tx.execute(
        "INSERT INTO dataset_upload_part (upload, part, chunks) VALUES ($1, $2, $3)",
        params![id, part, chunks],
    )
    .await?;
    Ok(true)
}

/// How many requests of a push sent something.
pub(crate) async fn count_parts(tx: &mut Tx<'_>, id: UploadId) -> Result<u64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM dataset_upload_part WHERE upload = $1",
        params![id],
    )
    .await?
    .get("n")
}

/// How many datasets a project has.
pub(crate) async fn count_datasets(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<u64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM dataset WHERE project = $1",
        params![project],
    )
    .await?
    .get("n")
}

/// How many versions of a dataset are kept.
pub(crate) async fn count_versions(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    dataset: &DatasetName,
) -> Result<u64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM dataset_version WHERE project = $1 AND dataset = $2",
        params![project, dataset],
    )
    .await?
    .get("n")
}

/// What was sent for a dataset of a project by pushes that have not expired.
pub(crate) async fn sent_chunks(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    dataset: &DatasetName,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let now = tx.now();
    tx.fetch_all(
        "SELECT p.chunks FROM dataset_upload_part p JOIN dataset_upload u ON u.id = p.upload
         WHERE u.project = $1 AND u.dataset = $2 AND u.expires_at > $3",
        params![project, dataset, now],
    )
    .await?
    .iter()
    .map(|row| row.get("chunks"))
    .collect()
}

/// Ends a push with its outcome. Its list of chunks is needed no longer.
pub(crate) async fn close_upload(
    tx: &mut Tx<'_>,
    id: UploadId,
    version: &Digest,
    changed: bool,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE dataset_upload SET version = $1, changed = $2 WHERE id = $3",
        params![version, changed, id],
    )
    .await?;
    tx.execute(
        "DELETE FROM dataset_upload_part WHERE upload = $1",
        params![id],
    )
    .await?;
    Ok(())
}

/// Removes pushes that expired, at most `limit`; returns how many.
pub(crate) async fn remove_expired(tx: &mut Tx<'_>, limit: u32) -> Result<u64, StoreError> {
    let now = tx.now();
    let expired: Vec<UploadId> = tx
        .fetch_all(
            "SELECT id FROM dataset_upload WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2",
            params![now, limit],
        )
        .await?
        .iter()
        .map(|row| row.parse("id"))
        .collect::<Result<_, _>>()?;
    for id in &expired {
        tx.execute(
            "DELETE FROM dataset_upload_part WHERE upload = $1",
            params![*id],
        )
        .await?;
        tx.execute("DELETE FROM dataset_upload WHERE id = $1", params![*id])
            .await?;
    }
    Ok(expired.len() as u64)
}

/// When the oldest push that is still open began.
pub(crate) async fn oldest_open(tx: &mut Tx<'_>) -> Result<Option<Timestamp>, StoreError> {
    let now = tx.now();
    tx.fetch_one(
        "SELECT MIN(started_at) AS oldest FROM dataset_upload WHERE version IS NULL AND expires_at > $1",
        params![now],
    )
    .await?
    .get("oldest")
}
