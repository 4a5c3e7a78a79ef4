//! Models and their versions.

use axum::Json;
use axum::extract::State;
use ondol_ml::{Model, ModelVersion};
use ondol_types::{ModelName, ProjectName};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Body, Caller, Path, Query};
use crate::page::{Page, PageQuery};
use crate::problem::Answer;
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(versions))
        .routes(routes!(show))
        .routes(routes!(promote))
}

/// The models of a project.
#[utoipa::path(get, path = "/projects/{project}/models", tag = "models", params(("project" = ProjectName, Path), PageQuery), responses((status = 200, body = Page<Model>)))]
async fn list(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Page<Model>>> {
    let after = page.cursor.clone().unwrap_or_default();
    let items = rooms
        .models
        .models(&ctx, &project, &after, page.limit())
        .await?;
    Ok(Json(Page::keyed(items, page.limit(), |model| {
        model.name.to_string()
    })))
}

/// The versions of a model, newest first.
#[utoipa::path(get, path = "/projects/{project}/models/{model}/versions", tag = "models", params(("project" = ProjectName, Path), ("model" = ModelName, Path), PageQuery), responses((status = 200, body = Page<ModelVersion>)))]
async fn versions(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, model)): Path<(ProjectName, ModelName)>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Page<ModelVersion>>> {
    let items = rooms
        .models
        .versions(&ctx, &project, &model, page.before()?, page.limit())
        .await?;
    Ok(Json(Page::keyed(items, page.limit(), |version| {
        version.version.to_string()
    })))
}

/// One version of a model.
#[utoipa::path(get, path = "/projects/{project}/models/{model}/versions/{version}", tag = "models", params(("project" = ProjectName, Path), ("model" = ModelName, Path), ("version" = i64, Path)), responses((status = 200, body = ModelVersion)))]
async fn show(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, model, version)): Path<(ProjectName, ModelName, i64)>,
) -> Answer<Json<ModelVersion>> {
    Ok(Json(
        rooms
            .models
            .version(&ctx, &project, &model, version)
            .await?,
    ))
}

/// Why.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PromoteBody {
    /// Shown with the version.
    #[serde(default)]
    reason: String,
}

/// Makes a version champion; services that use the model are rolled out.
#[utoipa::path(post, path = "/projects/{project}/models/{model}/versions/{version}/promote", tag = "models", request_body = PromoteBody, params(("project" = ProjectName, Path), ("model" = ModelName, Path), ("version" = i64, Path)), responses((status = 200, body = ModelVersion)))]
async fn promote(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, model, version)): Path<(ProjectName, ModelName, i64)>,
    Body(body): Body<PromoteBody>,
) -> Answer<Json<ModelVersion>> {
    Ok(Json(
        rooms
            .models
            .promote(&ctx, &project, &model, version, &body.reason)
            .await?,
    ))
}
