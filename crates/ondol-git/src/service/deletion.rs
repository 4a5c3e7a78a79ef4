//! The beginning of a project's end, and what is known of it until it is over.

use std::collections::BTreeMap;
use std::sync::{MutexGuard, PoisonError};

use ondol_auth::{Action, Ctx};
use ondol_store::ProjectHold;
use ondol_types::{ProjectName, Timestamp, event};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Git;
use super::projects::append_repository;
use crate::error::GitError;
use crate::store;

/// A project that is being deleted. Its name can be used again when it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deletion {
    /// Its name.
    pub project: ProjectName,
    /// When it was deleted.
    pub since: Timestamp,
    /// Who deleted it.
    pub by: String,
    /// What is left of it, room by room; empty before the first look.
    pub remains: Vec<String>,
}

impl Git {
    /// Deletes a project: from here on it does not exist, and its name is held until
    /// [`DeletionReconciler`](crate::DeletionReconciler) has seen every room forget it.
    /// Repeating it meanwhile changes nothing.
    ///
    /// # Errors
    /// [`GitError::NoProject`], also when it is over; [`GitError::Denied`].
    pub async fn delete_project(
        &self,
        ctx: &Ctx,
        name: &ProjectName,
    ) -> Result<Deletion, GitError> {
        ctx.require(Action::DeleteProject, name)?;
        let by = ctx.principal.name.as_str();
        let url = &self.clone_url(name);
        let lock = self.comparing(name);
        let _comparing = lock.lock().await;
        let hold = self
            .0
            .store
            .write(|tx| {
                Box::pin(async move {
                    if store::delete_project(tx, name).await? {
                        let seq =
                            append_repository(tx, event::REPOSITORY_DELETED, name, url, by).await?;
                        tx.hold_project(name, seq, by).await?;
                    }
                    tx.project_hold(name)
                        .await?
                        .ok_or_else(|| GitError::NoProject(name.clone()))
                })
            })
            .await?;
        self.prepared().remove(name);
        self.0.deletions.wake();
        Ok(self.deletion_of(hold))
    }

    /// A project's deletion that is not over.
    ///
    /// # Errors
    /// [`GitError::NoProject`] when there is none, [`GitError::Denied`].
    pub async fn deletion(&self, ctx: &Ctx, name: &ProjectName) -> Result<Deletion, GitError> {
        ctx.require(Action::Read, name)?;
        let hold = self
            .0
            .store
            .read::<_, GitError, _>(|tx| Box::pin(async move { Ok(tx.project_hold(name).await?) }))
            .await?
            .ok_or_else(|| GitError::NoProject(name.clone()))?;
        Ok(self.deletion_of(hold))
    }

    fn deletion_of(&self, hold: ProjectHold) -> Deletion {
        Deletion {
            remains: self.remains().get(&hold.name).cloned().unwrap_or_default(),
            project: hold.name,
            since: hold.since,
            by: hold.by,
        }
    }

    /// The places in the log at which these projects begin. What is older and bears their name
    /// belongs to deleted projects; a project that does not exist has no place.
    ///
    /// # Errors
    /// [`GitError::Store`].
    pub async fn births<'a>(
        &self,
        names: impl IntoIterator<Item = &'a ProjectName> + Send,
    ) -> Result<BTreeMap<ProjectName, i64>, GitError> {
        let names: &Vec<ProjectName> = &names.into_iter().cloned().collect();
        self.0
            .store
            .read(|tx| {
                Box::pin(async move {
                    let mut found = BTreeMap::new();
                    for name in names {
                        if let Some(seq) = store::birth(tx, name).await? {
                            found.insert(name.clone(), seq);
                        }
                    }
                    Ok(found)
                })
            })
            .await
    }

    pub(crate) fn remains(&self) -> MutexGuard<'_, BTreeMap<ProjectName, Vec<String>>> {
        self.0
            .remains
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the repository of a deleted project. Git processes that still work in it go on in
    /// the trash, because they were started inside.
    pub(crate) async fn discard_repository(&self, name: &ProjectName) -> Result<(), GitError> {
        let _guard = self.0.lifecycle.lock().await;
        self.prepared().remove(name);
        self.0.crash.reached("git.project.before-trash");
        self.0.repositories.discard(name)?;
        self.0.crash.reached("git.project.after-trash");
        let repositories = self.0.repositories.clone();
        match tokio::task::spawn_blocking(move || repositories.empty_trash()).await {
            Ok(outcome) => outcome,
            Err(error) => Err(GitError::io("empty", self.0.config.root.join(".trash"))(
                std::io::Error::other(error),
            )),
        }
    }
}
