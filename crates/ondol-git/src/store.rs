//! The only SQL of this room.

use ondol_store::{AssertSqlSafe, Migration, Row, StoreError, Tx, params};
use ondol_types::{CommitId, OperationId, ProjectName, RefName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::model::Ref;
use crate::plan::Refs;

/// The migrations of this room: numbers 300 to 399.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 300,
        name: "projects and refs",
        sql: "CREATE TABLE git_project (
    name TEXT PRIMARY KEY,
    default_branch TEXT NOT NULL,
    allow_force BIGINT NOT NULL,
    made BIGINT NOT NULL,
    size_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    pushed_at BIGINT,
    maintained_at BIGINT NOT NULL,
    looked_at BIGINT NOT NULL
);
CREATE TABLE git_ref (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    target TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    chain TEXT NOT NULL,
    PRIMARY KEY (project, name)
);
CREATE TABLE git_push (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    pusher TEXT NOT NULL,
    commands TEXT NOT NULL,
    options TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX git_push_project ON git_push (project, created_at);
",
    },
    Migration {
        number: 301,
        name: "deletion of projects",
        // Rooms of older versions kept things of projects that were deleted: those are forgotten now.
        sql: "ALTER TABLE git_project ADD COLUMN born_seq BIGINT NOT NULL DEFAULT 0;
INSERT INTO project_hold (name, seq, actor, since)
SELECT project, MAX(seq), 'ondol', MAX(time) FROM event
WHERE type = 'dev.cdevents.repository.deleted.0.3.0' AND project IS NOT NULL
  AND project NOT IN (SELECT name FROM git_project) GROUP BY project;
",
    },
];

/// A project's row.
#[derive(Clone, Debug)]
pub(crate) struct ProjectRow {
    pub(crate) name: ProjectName,
    pub(crate) default_branch: String,
    pub(crate) allow_force: bool,
    /// Whether the repository was made on disk.
    pub(crate) made: bool,
    pub(crate) size_bytes: u64,
    pub(crate) created_at: Timestamp,
    pub(crate) created_by: String,
    pub(crate) pushed_at: Option<Timestamp>,
    pub(crate) head: Option<CommitId>,
}

/// A push that was begun: who it is from, before git moves anything.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) id: OperationId,
    pub(crate) project: ProjectName,
    pub(crate) pusher: String,
    pub(crate) commands: Vec<IntentCommand>,
    pub(crate) options: Vec<String>,
}

/// What a push wants of one ref.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IntentCommand {
    #[serde(rename = "ref")]
    pub(crate) name: RefName,
    pub(crate) new: Option<CommitId>,
}

const PROJECT: &str = "SELECT p.name, p.default_branch, p.allow_force, p.made, p.size_bytes, p.created_at, p.created_by, p.pushed_at, r.target AS head
     FROM git_project p LEFT JOIN git_ref r ON r.project = p.name AND r.name = 'refs/heads/' || p.default_branch";

fn read_project(row: &Row) -> Result<ProjectRow, StoreError> {
    Ok(ProjectRow {
        name: row.parse("name")?,
        default_branch: row.get("default_branch")?,
        allow_force: row.get("allow_force")?,
        made: row.get("made")?,
        size_bytes: row.get("size_bytes")?,
        created_at: row.get("created_at")?,
        created_by: row.get("created_by")?,
        pushed_at: row.get("pushed_at")?,
        head: row.parse_opt("head")?,
    })
}

pub(crate) async fn project(
    tx: &mut Tx<'_>,
    name: &ProjectName,
) -> Result<Option<ProjectRow>, StoreError> {
    let sql = AssertSqlSafe(format!("{PROJECT} WHERE p.name = $1"));
    tx.fetch_optional(sql, params![name])
        .await?
        .as_ref()
        .map(read_project)
        .transpose()
}

pub(crate) async fn projects(
    tx: &mut Tx<'_>,
    after: &str,
    limit: u32,
) -> Result<Vec<ProjectRow>, StoreError> {
    let sql = AssertSqlSafe(format!(
        "{PROJECT} WHERE p.name > $1 ORDER BY p.name LIMIT $2"
    ));
    tx.fetch_all(sql, params![after, limit])
        .await?
        .iter()
        .map(read_project)
        .collect()
}

