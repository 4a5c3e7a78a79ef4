//! The only SQL of this room.

use ondol_store::{Migration, Row, StoreError, Tx, params};
use ondol_types::{ProjectName, SecretName, Timestamp, TokenId};

use crate::secrets::{SealedVersion, SecretInfo};
use crate::tokens::{StoredToken, Token};

/// The migrations of this room: numbers 100 to 199.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 100,
        name: "access tokens",
        sql: "CREATE TABLE auth_token (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    hash BYTEA NOT NULL,
    access TEXT NOT NULL,
    first BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    last_used_at BIGINT
);
CREATE TABLE auth_cursor (id BIGINT PRIMARY KEY, seq BIGINT NOT NULL);
INSERT INTO auth_cursor (id, seq) VALUES (1, 0);
",
    },
    Migration {
        number: 101,
        name: "secrets",
        sql: "CREATE TABLE secret (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by TEXT NOT NULL,
    removed_at BIGINT,
    PRIMARY KEY (project, name)
);
CREATE TABLE secret_version (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    version BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    wrapped BYTEA NOT NULL,
    sealed BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project, name, version)
);
CREATE INDEX secret_version_key ON secret_version (key_id);
CREATE INDEX secret_version_age ON secret_version (created_at);
",
    },
    Migration {
        number: 102,
        name: "deleted projects",
        sql: "CREATE TABLE auth_ended_project (project TEXT PRIMARY KEY, ended_at BIGINT NOT NULL);
DROP TABLE auth_cursor;
",
    },
];

const TOKEN: &str = "SELECT id, name, hash, access, created_at, created_by, expires_at, revoked_at, last_used_at FROM auth_token";

fn read_token(row: &Row) -> Result<StoredToken, StoreError> {
    let hash: Vec<u8> = row.get("hash")?;
    let hash = hash
        .try_into()
        .map(blake3::Hash::from_bytes)
        .map_err(|_| StoreError::Column {
            column: "hash".to_owned(),
            problem: "is not 32 bytes".to_owned(),
        })?;
    Ok(StoredToken {
        token: Token {
            id: row.parse("id")?,
            name: row.get("name")?,
            grant: row.json("access")?,
            created_at: row.get("created_at")?,
            created_by: row.get("created_by")?,
            expires_at: row.get("expires_at")?,
            revoked_at: row.get("revoked_at")?,
            last_used_at: row.get("last_used_at")?,
        },
        hash,
    })
}

pub(crate) async fn insert_token(
    tx: &mut Tx<'_>,
    token: &Token,
    hash: &blake3::Hash,
    first: bool,
) -> Result<(), StoreError> {
    for project in token.grant.projects.keys() {
        tx.admit_project(project).await?;
    }
    tx.execute(
        "INSERT INTO auth_token (id, name, hash, access, first, created_at, created_by, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        params![
            token.id,
            &token.name,
            &hash.as_bytes()[..],
            access(token),
            first,
            token.created_at,
            &token.created_by,
            token.expires_at
        ],
    )
    .await?;
    Ok(())
}

fn access(token: &Token) -> serde_json::Value {
    serde_json::to_value(&token.grant).unwrap_or_default()
}

pub(crate) async fn token(tx: &mut Tx<'_>, id: TokenId) -> Result<Option<StoredToken>, StoreError> {
    let sql = ondol_store::AssertSqlSafe(format!("{TOKEN} WHERE id = $1"));
    tx.fetch_optional(sql, params![id])
        .await?
        .as_ref()
        .map(read_token)
        .transpose()
}

pub(crate) async fn tokens(tx: &mut Tx<'_>) -> Result<Vec<Token>, StoreError> {
    let sql = ondol_store::AssertSqlSafe(format!("{TOKEN} ORDER BY created_at DESC, id DESC"));
    tx.fetch_all(sql, params![])
        .await?
        .iter()
        .map(|row| Ok(read_token(row)?.token))
        .collect()
}

pub(crate) async fn count_tokens(tx: &mut Tx<'_>) -> Result<i64, StoreError> {
    tx.fetch_one("SELECT COUNT(*) AS n FROM auth_token", params![])
        .await?
        .get("n")
}

