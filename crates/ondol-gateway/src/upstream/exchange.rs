//! One request and the head of its response, on one connection.
//!
//! Sending and receiving go on at the same time: a replica may answer before it has the whole
//! request. Failures say whether a single byte of an answer came, since that decides if the
//! request may be repeated.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use tokio::time::Instant;

use super::connection::{Connection, Expired};
use super::head::{BadHead, ResponseHead, take_head};
use super::pump::{Pump, PumpFailure};

/// A client that asked for leave to send its body gets it after this, whether or not the replica
/// knows how to give it.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// What bounds an exchange.
pub(crate) struct Limits<'a> {
    /// How long the answer may take to begin, once nothing is being sent.
    pub(crate) response_timeout: Duration,
    /// The replica's sign that it has been cut off.
    pub(crate) cut: &'a AtomicBool,
    /// Whether the client waits for leave before it sends its body.
    pub(crate) expects_continue: bool,
}

/// A response that has begun.
pub(crate) struct Sent {
    pub(crate) head: ResponseHead,
    /// The rest of the request, when the replica answered before it had all.
    pub(crate) unsent: Option<Pump>,
}

/// Why no response began.
#[derive(Debug)]
pub(crate) enum ExchangeFailure {
    /// The connection ended. `untouched` if no byte of an answer came.
    Closed {
        untouched: bool,
        error: Option<io::Error>,
    },
    /// The answer is not HTTP.
    Malformed(BadHead),
    /// The answer did not begin in time.
    TimedOut,
    /// The replica's drain deadline passed.
    Cut,
    /// The client broke off.
    Client,
    /// The client's body is too long.
    TooLarge,
}

/// Sends a request and waits for the head of its response.
pub(crate) async fn send(
    connection: &mut Connection,
    mut pump: Pump,
    method: &Method,
    spare: &mut HeaderMap,
    limits: Limits<'_>,
) -> Result<Sent, ExchangeFailure> {
    let mut scanned = 0;
    let mut touched = false;
    let mut write_error: Option<io::Error> = None;
    let mut hold_body_until = limits
        .expects_continue
        .then(|| Instant::now() + CONTINUE_WAIT);
    let stream = connection.stream.clone();
    connection.arm(hold_body_until.map_or(limits.response_timeout, |_| CONTINUE_WAIT));
    let answered = poll_fn(|cx| {
        loop {
            if limits.cut.load(Ordering::Acquire) {
                return Poll::Ready(Err(ExchangeFailure::Cut));
            }
            let sending = match () {
                () if write_error.is_some() || pump.is_done() => Poll::Pending,
                () if hold_body_until.is_some() => pump.poll_flush(cx, &stream).map_ok(|()| false),
                () => pump.poll(cx, &stream).map_ok(|()| true),
            };
            match sending {
                Poll::Ready(Err(PumpFailure::Client)) => {
                    return Poll::Ready(Err(ExchangeFailure::Client));
                }
                Poll::Ready(Err(PumpFailure::TooLarge)) => {
                    return Poll::Ready(Err(ExchangeFailure::TooLarge));
                }
                // The replica may have answered before it closed its side: look at that first.
                Poll::Ready(Err(PumpFailure::Replica(error))) => write_error = Some(error),
                Poll::Ready(Ok(_)) | Poll::Pending => {}
            }
            if std::mem::take(&mut pump.progressed) && hold_body_until.is_none() {
                connection.arm(limits.response_timeout);
            }
            match connection.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    let error = write_error.take();
                    return Poll::Ready(Err(ExchangeFailure::Closed {
                        untouched: !touched,
                        error,
                    }));
                }
                Poll::Ready(Err(error)) => {
                    return Poll::Ready(Err(ExchangeFailure::Closed {
                        untouched: !touched,
                        error: Some(error),
                    }));
                }
                Poll::Ready(Ok(_)) => {
                    touched = true;
                    loop {
                        match take_head(&mut connection.read, &mut scanned, method, spare) {
                            Ok(None) => break,
                            Ok(Some(head)) if is_interim(head.status) => {
                                *spare = head.headers;
                                if hold_body_until.take().is_some() {
                                    connection.arm(limits.response_timeout);
                                }
                            }
                            Ok(Some(head)) => return Poll::Ready(Ok(head)),
                            Err(bad) => return Poll::Ready(Err(ExchangeFailure::Malformed(bad))),
                        }
                    }
                    // An interim answer may have given leave to send: look at both sides again.
                    continue;
                }
                Poll::Pending => {}
            }
            match connection.poll_expired(cx, limits.cut) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Expired::Cut) => return Poll::Ready(Err(ExchangeFailure::Cut)),
                Poll::Ready(Expired::TimedOut) if hold_body_until.take().is_some() => {
                    connection.arm(limits.response_timeout);
                }
                // A client that is slow to send is not the replica's fault; its own limit ends it.
                Poll::Ready(Expired::TimedOut)
                    if pump.waits_for_client() && write_error.is_none() =>
                {
                    connection.arm(limits.response_timeout);
                }
                Poll::Ready(Expired::TimedOut) => {
                    return Poll::Ready(Err(ExchangeFailure::TimedOut));
                }
            }
        }
    })
    .await;
    let mut head = match answered {
        Ok(head) => head,
        Err(failure) => {
            if !matches!(failure, ExchangeFailure::Client) && pump.has_begun() {
                tokio::spawn(pump.discard());
            }
            return Err(failure);
        }
    };
    if pump.is_done() {
        connection.out = pump.into_spare();
        return Ok(Sent { head, unsent: None });
    }
    head.keep_alive = false;
    // A body that nobody asked for is not asked for now either.
    let unsent = pump.has_begun().then_some(pump);
    Ok(Sent { head, unsent })
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}
