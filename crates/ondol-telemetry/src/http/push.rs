//! `/prometheus/metrics/job/<job>/<label>/<value>…`: the Pushgateway's path for jobs that end before
//! anybody could scrape them. PUT replaces a group, POST its metrics of the same names, DELETE
//! forgets it.

use axum::extract::Request;
use axum::response::IntoResponse;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Method, StatusCode, header};

use super::answer::ApiError;
use super::body::{self, Encoding};
use super::params::decoded_path;
use super::scope;
use super::write;
use super::{ApiResult, Call};
use crate::ingest::push::{Groups, PushError};
use crate::ingest::text::Format;
use crate::series::{Batch, Labels, LabelsBuilder, METRIC_NAME, valid_label_name};

impl From<PushError> for ApiError {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Ingest(error) => error.into(),
            PushError::Disk(_) => Self::unavailable(error.to_string()),
            PushError::Refused(_) | PushError::Full => Self::bad_data(error.to_string()),
        }
    }
}

pub(super) async fn handle(call: &Call, group: &str, request: Request) -> ApiResult {
    answer(call, group, request).await.map_err(ApiError::plain)
}

async fn answer(call: &Call, group: &str, request: Request) -> ApiResult {
    let Some(groups) = call.door().push.clone() else {
        return Err(ApiError::not_found("/metrics/job"));
    };
    write::may_push(call)?;
    let labels = admitted(call, labels(group)?)?;
    let now = call.now.as_seconds_f64();
    let replace = match *request.method() {
        Method::PUT => true,
        Method::POST => false,
        Method::DELETE => {
            blocking(move || groups.delete(&labels)).await?;
            return Ok(StatusCode::ACCEPTED.into_response());
        }
        _ => return Err(ApiError::method(request.method())),
    };
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    if kind.starts_with("application/vnd.google.protobuf") {
        return Err(body::unsupported(
            "metrics are pushed as text here, not as protocol buffers".to_owned(),
        ));
    }
    let format = Format::of_content_type(kind);
    let encoding = Encoding::of(&request, Encoding::Identity)?;
    let taken = body::take(call, request, encoding).await?;
    let push = move |groups: &Groups| -> Result<(), ApiError> {
        let bytes = taken.decompressed()?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| ApiError::bad_data(format!("the body is not UTF-8: {error}")))?;
        Ok(groups.push(&labels, text, format, replace, now)?)
    };
    tokio::task::spawn_blocking(move || push(&groups))
        .await
        .map_err(|error| ApiError::internal(format!("the push ended unexpectedly: {error}")))??;
    Ok(StatusCode::OK.into_response())
}

async fn blocking(
    work: impl FnOnce() -> Result<(), PushError> + Send + 'static,
) -> Result<(), ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(format!("the push ended unexpectedly: {error}")))?
        .map_err(ApiError::from)
}

/// The labels with the project of the caller among them, where one belongs there.
fn admitted(call: &Call, labels: Labels) -> Result<Labels, ApiError> {
    let mut batch = Batch::default();
    batch.add_series(labels);
    scope::admit(call, &mut batch)?;
    Ok(batch.series.pop().unwrap_or_default())
}

/// The labels that a path names. A name that ends in `@base64` has a value in that form.
fn labels(path: &str) -> Result<Labels, ApiError> {
    let mut builder = LabelsBuilder::default();
    let mut pieces = path.split('/');
    let mut first = true;
    while let Some(piece) = pieces.next() {
        let name = decoded_path(piece);
        let (name, coded) = match name.strip_suffix("@base64") {
            Some(name) => (name.to_owned(), true),
            None => (name, false),
        };
        if std::mem::take(&mut first) && name != "job" {
            return Err(ApiError::bad_data("the path has to begin with job/<job>"));
        }
        if !valid_label_name(&name) || name == METRIC_NAME {
            return Err(ApiError::bad_data(format!("invalid label name {name:?}")));
        }
        if !builder.get(&name).is_empty() {
            return Err(ApiError::bad_data(format!(
                "the label {name:?} stands there twice"
            )));
        }
        let value = pieces
            .next()
            .map(decoded_path)
            .ok_or_else(|| ApiError::bad_data(format!("the label {name:?} has no value")))?;
        let value = if coded {
            URL_SAFE_NO_PAD
                .decode(value.trim_end_matches('='))
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok())
                .ok_or_else(|| ApiError::bad_data(format!("{value:?} is no base64 of a text")))?
        } else {
            value
        };
        builder.set(&name, &value);
    }
    if builder.get("job").is_empty() {
        return Err(ApiError::bad_data("job name is required"));
    }
    Ok(builder.build())
}

#[cfg(test)]
mod tests {
    use super::labels;

    #[test]
    fn a_path_names_a_group() {
        let shown = |path| labels(path).map(|labels| labels.to_string()).ok();
        assert_eq!(
            shown("job/some%20job/path@base64/L3Zhci90bXA"),
            Some(r#"{job="some job", path="/var/tmp"}"#.to_owned())
        );
        for wrong in [
            "job",
            "job/",
            "x/a",
            "job/a/b",
            "job/a/job/b",
            "job/a/1x/b",
            "job@base64/!!",
        ] {
            assert_eq!(shown(wrong), None, "{wrong}");
        }
    }
}
