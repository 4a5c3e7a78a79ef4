//! Projects.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use ondol_git::{Deletion, Project, Settings};
use ondol_types::ProjectName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Body, Caller, Path, Query};
use crate::page::{Page, PageQuery};
use crate::problem::{Answer, Refusal};
use crate::rooms::Rooms;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, configure, delete))
        .routes(routes!(deletion))
}

/// A project with its addresses.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProjectView {
    #[serde(flatten)]
    project: Project,
    /// Where its service answers, once it runs.
    url: String,
}

fn view(rooms: &Rooms, project: Project) -> ProjectView {
    ProjectView {
        url: rooms.places.application(&project.name),
        project,
    }
}

/// The projects one may see, by name.
#[utoipa::path(get, path = "/projects", tag = "projects", params(PageQuery), responses((status = 200, body = Page<ProjectView>)))]
async fn list(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Page<ProjectView>>> {
    let after: Option<ProjectName> = page
        .cursor
        .as_deref()
        .map(|text| {
            text.parse()
                .map_err(|_| Refusal::invalid("the cursor is not one of this list"))
        })
        .transpose()?;
    let found = rooms.git.list(&ctx, after.as_ref(), page.limit()).await?;
    let items: Vec<ProjectView> = found
        .into_iter()
        .map(|project| view(&rooms, project))
        .collect();
    Ok(Json(Page::keyed(items, page.limit(), |item| {
        item.project.name.to_string()
    })))
}

/// A project to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct CreateProject {
    /// Its name: a DNS label.
    name: ProjectName,
}

/// Creates an empty project.
#[utoipa::path(post, path = "/projects", tag = "projects", request_body = CreateProject, responses((status = 201, body = ProjectView)))]
async fn create(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Body(body): Body<CreateProject>,
) -> Answer<(StatusCode, Json<ProjectView>)> {
    let project = rooms.git.create_project(&ctx, &body.name).await?;
    Ok((StatusCode::CREATED, Json(view(&rooms, project))))
}

/// One project.
#[utoipa::path(get, path = "/projects/{project}", tag = "projects", params(("project" = ProjectName, Path)), responses((status = 200, body = ProjectView)))]
async fn show(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(name): Path<ProjectName>,
) -> Answer<Json<ProjectView>> {
    Ok(Json(view(&rooms, rooms.git.show(&ctx, &name).await?)))
}

/// Changes settings of a project.
#[utoipa::path(patch, path = "/projects/{project}", tag = "projects", request_body = Settings, params(("project" = ProjectName, Path)), responses((status = 200, body = ProjectView)))]
async fn configure(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(name): Path<ProjectName>,
    Body(settings): Body<Settings>,
) -> Answer<Json<ProjectView>> {
    Ok(Json(view(
        &rooms,
        rooms.git.configure(&ctx, &name, &settings).await?,
    )))
}

/// Deletes a project with everything that came of it. From the answer on it does not exist; its
/// name can be used again when every part of it is gone, which `/projects/{project}/deletion`
/// shows. Repeating it meanwhile changes nothing.
#[utoipa::path(delete, path = "/projects/{project}", tag = "projects", params(("project" = ProjectName, Path)), responses((status = 202, body = Deletion)))]
async fn delete(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(name): Path<ProjectName>,
) -> Answer<(StatusCode, Json<Deletion>)> {
    let deletion = rooms.git.delete_project(&ctx, &name).await?;
    Ok((StatusCode::ACCEPTED, Json(deletion)))
}

/// What is left of a project that is being deleted; not found when nothing is.
#[utoipa::path(get, path = "/projects/{project}/deletion", tag = "projects", params(("project" = ProjectName, Path)), responses((status = 200, body = Deletion)))]
async fn deletion(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(name): Path<ProjectName>,
) -> Answer<Json<Deletion>> {
    Ok(Json(rooms.git.deletion(&ctx, &name).await?))
}
