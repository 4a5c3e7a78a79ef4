//! Datasets: pushes, versions, differences, files.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use ondol_data::model::{
    Dataset, Diff, FileInfo, PushSession, Pushed, UploadReceipt, Verification, Version,
    VersionDetail,
};
use ondol_data::wire::{MEDIA_TYPE, decode_keys, encode_keys};
use ondol_types::{DatasetName, ProjectName, RelPath, UploadId};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::extract::{Caller, Path, Query};
use crate::page::{Page, PageQuery};
use crate::problem::{Answer, Refusal};
use crate::rooms::Rooms;

/// Two megabytes hold 65,536 digests, the most of one question.
const MAX_KEYS_BYTES: usize = 4 << 20;

pub(super) fn routes() -> OpenApiRouter<Rooms> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(log))
        .routes(routes!(show))
        .routes(routes!(files))
        .routes(routes!(file))
        .routes(routes!(export))
        .routes(routes!(diff))
        .routes(routes!(verify))
        .routes(routes!(begin))
        .routes(routes!(missing))
        .routes(routes!(upload))
        .routes(routes!(commit))
}

fn bytes_answer(bytes: impl Into<Body>) -> Response {
    let mut response = bytes.into().into_response();
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

/// The datasets of a project.
#[utoipa::path(get, path = "/projects/{project}/data", tag = "data", params(("project" = ProjectName, Path), PageQuery), responses((status = 200, body = Page<Dataset>)))]
async fn list(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(project): Path<ProjectName>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Page<Dataset>>> {
    let after = page.cursor.clone().unwrap_or_default();
    let items = rooms
        .data
        .list(&ctx, &project, &after, page.limit())
        .await?;
    Ok(Json(Page::keyed(items, page.limit(), |dataset| {
        dataset.name.to_string()
    })))
}

/// The versions of a dataset, newest first.
#[utoipa::path(get, path = "/projects/{project}/data/{dataset}/versions", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path), PageQuery), responses((status = 200, body = Page<Version>)))]
async fn log(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset)): Path<(ProjectName, DatasetName)>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Page<Version>>> {
    let before = match page.before()? {
        i64::MAX => None,
        before => Some(before),
    };
    let items = rooms
        .data
        .log(&ctx, &project, &dataset, before, page.limit())
        .await?;
    Ok(Json(Page::keyed(items, page.limit(), |version| {
        version.number.to_string()
    })))
}

/// A version (by number, digest, or `latest`) with schema and statistics.
#[utoipa::path(get, path = "/projects/{project}/data/{dataset}/versions/{version}", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path), ("version" = String, Path)), responses((status = 200, body = VersionDetail)))]
async fn show(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset, version)): Path<(ProjectName, DatasetName, String)>,
) -> Answer<Json<VersionDetail>> {
    Ok(Json(
        rooms.data.show(&ctx, &project, &dataset, &version).await?,
    ))
}

/// The files of a version by path.
#[utoipa::path(get, path = "/projects/{project}/data/{dataset}/versions/{version}/files", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path), ("version" = String, Path), PageQuery), responses((status = 200, body = Page<FileInfo>)))]
async fn files(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset, version)): Path<(ProjectName, DatasetName, String)>,
    Query(page): Query<PageQuery>,
) -> Answer<Json<Page<FileInfo>>> {
    let after: Option<RelPath> = page
        .cursor
        .as_deref()
        .map(|text| {
            text.parse()
                .map_err(|_| Refusal::invalid("the cursor is not one of this list"))
        })
        .transpose()?;
    let items = rooms
        .data
        .files(
            &ctx,
            &project,
            &dataset,
            &version,
            after.as_ref(),
            page.limit(),
        )
        .await?;
    Ok(Json(Page::keyed(items, page.limit(), |file| {
        file.path.to_string()
    })))
}

/// Which file.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct FileQuery {
    /// Its path in the dataset.
    path: RelPath,
}

/// The bytes of one file of a version.
#[utoipa::path(get, path = "/projects/{project}/data/{dataset}/versions/{version}/file", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path), ("version" = String, Path), FileQuery),
    responses((status = 200, description = "the bytes", content_type = "application/octet-stream")))]
async fn file(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset, version)): Path<(ProjectName, DatasetName, String)>,
    Query(query): Query<FileQuery>,
) -> Answer<Response> {
    let (info, stream) = rooms
        .data
        .file(&ctx, &project, &dataset, &version, &query.path)
        .await?;
    let mut response = Body::from_stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(info.size));
    // What somebody pushed as data must never run as a page of this origin.
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

