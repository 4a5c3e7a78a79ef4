//! HTTP clients of the load: keep-alive, slow answers, uploads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::{Body, Client, RequestBuilder};
use tokio_util::sync::CancellationToken;

use super::{LoadPlan, Notes};

fn client(idle_connections: usize, timeout: Duration) -> Client {
    Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .pool_max_idle_per_host(idle_connections)
        .timeout(timeout)
        // Every repetition is counted, so none may happen unseen.
        .retry(reqwest::retry::never())
        .build()
        .expect("an HTTP client")
}

fn addressed(plan: &LoadPlan, request: RequestBuilder) -> RequestBuilder {
    match &plan.host {
        Some(host) => request.header("host", host),
        None => request,
    }
}

/// A failure with its causes.
fn explain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

async fn exchange(request: RequestBuilder) -> Result<(u16, bool, Bytes), reqwest::Error> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let closes = response
        .headers()
        .get("connection")
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    Ok((status, closes, response.bytes().await?))
}

async fn rest(stop: &CancellationToken, pause: Duration) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(pause) => {}
    }
}

pub(super) async fn keep_alive(plan: Arc<LoadPlan>, notes: Arc<Notes>, stop: CancellationToken) {
    const KIND: &str = "keep-alive";
    let mut client_of_now = client(1, Duration::from_secs(30));
    let mut reused = false;
    while !stop.is_cancelled() {
        let url = format!("{}{}", plan.base, plan.path);
        let mut outcome = exchange(addressed(&plan, client_of_now.get(&url))).await;
        if let Err(error) = &outcome
            && reused
            && !error.is_timeout()
            && !error.is_connect()
        {
            notes.repeated(KIND);
            client_of_now = client(1, Duration::from_secs(30));
            outcome = exchange(addressed(&plan, client_of_now.get(&url))).await;
        }
        match outcome {
            Ok((status, closes, body)) if status < 400 => {
                reused = !closes;
                notes.done(KIND);
                let value: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
                notes.answered(value.and_then(|value| Some(value["version"].as_str()?.to_owned())));
            }
            Ok((status, closes, body)) => {
                reused = !closes;
                let text = String::from_utf8_lossy(&body);
                notes.failed(
                    KIND,
                    format!(
                        "status {status}: {}",
                        text.chars().take(200).collect::<String>()
                    ),
                );
            }
            Err(error) => {
                reused = false;
                client_of_now = client(1, Duration::from_secs(30));
                notes.failed(KIND, explain(&error));
            }
        }
        rest(&stop, plan.pause).await;
    }
}

pub(super) async fn slow(plan: Arc<LoadPlan>, notes: Arc<Notes>, stop: CancellationToken) {
    const KIND: &str = "slow";
    let client = client(0, Duration::from_secs(plan.slow_seconds + 60));
    while !stop.is_cancelled() {
        let url = format!("{}/slow?seconds={}", plan.base, plan.slow_seconds);
        match exchange(addressed(&plan, client.get(&url))).await {
            Ok((200, _, _)) => notes.done(KIND),
            Ok((status, _, body)) => notes.failed(
                KIND,
                format!("status {status}: {}", String::from_utf8_lossy(&body)),
            ),
            Err(error) => notes.failed(KIND, explain(&error)),
        }
        rest(&stop, Duration::from_millis(20)).await;
    }
}

pub(super) async fn upload(plan: Arc<LoadPlan>, notes: Arc<Notes>, stop: CancellationToken) {
    const KIND: &str = "upload";
    const PIECE: usize = 16 * 1024;
    let client = client(0, Duration::from_secs(60));
    while !stop.is_cancelled() {
        let pieces = plan.upload_bytes.div_ceil(PIECE);
        // Pauses between the pieces, so that uploads are under way when a release is replaced.
        let body = stream::unfold(0, move |piece| async move {
            if piece == pieces {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((
                Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; PIECE])),
                piece + 1,
            ))
        });
        let request = client
            .post(format!("{}/upload", plan.base))
            .body(Body::wrap_stream(body));
        let expected = (pieces * PIECE).to_string();
        match exchange(addressed(&plan, request)).await {
            Ok((200, _, body)) if body == expected.as_bytes() => notes.done(KIND),
            Ok((200, _, body)) => {
                notes.failed(
                    KIND,
                    format!(
                        "{} bytes arrived of {expected}",
                        String::from_utf8_lossy(&body)
                    ),
                );
            }
            Ok((status, _, body)) => notes.failed(
                KIND,
                format!("status {status}: {}", String::from_utf8_lossy(&body)),
            ),
            Err(error) => notes.failed(KIND, explain(&error)),
        }
        rest(&stop, Duration::from_millis(20)).await;
    }
}
