//! One door: one listener for the API, git and the registry.

use std::net::SocketAddr;

use ::http::StatusCode;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ondol_auth::{Action, Authenticator, Ctx, HostPolicy};
use ondol_telemetry::Metrics;
use ondol_types::Clock;
use std::sync::Arc;

/// What the routes of the door itself need.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) authenticator: Authenticator,
    pub(super) metrics: Metrics,
    pub(super) hosts: HostPolicy,
    pub(super) clock: Arc<dyn Clock>,
}

/// The door around the rooms' routers.
pub(super) fn router(door: Door, rooms: Router) -> Router {
    let own = Router::new()
        .route("/", get(front))
        .route("/metrics", get(metrics))
        .with_state(door.clone());
    Router::new()
        .merge(own)
        .merge(rooms)
        .fallback(|| async { (StatusCode::NOT_FOUND, "nothing is here\n") })
        .layer(middleware::from_fn_with_state(door, check_host))
        // Health is asked by address, by programs that send whatever Host they like.
        .route("/health", get(|| async { "ok\n" }))
}

async fn front() -> &'static str {
    "Ondol\n\n/api/v1/…           the API (its document: /api/openapi.json)\n/git/<project>.git  repositories\n/v2/…               images\n/api/2.0/mlflow/…   experiments and runs (MLflow's tracking address is this one)\n/prometheus/…       metrics, as Prometheus serves them\n/metrics            metrics of the platform itself\n"
}

async fn check_host(State(door): State<Door>, request: Request, next: Next) -> Response {
    if door.hosts.allows(request.headers(), request.uri()) {
        if ondol_auth::is_from_another_site(request.method(), request.headers()) {
            let help = "a page of another site may not change anything here\n";
            return (StatusCode::FORBIDDEN, help).into_response();
        }
        return next.run(request).await;
    }
    let help = "this server is not known under that name; an administrator can add it with `ondol serve --host NAME`\n";
    (StatusCode::MISDIRECTED_REQUEST, help).into_response()
}

async fn metrics(State(door): State<Door>, request: Request) -> Response {
    let peer = request
        .extensions()
        .get::<axum::extract::ConnectInfo<SocketAddr>>()
        .map(|info| info.0.ip());
    let allowed = match door
        .authenticator
        .authenticate(request.headers(), peer)
        .await
    {
        Ok(principal) => Ctx::new(principal, door.clock.clone())
            .require_installation(Action::Operate)
            .map_err(ondol_api::Refusal::from),
        Err(error) => Err(error.into()),
    };
    match allowed {
        Ok(()) => (
            [(::http::header::CONTENT_TYPE, "text/plain; version=0.0.4")],
            door.metrics.exposition().await,
        )
            .into_response(),
        Err(refusal) => refusal.into_response(),
    }
}
