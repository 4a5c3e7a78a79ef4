//! The routes, one file per noun.

mod artifacts;
mod background;
mod data;
mod deploy;
mod events;
mod logs;
mod models;
mod projects;
mod runs;
mod secrets;
mod status;
mod tokens;

use axum::Router;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::rooms::Rooms;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ondol",
        description = "From a push of code or data to a live, watched service.",
        license(name = "Apache-2.0")
    ),
    components(schemas(crate::problem::ProblemDetails))
)]
struct Document;

fn parts() -> OpenApiRouter<Rooms> {
    OpenApiRouter::with_openapi(Document::openapi()).nest(
        "/api/v1",
        OpenApiRouter::new()
            .merge(status::routes())
            .merge(projects::routes())
            .merge(runs::routes())
            .merge(artifacts::routes())
            .merge(deploy::routes())
            .merge(logs::routes())
            .merge(events::routes())
            .merge(data::routes())
            .merge(models::routes())
            .merge(secrets::routes())
            .merge(tokens::routes())
            .merge(background::routes()),
    )
}

/// The API with its document at `/api/openapi.json`.
pub fn router(rooms: Rooms) -> Router {
    let (router, document) = parts().split_for_parts();
    let text = bytes::Bytes::from(document.to_json().unwrap_or_default());
    let serve = move || {
        let text = text.clone();
        async move { ([(http::header::CONTENT_TYPE, "application/json")], text) }
    };
    router
        .with_state(rooms)
        .route("/api/openapi.json", axum::routing::get(serve))
}

/// The OpenAPI document, generated from the types: what `docs/openapi.json` holds.
pub fn openapi_json() -> String {
    let (_, document) = parts().split_for_parts();
    document.to_pretty_json().unwrap_or_default()
}