/// Every file of a version as one stream of frames: what `ondol data checkout` reads.
#[utoipa::path(get, path = "/projects/{project}/data/{dataset}/versions/{version}/export", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path), ("version" = String, Path)),
    responses((status = 200, description = "frames", content_type = "application/vnd.ondol.data.v1")))]
async fn export(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset, version)): Path<(ProjectName, DatasetName, String)>,
) -> Answer<Response> {
    let (_, stream) = rooms
        .data
        .export(&ctx, &project, &dataset, &version)
        .await?;
    Ok(bytes_answer(Body::from_stream(stream)))
}

/// Between which versions.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct DiffQuery {
    /// The earlier version: a number, a digest, or `latest`.
    from: String,
    /// The later version (default `latest`).
    to: Option<String>,
    /// Compare tables row by row.
    #[serde(default)]
    rows: bool,
    /// How many files are listed, at most 10,000.
    limit: Option<usize>,
}

/// What changed between two versions.
#[utoipa::path(get, path = "/projects/{project}/data/{dataset}/diff", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path), DiffQuery), responses((status = 200, body = Diff)))]
async fn diff(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset)): Path<(ProjectName, DatasetName)>,
    Query(query): Query<DiffQuery>,
) -> Answer<Json<Diff>> {
    let to = query.to.as_deref().unwrap_or("latest");
    let limit = query.limit.unwrap_or(1_000).min(10_000);
    Ok(Json(
        rooms
            .data
            .diff(&ctx, &project, &dataset, &query.from, to, query.rows, limit)
            .await?,
    ))
}

/// Reads and hashes every byte of a version.
#[utoipa::path(post, path = "/projects/{project}/data/{dataset}/versions/{version}/verify", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path), ("version" = String, Path)), responses((status = 200, body = Verification)))]
async fn verify(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset, version)): Path<(ProjectName, DatasetName, String)>,
) -> Answer<Json<Verification>> {
    Ok(Json(
        rooms
            .data
            .verify(&ctx, &project, &dataset, &version)
            .await?,
    ))
}

/// Begins a push.
#[utoipa::path(post, path = "/projects/{project}/data/{dataset}/pushes", tag = "data", params(("project" = ProjectName, Path), ("dataset" = DatasetName, Path)), responses((status = 201, body = PushSession)))]
async fn begin(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path((project, dataset)): Path<(ProjectName, DatasetName)>,
) -> Answer<(StatusCode, Json<PushSession>)> {
    Ok((
        StatusCode::CREATED,
        Json(rooms.data.begin(&ctx, &project, &dataset).await?),
    ))
}

/// Which of these chunks (32 bytes each) are not here yet.
#[utoipa::path(post, path = "/data/pushes/{push}/missing", tag = "data", params(("push" = UploadId, Path)),
    responses((status = 200, description = "the digests of those that are missing", content_type = "application/vnd.ondol.data.v1")))]
async fn missing(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(push): Path<UploadId>,
    request: Request,
) -> Answer<Response> {
    let bytes: Bytes = axum::body::to_bytes(request.into_body(), MAX_KEYS_BYTES)
        .await
        .map_err(|_| {
            Refusal::new(
                ondol_types::ErrorKind::TooLarge,
                "api.body.too-large",
                "too many digests at once",
            )
        })?;
    let keys = decode_keys(&bytes)?;
    Ok(bytes_answer(encode_keys(
        &rooms.data.missing(&ctx, push, &keys).await?,
    )))
}

/// Sends chunks as frames.
#[utoipa::path(post, path = "/data/pushes/{push}/chunks", tag = "data", params(("push" = UploadId, Path)), responses((status = 200, body = UploadReceipt)))]
async fn upload(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(push): Path<UploadId>,
    request: Request,
) -> Answer<Json<UploadReceipt>> {
    Ok(Json(
        rooms
            .data
            .upload(&ctx, push, request.into_body().into_data_stream())
            .await?,
    ))
}

/// Makes the version: what is said of it and its files, as frames.
#[utoipa::path(post, path = "/data/pushes/{push}/commit", tag = "data", params(("push" = UploadId, Path)), responses((status = 200, body = Pushed)))]
async fn commit(
    State(rooms): State<Rooms>,
    Caller(ctx): Caller,
    Path(push): Path<UploadId>,
    request: Request,
) -> Answer<Json<Pushed>> {
    Ok(Json(
        rooms
            .data
            .commit_body(&ctx, push, request.into_body().into_data_stream())
            .await?,
    ))
}
