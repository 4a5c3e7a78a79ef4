//! `artifacts/list`, and the proxy through which clients read and write files:
//! `mlflow-artifacts/artifacts/…` with raw bodies.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use ondol_auth::Ctx;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::args::{Args, decoded_path};
use super::view::{self, Object};
use super::{Call, answer};
use crate::tracking::Tracking;
use crate::tracking::error::{Code, TrackingError, TrackingResult};
use crate::tracking::model::FileEntry;
use crate::tracking::service::ArtifactPlace;

/// Bytes that are read at once.
const CHUNK: usize = 256 << 10;

pub(super) async fn list(
    call: &Call<'_>,
    method: &Method,
    path: &str,
) -> TrackingResult<Option<Value>> {
    if *method != Method::GET || path != "list" {
        return Ok(None);
    }
    let Call {
        tracking,
        ctx,
        args,
    } = call;
    let (place, root) = tracking.place_of_run(ctx, &args.run_id()?).await?;
    files_below(tracking, ctx, place, &root, args)
        .await
        .map(Some)
}

/// The files of a run or model, with paths relative to its root.
pub(super) async fn files_below(
    tracking: &Tracking,
    ctx: &Ctx,
    place: ArtifactPlace,
    root: &str,
    args: &Args,
) -> TrackingResult<Value> {
    let mut path = args.text("path")?.unwrap_or_default();
    if path.is_empty() {
        path = args.text("artifact_directory_path")?.unwrap_or_default();
    }
    let place = place.at(&path)?;
    let path = path.trim_end_matches('/');
    let files: Vec<FileEntry> = tracking
        .list_files(ctx, &place)
        .await?
        .into_iter()
        .map(|file| FileEntry {
            path: if path.is_empty() {
                file.path
            } else {
                format!("{path}/{}", file.path)
            },
            size: file.size,
        })
        .collect();
    Ok(Object::default()
        .with("root_uri", root)
        .with("files", view::list(&files, view::file))
        .done())
}

/// What a file is by the end of its name. Whatever a browser could execute is plain text or a
/// download.
fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    let (_, end) = name.rsplit_once('.').unwrap_or(("", ""));
    match end {
        _ if matches!(name, "MLmodel" | "MLproject") => "text/plain",
        "txt" | "log" | "cfg" | "conf" | "py" | "ini" | "md" | "rst" | "toml" | "yaml" | "yml"
        | "html" | "htm" | "js" | "css" | "sh" | "r" => "text/plain",
        "csv" => "text/csv",
        "tsv" => "text/tab-separated-values",
        "json" | "ipynb" => "application/json",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "pdf" => "application/pdf",
        "zip" => "application/zip",
        "gz" => "application/gzip",
        _ => "application/octet-stream",
    }
}

/// The proxy. `rest` is the path behind `mlflow-artifacts/`.
pub(super) async fn proxy(
    tracking: &Tracking,
    ctx: &Ctx,
    rest: &str,
    request: Request,
) -> TrackingResult<Response> {
    let method = request.method().clone();
    let unknown = || {
        TrackingError::refused(
            Code::EndpointNotFound,
            format!("there is no endpoint {method} mlflow-artifacts/{rest} here"),
        )
    };
    let path = decoded_path(rest.strip_prefix("artifacts").ok_or_else(unknown)?);
    let path = path.strip_prefix('/').unwrap_or("");
    if path.is_empty() {
        if method != Method::GET {
            return Err(unknown());
        }
        let args = Args::read(request, false).await?;
        let place = ArtifactPlace::read(&args.required("path")?)?;
        let files = tracking.list_files(ctx, &place).await?;
        let answer = Object::default()
            .with("files", view::list(&files, view::file))
            .done();
        return Ok(answer::json(&answer));
    }
    let place = ArtifactPlace::read(path)?;
    match method {
        Method::PUT => {
            let body = request.into_body().into_data_stream();
            tracking.put_file(ctx, &place, body).await?;
            Ok(answer::json(&json!({})))
        }
        Method::DELETE => {
            tracking.delete_files(ctx, &place).await?;
            Ok(answer::json(&json!({})))
        }
        Method::GET | Method::HEAD => {
            let file = tracking.open_file(ctx, &place).await?;
            let body = if method == Method::HEAD {
                Body::empty()
            } else {
                Body::from_stream(ReaderStream::with_capacity(file.reader, CHUNK))
            };
            let mut response = (StatusCode::OK, body).into_response();
            let headers = response.headers_mut();
            let name: String = path
                .rsplit('/')
                .next()
                .unwrap_or(path)
                .chars()
                .map(|c| {
                    if c.is_ascii_graphic() && !"\"\\".contains(c) {
                        c
                    } else {
                        '_'
                    }
                })
                .collect();
            for (header, value) in [
                (header::CONTENT_TYPE, content_type(path).to_owned()),
                (header::CONTENT_LENGTH, file.size.to_string()),
                (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
                (
                    header::CONTENT_DISPOSITION,
                    format!("attachment; filename=\"{name}\""),
                ),
            ] {
                if let Ok(value) = HeaderValue::from_str(&value) {
                    headers.insert(header, value);
                }
            }
            Ok(response)
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is() {
        assert_eq!(content_type("a/MLmodel"), "text/plain");
        assert_eq!(content_type("a/x.html"), "text/plain");
        assert_eq!(content_type("a/x.json"), "application/json");
        assert_eq!(content_type("a.json/x"), "application/octet-stream");
    }
}
