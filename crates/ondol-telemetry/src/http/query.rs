//! `query`, `query_range`, `format_query`: evaluated on a thread that may block, cancelled when
//! the client goes away, and written piece by piece.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use futures_util::stream;

use super::admission::Place;
use super::answer::{self, ApiError, TRUNCATED};
use super::params::Params;
use super::scope::{Scope, Scoped};
use super::{ApiResult, Call};
use crate::promql::json::{self, DataWriter, write_text};
use crate::promql::{Answer, Cancel, Config, Engine, QueryError, Value, format_plain, pretty};

/// Bytes of an answer that are written before they are sent.
const PIECE: usize = 64 << 10;

/// When a query is evaluated, in milliseconds.
enum At {
    Instant(i64),
    Range { start: i64, end: i64, step: i64 },
}

pub(super) async fn instant(call: &Call, params: &Params) -> ApiResult {
    let time = params.time("time")?.unwrap_or(call.now.as_millis());
    run(call, params, At::Instant(time)).await
}

pub(super) async fn range(call: &Call, params: &Params) -> ApiResult {
    let start = params.required_time("start")?;
    let end = params.required_time("end")?;
    if end < start {
        return Err(ApiError::parameter(
            "end",
            "end timestamp must not be before start time",
        ));
    }
    let step = params
        .duration("step")?
        .ok_or_else(|| ApiError::parameter("step", "cannot parse \"\" to a valid duration"))?;
    run(call, params, At::Range { start, end, step }).await
}

pub(super) fn format(call: &Call, params: &Params) -> ApiResult {
    let expr = call.shared.engine.parse(params.get("query"))?;
    let mut data = String::new();
    write_text(&pretty(&expr), &mut data);
    Ok(answer::success(&data, &[]))
}

/// Cancels a query when nobody waits for it any more.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// The engine with what this query asks for on top: never more than the door allows.
fn engine(call: &Call, params: &Params) -> Result<Engine, ApiError> {
    let config = call.shared.engine.config();
    let timeout = params.duration("timeout")?;
    let lookback = params.duration("lookback_delta")?;
    if timeout.is_none() && lookback.is_none() {
        return Ok(call.shared.engine.clone());
    }
    let positive = |name: &str, milliseconds: i64| {
        u64::try_from(milliseconds)
            .map(Duration::from_millis)
            .map_err(|_| ApiError::parameter(name, "a duration must not be negative"))
    };
    let mut changed: Config = config.clone();
    if let Some(milliseconds) = timeout {
        changed.timeout = positive("timeout", milliseconds)?.min(config.timeout);
    }
    if let Some(milliseconds) = lookback {
        let lookback = positive("lookback_delta", milliseconds)?;
        if !lookback.is_zero() {
            changed.lookback = lookback;
        }
    }
    Ok(Engine::new(changed))
}

async fn run(call: &Call, params: &Params, at: At) -> ApiResult {
    let scope = Scope::of(call)?;
    let limit = params.limit("limit")?;
    let stats = !params.get("stats").is_empty();
    let query = params.get("query").to_owned();
    let engine = engine(call, params)?;
    // A text that is no query needs no place.
    engine.parse(&query)?;
    let timeout = engine.config().timeout;
    let place = call.shared.admission.enter(&query, timeout).await?;
    let cancel = Cancel::default();
    let guard = CancelOnDrop(cancel.clone());
    let source = call.door().source.clone();
    let text = query.clone();
    let begun = Instant::now();
    let (outcome, place) = tokio::task::spawn_blocking(move || {
        let scoped = Scoped {
            source: &*source,
            scope: &scope,
        };
        let outcome: Result<Answer, QueryError> = match at {
            At::Instant(time) => engine.instant(&scoped, &text, time, &cancel),
            At::Range { start, end, step } => {
                engine.range(&scoped, &text, start, end, step, &cancel)
            }
        };
        // The place is held until the thread is done, also when the client has gone.
        (outcome, place)
    })
    .await
    .map_err(|error| ApiError::internal(format!("the query ended unexpectedly: {error}")))?;
    let evaluated = begun.elapsed();
    drop(guard);
    let mut found = outcome?;
    let cut = limit.is_some_and(|limit| truncate(&mut found.value, limit));
    let mut tail = String::new();
    if stats {
        write_stats(&found, place.waited, evaluated, &mut tail);
    }
    tail.push('}');
    write_remarks(&found, &query, cut, &mut tail);
    tail.push('}');
    let mut pieces = Pieces {
        answer: found,
        writer: DataWriter::default(),
        tail: Some(tail),
        begun: false,
        _place: place,
    };
    let first = pieces.next().unwrap_or_default();
    if pieces.tail.is_none() {
        return Ok(answer::json(first));
    }
    let rest = Rest::new(pieces, call.shared.engine.config().timeout);
    let body = std::iter::once(Ok(first)).chain(rest);
    Ok(answer::json(Body::from_stream(stream::iter(body))))
}

