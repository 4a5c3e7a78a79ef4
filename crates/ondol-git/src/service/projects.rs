//! Making, listing and changing projects. Their end is in `deletion`.

use std::path::PathBuf;

use ondol_auth::{Action, Ctx, Denied, VisibleScope, visible_scope};
use ondol_store::Tx;
use ondol_store::events::NewEvent;
use ondol_types::{ProjectName, RefName, event};
use serde_json::json;

use super::Git;
use crate::error::GitError;
use crate::model::{Project, Ref, Settings};
use crate::repository::{has_live_process, sweep_stale};
use crate::store::{self, ProjectRow};

const LIST_LIMIT: u32 = 500;

impl Git {
    fn view(&self, row: ProjectRow) -> Project {
        Project {
            clone_url: self.clone_url(&row.name),
            name: row.name,
            default_branch: row.default_branch,
            head: row.head,
            allow_force_push: row.allow_force,
            size_bytes: row.size_bytes,
            created_at: row.created_at,
            created_by: row.created_by,
            pushed_at: row.pushed_at,
        }
    }

    /// Where git finds a project.
    pub fn clone_url(&self, project: &ProjectName) -> String {
        format!("{}/git/{project}.git", self.0.config.base_url)
    }

    pub(crate) async fn row(&self, project: &ProjectName) -> Result<Option<ProjectRow>, GitError> {
        self.0
            .store
            .read(|tx| Box::pin(async move { Ok(store::project(tx, project).await?) }))
            .await
    }

    pub(crate) async fn known(&self, project: &ProjectName) -> Result<ProjectRow, GitError> {
        self.row(project)
            .await?
            .ok_or_else(|| GitError::NoProject(project.clone()))
    }

    /// Whether a project exists. For Ondol's own use: it asks nobody's permission.
    ///
    /// # Errors
    /// [`GitError::Store`].
    pub async fn exists(&self, project: &ProjectName) -> Result<bool, GitError> {
        Ok(self.row(project).await?.is_some())
    }

    /// Refuses a name that a deleted project still has.
    pub(crate) async fn admit_name(&self, name: &ProjectName) -> Result<(), GitError> {
        self.0
            .store
            .read::<_, GitError, _>(|tx| Box::pin(async move { Ok(tx.admit_project(name).await?) }))
            .await
    }

    /// Makes a project with an empty repository.
    ///
    /// # Errors
    /// [`GitError::ProjectExists`], [`GitError::Denied`], and
    /// [`ProjectHeld`](ondol_store::StoreError::ProjectHeld) while an earlier project of the name
    /// is being deleted.
    pub async fn create_project(&self, ctx: &Ctx, name: &ProjectName) -> Result<Project, GitError> {
        ctx.require(Action::CreateProject, name)?;
        if !self.insert(ctx, name).await? {
            return Err(GitError::ProjectExists(name.clone()));
        }
        self.repository(name).await?;
        self.show(ctx, name).await
    }

    /// The project, made when it does not exist: what a first push does.
    ///
    /// # Errors
    /// [`GitError::Denied`] when it does not exist and the caller may not make it.
    pub async fn ensure_project(&self, ctx: &Ctx, name: &ProjectName) -> Result<Project, GitError> {
        if self.row(name).await?.is_none() {
            ctx.require(Action::CreateProject, name)?;
            self.insert(ctx, name).await?;
        }
        self.repository(name).await?;
        self.show(ctx, name).await
    }

    async fn insert(&self, ctx: &Ctx, name: &ProjectName) -> Result<bool, GitError> {
        let by = ctx.principal.name.as_str();
        let url = &self.clone_url(name);
        self.0
            .store
            .write(|tx| {
                Box::pin(async move {
                    if !store::insert_project(tx, name, by).await? {
                        return Ok(false);
                    }
                    let seq =
                        append_repository(tx, event::REPOSITORY_CREATED, name, url, by).await?;
                    store::note_birth(tx, name, seq).await?;
                    Ok(true)
                })
            })
            .await
    }

    /// The folder of a project's repository, ready for git: made if the project was made just
    /// before a crash, and free of what a killed git left.
    pub(crate) async fn repository(&self, project: &ProjectName) -> Result<PathBuf, GitError> {
        let repositories = &self.0.repositories;
        let path = repositories.of(project);
        if self.prepared().contains(project) && path.exists() {
            return Ok(path);
        }
        let _guard = self.0.lifecycle.lock().await;
        let row = self.known(project).await?;
        if !row.made {
            self.0.crash.reached("git.project.before-repository");
            repositories.make(project).await?;
            self.0.crash.reached("git.project.after-repository");
            self.0
                .store
                .write::<_, GitError, _>(|tx| {
                    Box::pin(async move { Ok(store::mark_made(tx, project).await?) })
                })
                .await?;
        } else if !path.exists() {
            return Err(GitError::RepositoryMissing {
                project: project.clone(),
                path,
            });
        } else if !self.prepared().contains(project) {
            if has_live_process(&path) {
                // A receive that outlived its control plane; it is looked at again next time.
                return Ok(path);
            }
            let removed = sweep_stale(&path);
            if removed > 0 {
                tracing::info!(project = %project, files = removed, "removed what an interrupted git left");
            }
        }
        self.prepared().insert(project.clone());
        Ok(path)
    }

