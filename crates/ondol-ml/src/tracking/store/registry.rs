//! Registered models and their versions, in the sense of the protocol.

use std::collections::HashMap;

use ondol_store::{Row, StoreError, Tx, params};

use super::{Statement, compare, scope_of};
use crate::tracking::model::{Pair, RegisteredModel, RegisteredVersion, Scope};
use crate::tracking::plan::filter::{Comparison, Entity, Op, Operand};

/// The tag that tells prompts, which are registered models too, from models.
const PROMPT: &str = "mlflow.prompt.is_prompt";

const VERSION_COLUMNS: &str = "v.project, v.model, v.version, v.description, v.user_id, v.stage, v.source, v.storage, \
     v.run_id, v.run_link, v.model_id, v.created_at, v.updated_at";

fn registered_of(row: &Row) -> Result<RegisteredModel, StoreError> {
    Ok(RegisteredModel {
        scope: scope_of(row, "project")?,
        name: row.get("name")?,
        description: row.get("description")?,
        created: row.get("created_at")?,
        updated: row.get("updated_at")?,
        tags: Vec::new(),
        aliases: Vec::new(),
        latest: Vec::new(),
    })
}

fn version_of(row: &Row) -> Result<RegisteredVersion, StoreError> {
    Ok(RegisteredVersion {
        scope: scope_of(row, "project")?,
        name: row.get("model")?,
        version: row.get("version")?,
        description: row.get("description")?,
        user: row.get("user_id")?,
        stage: row.get("stage")?,
        source: row.get("source")?,
        storage: row.get("storage")?,
        run_id: row.get("run_id")?,
        run_link: row.get("run_link")?,
        model_id: row.get("model_id")?,
        created: row.get("created_at")?,
        updated: row.get("updated_at")?,
        tags: Vec::new(),
        aliases: Vec::new(),
    })
}

/// The registered models of a name in any scope, at most `limit`.
pub(in crate::tracking) async fn registered_named(
    tx: &mut Tx<'_>,
    name: &str,
    limit: i64,
) -> Result<Vec<RegisteredModel>, StoreError> {
    let rows = tx
        .fetch_all(
            "SELECT project, name, description, created_at, updated_at FROM tracking_registered WHERE name = $1
             ORDER BY project LIMIT $2",
            params![name, limit],
        )
        .await?;
    rows.iter().map(registered_of).collect()
}

/// How many registered models a scope has.
pub(in crate::tracking) async fn count_registered(
    tx: &mut Tx<'_>,
    scope: &Scope,
) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM tracking_registered WHERE project = $1",
        params![scope.column()],
    )
    .await?
    .get("n")
}

/// Fills in tags, aliases and the newest version of each stage.
pub(in crate::tracking) async fn registered_data(
    tx: &mut Tx<'_>,
    model: &mut RegisteredModel,
) -> Result<(), StoreError> {
    let key = || params![model.scope.column(), &model.name];
    let tags = tx
        .fetch_all(
            "SELECT key, value FROM tracking_registered_tag WHERE project = $1 AND model = $2 AND version = 0 ORDER BY key",
            key(),
        )
        .await?;
    let aliases = tx
        .fetch_all(
            "SELECT alias, version FROM tracking_alias WHERE project = $1 AND model = $2 ORDER BY alias",
            key(),
        )
        .await?;
    let mut statement = Statement::new("SELECT ");
    statement
        .push(VERSION_COLUMNS)
        .push(" FROM tracking_version v WHERE v.project = ")
        .bind(model.scope.column())
        .push(" AND v.model = ")
        .bind(&model.name)
        .push(
            " AND v.version = (SELECT MAX(w.version) FROM tracking_version w
               WHERE w.project = v.project AND w.model = v.model AND w.stage = v.stage) ORDER BY v.version",
        );
    let latest = statement.fetch(tx).await?;
    for row in tags {
        model.tags.push(Pair {
            key: row.get("key")?,
            value: row.get("value")?,
        });
    }
    for row in aliases {
        model.aliases.push((row.get("alias")?, row.get("version")?));
    }
    for row in latest {
        model.latest.push(version_of(&row)?);
    }
    version_data(tx, &mut model.latest).await
}

