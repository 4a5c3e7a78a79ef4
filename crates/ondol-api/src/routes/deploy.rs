//! Releases and rollouts.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use ondol_auth::Ctx;
use ondol_deploy::{DeployError, Release, Requested, Rollout};
use ondol_types::{EnvironmentName, ProjectName, RolloutId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Body, Caller, Path, Query};
use crate::page::{Page, PageQuery};
use crate::problem::{Answer, Refusal};
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(releases))
        .routes(routes!(rollouts))
        .routes(routes!(rollout))
        .routes(routes!(steer))
        .routes(routes!(rollback))
        .routes(routes!(restart))
        .routes(routes!(scale))
        .routes(routes!(unhold))
}

fn environment(given: Option<String>) -> Answer<EnvironmentName> {
    match given {
        None => Ok(EnvironmentName::production()),
        Some(text) => text
            .parse()
            .map_err(|error: ondol_types::NameError| Refusal::invalid(error.to_string())),
    }
}

/// Which page of which environment.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EnvironmentQuery {
    /// Which environment (default `production`).
    environment: Option<String>,
    /// How many, at most 500.
    limit: Option<u32>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

impl EnvironmentQuery {
    fn parts(self) -> Answer<(EnvironmentName, Option<i64>, u32)> {
        let page = PageQuery {
            limit: self.limit,
            cursor: self.cursor,
        };
        let before = match page.before()? {
            i64::MAX => None,
            before => Some(before),
        };
        Ok((environment(self.environment)?, before, page.limit()))
    }
}

/// A release, and whether it serves.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReleaseView {
    #[serde(flatten)]
    release: Release,
    /// Whether it is the one that serves.
    current: bool,
}

/// Releases of an environment, newest first.
#[utoipa::path(get, path = "/projects/{project}/releases", tag = "deploy", params(("project" = ProjectName, Path), EnvironmentQuery), responses((status = 200, body = Page<ReleaseView>)))]
async fn releases(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Query(query): Query<EnvironmentQuery>,
) -> Answer<Json<Page<ReleaseView>>> {
    let (name, before, limit) = query.parts()?;
    let found = rooms
        .deploy
        .releases(&ctx, &project, &name, before, limit)
        .await?;
    let status = rooms.deploy.status(&ctx, &project).await?;
    let current = status
        .into_iter()
        .find(|status| status.environment.name == name)
        .and_then(|status| status.environment.current);
    let items = found
        .items
        .into_iter()
        .map(|release| ReleaseView {
            current: current == Some(release.id),
            release,
        })
        .collect();
    Ok(Json(Page {
        items,
        next: found.next.map(|next| next.to_string()),
    }))
}

/// A rollout in few words.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RolloutSummary {
    #[serde(flatten)]
    rollout: Rollout,
    /// The number of the release that it brings, once composed.
    to_number: Option<i64>,
}

async fn summary(rooms: &Rooms, ctx: &Ctx, rollout: Rollout) -> Answer<RolloutSummary> {
    let to_number = match rollout.to {
        None => None,
        Some(id) => rooms
            .deploy
            .releases(ctx, &rollout.project, &rollout.environment, None, 200)
            .await?
            .items
            .into_iter()
            .find(|release| release.id == id)
            .map(|release| release.number),
    };
    Ok(RolloutSummary { rollout, to_number })
}

/// Rollouts of an environment, newest first.
#[utoipa::path(get, path = "/projects/{project}/rollouts", tag = "deploy", params(("project" = ProjectName, Path), EnvironmentQuery), responses((status = 200, body = Page<RolloutSummary>)))]
async fn rollouts(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Query(query): Query<EnvironmentQuery>,
) -> Answer<Json<Page<RolloutSummary>>> {
    let (name, before, limit) = query.parts()?;
    let found = rooms
        .deploy
        .rollouts(&ctx, &project, &name, before, limit)
        .await?;
    let mut items = Vec::with_capacity(found.items.len());
    for rollout in found.items {
        items.push(summary(&rooms, &ctx, rollout).await?);
    }
    Ok(Json(Page {
        items,
        next: found.next.map(|next| next.to_string()),
    }))
}

/// A rollout with its release command and probes.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RolloutDetail {
    #[serde(flatten)]
    summary: RolloutSummary,
    /// Its release command, when it has one.
    command: Option<ondol_deploy::Command>,
    /// Probe results of its replicas, oldest first.
    probes: Vec<ondol_deploy::Probe>,
}

/// A rollout is found below its own project alone.
fn belongs(project: &ProjectName, rollout: &Rollout) -> Answer<()> {
    if rollout.project == *project {
        return Ok(());
    }
    Err(DeployError::NoRollout(rollout.id).into())
}