fn truncate(value: &mut Value, limit: usize) -> bool {
    match value {
        Value::Vector(samples) if samples.len() > limit => samples.truncate(limit),
        Value::Matrix(series) if series.len() > limit => series.truncate(limit),
        _ => return false,
    }
    true
}

fn write_remarks(answer: &Answer, query: &str, cut: bool, out: &mut String) {
    if !cut {
        json::write_annotations(answer, query, out);
        return;
    }
    let mut warnings = answer.annotations.warnings(query);
    warnings.push(TRUNCATED.to_owned());
    answer::write_warnings(&warnings, out);
    let infos = answer.annotations.infos(query);
    if !infos.is_empty() {
        out.push_str(",\"infos\":");
        json::list(&infos, out, |text, out| write_text(text, out));
    }
}

fn write_stats(answer: &Answer, waited: Duration, evaluated: Duration, out: &mut String) {
    let seconds = |time: Duration| format_plain(time.as_secs_f64());
    let _ = write!(
        out,
        ",\"stats\":{{\"timings\":{{\"evalTotalTime\":{},\"execQueueTime\":{},\"execTotalTime\":{}}},\"samples\":{{\"totalQueryableSamples\":{},\"peakSamples\":{}}}}}",
        seconds(evaluated),
        seconds(waited),
        seconds(waited + evaluated),
        answer.read_samples,
        answer.peak_samples,
    );
}

/// An answer on its way out. It holds the place of its query: the samples are in memory as long.
struct Pieces {
    answer: Answer,
    writer: DataWriter,
    tail: Option<String>,
    begun: bool,
    _place: Place,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Self::Item> {
        self.tail.as_ref()?;
        let mut out = String::with_capacity(PIECE + (PIECE >> 2));
        if !self.begun {
            self.begun = true;
            out.push_str("{\"status\":\"success\",\"data\":");
        }
        while out.len() < PIECE {
            if !self.writer.write_more(&self.answer, &mut out) {
                out.push_str(&self.tail.take().unwrap_or_default());
                break;
            }
        }
        Some(Bytes::from(out))
    }
}

/// What is left of a large answer. A client that does not read it in time loses it, so that it
/// cannot keep the place of a query for ever.
struct Rest {
    pieces: Arc<Mutex<Option<Pieces>>>,
    deadline: tokio::task::AbortHandle,
}

impl Rest {
    fn new(pieces: Pieces, at_most: Duration) -> Self {
        let pieces = Arc::new(Mutex::new(Some(pieces)));
        let held = pieces.clone();
        let deadline = tokio::spawn(async move {
            tokio::time::sleep(at_most).await;
            drop(held.lock().unwrap_or_else(PoisonError::into_inner).take());
        });
        Self {
            pieces,
            deadline: deadline.abort_handle(),
        }
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.deadline.abort();
    }
}

impl Iterator for Rest {
    type Item = Result<Bytes, std::io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        match pieces.as_mut() {
            Some(pieces) => pieces.next().map(Ok),
            None => Some(Err(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        }
    }
}
