//! Secrets: names and versions out, values in.

use axum::Json;
use axum::extract::State;
use ondol_auth::{SecretInfo, SetSecret};
use ondol_types::{ProjectName, Secret, SecretName};
use serde::Deserialize;
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

/// Sets a secret and rolls out, unless staged.
#[utoipa::path(put, path = "/projects/{project}/secrets/{name}", tag = "secrets", request_body = SecretValue,
    params(("project" = ProjectName, Path), ("name" = SecretName, Path)), responses((status = 200, body = SetSecret)))]
async fn set(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, name)): Path<(ProjectName, SecretName)>,
    Body(body): Body<SecretValue>,
) -> Answer<Json<SetSecret>> {
    let SecretValue { value, stage } = body;
    let value = Secret::new(value);
    Ok(Json(
        rooms
            .secrets
            .set_staged(&ctx, &project, &name, &value, stage)
            .await?,
    ))
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
