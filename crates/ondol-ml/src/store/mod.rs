//! The only SQL of this room.

mod write;

use std::collections::BTreeMap;

use ondol_store::{Migration, Row, StoreError, Tx, params};
use ondol_types::{Digest, ModelName, ProjectName, RunId};

use crate::error::{MlError, MlResult};
use crate::model::{Lineage, Model, ModelEntry, ModelVersion, Promotion};
pub(crate) use write::{delete_project, delete_version, insert_version, promote, set_state};

pub(crate) const MIGRATION: Migration = Migration {
    number: 900,
    name: "models",
    sql: "CREATE TABLE model (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    champion BIGINT,
    newest BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE model_version (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    run TEXT,
    dataset TEXT,
    data TEXT,
    data_number BIGINT,
    commit_id TEXT,
    metrics TEXT NOT NULL,
    primary_metric TEXT,
    params TEXT NOT NULL,
    state TEXT NOT NULL,
    reason TEXT,
    author TEXT NOT NULL,
    chain TEXT,
    created_at BIGINT NOT NULL,
    decided_at BIGINT,
    PRIMARY KEY (project, model, version),
    UNIQUE (project, model, run)
);
CREATE TABLE model_file (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    version BIGINT NOT NULL,
    path TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    PRIMARY KEY (project, model, version, path)
);
CREATE INDEX model_file_digest ON model_file (digest);
CREATE TABLE model_promotion (
    project TEXT NOT NULL,
    model TEXT NOT NULL,
    seq BIGINT NOT NULL,
    version BIGINT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (project, model, seq)
);
CREATE TABLE model_cursor (
    name TEXT PRIMARY KEY,
    seq BIGINT NOT NULL
);
",
};

const COLUMNS: &str = "project, model, version, digest, size, run, dataset, data, data_number, commit_id, metrics, \
                       primary_metric, params, state, reason, author, chain, created_at, decided_at";

/// A version with the chain of events that it belongs to.
pub(crate) struct Stored {
    pub(crate) version: ModelVersion,
    pub(crate) chain: Option<String>,
}

fn stored(row: &Row) -> Result<Stored, StoreError> {
    let column = |column: &str, problem: String| StoreError::Column {
        column: column.to_owned(),
        problem,
    };
    let metrics: String = row.get("metrics")?;
    let mut reader = serde_json::Deserializer::from_str(&metrics);
    let metrics = crate::model::read_metrics(&mut reader)
        .map_err(|error| column("metrics", error.to_string()))?;
    let lineage = Lineage {
        dataset: row.parse_opt("dataset")?,
        data: row.parse_opt("data")?,
        data_number: row.get("data_number")?,
        commit: row.parse_opt("commit_id")?,
        run: row.parse_opt("run")?,
    };
    let version = ModelVersion {
        project: row.parse("project")?,
        model: row.parse("model")?,
        version: row.get("version")?,
        digest: row.parse("digest")?,
        size: row.get("size")?,
        lineage,
        metrics,
        primary_metric: row.get("primary_metric")?,
        params: row.json::<BTreeMap<String, String>>("params")?,
        state: row.parse("state")?,
        reason: row.get("reason")?,
        author: row.get("author")?,
        created_at: row.get("created_at")?,
        decided_at: row.get("decided_at")?,
    };
    Ok(Stored {
        version,
        chain: row.get("chain")?,
    })
}

fn sql(text: String) -> ondol_store::AssertSqlSafe<String> {
    // Only constants of this file are put together; values are always parameters.
    ondol_store::AssertSqlSafe(text)
}

fn model(row: &Row) -> Result<Model, StoreError> {
    Ok(Model {
        project: row.parse("project")?,
        name: row.parse("name")?,
        champion: row.get("champion")?,
        newest: row.get("newest")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
    })
}

pub(crate) async fn find_model(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &ModelName,
) -> MlResult<Option<Model>> {
    let row = tx
        .fetch_optional(
            "SELECT project, name, champion, newest, created_at, updated_at FROM model WHERE project = $1 AND name = $2",
            params![project, name],
        )
        .await?;
    Ok(row.as_ref().map(model).transpose()?)
}

pub(crate) async fn list_models(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    after: &str,
    limit: u32,
) -> MlResult<Vec<Model>> {
    let rows = tx
        .fetch_all(
            "SELECT project, name, champion, newest, created_at, updated_at FROM model
             WHERE project = $1 AND name > $2 ORDER BY name LIMIT $3",
            params![project, after, limit],
        )
        .await?;
    Ok(rows.iter().map(model).collect::<Result<_, _>>()?)
}

