//! Whose a thing is, and who may do what with it: every decision is [`ondol_auth::decide`]'s.

use ondol_auth::{Action, Ctx, Denied, VisibleScope, visible_scope};
use ondol_store::Tx;
use ondol_types::ProjectName;

use super::store;
use crate::tracking::Tracking;
use crate::tracking::error::{TrackingError, TrackingResult};
use crate::tracking::model::{Experiment, RunInfo, Scope};

/// May somebody do this with a thing of a scope? What they may not see does not exist for them.
pub(super) fn require(
    ctx: &Ctx,
    action: Action,
    scope: &Scope,
    missing: impl FnOnce() -> String,
) -> TrackingResult<()> {
    let decided = match scope {
        Scope::Project(project) => ctx.require(action, project),
        Scope::Installation => match ctx.require_installation(action) {
            Err(Denied::Forbidden { .. }) if ctx.principal.grant.everywhere.is_none() => {
                Err(Denied::Invisible(String::new()))
            }
            decided => decided,
        },
        Scope::Abandoned => Err(Denied::Invisible(String::new())),
    };
    match decided {
        Err(Denied::Invisible(_)) => Err(TrackingError::missing(missing())),
        decided => Ok(decided?),
    }
}

/// The scope that a token is at home in: the installation, or its only project.
pub(super) fn home(ctx: &Ctx) -> Option<Scope> {
    let grant = &ctx.principal.grant;
    if grant.everywhere.is_some() {
        return Some(Scope::Installation);
    }
    let mut projects = grant.projects.keys();
    match (projects.next(), projects.next()) {
        (Some(only), None) => Some(Scope::Project(only.clone())),
        _ => None,
    }
}

/// The columns of the scopes that somebody may see; `None` are all.
pub(super) fn visible(ctx: &Ctx) -> Option<Vec<String>> {
    match visible_scope(&ctx.principal, Action::Read, ctx.clock.now()) {
        VisibleScope::Everything => None,
        VisibleScope::Projects(projects) => {
            Some(projects.iter().map(ToString::to_string).collect())
        }
    }
}

/// An experiment for somebody who wants to do something with it.
pub(super) async fn experiment(
    tx: &mut Tx<'_>,
    ctx: &Ctx,
    action: Action,
    id: i64,
) -> TrackingResult<Experiment> {
    let missing = || format!("No Experiment with id={id} exists");
    let found = store::experiment(tx, id)
        .await?
        .ok_or_else(|| TrackingError::missing(missing()))?;
    require(ctx, action, &found.scope, missing)?;
    Ok(found)
}

/// A run for somebody who wants to do something with it.
pub(super) async fn run(
    tx: &mut Tx<'_>,
    ctx: &Ctx,
    action: Action,
    id: &str,
) -> TrackingResult<RunInfo> {
    let missing = || format!("Run with id={id} not found");
    let found = store::run(tx, id)
        .await?
        .ok_or_else(|| TrackingError::missing(missing()))?;
    require(ctx, action, &found.scope, missing)?;
    Ok(found)
}

impl Tracking {
    /// Whose a new thing of this name is, or where it is looked for first.
    pub(super) async fn scope_of_name(&self, ctx: &Ctx, name: &str) -> TrackingResult<Scope> {
        if !ctx.principal.is_authenticated() {
            return Err(Denied::Unauthenticated.into());
        }
        let head = name.trim_start_matches('/').split(['/', '.']).next();
        let named = head
            .and_then(|head| head.parse::<ProjectName>().ok())
            .filter(|project| ctx.principal.grant.role_on(project).is_some());
        if let Some(project) = named
            && self.exists(&project).await?
        {
            return Ok(Scope::Project(project));
        }
        match home(ctx) {
            Some(Scope::Project(project)) if !self.exists(&project).await? => Err(
                TrackingError::missing(format!("project `{project}` does not exist")),
            ),
            Some(scope) => Ok(scope),
            None => Err(TrackingError::invalid(format!(
                "'{name}' belongs to no project that your token opens: begin it with the project's name, such as `my-project/{}`",
                name.trim_start_matches('/')
            ))),
        }
    }

    async fn exists(&self, project: &ProjectName) -> TrackingResult<bool> {
        self.0
            .projects
            .exists(project)
            .await
            .map_err(TrackingError::Outside)
    }
}