pub(crate) async fn has_first_token(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    Ok(tx
        .fetch_optional(
            "SELECT id FROM auth_token WHERE first = 1 LIMIT 1",
            params![],
        )
        .await?
        .is_some())
}

pub(crate) async fn revoke_token(tx: &mut Tx<'_>, id: TokenId) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE auth_token SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
        params![id, now],
    )
    .await?;
    Ok(())
}

pub(crate) async fn note_use(tx: &mut Tx<'_>, id: TokenId) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "UPDATE auth_token SET last_used_at = $2 WHERE id = $1",
        params![id, now],
    )
    .await?;
    Ok(())
}

/// Replaces what a token opens.
pub(crate) async fn set_grant(tx: &mut Tx<'_>, token: &Token) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE auth_token SET access = $2 WHERE id = $1",
        params![token.id, access(token)],
    )
    .await?;
    Ok(())
}

/// Deletes rows of tokens that ended before `before`. The first token's row stays, because its
/// file would make it anew.
pub(crate) async fn prune_tokens(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM auth_token WHERE first = 0 AND (revoked_at < $1 OR expires_at < $1)",
        params![before],
    )
    .await
}

fn read_secret(row: &Row) -> Result<SecretInfo, StoreError> {
    Ok(SecretInfo {
        name: row.parse("name")?,
        version: row.get("version")?,
        created_at: row.get("created_at")?,
        updated_at: row.get("updated_at")?,
        updated_by: row.get("updated_by")?,
    })
}

/// A secret's row and whether it was removed.
pub(crate) async fn secret(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &SecretName,
) -> Result<Option<(SecretInfo, bool)>, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT name, version, created_at, updated_at, updated_by, removed_at FROM secret
             WHERE project = $1 AND name = $2",
            params![project, name],
        )
        .await?;
    row.map(|row| {
        let removed: Option<Timestamp> = row.get("removed_at")?;
        Ok((read_secret(&row)?, removed.is_some()))
    })
    .transpose()
}

pub(crate) async fn secrets(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<Vec<SecretInfo>, StoreError> {
    tx.fetch_all(
        "SELECT name, version, created_at, updated_at, updated_by FROM secret
         WHERE project = $1 AND removed_at IS NULL ORDER BY name",
        params![project],
    )
    .await?
    .iter()
    .map(read_secret)
    .collect()
}

pub(crate) async fn count_secrets(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<i64, StoreError> {
    // Removed ones count while they are kept, or removing would lift the ceiling.
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM secret WHERE project = $1",
        params![project],
    )
    .await?
    .get("n")
}

pub(crate) async fn put_secret(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &SecretName,
    version: i64,
    by: &str,
    sealed: &SealedVersion,
) -> Result<(), StoreError> {
    tx.admit_project(project).await?;
    let now = tx.now();
    tx.execute(
        "INSERT INTO secret (project, name, version, created_at, updated_at, updated_by)
         VALUES ($1, $2, $3, $4, $4, $5)
         ON CONFLICT (project, name) DO UPDATE SET version = excluded.version,
             updated_at = excluded.updated_at, updated_by = excluded.updated_by, removed_at = NULL",
        params![project, name, version, now, by],
    )
    .await?;
    tx.execute(
        "INSERT INTO secret_version (project, name, version, key_id, wrapped, sealed, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        params![
            project,
            name,
            version,
            &sealed.key_id,
            &sealed.wrapped[..],
            &sealed.sealed[..],
            now
        ],
    )
    .await?;
    Ok(())
}

pub(crate) async fn remove_secret(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &SecretName,
) -> Result<bool, StoreError> {
    let now = tx.now();
    let changed = tx
        .execute(
            "UPDATE secret SET removed_at = $3 WHERE project = $1 AND name = $2 AND removed_at IS NULL",
            params![project, name, now],
        )
        .await?;
    Ok(changed == 1)
}

pub(crate) async fn secret_version(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    name: &SecretName,
    version: i64,
) -> Result<Option<SealedVersion>, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT key_id, wrapped, sealed FROM secret_version
             WHERE project = $1 AND name = $2 AND version = $3",
            params![project, name, version],
        )
        .await?;
    row.map(|row| {
        Ok(SealedVersion {
            key_id: row.get("key_id")?,
            wrapped: row.get("wrapped")?,
            sealed: row.get("sealed")?,
        })
    })
    .transpose()
}