/// Fills in the tags and aliases of versions.
pub(in crate::tracking) async fn version_data(
    tx: &mut Tx<'_>,
    versions: &mut [RegisteredVersion],
) -> Result<(), StoreError> {
    let mut models: HashMap<(String, String), Vec<usize>> = HashMap::new();
    for (at, version) in versions.iter().enumerate() {
        models
            .entry((version.scope.column(), version.name.clone()))
            .or_default()
            .push(at);
    }
    for ((project, name), places) in models {
        let numbers: HashMap<i64, usize> = places
            .iter()
            .map(|at| (versions[*at].version, *at))
            .collect();
        for chunk in places.chunks(super::CHUNK) {
            let mut statement = Statement::new(
                "SELECT version, key, value FROM tracking_registered_tag WHERE project = ",
            );
            statement
                .bind(&project)
                .push(" AND model = ")
                .bind(&name)
                .push(" AND version IN ")
                .list(chunk.iter().map(|at| versions[*at].version))
                .push(" ORDER BY version, key");
            for row in statement.fetch(tx).await? {
                let number: i64 = row.get("version")?;
                if let Some(at) = numbers.get(&number) {
                    versions[*at].tags.push(Pair {
                        key: row.get("key")?,
                        value: row.get("value")?,
                    });
                }
            }
        }
        let aliases = tx
            .fetch_all(
                "SELECT alias, version FROM tracking_alias WHERE project = $1 AND model = $2 ORDER BY alias",
                params![&project, &name],
            )
            .await?;
        for row in aliases {
            let number: i64 = row.get("version")?;
            if let Some(at) = numbers.get(&number) {
                versions[*at].aliases.push(row.get("alias")?);
            }
        }
    }
    Ok(())
}

pub(in crate::tracking) async fn insert_registered(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    description: Option<&str>,
    tags: &[Pair],
) -> Result<(), StoreError> {
    let now = tx.now().as_millis();
    tx.execute(
        "INSERT INTO tracking_registered (project, name, description, newest, created_at, updated_at)
         VALUES ($1, $2, $3, 0, $4, $4)",
        params![scope.column(), name, description.map(str::to_owned), now],
    )
    .await?;
    set_registered_tags(tx, scope, name, 0, tags).await
}

/// Sets tags of a model (version 0) or of one of its versions.
pub(in crate::tracking) async fn set_registered_tags(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    version: i64,
    tags: &[Pair],
) -> Result<(), StoreError> {
    for tag in tags {
        tx.execute(
            "INSERT INTO tracking_registered_tag (project, model, version, key, value) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (project, model, version, key) DO UPDATE SET value = excluded.value",
            params![scope.column(), name, version, &tag.key, &tag.value],
        )
        .await?;
    }
    Ok(())
}

