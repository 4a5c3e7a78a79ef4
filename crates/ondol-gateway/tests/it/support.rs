//! A backend with known manners, a gateway in this process, and clients that say exactly what they
//! are told to.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use ondol_gateway::{
    AccessLogConfig, Backend, GatewayConfig, GatewayControl, Limits, Listen, Replica, Route,
    RunningGateway, Snapshot,
};
use ondol_types::{EnvironmentName, NoCrash, ProjectName, ReleaseId, ReplicaId, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A body of given frames, which may come slowly.
pub(crate) struct Frames {
    frames: VecDeque<Frame<Bytes>>,
    pause: Option<Duration>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Frames {
    pub(crate) fn new(frames: Vec<Frame<Bytes>>) -> Self {
        Self {
            frames: frames.into(),
            pause: None,
            sleep: None,
        }
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self::new(vec![Frame::data(text.into())])
    }

    pub(crate) fn empty() -> Self {
        Self::new(Vec::new())
    }

    pub(crate) fn paced(mut self, pause: Duration) -> Self {
        self.pause = Some(pause);
        self
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = self.pause {
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            std::task::ready!(sleep.as_mut().poll(cx));
            self.sleep = None;
        }
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }
}

/// Reads a body to its end.
pub(crate) async fn collect(
    mut body: impl Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
) -> (Bytes, Option<HeaderMap>) {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        match frame.expect("the body is whole").into_data() {
            Ok(bytes) => data.extend_from_slice(&bytes),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (data.into(), trailers)
}

/// An application.
pub(crate) struct App {
    pub(crate) address: SocketAddr,
    pub(crate) requests: Arc<AtomicUsize>,
    pub(crate) finished: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl App {
    pub(crate) async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let finished = Arc::new(AtomicUsize::new(0));
        let (counter, done) = (requests.clone(), finished.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (counter, done) = (counter.clone(), done.clone());
                connections.spawn(async move {
                    let service = service_fn(move |request| {
                        counter.fetch_add(1, Ordering::SeqCst);
                        let done = done.clone();
                        async move {
                            let response = respond(name, request).await;
                            done.fetch_add(1, Ordering::SeqCst);
                            Ok::<_, Infallible>(response)
                        }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades()
                        .await;
                });
            }
        });
        Self {
            address,
            requests,
            finished,
            task,
        }
    }
}

fn query<T: std::str::FromStr>(request: &Request<Incoming>, key: &str) -> Option<T> {
    request
        .uri()
        .query()?
        .split('&')
        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
}

async fn respond(name: &'static str, request: Request<Incoming>) -> Response<Frames> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(query(&request, "ms").unwrap_or(100))).await;
            Response::new(Frames::text(name))
        }
        "/stream" => {
            let count = query(&request, "n").unwrap_or(5);
            let pause = Duration::from_millis(query(&request, "ms").unwrap_or(1));
            let frames = (0..count)
                .map(|index| Frame::data(Bytes::from(format!("part {index}\n"))))
                .collect();
            Response::new(Frames::new(frames).paced(pause))
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("42"));
            let frames = vec![
                Frame::data(Bytes::from_static(b"body")),
                Frame::trailers(trailers),
            ];
            Response::builder()
                .header("trailer", "x-sum")
                .body(Frames::new(frames))
                .unwrap()
        }
        "/head" => {
            let mut text = format!("{} {}\n", request.method(), request.uri());
            for (field, value) in request.headers() {
                text.push_str(&format!(
                    "{field}: {}\n",
                    String::from_utf8_lossy(value.as_bytes())
                ));
            }
            Response::builder()
                .header("x-app", name)
                .header("connection", "x-hop")
                .header("x-hop", "1")
                .header("keep-alive", "timeout=5")
                .body(Frames::text(text))
                .unwrap()
        }
        "/echo" => {
            let (data, trailers) = collect(request.into_body()).await;
            let mut frames = vec![Frame::data(data)];
            frames.extend(trailers.map(Frame::trailers));
            Response::builder()
                .header("trailer", "x-sum")
                .body(Frames::new(frames))
                .unwrap()
        }
        "/count" => {
            let (data, _) = collect(request.into_body()).await;
            Response::new(Frames::text(data.len().to_string()))
        }
        "/refuse" => Response::builder()
            .status(StatusCode::PAYLOAD_TOO_LARGE)
            .body(Frames::text("no"))
            .unwrap(),
        "/redirect" => Response::builder()
            .status(302)
            .header("location", "/login")
            .body(Frames::empty())
            .unwrap(),
        "/empty" => Response::builder()
            .status(204)
            .body(Frames::empty())
            .unwrap(),
        "/ws" => websocket(request),
        _ => Response::builder()
            .header("x-app", name)
            .body(Frames::text(format!("{name} {path}")))
            .unwrap(),
    }
}