/// A stored version with the name it is bound to.
pub(crate) struct BoundVersion {
    pub(crate) project: ProjectName,
    pub(crate) name: SecretName,
    pub(crate) version: i64,
    pub(crate) key_id: String,
    pub(crate) wrapped: Vec<u8>,
}

/// Versions whose data key is not wrapped by `current`, at most `limit`.
pub(crate) async fn versions_to_rewrap(
    tx: &mut Tx<'_>,
    current: &str,
    limit: u32,
) -> Result<Vec<BoundVersion>, StoreError> {
    tx.fetch_all(
        "SELECT project, name, version, key_id, wrapped FROM secret_version
         WHERE key_id <> $1 ORDER BY project, name, version LIMIT $2",
        params![current, limit],
    )
    .await?
    .iter()
    .map(|row| {
        Ok(BoundVersion {
            project: row.parse("project")?,
            name: row.parse("name")?,
            version: row.get("version")?,
            key_id: row.get("key_id")?,
            wrapped: row.get("wrapped")?,
        })
    })
    .collect()
}

pub(crate) async fn rewrap(
    tx: &mut Tx<'_>,
    bound: &BoundVersion,
    key_id: &str,
    wrapped: Vec<u8>,
) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE secret_version SET key_id = $4, wrapped = $5
         WHERE project = $1 AND name = $2 AND version = $3",
        params![&bound.project, &bound.name, bound.version, key_id, wrapped],
    )
    .await?;
    Ok(())
}

/// Deletes versions made before `before` that are not among the newest `keep` of a secret that
/// exists, the rows of secrets removed before it, and every version beyond `ceiling`.
pub(crate) async fn prune_secrets(
    tx: &mut Tx<'_>,
    before: Timestamp,
    keep: i64,
    ceiling: i64,
) -> Result<u64, StoreError> {
    let gone = tx
        .execute("DELETE FROM secret WHERE removed_at < $1", params![before])
        .await?;
    let old = tx
        .execute(
            "DELETE FROM secret_version WHERE created_at < $1 AND version <= COALESCE((
                 SELECT s.version - $2 FROM secret s
                 WHERE s.project = secret_version.project AND s.name = secret_version.name), version)",
            params![before, keep],
        )
        .await?;
    let many = tx
        .execute(
            "DELETE FROM secret_version WHERE version <= (
                 SELECT s.version - $1 FROM secret s
                 WHERE s.project = secret_version.project AND s.name = secret_version.name)",
            params![ceiling],
        )
        .await?;
    Ok(gone + old + many)
}

/// Notes that identities made for a project until now end with it.
pub(crate) async fn note_end(tx: &mut Tx<'_>, project: &ProjectName) -> Result<(), StoreError> {
    let now = tx.now();
    tx.execute(
        "INSERT INTO auth_ended_project (project, ended_at) VALUES ($1, $2)
         ON CONFLICT (project) DO UPDATE SET ended_at = excluded.ended_at",
        params![project, now],
    )
    .await?;
    Ok(())
}

/// When a project of this name last ended, if that was lately.
pub(crate) async fn ended_at(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<Option<Timestamp>, StoreError> {
    tx.fetch_optional(
        "SELECT ended_at FROM auth_ended_project WHERE project = $1",
        params![project],
    )
    .await?
    .map(|row| row.get("ended_at"))
    .transpose()
}

/// Forgets ends that no identity can be older than.
pub(crate) async fn prune_ends(tx: &mut Tx<'_>, before: Timestamp) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM auth_ended_project WHERE ended_at < $1",
        params![before],
    )
    .await
}

/// Deletes every secret of a project.
pub(crate) async fn drop_project_secrets(
    tx: &mut Tx<'_>,
    project: &ProjectName,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM secret_version WHERE project = $1",
        "DELETE FROM secret WHERE project = $1",
    ] {
        tx.execute(statement, params![project]).await?;
    }
    Ok(())
}
