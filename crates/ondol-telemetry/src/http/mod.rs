//! `/prometheus/…`: the HTTP API of Prometheus 3, for Grafana's data source, promtool and every
//! sender of remote write and OTLP metrics.
//!
//! Clients ask by POST with a form first and repeat as GET after 400 or 405, so both are the same
//! question here. Senders repeat after 429 and 5xx for ever, so input that cannot get better is
//! always answered with another 4xx. Somebody who may read some projects sees the series whose
//! label `project` names one of them and no other; the condition is added below the query
//! language, where no query can take it away.

mod admission;
mod answer;
mod body;
mod discover;
mod otlp;
mod params;
mod push;
mod query;
mod scope;
mod status;
mod write;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, Method};
use ondol_auth::{Denied, Principal};
use ondol_types::{Clock, Timestamp};

use crate::ingest::otlp::Deltas;
use crate::promql::{Config, Engine};
use crate::series::{SeriesIndex, SeriesSource, SeriesWriter};

use admission::Admission;
pub use answer::ApiError;
use params::Params;

/// The version of Prometheus whose API and query language this is.
pub const PROTOCOL: &str = "3.14.0";

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

/// What is known about targets that are scraped.
pub trait Targets: Send + Sync + 'static {
    /// All of them, as they are now.
    fn targets(&self) -> Vec<crate::ingest::scrape::TargetState>;

    /// Time between two scrapes and how long one may take, where a target says nothing else.
    fn pace(&self) -> (Duration, Duration);
}

/// Ceilings of the routes.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Queries that are evaluated at the same time.
    pub max_queries: usize,
    /// Queries that wait for their turn.
    pub max_waiting: usize,
    /// How long a query waits for its turn.
    pub max_wait: Duration,
    /// Series, labels or values that a list has at most.
    pub max_listed: usize,
    /// Bytes of a body of samples as it comes in.
    pub max_body: usize,
    /// Bytes of a body of samples when it is decompressed.
    pub max_decompressed: usize,
    /// Bodies of samples that are read at the same time.
    pub max_writes: usize,
    /// Limits of the query language.
    pub query: Config,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            max_queries: 4,
            max_waiting: 64,
            max_wait: Duration::from_secs(30),
            max_listed: 100_000,
            max_body: 16 << 20,
            max_decompressed: 64 << 20,
            max_writes: 8,
            query: Config::default(),
        }
    }
}

/// What the routes need.
#[derive(Clone)]
pub struct Door {
    /// Samples.
    pub source: Arc<dyn SeriesSource>,
    /// Labels, exemplars, metadata, statistics.
    pub index: Arc<dyn SeriesIndex>,
    /// Where samples are added.
    pub writer: Arc<dyn SeriesWriter>,
    /// Who asks.
    pub authenticate: Arc<dyn Authenticate>,
    /// What is scraped.
    pub targets: Arc<dyn Targets>,
    /// What short jobs push, when that is kept. It has to be a target of the scraper too.
    pub push: Option<Arc<crate::ingest::push::Groups>>,
    /// The clock of each request.
    pub clock: Arc<dyn Clock>,
    /// Ceilings.
    pub config: HttpConfig,
}

/// The door with what lives as long as its routes.
struct Shared {
    door: Door,
    engine: Engine,
    admission: Arc<Admission>,
    writes: Arc<tokio::sync::Semaphore>,
    deltas: Arc<tokio::sync::Mutex<Deltas>>,
    started: Timestamp,
}

/// The routes: `/prometheus/…`, and `/v1/metrics` for OTLP.
pub fn router(door: Door) -> Router {
    let shared = Arc::new(Shared {
        engine: Engine::new(door.config.query.clone()),
        admission: Arc::new(Admission::new(&door.config)),
        writes: Arc::new(tokio::sync::Semaphore::new(door.config.max_writes)),
        deltas: Arc::default(),
        started: door.clock.now(),
        door,
    });
    Router::new()
        .route("/prometheus/{*rest}", any(handle))
        .route("/v1/metrics", any(handle))
        .with_state(shared)
}

/// A request on its way to one operation.
struct Call {
    shared: Arc<Shared>,
    principal: Principal,
    now: Timestamp,
}

impl Call {
    fn door(&self) -> &Door {
        &self.shared.door
    }
}

type ApiResult = Result<Response, ApiError>;

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    match dispatch(shared, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    }
}

async fn dispatch(shared: Arc<Shared>, request: Request) -> ApiResult {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let reads = matches!(method, Method::GET | Method::HEAD);
    // Health is asked by programs without a token.
    match path.as_str() {
        "/prometheus/-/healthy" if reads => {
            return Ok("Prometheus Server is Healthy.\n".into_response());
        }
        "/prometheus/-/ready" if reads => {
            return Ok("Prometheus Server is Ready.\n".into_response());
        }
        _ => {}
    }
    let connection = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = connection.map(|info| info.0.ip());
    let authenticate = shared.door.authenticate.clone();
    let principal = authenticate.principal(request.headers(), peer).await?;
    if !principal.is_authenticated() {
        return Err(Denied::Unauthenticated.into());
    }
    let call = Call {
        now: shared.door.clock.now(),
        shared,
        principal,
    };
    if path == "/v1/metrics" {
        return match method {
            Method::POST => otlp::metrics(&call, request).await,
            _ => Err(ApiError::method(&method)),
        };
    }
    if let Some(group) = path.strip_prefix("/prometheus/metrics/") {
        return push::handle(&call, group, request).await;
    }
    let Some(rest) = path.strip_prefix("/prometheus/api/v1/") else {
        return Err(ApiError::not_found(&path));
    };
    match (rest, &method) {
        ("write", &Method::POST) => return write::remote(&call, request).await,
        ("otlp/v1/metrics", &Method::POST) => return otlp::metrics(&call, request).await,
        ("write" | "otlp/v1/metrics", _) => return Err(ApiError::method(&method)),
        _ => {}
    }
    let form = method == Method::POST
        && matches!(
            rest,
            "query" | "query_range" | "query_exemplars" | "series" | "labels" | "format_query"
        );
    if !reads && !form {
        return Err(ApiError::method(&method));
    }
    let params = Params::read(request).await?;
    route(&call, rest, &params).await
}

async fn route(call: &Call, rest: &str, params: &Params) -> ApiResult {
    match rest {
        "query" => query::instant(call, params).await,
        "query_range" => query::range(call, params).await,
        "query_exemplars" => discover::exemplars(call, params).await,
        "format_query" => query::format(call, params),
        "series" => discover::series(call, params).await,
        "labels" => discover::labels(call, params).await,
        "metadata" => discover::metadata(call, params).await,
        "status/tsdb" => status::tsdb(call, params).await,
        _ => {
            let value = rest
                .strip_prefix("label/")
                .and_then(|rest| rest.strip_suffix("/values"));
            match value {
                Some(name) if !name.is_empty() && !name.contains('/') => {
                    discover::values(call, &params::decoded_path(name), params).await
                }
                _ => status::fixed(call, rest, params),
            }
        }
    }
}
