//! The answers, and the one place of this server that chooses status codes (they are MLflow's).

use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, to_bytes};
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value as Json, json};

use super::input::{Refused, Request, read_csv_body, read_json};
use super::{App, BODY_TIMEOUT, LARGE_BODY};
use crate::model_file::FeatureKind;

fn answer(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static(content_type),
    );
    response
}

fn json_answer(status: StatusCode, body: &Json) -> Response {
    answer(status, "application/json", body.to_string().into_bytes())
}

fn error(status: StatusCode, message: impl AsRef<str>) -> Response {
    let code = match status {
        StatusCode::NOT_FOUND => "ENDPOINT_NOT_FOUND",
        StatusCode::INTERNAL_SERVER_ERROR => "INTERNAL_ERROR",
        _ => "BAD_REQUEST",
    };
    json_answer(
        status,
        &json!({ "error_code": code, "message": message.as_ref() }),
    )
}

/// `GET /ping` and `/health`.
pub(super) async fn ping() -> Response {
    answer(StatusCode::OK, "text/plain; charset=utf-8", b"\n".to_vec())
}

/// `GET /version`.
pub(super) async fn version() -> Response {
    answer(
        StatusCode::OK,
        "text/plain; charset=utf-8",
        env!("CARGO_PKG_VERSION").as_bytes().to_vec(),
    )
}

/// Any other path.
pub(super) async fn not_found(request: HttpRequest) -> Response {
    let path: String = request.uri().path().chars().take(100).collect();
    error(
        StatusCode::NOT_FOUND,
        format!("there is no {path}; predictions are at POST /invocations"),
    )
}

/// A known path with another method.
pub(super) async fn method_not_allowed(request: HttpRequest) -> Response {
    let message = format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    );
    error(StatusCode::METHOD_NOT_ALLOWED, message)
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let (model, version) = (
        app.options.model.as_deref().unwrap_or(""),
        app.options.version.as_deref().unwrap_or(""),
    );
    let digest = app.predictor.model().training.data.to_string();
    let text = app
        .metrics
        .text(model, version, &digest, app.started.elapsed());
    answer(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        text.into_bytes(),
    )
}

/// `GET /`: what the model is and how to ask it.
pub(super) async fn describe(State(app): State<Arc<App>>) -> Response {
    let model = app.predictor.model();
    let features: Vec<Json> = model
        .features
        .iter()
        .map(|feature| {
            let (kind, categories) = match &feature.kind {
                FeatureKind::Number => ("number", None),
                FeatureKind::Boolean => ("boolean", None),
                FeatureKind::Category { values } => {
                    ("category", Some(values.iter().take(50).collect::<Vec<_>>()))
                }
            };
            let mut shown =
                json!({ "name": feature.name, "type": kind, "required": feature.required });
            if let Some(categories) = categories {
                shown["categories"] = json!(categories);
            }
            shown
        })
        .collect();
    let labels = model.target.labels.as_ref();
    let classes = labels.map(|labels| {
        (0..labels.len())
            .map(|class| labels.json(class))
            .collect::<Vec<_>>()
    });
    let example = model
        .checks
        .get(1)
        .or(model.checks.first())
        .map(|check| &check.row);
    let body = json!({
        "model": app.options.model,
        "version": app.options.version,
        "task": model.task,
        "algorithm": model.algorithm,
        "target": model.target.name,
        "classes": classes,
        "features": features,
        "metrics": model.metrics,
        "example": {
            "method": "POST",
            "path": "/invocations",
            "contentType": "application/json",
            "body": { "dataframe_records": [example] },
        },
    });
    json_answer(StatusCode::OK, &body)
}

#[derive(Clone, Copy)]
enum Format {
    Json,
    Csv,
}

fn format(headers: &HeaderMap) -> Result<Format, String> {
    let given = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let media = given
        .split(';')
        .next()
        .unwrap_or("")
        .trim()
        .to_ascii_lowercase();
    match media.as_str() {
        "application/json" => Ok(Format::Json),
        "text/csv" => Ok(Format::Csv),
        _ => {
            let got: String = given.chars().take(80).collect();
            Err(format!(
                "this model takes Content-Type: application/json or text/csv; the request has `{got}`"
            ))
        }
    }
}

/// `POST /invocations`.
pub(super) async fn invocations(State(app): State<Arc<App>>, request: HttpRequest) -> Response {
    let began = Instant::now();
    let response = invoke(&app, request).await;
    app.metrics
        .request(response.status().as_u16(), began.elapsed());
    response
}

async fn invoke(app: &Arc<App>, request: HttpRequest) -> Response {
    let (parts, body) = request.into_parts();
    let format = match format(&parts.headers) {
        Ok(format) => format,
        Err(message) => return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, message),
    };
    let length = parts
        .headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let limit = app.options.body_limit;
    let too_large = || {
        error(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body is larger than {limit} bytes: send fewer rows at once"),
        )
    };
    if length.is_some_and(|length| length > limit) {
        return too_large();
    }
    let large = length.is_none_or(|length| length > LARGE_BODY);
    // Taken before the body is read, so that waiting requests hold no memory.
    let _place = if large {
        app.large.acquire().await.ok()
    } else {
        None
    };
    let body = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, limit)).await {
        Ok(Ok(body)) => body,
        Ok(Err(reason)) if is_length_limit(&reason) => return too_large(),
        Ok(Err(reason)) => {
            return error(
                StatusCode::BAD_REQUEST,
                format!("the body could not be read: {reason}"),
            );
        }
        Err(_) => {
            return error(
                StatusCode::REQUEST_TIMEOUT,
                "the body did not arrive in time",
            );
        }
    };
    if body.len() <= LARGE_BODY {
        return predict(app, format, &body);
    }
    let app = app.clone();
    match tokio::task::spawn_blocking(move || predict(&app, format, &body)).await {
        Ok(response) => response,
        Err(reason) => {
            tracing::error!(error = %reason, "a prediction ended early");
            error(StatusCode::INTERNAL_SERVER_ERROR, "the prediction failed")
        }
    }
}

fn is_length_limit(reason: &axum::Error) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(reason);
    while let Some(error) = next {
        if error.is::<http_body_util::LengthLimitError>() {
            return true;
        }
        next = error.source();
    }
    false
}

fn predict(app: &App, format: Format, body: &[u8]) -> Response {
    let read = match format {
        Format::Json => read_json(&app.predictor, body, app.options.row_limit),
        Format::Csv => read_csv_body(&app.predictor, body, app.options.row_limit),
    };
    let Request {
        rows,
        probabilities,
    } = match read {
        Ok(request) => request,
        Err(Refused(message)) => return error(StatusCode::BAD_REQUEST, message),
    };
    let predictions = app.predictor.predict(&rows);
    app.metrics.predictions(&rows, &predictions);
    let mut body = json!({ "predictions": predictions.iter().map(|one| app.predictor.json(one)).collect::<Vec<_>>() });
    if let (true, Some(labels)) = (probabilities, &app.predictor.model().target.labels) {
        let names: Vec<String> = (0..labels.len()).map(|class| labels.text(class)).collect();
        let shown = |outputs: &[f64]| {
            names
                .iter()
                .cloned()
                .zip(outputs.iter().map(|p| json!(p)))
                .collect::<serde_json::Map<_, _>>()
        };
        body["probabilities"] = predictions
            .iter()
            .map(|one| Json::Object(shown(&one.outputs)))
            .collect();
    }
    json_answer(StatusCode::OK, &body)
}
