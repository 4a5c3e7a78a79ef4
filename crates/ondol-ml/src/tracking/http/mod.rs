//! MLflow's REST protocol: `/api/2.0/mlflow/…`, `/api/3.0/mlflow/…`, both below `/ajax-api` too,
//! the artifact proxy beside them, and all of it once more below `/mlflow`.
//!
//! Clients send 64-bit numbers as texts or numbers, arguments of GET in the query and all others
//! as JSON, and read absent fields as empty. They repeat a request on 408, 429 and 5xx, so bad
//! input is never answered with one of those.

mod answer;
mod args;
mod artifacts;
mod experiments;
mod models;
mod registry;
mod runs;
mod view;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use http::{HeaderMap, Method};
use ondol_auth::{Ctx, Denied, Principal};
use ondol_types::Clock;
use serde_json::{Value, json};

use super::Tracking;
use super::error::{Code, TrackingError, TrackingResult};
use args::Args;

/// The version of MLflow whose protocol this is.
pub const PROTOCOL: &str = "3.17.2";

/// Turns the headers of a request into somebody.
#[async_trait]
pub trait Authenticate: Send + Sync + 'static {
    /// The principal; anonymous when no header says otherwise. `peer` is where the request came
    /// from, for limits on wrong credentials.
    ///
    /// # Errors
    /// [`Denied::Unauthenticated`] when a header is there and wrong.
    async fn principal(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Principal, Denied>;
}

/// What the routes need.
#[derive(Clone)]
pub struct Door {
    /// Experiments and runs.
    pub tracking: Tracking,
    /// Who asks.
    pub authenticate: Arc<dyn Authenticate>,
    /// The clock of each request.
    pub clock: Arc<dyn Clock>,
}

/// The routes of the protocol.
pub fn router(door: Door) -> Router {
    let mut router = Router::new();
    for prefix in ["", "/mlflow"] {
        for api in ["/api", "/ajax-api"] {
            for version in ["2.0", "3.0"] {
                for room in ["mlflow", "mlflow-artifacts"] {
                    let path = format!("{prefix}{api}/{version}/{room}/{{*rest}}");
                    router = router.route(&path, any(handle));
                }
            }
        }
        router = router.route(&format!("{prefix}/version"), get(|| async { PROTOCOL }));
    }
    router
        .route("/mlflow/health", get(|| async { "OK" }))
        .with_state(door)
}

async fn handle(State(door): State<Door>, request: Request) -> Response {
    match dispatch(&door, request).await {
        Ok(response) => response,
        Err(error) => answer::refusal(&error),
    }
}

/// A request on its way to one operation.
struct Call<'d> {
    tracking: &'d Tracking,
    ctx: Ctx,
    args: Args,
}

async fn dispatch(door: &Door, request: Request) -> TrackingResult<Response> {
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = connection.map(|info| info.0.ip());
    let principal = door.authenticate.principal(request.headers(), peer).await?;
    if !principal.is_authenticated() {
        return Err(Denied::Unauthenticated.into());
    }
    let ctx = Ctx::new(principal, door.clock.clone());
    let path = request.uri().path().to_owned();
    // Every route has its version in front of the room.
    let tail = path.split_once(".0/").map_or("", |(_, tail)| tail);
    if let Some(rest) = tail.strip_prefix("mlflow-artifacts/") {
        return artifacts::proxy(&door.tracking, &ctx, rest, request).await;
    }
    let rest = tail
        .strip_prefix("mlflow/")
        .unwrap_or("")
        .trim_end_matches('/')
        .to_owned();
    let method = request.method().clone();
    let args = Args::read(request, rest == "runs/log-batch").await?;
    let call = Call {
        tracking: &door.tracking,
        ctx,
        args,
    };
    let answer = route(&call, &method, &rest).await?;
    Ok(answer::json(&answer).into_response())
}

async fn route(call: &Call<'_>, method: &Method, path: &str) -> TrackingResult<Value> {
    let (room, rest) = path.split_once('/').unwrap_or((path, ""));
    let found = match room {
        "experiments" => experiments::route(call, method, rest).await?,
        "runs" => runs::route(call, method, rest).await?,
        "metrics" => runs::metrics(call, method, rest).await?,
        "artifacts" => artifacts::list(call, method, rest).await?,
        "logged-models" => models::route(call, method, rest).await?,
        "registered-models" => registry::models(call, method, rest).await?,
        "model-versions" => registry::versions(call, method, rest).await?,
        "server-info" if *method == Method::GET => Some(json!({
            "store_type": "SqlStore",
            "workspaces_enabled": false,
            "multipart_uploads_enabled": false,
            "multipart_downloads_enabled": false,
        })),
        _ => None,
    };
    found.ok_or_else(|| {
        TrackingError::refused(
            Code::EndpointNotFound,
            format!("there is no endpoint {method} {path} here"),
        )
    })
}