/// One rollout.
#[utoipa::path(get, path = "/projects/{project}/rollouts/{rollout}", tag = "deploy", params(("project" = ProjectName, Path), ("rollout" = RolloutId, Path)), responses((status = 200, body = RolloutDetail)))]
async fn rollout(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, id)): Path<(ProjectName, RolloutId)>,
) -> Answer<Json<RolloutDetail>> {
    let found = rooms.deploy.rollout(&ctx, id).await?;
    belongs(&project, &found.rollout)?;
    let summary = summary(&rooms, &ctx, found.rollout).await?;
    Ok(Json(RolloutDetail {
        summary,
        command: found.command,
        probes: found.probes,
    }))
}

/// Pauses, resumes, promotes or aborts a rollout.
#[utoipa::path(post, path = "/projects/{project}/rollouts/{rollout}/{verb}", tag = "deploy",
    params(("project" = ProjectName, Path), ("rollout" = RolloutId, Path), ("verb" = String, Path, description = "pause, resume, promote or abort")),
    responses((status = 200, body = RolloutSummary)))]
async fn steer(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, id, verb)): Path<(ProjectName, RolloutId, String)>,
) -> Answer<Json<RolloutSummary>> {
    belongs(&project, &rooms.deploy.rollout(&ctx, id).await?.rollout)?;
    let rollout = match verb.as_str() {
        "pause" => rooms.deploy.pause(&ctx, id).await?,
        "resume" => rooms.deploy.resume(&ctx, id).await?,
        "promote" => rooms.deploy.promote(&ctx, id).await?,
        "abort" => rooms.deploy.abort(&ctx, id).await?,
        other => {
            return Err(Refusal::invalid(format!(
                "`{other}` is none of pause, resume, promote, abort"
            )));
        }
    };
    Ok(Json(summary(&rooms, &ctx, rollout).await?))
}

/// Where, and to what.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RollbackBody {
    /// Which environment (default `production`).
    environment: Option<String>,
    /// The release's number (default: the one before the current).
    to: Option<i64>,
    /// Also over a release whose command cannot be undone.
    #[serde(default)]
    force: bool,
    /// Makes repeating the request harmless.
    key: Option<String>,
}

async fn requested(
    rooms: &Rooms,
    ctx: &Ctx,
    requested: Requested,
) -> Answer<(StatusCode, Json<RolloutSummary>)> {
    let found = rooms.deploy.rollout(ctx, requested.rollout).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(summary(rooms, ctx, found.rollout).await?),
    ))
}

fn key(ctx: &Ctx, given: Option<String>) -> String {
    given.unwrap_or_else(|| ctx.request.to_string())
}

/// Serves an earlier release again.
#[utoipa::path(post, path = "/projects/{project}/rollback", tag = "deploy", request_body = RollbackBody, params(("project" = ProjectName, Path)), responses((status = 202, body = RolloutSummary)))]
async fn rollback(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Body(body): Body<RollbackBody>,
) -> Answer<(StatusCode, Json<RolloutSummary>)> {
    let name = environment(body.environment)?;
    let key = key(&ctx, body.key);
    let done = rooms
        .deploy
        .rollback(&ctx, &key, &project, &name, body.to, body.force)
        .await?;
    requested(&rooms, &ctx, done).await
}

/// Where.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EnvironmentBody {
    /// Which environment (default `production`).
    environment: Option<String>,
    /// Makes repeating the request harmless.
    key: Option<String>,
}

/// Replaces every replica of the current release.
#[utoipa::path(post, path = "/projects/{project}/restart", tag = "deploy", request_body = EnvironmentBody, params(("project" = ProjectName, Path)), responses((status = 202, body = RolloutSummary)))]
async fn restart(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Body(body): Body<EnvironmentBody>,
) -> Answer<(StatusCode, Json<RolloutSummary>)> {
    let name = environment(body.environment)?;
    let key = key(&ctx, body.key);
    let done = rooms.deploy.restart(&ctx, &key, &project, &name).await?;
    requested(&rooms, &ctx, done).await
}

/// How many.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ScaleBody {
    /// Which environment (default `production`).
    environment: Option<String>,
    /// Replicas; absent for what the specification says.
    replicas: Option<u32>,
}

/// Sets the number of replicas.
#[utoipa::path(post, path = "/projects/{project}/scale", tag = "deploy", request_body = ScaleBody, params(("project" = ProjectName, Path)), responses((status = 200, body = ondol_deploy::Environment)))]
async fn scale(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Body(body): Body<ScaleBody>,
) -> Answer<Json<ondol_deploy::Environment>> {
    let name = environment(body.environment)?;
    Ok(Json(
        rooms
            .deploy
            .scale(&ctx, &project, &name, body.replicas)
            .await?,
    ))
}

/// Lifts the hold of a rollback; what waited is rolled out.
#[utoipa::path(post, path = "/projects/{project}/unhold", tag = "deploy", request_body = EnvironmentBody, params(("project" = ProjectName, Path)), responses((status = 204)))]
async fn unhold(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Body(body): Body<EnvironmentBody>,
) -> Answer<StatusCode> {
    let name = environment(body.environment)?;
    rooms.deploy.unhold(&ctx, &project, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
