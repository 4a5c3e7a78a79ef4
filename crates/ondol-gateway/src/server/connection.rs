//! One client connection: which HTTP it speaks, and its life until one side ends it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::net::TcpStream;

use super::client::{Client, ClientIo, ConnectionState, Order};
use super::worker::{Phase, Worker};
use crate::proxy::handle;

const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: Arc<Worker>,
    state: Arc<ConnectionState>,
    stream: TcpStream,
    peer: SocketAddr,
) {
    let Some(http2) = speaks_http2(&worker, &state, &stream).await else {
        return;
    };
    state.set_http2(http2);
    let limits = worker.shared.limits.clone();
    let ip = peer.ip().to_canonical();
    let client = Arc::new(Client {
        worker: worker.clone(),
        state: state.clone(),
        peer: ip,
        peer_text: ip.to_string().into(),
        http2,
    });
    let io = ClientIo::new(stream, state.clone());
    let service = service_fn(move |request| handle(client.clone(), request));
    let ended = if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(limits.max_head_bytes as u32)
            .max_send_buf_size(256 * 1024)
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        drive(
            Http2(pin!(builder.serve_connection(io, service))),
            &worker,
            &state,
        )
        .await
    } else {
        let mut builder = http1::Builder::new();
        builder
            .max_headers(limits.max_header_fields)
            .max_header_size(limits.max_head_bytes)
            .max_buf_size(limits.max_head_bytes.max(8 * 1024));
        drive(
            Http1(pin!(builder.serve_connection(io, service).with_upgrades())),
            &worker,
            &state,
        )
        .await
    };
    if let Err(error) = ended
        && (error.is_parse() || error.is_parse_too_large())
    {
        worker.totals.malformed.fetch_add(1, Ordering::Relaxed);
    }
}

/// Looks at the first bytes without taking them. None if nothing came in time.
async fn speaks_http2(
    worker: &Worker,
    state: &ConnectionState,
    stream: &TcpStream,
) -> Option<bool> {
    let mut look = pin!(tokio::time::timeout(
        worker.shared.limits.head_timeout,
        async {
            let mut first = [0u8; 4];
            loop {
                let count = stream.peek(&mut first).await.ok()?;
                if count == 0 || first[..count] != HTTP2_PREFACE[..count] {
                    return (count > 0).then_some(false);
                }
                // No HTTP/1 method begins with `PRI `.
                if count == first.len() {
                    return Some(true);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    ));
    poll_fn(|cx| {
        state.waker.register(cx.waker());
        if let Poll::Ready(found) = look.as_mut().poll(cx) {
            return Poll::Ready(found.ok().flatten());
        }
        let over = state.order() != Order::Serve || worker.shared.phase() >= Phase::IdleClosed;
        if over {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// A connection that can be asked to finish.
trait Finishing {
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<hyper::Result<()>>;
    fn finish(&mut self);
    /// From which phase of retirement on it is asked.
    const FINISH_FROM: Phase;
}

struct Http1<'a, C>(Pin<&'a mut C>);
struct Http2<'a, C>(Pin<&'a mut C>);

impl<S, B> Finishing for Http1<'_, http1::UpgradeableConnection<ClientIo, S>>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    http1::UpgradeableConnection<ClientIo, S>: Future<Output = hyper::Result<()>>,
{
    const FINISH_FROM: Phase = Phase::IdleClosed;

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.as_mut().poll(cx)
    }

    fn finish(&mut self) {
        self.0.as_mut().graceful_shutdown();
    }
}

impl<S, B> Finishing for Http2<'_, http2::Connection<ClientIo, S, TokioExecutor>>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    const FINISH_FROM: Phase = Phase::Retiring;

    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.as_mut().poll(cx)
    }

    fn finish(&mut self) {
        self.0.as_mut().graceful_shutdown();
    }
}

async fn drive<F: Finishing>(
    mut connection: F,
    worker: &Worker,
    state: &ConnectionState,
) -> hyper::Result<()> {
    let mut finishing = false;
    poll_fn(|cx| {
        state.waker.register(cx.waker());
        let order = state.order();
        if order == Order::Abort {
            return Poll::Ready(Ok(()));
        }
        if !finishing && (order == Order::Finish || worker.shared.phase() >= F::FINISH_FROM) {
            finishing = true;
            connection.finish();
        }
        connection.poll(cx)
    })
    .await
}
