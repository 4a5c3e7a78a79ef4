//! Live views: server-sent events with a JSON value each.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// One event with its name.
pub(crate) fn event(name: &str, value: &impl Serialize) -> Event {
    let data = serde_json::to_string(value).unwrap_or_else(|_| "null".to_owned());
    Event::default().event(name).data(data)
}

/// Answers a stream of events, until it or the process ends. Silence is broken every 15 s so that
/// a connection that is gone is noticed.
pub(crate) fn answer(
    events: impl Stream<Item = Event> + Send + 'static,
    stopping: CancellationToken,
) -> Response {
    let events = events
        .take_until(async move { stopping.cancelled().await })
        .map(Ok::<_, Infallible>);
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(Duration::from_secs(15)))
        .into_response()
}