    /// A project.
    ///
    /// # Errors
    /// [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn show(&self, ctx: &Ctx, name: &ProjectName) -> Result<Project, GitError> {
        ctx.require(Action::Read, name)?;
        Ok(self.view(self.known(name).await?))
    }

    /// The projects that the caller may read, by name, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`GitError::Denied`] when nobody is logged in, [`GitError::Store`].
    pub async fn list(
        &self,
        ctx: &Ctx,
        after: Option<&ProjectName>,
        limit: u32,
    ) -> Result<Vec<Project>, GitError> {
        if !ctx.principal.is_authenticated() {
            return Err(Denied::Unauthenticated.into());
        }
        let scope = &visible_scope(&ctx.principal, Action::Read, self.0.clock.now());
        let after = after.map_or("", ProjectName::as_str);
        let limit = limit.clamp(1, LIST_LIMIT);
        let rows = self
            .0
            .store
            .read::<_, GitError, _>(|tx| {
                Box::pin(async move {
                    let VisibleScope::Projects(names) = scope else {
                        return Ok(store::projects(tx, after, limit).await?);
                    };
                    let mut rows = Vec::new();
                    for name in names.iter().filter(|name| name.as_str() > after) {
                        rows.extend(store::project(tx, name).await?);
                        if rows.len() >= limit as usize {
                            break;
                        }
                    }
                    Ok(rows)
                })
            })
            .await?;
        Ok(rows.into_iter().map(|row| self.view(row)).collect())
    }

    /// Changes settings of a project.
    ///
    /// # Errors
    /// [`GitError::NoBranch`] when the new default branch does not exist, [`GitError::Denied`].
    pub async fn configure(
        &self,
        ctx: &Ctx,
        name: &ProjectName,
        settings: &Settings,
    ) -> Result<Project, GitError> {
        ctx.require(Action::Configure, name)?;
        let path = self.repository(name).await?;
        let lock = self.comparing(name);
        let _guard = lock.lock().await;
        let row = self.known(name).await?;
        let branch = settings
            .default_branch
            .clone()
            .unwrap_or_else(|| row.default_branch.clone());
        let force = settings.allow_force_push.unwrap_or(row.allow_force);
        if branch != row.default_branch {
            let missing = || GitError::NoBranch {
                project: name.clone(),
                branch: branch.clone(),
            };
            let full = &RefName::of_branch(&branch).map_err(|_| missing())?;
            let found = self
                .0
                .store
                .read::<_, GitError, _>(|tx| {
                    Box::pin(async move { Ok(store::one_ref(tx, name, full).await?) })
                })
                .await?;
            if found.is_none() {
                return Err(missing());
            }
            self.0.repositories.set_head(&path, full).await?;
        }
        let branch = branch.as_str();
        self.0
            .store
            .write::<_, GitError, _>(|tx| {
                Box::pin(async move { Ok(store::set_settings(tx, name, branch, force).await?) })
            })
            .await?;
        self.show(ctx, name).await
    }

    /// Moves repositories without a project to the trash: a crash came between the deletion of
    /// the row and that of the folder.
    pub(crate) async fn discard_orphans(&self) -> Result<u64, GitError> {
        let _guard = self.0.lifecycle.lock().await;
        let mut count = 0;
        for name in self.0.repositories.on_disk()? {
            if self.row(&name).await?.is_none() {
                tracing::info!(project = %name, "discarding the repository of a deleted project");
                self.0.repositories.discard(&name)?;
                count += 1;
            }
        }
        if count > 0 {
            self.0.repositories.empty_trash()?;
        }
        Ok(count)
    }

    /// Branches and tags of a project by full name, after `after`, at most `limit`.
    ///
    /// # Errors
    /// [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn refs(
        &self,
        ctx: &Ctx,
        name: &ProjectName,
        after: Option<&RefName>,
        limit: u32,
    ) -> Result<Vec<Ref>, GitError> {
        ctx.require(Action::Read, name)?;
        self.known(name).await?;
        let after = after.map_or("", RefName::as_str);
        let limit = limit.clamp(1, LIST_LIMIT);
        self.0
            .store
            .read(|tx| Box::pin(async move { Ok(store::list_refs(tx, name, after, limit).await?) }))
            .await
    }
}

/// Appends an event about a repository and returns its place.
pub(super) async fn append_repository(
    tx: &mut Tx<'_>,
    event_type: event::EventType,
    name: &ProjectName,
    url: &str,
    by: &str,
) -> Result<i64, GitError> {
    let (_, seq) = tx
        .append(
            NewEvent::new(event_type, name)
                .project(name)
                .content(json!({ "name": name, "uri": url }))
                .actor(by),
        )
        .await?;
    Ok(seq)
}
