//! The built-in model server: one model, MLflow's scoring protocol.
//!
//! `POST /invocations` takes `dataframe_split`, `dataframe_records`, `instances` or `inputs` as
//! JSON, with `params`, or CSV with a header; `GET /ping` and `/health` answer while the model
//! is loaded, so one image satisfies MLflow and SageMaker. Small requests are answered on the
//! connection's task; large ones wait for one of few places, so that memory stays bounded.

mod answer;
mod input;
mod metrics;

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::error::{MlError, MlResult};
use crate::predict::Predictor;
use metrics::ServerMetrics;

/// How the server answers.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Name of the model, for `/` and the metrics.
    pub model: Option<String>,
    /// Its version, likewise.
    pub version: Option<String>,
    /// Largest request body in bytes.
    pub body_limit: usize,
    /// Most rows of one request.
    pub row_limit: usize,
    /// Most connections at once.
    pub connections: usize,
    /// How long requests may take to end after the shutdown began.
    pub grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            model: None,
            version: None,
            body_limit: 16 << 20,
            row_limit: 100_000,
            connections: 1_024,
            grace: Duration::from_secs(10),
        }
    }
}

/// Requests with larger bodies are parsed and predicted off the connection's task.
const LARGE_BODY: usize = 32 << 10;
/// So many of them at once.
const LARGE_AT_ONCE: usize = 4;
/// A body has to arrive within this.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct App {
    predictor: Predictor,
    options: ServerOptions,
    metrics: ServerMetrics,
    large: Semaphore,
    started: Instant,
}

/// The routes of the server.
pub fn router(predictor: Predictor, options: ServerOptions) -> Router {
    let metrics = ServerMetrics::new(predictor.model());
    let app = App {
        predictor,
        options,
        metrics,
        large: Semaphore::new(LARGE_AT_ONCE),
        started: Instant::now(),
    };
    Router::new()
        .route("/", get(answer::describe))
        .route("/ping", get(answer::ping))
        .route("/health", get(answer::ping))
        .route("/version", get(answer::version))
        .route("/metrics", get(answer::metrics))
        .route("/invocations", post(answer::invocations))
        .fallback(answer::not_found)
        .method_not_allowed_fallback(answer::method_not_allowed)
        .with_state(Arc::new(app))
}

/// Loads the model in `dir`, listens on `address` and serves until `shutdown` completes. `ready`
/// is called once with the address that was bound (port 0 picks a free one).
///
/// # Errors
/// When the model cannot be loaded or the address cannot be bound.
pub async fn model_server_main(
    dir: &Path,
    address: SocketAddr,
    options: ServerOptions,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()> + Send,
) -> MlResult<()> {
    let dir = dir.to_owned();
    let loading = tokio::task::spawn_blocking(move || Predictor::load(&dir));
    let predictor = loading
        .await
        .map_err(|error| MlError::Internal(format!("loading the model ended early: {error}")))??;
    let listener = TcpListener::bind(address).await.map_err(MlError::Server)?;
    let bound = listener.local_addr().map_err(MlError::Server)?;
    tracing::info!(address = %bound, algorithm = predictor.model().algorithm, "model server listens");
    ready(bound);
    serve(listener, predictor, options, shutdown).await
}

/// Serves a loaded model until `shutdown` completes, then lets requests end within the grace.
///
/// # Errors
/// Never for what a client does; only when the listener is gone.
pub async fn serve(
    listener: TcpListener,
    predictor: Predictor,
    options: ServerOptions,
    shutdown: impl Future<Output = ()> + Send,
) -> MlResult<()> {
    let places = Arc::new(Semaphore::new(options.connections));
    let capacity = u32::try_from(options.connections).unwrap_or(u32::MAX);
    let grace = options.grace;
    let router = router(predictor, options);
    let (drain, _) = watch::channel(false);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.map_err(|error| MlError::Internal(error.to_string()))?,
            () = &mut shutdown => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, or a client that left already: neither ends the server.
                tracing::warn!(error = %error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Without this, an answer waits for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let mut drained = drain.subscribe();
        tokio::spawn(async move {
            let mut builder = auto::Builder::new(TokioExecutor::new());
            builder
                .http1()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(60));
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let outcome = tokio::select! {
                outcome = connection.as_mut() => outcome,
                _ = drained.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = outcome {
                tracing::debug!(error = %error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    drain.send_replace(true);
    let all_ended = places.acquire_many(capacity);
    if tokio::time::timeout(grace, all_ended).await.is_err() {
        tracing::warn!(
            grace_seconds = grace.as_secs(),
            "requests were cut off at the end of the grace"
        );
    }
    Ok(())
}

/// A body is read as JSON and as CSV; what is accepted is answered, row for row.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(predictor: &crate::Predictor, body: &[u8]) {
    const LIMIT: usize = 100;
    let json = input::read_json(predictor, body, LIMIT);
    let csv = input::read_csv_body(predictor, body, LIMIT);
    for request in json.into_iter().chain(csv) {
        assert!(request.rows.rows <= LIMIT);
        let answers = predictor.predict(&request.rows);
        assert_eq!(answers.len(), request.rows.rows);
        for answer in &answers {
            let _ = predictor.json(answer);
        }
    }
}
