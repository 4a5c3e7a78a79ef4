//! Schema changes: each domain holds its own, the composition root merges them by number.

use std::collections::BTreeMap;

use sqlx::AssertSqlSafe;

use super::pool::Store;
use crate::error::StoreError;
use crate::params;

/// One schema change. Numbers are unique over all rooms: store 1–99, auth 100–199,
/// background 200–299, git 300–399, pipeline 400–499, registry 500–599, deploy 600–699,
/// telemetry 700–799, data 800–899, ml 900–999. Once released, its text never changes.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Its place in the order.
    pub number: u32,
    /// What it does, in a few words.
    pub name: &'static str,
    /// Statements separated by `;` at the end of a line, in SQL that both engines accept.
    pub sql: &'static str,
}

impl Store {
    /// Applies what is missing, each migration in a transaction of its own.
    ///
    /// # Errors
    /// [`StoreError::NewerDatabase`] when the database has a migration that `migrations` lacks,
    /// [`StoreError::ChangedMigration`] when an applied one reads differently now.
    pub async fn migrate(&self, migrations: &[Migration]) -> Result<(), StoreError> {
        let mut ordered = BTreeMap::new();
        for migration in migrations {
            let earlier = ordered.insert(migration.number, *migration);
            assert!(
                earlier.is_none(),
                "two migrations have number {}",
                migration.number
            );
        }
        self.write::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                tx.execute(
                    "CREATE TABLE IF NOT EXISTS schema_migration (
                        number BIGINT PRIMARY KEY, name TEXT NOT NULL, checksum TEXT NOT NULL, applied_at BIGINT NOT NULL)",
                    params![],
                )
                .await?;
                Ok(())
            })
        })
        .await?;
        let applied: BTreeMap<i64, String> = self
            .read::<_, StoreError, _>(|tx| {
                Box::pin(async move {
                    tx.fetch_all("SELECT number, checksum FROM schema_migration", params![])
                        .await?
                        .iter()
                        .map(|row| Ok((row.get("number")?, row.get("checksum")?)))
                        .collect()
                })
            })
            .await?;
        let known = ordered
            .keys()
            .next_back()
            .map_or(0, |number| i64::from(*number));
        if let Some(found) = applied
            .keys()
            .find(|&&number| !ordered.contains_key(&(number as u32)))
        {
            return Err(StoreError::NewerDatabase {
                found: *found,
                known,
            });
        }
        for migration in ordered.values() {
            let checksum = blake3::hash(migration.sql.as_bytes()).to_hex().to_string();
            match applied.get(&i64::from(migration.number)) {
                Some(before) if *before == checksum => {}
                Some(_) => {
                    return Err(StoreError::ChangedMigration {
                        number: i64::from(migration.number),
                        name: migration.name.to_owned(),
                    });
                }
                None => self.apply(migration, &checksum).await?,
            }
        }
        Ok(())
    }

    async fn apply(&self, migration: &Migration, checksum: &str) -> Result<(), StoreError> {
        self.write::<_, StoreError, _>(|tx| {
            Box::pin(async move {
                for statement in migration.sql.split(";\n").map(|text| text.trim().trim_end_matches(';')) {
                    if !statement.is_empty() {
                        tx.execute(AssertSqlSafe(statement.to_owned()), params![]).await?;
                    }
                }
                let now = tx.now();
                tx.execute(
                    "INSERT INTO schema_migration (number, name, checksum, applied_at) VALUES ($1, $2, $3, $4)",
                    params![migration.number, migration.name, checksum, now],
                )
                .await?;
                Ok(())
            })
        })
        .await
    }
}