/// Inserts a project; false when the name is taken.
///
/// # Errors
/// [`StoreError::ProjectHeld`] while an earlier project of the name is being deleted.
pub(crate) async fn insert_project(
    tx: &mut Tx<'_>,
    name: &ProjectName,
    by: &str,
) -> Result<bool, StoreError> {
    tx.admit_project(name).await?;
    let now = tx.now();
    let changed = tx
        .execute(
            "INSERT INTO git_project (name, default_branch, allow_force, made, size_bytes, created_at, created_by, maintained_at, looked_at)
             VALUES ($1, 'main', 0, 0, 0, $2, $3, $2, 0) ON CONFLICT (name) DO NOTHING",
            params![name, now, by],
        )
        .await?;
    Ok(changed == 1)
}

/// Notes the place of a project's first event in the log.
pub(crate) async fn note_birth(
    tx: &mut Tx<'_>,
    name: &ProjectName,
    seq: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE git_project SET born_seq = $2 WHERE name = $1",
        params![name, seq],
    )
    .await?;
    Ok(())
}

/// The place of a project's first event in the log; 0 when an older version made it.
pub(crate) async fn birth(tx: &mut Tx<'_>, name: &ProjectName) -> Result<Option<i64>, StoreError> {
    tx.fetch_optional(
        "SELECT born_seq FROM git_project WHERE name = $1",
        params![name],
    )
    .await?
    .map(|row| row.get("born_seq"))
    .transpose()
}

pub(crate) async fn mark_made(tx: &mut Tx<'_>, name: &ProjectName) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE git_project SET made = 1 WHERE name = $1",
        params![name],
    )
    .await?;
    Ok(())
}

pub(crate) async fn delete_project(
    tx: &mut Tx<'_>,
    name: &ProjectName,
) -> Result<bool, StoreError> {
    tx.execute("DELETE FROM git_ref WHERE project = $1", params![name])
        .await?;
    tx.execute("DELETE FROM git_push WHERE project = $1", params![name])
        .await?;
    let changed = tx
        .execute("DELETE FROM git_project WHERE name = $1", params![name])
        .await?;
    Ok(changed == 1)
}

pub(crate) async fn set_settings(
    tx: &mut Tx<'_>,
    name: &ProjectName,
    default_branch: &str,
    allow_force: bool,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE git_project SET default_branch = $2, allow_force = $3 WHERE name = $1",
        params![name, default_branch, allow_force],
    )
    .await?;
    Ok(())
}

pub(crate) async fn set_size(
    tx: &mut Tx<'_>,
    name: &ProjectName,
    bytes: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE git_project SET size_bytes = $2 WHERE name = $1",
        params![name, bytes],
    )
    .await?;
    Ok(())
}

pub(crate) async fn note_push(tx: &mut Tx<'_>, name: &ProjectName) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE git_project SET pushed_at = $2 WHERE name = $1",
        params![name, now],
    )
    .await?;
    Ok(())
}

/// Notes the size after maintenance, and when everything was collected.
pub(crate) async fn note_maintenance(
    tx: &mut Tx<'_>,
    name: &ProjectName,
    bytes: u64,
    collected: bool,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE git_project SET size_bytes = $2,
             maintained_at = CASE WHEN $3 = 1 THEN $4 ELSE maintained_at END WHERE name = $1",
        params![name, bytes, collected, now],
    )
    .await?;
    Ok(())
}

/// When everything was last collected.
pub(crate) async fn maintained_at(
    tx: &mut Tx<'_>,
    name: &ProjectName,
) -> Result<Timestamp, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT maintained_at FROM git_project WHERE name = $1",
            params![name],
        )
        .await?;
    row.map_or(Ok(Timestamp::default()), |row| row.get("maintained_at"))
}

