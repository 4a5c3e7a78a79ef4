//! What the steps of runs left behind: files, and tests that cannot be believed.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{self, HeaderValue};
use ondol_pipeline::model::{Artifact, FlakyTest};
use ondol_types::{ProjectName, RelPath, RunId, StepName};
use serde::Deserialize;
use tokio_util::io::ReaderStream;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Caller, Path, Query};
use crate::page::{Page, PageQuery};
use crate::problem::Answer;
use crate::rooms::Rooms;

const CHUNK: usize = 256 << 10;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(list_of_step))
        .routes(routes!(file))
        .routes(routes!(flaky))
}

async fn page(
    rooms: &Rooms,
    ctx: &ondol_auth::Ctx,
    run: RunId,
    step: Option<StepName>,
    query: PageQuery,
) -> Answer<Json<Page<Artifact>>> {
    // A step has no slash in its name.
    let cursor = query.cursor.clone().unwrap_or_default();
    let after = cursor.split_once('/');
    let items = rooms
        .pipeline
        .artifacts(ctx, &run, step.as_ref(), after, query.limit())
        .await?;
    Ok(Json(Page::keyed(items, query.limit(), |artifact| {
        format!("{}/{}", artifact.step, artifact.path)
    })))
}

/// The artifacts of a run, by step and path.
#[utoipa::path(get, path = "/runs/{run}/artifacts", tag = "runs", params(("run" = RunId, Path), PageQuery), responses((status = 200, body = Page<Artifact>)))]
async fn list(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(run): Path<RunId>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<Artifact>>> {
    page(&rooms, &ctx, run, None, query).await
}

/// The artifacts of one step, by path.
#[utoipa::path(get, path = "/runs/{run}/steps/{step}/artifacts", tag = "runs", params(("run" = RunId, Path), ("step" = StepName, Path), PageQuery), responses((status = 200, body = Page<Artifact>)))]
async fn list_of_step(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((run, step)): Path<(RunId, StepName)>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<Artifact>>> {
    page(&rooms, &ctx, run, Some(step), query).await
}

/// Tests of a project that passed and failed on the same commit, by stage and name.
#[utoipa::path(get, path = "/projects/{project}/tests/flaky", tag = "runs", params(("project" = ProjectName, Path), PageQuery), responses((status = 200, body = Page<FlakyTest>)))]
async fn flaky(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Query(query): Query<PageQuery>,
) -> Answer<Json<Page<FlakyTest>>> {
    // A project that does not exist is told apart from one without such tests.
    rooms.git.show(&ctx, &project).await?;
    let cursor = query.cursor.clone().unwrap_or_default();
    let items = rooms
        .pipeline
        .flaky_tests(&ctx, &project, cursor.split_once('/'), query.limit())
        .await?;
    Ok(Json(Page::keyed(items, query.limit(), |test| {
        format!("{}/{}", test.stage, test.name)
    })))
}

/// Which file.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FileQuery {
    /// Its path in the work directory of its step.
    path: RelPath,
}

/// The bytes of one artifact.
#[utoipa::path(get, path = "/runs/{run}/steps/{step}/artifacts/file", tag = "runs", params(("run" = RunId, Path), ("step" = StepName, Path), FileQuery),
    responses((status = 200, description = "the bytes", content_type = "application/octet-stream")))]
async fn file(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((run, step)): Path<(RunId, StepName)>,
    Query(query): Query<FileQuery>,
) -> Answer<Response> {
    let (artifact, reader) = rooms
        .pipeline
        .artifact(&ctx, &run, &step, &query.path)
        .await?;
    let stream = ReaderStream::with_capacity(reader, CHUNK);
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(artifact.bytes));
    // What a step wrote must never run as a page of this origin.
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment"),
    );
    Ok(response)
}