pub(crate) async fn find_version(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    model: &ModelName,
    version: i64,
) -> MlResult<Stored> {
    let row = tx
        .fetch_optional(
            sql(format!("SELECT {COLUMNS} FROM model_version WHERE project = $1 AND model = $2 AND version = $3")),
            params![project, model, version],
        )
        .await?;
    match row {
        Some(row) => Ok(stored(&row)?),
        None => Err(MlError::NotFound(format!(
            "version {version} of model `{model}` in project `{project}`"
        ))),
    }
}

pub(crate) async fn find_by_run(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    model: &ModelName,
    run: RunId,
) -> MlResult<Option<Stored>> {
    let row = tx
        .fetch_optional(
            sql(format!(
                "SELECT {COLUMNS} FROM model_version WHERE project = $1 AND model = $2 AND run = $3"
            )),
            params![project, model, run],
        )
        .await?;
    Ok(row.as_ref().map(stored).transpose()?)
}

pub(crate) async fn list_versions(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    model: &ModelName,
    before: i64,
    limit: u32,
) -> MlResult<Vec<ModelVersion>> {
    let rows = tx
        .fetch_all(
            sql(format!(
                "SELECT {COLUMNS} FROM model_version WHERE project = $1 AND model = $2 AND version < $3
                 ORDER BY version DESC LIMIT $4"
            )),
            params![project, model, before, limit],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| stored(row).map(|stored| stored.version))
        .collect::<Result<_, _>>()?)
}

pub(crate) async fn files(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    model: &ModelName,
    version: i64,
) -> MlResult<Vec<ModelEntry>> {
    let rows = tx
        .fetch_all(
            "SELECT path, digest, size FROM model_file WHERE project = $1 AND model = $2 AND version = $3 ORDER BY path",
            params![project, model, version],
        )
        .await?;
    let entry = |row: &Row| {
        Ok(ModelEntry {
            path: row.parse("path")?,
            digest: row.parse("digest")?,
            size: row.get("size")?,
        })
    };
    Ok(rows.iter().map(entry).collect::<Result<_, StoreError>>()?)
}

/// Changes of the champion, newest first.
pub(crate) async fn promotions(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    model: &ModelName,
    limit: u32,
) -> MlResult<Vec<Promotion>> {
    let rows = tx
        .fetch_all(
            "SELECT version, at, actor, reason FROM model_promotion WHERE project = $1 AND model = $2
             ORDER BY seq DESC LIMIT $3",
            params![project, model, limit],
        )
        .await?;
    let promotion = |row: &Row| {
        Ok(Promotion {
            version: row.get("version")?,
            at: row.get("at")?,
            actor: row.get("actor")?,
            reason: row.get("reason")?,
        })
    };
    Ok(rows
        .iter()
        .map(promotion)
        .collect::<Result<_, StoreError>>()?)
}

/// Digests of files behind `after` in order, for the mark of the collection.
pub(crate) async fn digests_after(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> MlResult<Vec<Digest>> {
    let rows = tx
        .fetch_all(
            "SELECT DISTINCT digest FROM model_file WHERE digest > $1 ORDER BY digest LIMIT $2",
            params![after, limit],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| row.parse("digest"))
        .collect::<Result<_, _>>()?)
}

/// A version by its whole key.
pub(crate) type Key = (ProjectName, ModelName, i64);

/// Versions behind `after` that retention may take: judged, not champion, and older than the
/// newest `keep` of their model.
pub(crate) async fn beyond_retention(
    tx: &mut Tx<'_>,
    keep: i64,
    after: Option<&Key>,
    limit: u32,
) -> MlResult<Vec<Key>> {
    let (project, model, version) = after.map_or(("", "", 0), |(project, model, version)| {
        (project.as_str(), model.as_str(), *version)
    });
    let rows = tx
        .fetch_all(
            "SELECT v.project, v.model, v.version FROM model_version v
             JOIN model m ON m.project = v.project AND m.name = v.model
             WHERE v.version <= m.newest - $1 AND v.state IN ('archived', 'refused')
               AND (v.project, v.model, v.version) > ($2, $3, $4)
             ORDER BY v.project, v.model, v.version LIMIT $5",
            params![keep, project, model, version, limit],
        )
        .await?;
    let key = |row: &Row| {
        Ok((
            row.parse("project")?,
            row.parse("model")?,
            row.get("version")?,
        ))
    };
    Ok(rows.iter().map(key).collect::<Result<_, StoreError>>()?)
}