/// Projects that were pushed to since maintenance last looked at them, at most `limit`; they
/// count as looked at.
pub(crate) async fn take_worn(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<ProjectName>, StoreError> {
    let now = tx.now();
    let names: Vec<ProjectName> = tx
        .fetch_all(
            "SELECT name FROM git_project WHERE made = 1 AND pushed_at >= looked_at
             ORDER BY looked_at, name LIMIT $1",
            params![limit],
        )
        .await?
        .iter()
        .map(|row| row.parse("name"))
        .collect::<Result<_, _>>()?;
    for name in &names {
        tx.execute(
            "UPDATE git_project SET looked_at = $2 WHERE name = $1",
            params![name, now],
        )
        .await?;
    }
    Ok(names)
}

pub(crate) async fn refs(tx: &mut Tx<'_>, project: &ProjectName) -> Result<Refs, StoreError> {
    tx.fetch_all(
        "SELECT name, target FROM git_ref WHERE project = $1",
        params![project],
    )
    .await?
    .iter()
    .map(|row| Ok((row.parse("name")?, row.parse("target")?)))
    .collect()
}

fn read_ref(row: &Row) -> Result<Ref, StoreError> {
    Ok(Ref {
        name: row.parse("name")?,
        target: row.parse("target")?,
        updated_at: row.get("updated_at")?,
        chain: row.get("chain")?,
    })
}

pub(crate) async fn one_ref(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &RefName,
) -> Result<Option<Ref>, StoreError> {
    tx.fetch_optional(
        "SELECT name, target, updated_at, chain FROM git_ref WHERE project = $1 AND name = $2",
        params![project, name],
    )
    .await?
    .as_ref()
    .map(read_ref)
    .transpose()
}

pub(crate) async fn list_refs(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    after: &str,
    limit: u32,
) -> Result<Vec<Ref>, StoreError> {
    tx.fetch_all(
        "SELECT name, target, updated_at, chain FROM git_ref
         WHERE project = $1 AND name > $2 ORDER BY name LIMIT $3",
        params![project, after, limit],
    )
    .await?
    .iter()
    .map(read_ref)
    .collect()
}

pub(crate) async fn count_refs(tx: &mut Tx<'_>, project: &ProjectName) -> Result<u64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM git_ref WHERE project = $1",
        params![project],
    )
    .await?
    .get("n")
}

pub(crate) async fn put_ref(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &RefName,
    target: &CommitId,
    chain: &str,
) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO git_ref (project, name, target, updated_at, chain) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (project, name) DO UPDATE SET target = excluded.target,
             updated_at = excluded.updated_at, chain = excluded.chain",
        params![project, name, target, now, chain],
    )
    .await?;
    Ok(())
}

pub(crate) async fn delete_ref(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &RefName,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM git_ref WHERE project = $1 AND name = $2",
        params![project, name],
    )
    .await?;
    Ok(())
}

pub(crate) async fn insert_intent(tx: &mut Tx<'_>, intent: &Intent) -> Result<(), StoreError> {
    let now = tx.now();
    let json = |value: serde_json::Result<serde_json::Value>| value.unwrap_or_default();
    tx.execute(
        "INSERT INTO git_push (id, project, pusher, commands, options, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        params![
            intent.id,
            &intent.project,
            &intent.pusher,
            json(serde_json::to_value(&intent.commands)),
            json(serde_json::to_value(&intent.options)),
            now
        ],
    )
    .await?;
    Ok(())
}

/// The open pushes of a project, newest first.
pub(crate) async fn intents(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<Vec<Intent>, StoreError> {
    tx.fetch_all(
        "SELECT id, project, pusher, commands, options FROM git_push
         WHERE project = $1 ORDER BY created_at DESC, id DESC LIMIT 20",
        params![project],
    )
    .await?
    .iter()
    .map(|row| {
        Ok(Intent {
            id: row.parse("id")?,
            project: row.parse("project")?,
            pusher: row.get("pusher")?,
            commands: row.json("commands")?,
            options: row.json("options")?,
        })
    })
    .collect()
}

/// Open pushes, oldest first: their ids and projects.
pub(crate) async fn open_intents(
    tx: &mut Tx<'_>,
    limit: u32,
) -> Result<Vec<(OperationId, ProjectName)>, StoreError> {
    tx.fetch_all(
        "SELECT id, project FROM git_push ORDER BY created_at, id LIMIT $1",
        params![limit],
    )
    .await?
    .iter()
    .map(|row| Ok((row.parse("id")?, row.parse("project")?)))
    .collect()
}

pub(crate) async fn delete_intent(tx: &mut Tx<'_>, id: OperationId) -> Result<(), StoreError> {
    tx.execute("DELETE FROM git_push WHERE id = $1", params![id])
        .await?;
    Ok(())
}