fn websocket(mut request: Request<Incoming>) -> Response<Frames> {
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
    use tokio_tungstenite::tungstenite::protocol::Role;

    let Some(key) = request.headers().get("sec-websocket-key") else {
        return Response::builder()
            .status(400)
            .body(Frames::text("no key"))
            .unwrap();
    };
    let accept = derive_accept_key(key.as_bytes());
    let chatty = request.uri().query() == Some("chatty");
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        use futures_util::{SinkExt, StreamExt};
        let Ok(io) = upgrade.await else { return };
        let mut socket =
            WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        if chatty {
            let message = Message::Binary(vec![0x88u8; 70_000].into());
            while socket.send(message.clone()).await.is_ok() {
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            return;
        }
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                break;
            }
        }
    });
    Response::builder()
        .status(101)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-accept", accept)
        .body(Frames::empty())
        .unwrap()
}

/// A gateway in this process.
pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) gateway: Option<RunningGateway>,
    pub(crate) control: GatewayControl,
    pub(crate) address: SocketAddr,
}

pub(crate) fn config(dir: &std::path::Path, listen: Listen) -> GatewayConfig {
    GatewayConfig {
        run_dir: dir.to_owned(),
        listen,
        workers: NonZeroUsize::new(2),
        limits: Limits::default(),
        access_log: Some(AccessLogConfig::new(dir.join("access.log"))),
        trust_forwarded: false,
        clock: Arc::new(SystemClock),
        crash: Arc::new(NoCrash),
        version: "test".into(),
    }
}

impl Fixture {
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(dir.path(), Listen::Address("127.0.0.1:0".parse().unwrap()));
        change(&mut config);
        let gateway = RunningGateway::start(config).unwrap();
        let control = GatewayControl::new(dir.path()).unwrap();
        let address = gateway.address();
        Self {
            dir,
            gateway: Some(gateway),
            control,
            address,
        }
    }

    pub(crate) async fn serving(app: &App) -> Self {
        let fixture = Self::start();
        fixture
            .control
            .apply(&snapshot(1, &[("r1", 1, &[app.address])]))
            .await
            .unwrap();
        fixture
    }

    pub(crate) async fn get(&self, host: &str, path: &str) -> (StatusCode, HeaderMap, Bytes) {
        let request = Request::get(path)
            .header("host", host)
            .body(Frames::empty())
            .unwrap();
        self.send(request).await
    }

    pub(crate) async fn send(&self, request: Request<Frames>) -> (StatusCode, HeaderMap, Bytes) {
        let mut client = Client::connect(self.address).await;
        client.send(request).await.unwrap()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.retire(Duration::ZERO);
            gateway.join();
        }
    }
}

/// A project `web` with releases, weights and replicas. A replica is named by its address.
pub(crate) fn snapshot(generation: u64, releases: &[(&str, u32, &[SocketAddr])]) -> Snapshot {
    let backends = releases
        .iter()
        .map(|(name, weight, addresses)| Backend {
            release: ReleaseId::derived(name),
            weight: *weight,
            replicas: addresses
                .iter()
                .map(|&address| Replica {
                    id: replica_id(address),
                    address,
                })
                .collect(),
        })
        .collect();
    let routes = Route::pair(
        &project(),
        &EnvironmentName::production(),
        vec!["web.localhost".into()],
        vec!["localhost".into(), "127.0.0.1".into()],
        backends,
    );
    Snapshot {
        routes: routes.to_vec(),
        ..Snapshot::empty(generation)
    }
}

pub(crate) fn project() -> ProjectName {
    "web".parse().unwrap()
}

pub(crate) fn replica_id(address: SocketAddr) -> ReplicaId {
    ReplicaId::derived(&address.to_string())
}

/// A kept HTTP/1.1 connection.
pub(crate) struct Client {
    sender: hyper::client::conn::http1::SendRequest<Frames>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection.with_upgrades());
        Self { sender }
    }

    pub(crate) async fn begin(
        &mut self,
        request: Request<Frames>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Frames>,
    ) -> hyper::Result<(StatusCode, HeaderMap, Bytes)> {
        let response = self.begin(request).await?;
        let (parts, body) = response.into_parts();
        let (data, _) = collect(body).await;
        Ok((parts.status, parts.headers, data))
    }

    pub(crate) async fn get(
        &mut self,
        path: &str,
    ) -> hyper::Result<(StatusCode, HeaderMap, Bytes)> {
        self.send(
            Request::get(path)
                .header("host", "web.localhost")
                .body(Frames::empty())
                .unwrap(),
        )
        .await
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

/// An HTTP/2 connection by prior knowledge.
pub(crate) async fn http2(address: SocketAddr) -> hyper::client::conn::http2::SendRequest<Frames> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends bytes as they are and reads until the other side ends or is silent for a while.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_while(&mut stream, Duration::from_millis(700)).await
}

pub(crate) async fn read_while(stream: &mut TcpStream, silence: Duration) -> String {
    let mut all = Vec::new();
    let mut buffer = [0u8; 4_096];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(silence, stream.read(&mut buffer)).await {
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

/// Waits for something to become true.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    for _ in 0..1_000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not happen");
}
