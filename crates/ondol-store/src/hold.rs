//! Names of projects that are being deleted.
//!
//! A project's rows, files and workloads lie in many rooms, and each forgets its own in its own
//! time. Until the last of them has, the name is held here: nobody can have it, and a room that
//! is about to write the first row of something asks [`Tx::admit_project`] in the same
//! transaction. So a request or a follower that is late cannot write for a project that is
//! gone, and nothing of it is left for the next project of the name.
//!
//! The hold begins in the transaction that deletes the project and ends in one of its own, after
//! every room said that it has forgotten.

use async_trait::async_trait;
use ondol_types::{Problem, ProjectName, Timestamp};

use crate::db::{Migration, Row, Tx};
use crate::error::StoreError;
use crate::params;

pub(crate) const MIGRATION: Migration = Migration {
    number: 2,
    name: "names of deleted projects",
    sql: "CREATE TABLE project_hold (
    name TEXT PRIMARY KEY,
    seq BIGINT NOT NULL,
    actor TEXT NOT NULL,
    since BIGINT NOT NULL
);
",
};

/// A name that nobody can have yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectHold {
    /// The name of the deleted project.
    pub name: ProjectName,
    /// The place of the deletion in the event log: what followers of the log must have passed.
    pub seq: i64,
    /// Who deleted it.
    pub by: String,
    /// When it was deleted.
    pub since: Timestamp,
}

/// How far a room has forgotten a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// Nothing of it is left, and nothing of it can come any more.
    Entirely,
    /// This is left, for people: it was asked to end, and is looked at again soon.
    Remains(String),
}

/// A room that has something of projects.
#[async_trait]
pub trait ForgetProject: Send + Sync + 'static {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Removes what the room has of a deleted project, or asks for its end; called again until
    /// nothing remains, also after a death at any place. The name is held meanwhile, so all that
    /// bears it belongs to the deleted project. A room that follows the log has something left as
    /// long as its cursor stands before [`ProjectHold::seq`].
    ///
    /// # Errors
    /// Any problem counts as something that remains.
    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem>;
}

fn read_hold(row: &Row) -> Result<ProjectHold, StoreError> {
    Ok(ProjectHold {
        name: row.parse("name")?,
        seq: row.get("seq")?,
        by: row.get("actor")?,
        since: row.get("since")?,
    })
}

impl Tx<'_> {
    /// Holds the name of a project that is deleted in this transaction; `seq` is the place of the
    /// event that says so.
    pub async fn hold_project(
        &mut self,
        name: &ProjectName,
        seq: i64,
        by: &str,
    ) -> Result<(), StoreError> {
        let now = self.now();
        self.execute(
            "INSERT INTO project_hold (name, seq, actor, since) VALUES ($1, $2, $3, $4)
             ON CONFLICT (name) DO NOTHING",
            params![name, seq, by, now],
        )
        .await?;
        Ok(())
    }

    /// The hold on a name, if there is one.
    pub async fn project_hold(
        &mut self,
        name: &ProjectName,
    ) -> Result<Option<ProjectHold>, StoreError> {
        self.fetch_optional(
            "SELECT name, seq, actor, since FROM project_hold WHERE name = $1",
            params![name],
        )
        .await?
        .as_ref()
        .map(read_hold)
        .transpose()
    }

    /// Refuses to go on for a project that is being deleted. Called in the transaction that writes
    /// the first row of something for a project.
    ///
    /// # Errors
    /// [`StoreError::ProjectHeld`].
    pub async fn admit_project(&mut self, name: &ProjectName) -> Result<(), StoreError> {
        match self.project_hold(name).await? {
            None => Ok(()),
            Some(hold) => Err(StoreError::ProjectHeld {
                project: hold.name,
                since: hold.since,
            }),
        }
    }

    /// Held names in order, after `after`, at most `limit`.
    pub async fn project_holds(
        &mut self,
        after: &str,
        limit: u32,
    ) -> Result<Vec<ProjectHold>, StoreError> {
        self.fetch_all(
            "SELECT name, seq, actor, since FROM project_hold WHERE name > $1 ORDER BY name LIMIT $2",
            params![after, limit],
        )
        .await?
        .iter()
        .map(read_hold)
        .collect()
    }

    /// Gives the name back; false when this very hold is over already.
    pub async fn release_project(&mut self, hold: &ProjectHold) -> Result<bool, StoreError> {
        let changed = self
            .execute(
                "DELETE FROM project_hold WHERE name = $1 AND seq = $2",
                params![&hold.name, hold.seq],
            )
            .await?;
        Ok(changed == 1)
    }
}