pub(in crate::tracking) async fn delete_registered_tag(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    version: i64,
    key: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM tracking_registered_tag WHERE project = $1 AND model = $2 AND version = $3 AND key = $4",
        params![scope.column(), name, version, key],
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn count_registered_tags(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    version: i64,
) -> Result<i64, StoreError> {
    tx.fetch_one(
        "SELECT COUNT(*) AS n FROM tracking_registered_tag WHERE project = $1 AND model = $2 AND version = $3",
        params![scope.column(), name, version],
    )
    .await?
    .get("n")
}

pub(in crate::tracking) async fn describe_registered(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    description: Option<&str>,
) -> Result<(), StoreError> {
    let now = tx.now().as_millis();
    tx.execute(
        "UPDATE tracking_registered SET description = COALESCE($3, description), updated_at = $4
         WHERE project = $1 AND name = $2",
        params![scope.column(), name, description.map(str::to_owned), now],
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn rename_registered(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    new: &str,
) -> Result<(), StoreError> {
    for statement in [
        "UPDATE tracking_registered SET name = $3 WHERE project = $1 AND name = $2",
        "UPDATE tracking_registered_tag SET model = $3 WHERE project = $1 AND model = $2",
        "UPDATE tracking_alias SET model = $3 WHERE project = $1 AND model = $2",
        "UPDATE tracking_version SET model = $3 WHERE project = $1 AND model = $2",
    ] {
        tx.execute(statement, params![scope.column(), name, new])
            .await?;
    }
    Ok(())
}

pub(in crate::tracking) async fn delete_registered(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM tracking_registered_tag WHERE project = $1 AND model = $2",
        "DELETE FROM tracking_alias WHERE project = $1 AND model = $2",
        "DELETE FROM tracking_version WHERE project = $1 AND model = $2",
        "DELETE FROM tracking_registered WHERE project = $1 AND name = $2",
    ] {
        tx.execute(statement, params![scope.column(), name]).await?;
    }
    Ok(())
}

/// Adds a version with the next number of its model.
pub(in crate::tracking) async fn insert_version(
    tx: &mut Tx<'_>,
    version: &mut RegisteredVersion,
) -> Result<(), StoreError> {
    let now = tx.now().as_millis();
    let row = tx
        .fetch_one(
            "UPDATE tracking_registered SET newest = newest + 1, updated_at = $3 WHERE project = $1 AND name = $2
             RETURNING newest",
            params![version.scope.column(), &version.name, now],
        )
        .await?;
    version.version = row.get("newest")?;
    (version.created, version.updated) = (now, now);
    tx.execute(
        "INSERT INTO tracking_version (project, model, version, description, user_id, stage, source, storage, run_id,
            run_link, model_id, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
        params![
            version.scope.column(),
            &version.name,
            version.version,
            version.description.clone(),
            version.user.clone(),
            &version.stage,
            &version.source,
            &version.storage,
            version.run_id.clone(),
            version.run_link.clone(),
            version.model_id.clone(),
            now
        ],
    )
    .await?;
    set_registered_tags(
        tx,
        &version.scope,
        &version.name,
        version.version,
        &version.tags,
    )
    .await
}

/// One version without its tags and aliases.
pub(in crate::tracking) async fn registered_version(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    version: i64,
) -> Result<Option<RegisteredVersion>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(VERSION_COLUMNS)
        .push(" FROM tracking_version v WHERE v.project = ")
        .bind(scope.column())
        .push(" AND v.model = ")
        .bind(name)
        .push(" AND v.version = ")
        .bind(version);
    let rows = statement.fetch(tx).await?;
    rows.first().map(version_of).transpose()
}

/// Writes description and stage of a version.
pub(in crate::tracking) async fn update_version(
    tx: &mut Tx<'_>,
    version: &RegisteredVersion,
) -> Result<(), StoreError> {
    let now = tx.now().as_millis();
    let key = || params![version.scope.column(), &version.name, version.version];
    let mut values = key();
    values.extend(params![version.description.clone(), &version.stage, now]);
    tx.execute(
        "UPDATE tracking_version SET description = $4, stage = $5, updated_at = $6
         WHERE project = $1 AND model = $2 AND version = $3",
        values,
    )
    .await?;
    tx.execute(
        "UPDATE tracking_registered SET updated_at = $3 WHERE project = $1 AND name = $2",
        params![version.scope.column(), &version.name, now],
    )
    .await?;
    Ok(())
}

/// Archives every version in a stage but one.
pub(in crate::tracking) async fn archive_others(
    tx: &mut Tx<'_>,
    version: &RegisteredVersion,
) -> Result<(), StoreError> {
    let now = tx.now().as_millis();
    tx.execute(
        "UPDATE tracking_version SET stage = 'Archived', updated_at = $5
         WHERE project = $1 AND model = $2 AND stage = $3 AND version <> $4",
        params![
            version.scope.column(),
            &version.name,
            &version.stage,
            version.version,
            now
        ],
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn delete_version(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    version: i64,
) -> Result<(), StoreError> {
    for statement in [
        "DELETE FROM tracking_registered_tag WHERE project = $1 AND model = $2 AND version = $3",
        "DELETE FROM tracking_alias WHERE project = $1 AND model = $2 AND version = $3",
        "DELETE FROM tracking_version WHERE project = $1 AND model = $2 AND version = $3",
    ] {
        tx.execute(statement, params![scope.column(), name, version])
            .await?;
    }
    Ok(())
}

pub(in crate::tracking) async fn set_alias(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    alias: &str,
    version: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO tracking_alias (project, model, alias, version) VALUES ($1, $2, $3, $4)
         ON CONFLICT (project, model, alias) DO UPDATE SET version = excluded.version",
        params![scope.column(), name, alias, version],
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn delete_alias(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    alias: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM tracking_alias WHERE project = $1 AND model = $2 AND alias = $3",
        params![scope.column(), name, alias],
    )
    .await?;
    Ok(())
}

pub(in crate::tracking) async fn alias(
    tx: &mut Tx<'_>,
    scope: &Scope,
    name: &str,
    alias: &str,
) -> Result<Option<i64>, StoreError> {
    let row = tx
        .fetch_optional(
            "SELECT version FROM tracking_alias WHERE project = $1 AND model = $2 AND alias = $3",
            params![scope.column(), name, alias],
        )
        .await?;
    row.map(|row| row.get("version")).transpose()
}

/// What to look for in the registry.
pub(in crate::tracking) struct RegistrySearch<'s> {
    /// The projects that may be seen; `None` are all and the installation's.
    pub(in crate::tracking) projects: Option<&'s [String]>,
    /// What must hold.
    pub(in crate::tracking) filter: &'s [Comparison],
    /// The order, already as SQL over columns that the reader of orders named.
    pub(in crate::tracking) order: &'s [crate::tracking::plan::order::Order],
    /// How many are passed over.
    pub(in crate::tracking) offset: i64,
    /// How many are read.
    pub(in crate::tracking) limit: i64,
}

fn registry_conditions(
    statement: &mut Statement,
    search: &RegistrySearch<'_>,
    main: &str,
    model: &str,
    version: &str,
) {
    match search.projects {
        Some(projects) => statement
            .push(&format!(" AND {main}.project IN "))
            .list(projects),
        None => statement
            .push(&format!(" AND {main}.project <> "))
            .bind(Scope::ABANDONED),
    };
    for comparison in search.filter {
        statement.push(" AND ");
        if comparison.entity == Entity::Attribute {
            compare(
                statement,
                &format!("{main}.{}", comparison.key),
                comparison.op,
                &comparison.value,
            );
            continue;
        }
        // A thing without the tag of prompts is a model and no prompt.
        let absent = comparison.key == PROMPT
            && match (&comparison.op, &comparison.value) {
                (Op::Compare("!="), Operand::Text(text)) => text == "true",
                (Op::Compare("="), Operand::Text(text)) => text == "false",
                _ => false,
            };
        let head = format!(
            "EXISTS (SELECT 1 FROM tracking_registered_tag x WHERE x.project = {main}.project AND x.model = {main}.{model} \
             AND x.version = {version} AND x.key = "
        );
        statement.push("(");
        if absent {
            statement
                .push("NOT ")
                .push(&head)
                .bind(PROMPT)
                .push(") OR ");
        }
        statement.push(&head).bind(&comparison.key).push(" AND ");
        compare(statement, "x.value", comparison.op, &comparison.value);
        statement.push("))");
    }
}

fn registry_order(
    statement: &mut Statement,
    search: &RegistrySearch<'_>,
    main: &str,
    default: &str,
) {
    statement.push(" ORDER BY ");
    for order in search.order {
        let direction = if order.ascending { "ASC" } else { "DESC" };
        statement.push(&format!("{main}.{} {direction}, ", order.key));
    }
    statement
        .push(default)
        .push(" LIMIT ")
        .bind(search.limit)
        .push(" OFFSET ")
        .bind(search.offset);
}

/// Registered models.
pub(in crate::tracking) async fn search_registered(
    tx: &mut Tx<'_>,
    search: &RegistrySearch<'_>,
) -> Result<Vec<RegisteredModel>, StoreError> {
    let mut statement = Statement::new(
        "SELECT m.project, m.name, m.description, m.created_at, m.updated_at FROM tracking_registered m WHERE 1 = 1",
    );
    registry_conditions(&mut statement, search, "m", "name", "0");
    registry_order(&mut statement, search, "m", "m.name, m.project");
    let rows = statement.fetch(tx).await?;
    rows.iter().map(registered_of).collect()
}

/// Versions of registered models.
pub(in crate::tracking) async fn search_versions(
    tx: &mut Tx<'_>,
    search: &RegistrySearch<'_>,
) -> Result<Vec<RegisteredVersion>, StoreError> {
    let mut statement = Statement::new("SELECT ");
    statement
        .push(VERSION_COLUMNS)
        .push(" FROM tracking_version v WHERE 1 = 1");
    registry_conditions(&mut statement, search, "v", "model", "v.version");
    registry_order(
        &mut statement,
        search,
        "v",
        "v.updated_at DESC, v.model ASC, v.version DESC, v.project",
    );
    let rows = statement.fetch(tx).await?;
    rows.iter().map(version_of).collect()
}
