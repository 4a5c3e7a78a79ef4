//! Carries connections to the door's routes, within bounds: a client that opens connections and
//! says nothing, says it byte by byte or takes no answer is ended, and so many connections are
//! open at once, of all clients and of each.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::patience::{Allowance, Clients, PacedBody, Place, Taken};

/// Ceilings of the listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections open at once; further ones wait in the system's queue.
    pub(super) connections: usize,
    /// Connections of one address open at once; further ones are closed. Clients behind a proxy
    /// have its address, so this leaves room for a busy one.
    pub(super) per_client: usize,
    /// How long a client may take for a request's head, also for the first byte of the next one.
    pub(super) head: Duration,
    /// How long a client is waited for while it sends a body.
    pub(super) body: Allowance,
    /// How long a client may leave no room for its answer.
    pub(super) answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4_096,
            per_client: 1_024,
            head: Duration::from_secs(75),
            body: Allowance {
                left: Duration::from_secs(60),
                most: Duration::from_secs(120),
                rate: 1_024,
            },
            answer: Duration::from_secs(120),
        }
    }
}

const MAX_HEAD_BYTES: usize = 64 * 1024;
const MAX_FIELDS: usize = 100;
const MAX_STREAMS: u32 = 200;
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// Serves until told to stop, then lets requests end.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stopping: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let clients = Clients::default();
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, peer, place)) = accepted else {
            // The system has no more to give, such as descriptors, and may have again soon.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(own) = clients.enter(peer.ip(), limits.per_client) else {
            tracing::debug!(client = %peer.ip(), "an address has too many connections");
            continue;
        };
        let (router, stopping) = (router.clone(), stopping.clone());
        tracker.spawn(async move {
            let _places: (_, Place) = (place, own);
            connection(stream, peer, router, limits, stopping).await;
        });
    }
    drop(listener);
    tracker.close();
    tracker.wait().await;
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => Some((stream, peer, place)),
        Err(error) => {
            tracing::debug!(error = %error, "a connection was not accepted");
            None
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: Limits,
    stopping: CancellationToken,
) {
    // Small answers go out at once.
    let _ = stream.set_nodelay(true);
    let version = tokio::select! {
        () = stopping.cancelled() => return,
        version = tokio::time::timeout(limits.head, speaks_http2(&stream)) => version,
    };
    let Ok(Some(http2)) = version else { return };
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(|body| Body::new(PacedBody::new(body, limits.body)));
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = router.clone();
        async move { tower_service(router, request).await }
    });
    let io = TokioIo::new(Taken::new(stream, limits.answer));
    if http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let mut connection = pin!(builder.serve_connection(io, service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_headers(MAX_FIELDS)
            .max_buf_size(MAX_HEAD_BYTES * 2);
        let mut connection = pin!(builder.serve_connection(io, service).with_upgrades());
        tokio::select! {
            _ = connection.as_mut() => return,
            () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

fn tower_service(
    mut router: Router,
    request: Request,
) -> impl Future<Output = Result<axum::response::Response, std::convert::Infallible>> {
    tower::Service::call(&mut router, request)
}

/// Looks at the first bytes without taking them; nothing when the client left.
async fn speaks_http2(stream: &TcpStream) -> Option<bool> {
    let mut first = [0u8; HTTP2_PREFACE.len()];
    loop {
        let count = stream.peek(&mut first).await.ok()?;
        if count == 0 || first[..count] != HTTP2_PREFACE[..count] {
            return (count > 0).then_some(false);
        }
        // No HTTP/1 method begins with `PRI `.
        if count == first.len() {
            return Some(true);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router =
            Router::new()
                .route(
                    "/who",
                    get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
                        peer.ip().to_string()
                    }),
                )
                .route("/take", post(|body: String| async move { body }));
        let stopping = CancellationToken::new();
        let task = tokio::spawn(serve(listener, router, limits, stopping.clone()));
        (address, stopping, task)
    }

    /// Sends and reads to the end of the connection, which must come.
    async fn talk(address: SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn clients_that_say_nothing_or_half_of_it_are_ended() {
        let short = Limits {
            head: Duration::from_millis(100),
            body: Allowance {
                left: Duration::from_millis(100),
                most: Duration::from_millis(100),
                rate: 1_024,
            },
            ..Limits::default()
        };
        let (address, _stopping, _task) = start(short).await;
        for half in [
            "",
            "P",
            "PRI",
            "GET /who HTT",
            "GET /who HTTP/1.1\r\nHost: x\r\nA",
        ] {
            let answer = talk(address, half).await;
            assert!(!answer.contains("200 OK"), "{half:?}: {answer}");
        }
        let body = "POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf";
        let answer = talk(address, body).await;
        assert!(!answer.contains("200 OK"), "{answer}");
        // Bytes that come one by one do not buy the time that they take.
        let mut dripping = TcpStream::connect(address).await.unwrap();
        let head = b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n";
        dripping.write_all(head).await.unwrap();
        let (mut read, mut write) = dripping.into_split();
        let drip = tokio::spawn(async move {
            while write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        drip.abort();
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("200 OK"), "{answer}");
        let whole = "GET /who HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(talk(address, whole).await.ends_with("127.0.0.1"));
    }

    #[tokio::test]
    async fn one_address_does_not_take_every_place() {
        let two = Limits {
            per_client: 2,
            ..Limits::default()
        };
        let (address, _stopping, _task) = start(two).await;
        let request = "GET /who HTTP/1.1\r\nHost: x\r\n\r\n";
        let open = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(request.as_bytes()).await;
            let mut first = [0; 8];
            let count = stream.read(&mut first).await.unwrap_or(0);
            (count > 0).then_some(stream)
        };
        let (first, second) = (open().await.unwrap(), open().await.unwrap());
        assert!(open().await.is_none());
        drop((first, second));
        while open().await.is_none() {}
    }

    #[tokio::test]
    async fn connections_are_counted_and_a_stop_lets_requests_end() {
        let one = Limits {
            connections: 1,
            ..Limits::default()
        };
        let (address, stopping, task) = start(one).await;
        let mut first = TcpStream::connect(address).await.unwrap();
        first
            .write_all(b"POST /take HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nha")
            .await
            .unwrap();
        let second = tokio::spawn(talk(address, "GET /who HTTP/1.0\r\n\r\n"));
        // The second waits for the place of the first.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!second.is_finished());
        stopping.cancel();
        first.write_all(b"lf").await.unwrap();
        let mut answer = String::new();
        first.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("half"), "{answer}");
        task.await.unwrap();
    }
}
