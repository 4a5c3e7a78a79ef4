//! Secrets: names and versions out, values in.

use axum::Json;
use axum::extract::State;
use ondol_auth::{SecretInfo, SetSecret};
use ondol_deploy::RolloutState;
use ondol_types::{EnvironmentName, ProjectName, RolloutId, Secret, SecretName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Body, Caller, Path};
use crate::page::Page;
use crate::problem::Answer;
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(set, remove))
}

/// The names and versions of a project's secrets.
#[utoipa::path(get, path = "/projects/{project}/secrets", tag = "secrets", params(("project" = ProjectName, Path)), responses((status = 200, body = Page<SecretInfo>)))]
async fn list(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
) -> Answer<Json<Page<SecretInfo>>> {
    Ok(Json(Page::whole(rooms.secrets.list(&ctx, &project).await?)))
}

/// A value on its way in.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SecretValue {
    /// The value.
    value: String,
    /// Wait for the next rollout instead of starting one.
    #[serde(default)]
    stage: bool,
}

/// What setting a secret did, and what follows from it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SecretAnswer {
    #[serde(flatten)]
    set: SetSecret,
    /// The rollouts that bring the value, one per environment that takes it up; absent when that
    /// is not known yet.
    rollouts: Option<Vec<SecretRollout>>,
}

/// A rollout that brings a secret's value.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SecretRollout {
    id: RolloutId,
    /// Where.
    environment: EnvironmentName,
    /// Its number there.
    number: i64,
    /// Where it is: `held` waits for a person.
    state: RolloutState,
}

/// How long an answer waits for the rollouts that follow from a secret.
const FOLLOWS: std::time::Duration = std::time::Duration::from_secs(2);

/// Sets a secret and rolls out, unless staged.
#[utoipa::path(put, path = "/projects/{project}/secrets/{name}", tag = "secrets", request_body = SecretValue,
    params(("project" = ProjectName, Path), ("name" = SecretName, Path)), responses((status = 200, body = SecretAnswer)))]
async fn set(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, name)): Path<(ProjectName, SecretName)>,
    Body(body): Body<SecretValue>,
) -> Answer<Json<SecretAnswer>> {
    let SecretValue { value, stage } = body;
    let value = Secret::new(value);
    let set = rooms
        .secrets
        .set_staged(&ctx, &project, &name, &value, stage)
        .await?;
    let rollouts = match set.event.filter(|_| !stage) {
        None => Some(Vec::new()),
        Some((event, place)) => rooms
            .deploy
            .followed_from(&ctx, &project, event, place, FOLLOWS)
            .await
            // The value is set whether or not this can be told.
            .unwrap_or_default()
            .map(|rollouts| {
                rollouts
                    .into_iter()
                    .map(|rollout| SecretRollout {
                        id: rollout.id,
                        environment: rollout.environment,
                        number: rollout.number,
                        state: rollout.state,
                    })
                    .collect()
            }),
    };
    Ok(Json(SecretAnswer { set, rollouts }))
}

/// Removes a secret.
#[utoipa::path(delete, path = "/projects/{project}/secrets/{name}", tag = "secrets",
    params(("project" = ProjectName, Path), ("name" = SecretName, Path)), responses((status = 204)))]
async fn remove(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, name)): Path<(ProjectName, SecretName)>,
) -> Answer<http::StatusCode> {
    rooms.secrets.remove(&ctx, &project, &name).await?;
    Ok(http::StatusCode::NO_CONTENT)
}
