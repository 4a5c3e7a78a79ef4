//! The door on a loopback socket over a store in memory, and a client that sends bytes as given.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, header};
use ondol_auth::{Denied, Grant, Principal, PrincipalKind, Role};
use ondol_telemetry::http::{Authenticate, Door, HttpConfig, Targets, router};
use ondol_telemetry::ingest::push::Groups;
use ondol_telemetry::ingest::scrape::TargetState;
use ondol_telemetry::tsdb::{Tsdb, TsdbWriter};
use ondol_types::{Clock, ManualClock, Timestamp, TokenId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::memory::Memory;

/// The time of the server: 2026-01-01T00:00:00Z.
pub(crate) const NOW: i64 = 1_767_225_600;

/// `Bearer <who>`, or Basic with `eDo8d2hvPg==`-like text, where the password says who it is.
struct ByName;

#[async_trait]
impl Authenticate for ByName {
    async fn principal(&self, headers: &HeaderMap, _: Option<IpAddr>) -> Result<Principal, Denied> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(Principal::anonymous());
        };
        let value = value.to_str().unwrap_or("");
        let web = |role| Grant::on(&"web".parse().unwrap(), role);
        // `any:admin` in base64 is what promtool makes of an address with a user.
        let grant = match value {
            "Bearer admin" | "Basic YW55OmFkbWlu" => Grant::everywhere(Role::Admin),
            "Bearer web-developer" => web(Role::Developer),
            "Bearer web-viewer" => web(Role::Viewer),
            "Bearer nothing" => Grant::default(),
            _ => return Err(Denied::Unauthenticated),
        };
        Ok(Principal {
            kind: PrincipalKind::Token(TokenId::derived(value)),
            name: value.to_owned(),
            grant,
            expires_at: None,
        })
    }
}

/// Two targets that are in a fixed state.
struct TwoTargets;

impl Targets for TwoTargets {
    fn targets(&self) -> Vec<TargetState> {
        let target = |project: &str, error: Option<&str>| TargetState {
            pool: project.to_owned(),
            url: format!("http://127.0.0.1:1/{project}"),
            labels: ondol_telemetry::series::Labels::from_pairs([("project", project)]),
            last: Some(Timestamp::from_micros(NOW * 1_000_000)),
            took: Duration::from_millis(5),
            error: error.map(str::to_owned),
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
        };
        vec![target("other", Some("refused")), target("web", None)]
    }

    fn pace(&self) -> (Duration, Duration) {
        (Duration::from_secs(15), Duration::from_secs(10))
    }
}

/// A door that is open until this is dropped.
pub(crate) struct Served {
    pub(crate) store: Arc<Memory>,
    pub(crate) at: SocketAddr,
    /// What was pushed.
    pub(crate) pushed: Arc<Groups>,
    _folder: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Opens the door.
pub(crate) async fn serve(change: impl FnOnce(&mut HttpConfig)) -> Served {
    let store = Arc::new(Memory::default());
    serve_at(
        store,
        change,
        ManualClock::at(Timestamp::from_micros(NOW * 1_000_000)),
    )
    .await
}

/// Opens the door with a clock.
pub(crate) async fn serve_at(
    store: Arc<Memory>,
    change: impl FnOnce(&mut HttpConfig),
    clock: impl ondol_types::Clock,
) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let pushed = Arc::new(Groups::open(folder.path()).unwrap());
    let mut config = HttpConfig::default();
    change(&mut config);
    let (at, task) = listen(Door {
        source: store.clone(),
        index: store.clone(),
        writer: store.clone(),
        authenticate: Arc::new(ByName),
        targets: Arc::new(TwoTargets),
        push: Some(pushed.clone()),
        clock: Arc::new(clock),
        config,
    })
    .await;
    Served {
        store,
        at,
        pushed,
        _folder: folder,
        task,
    }
}

/// Opens the door over the store of series; the one in memory stays empty.
pub(crate) async fn serve_tsdb(tsdb: Arc<Tsdb>, clock: Arc<dyn Clock>) -> Served {
    let folder = tempfile::tempdir().unwrap();
    let pushed = Arc::new(Groups::open(folder.path()).unwrap());
    let (at, task) = listen(Door {
        source: tsdb.clone(),
        index: tsdb.clone(),
        writer: Arc::new(TsdbWriter::new(tsdb, 2)),
        authenticate: Arc::new(ByName),
        targets: Arc::new(TwoTargets),
        push: Some(pushed.clone()),
        clock,
        config: HttpConfig::default(),
    })
    .await;
    Served {
        store: Arc::default(),
        at,
        pushed,
        _folder: folder,
        task,
    }
}

async fn listen(door: Door) -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let routes = router(door);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        axum::serve(listener, routes).await.unwrap();
    });
    (at, task)
}

/// An answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{}", self.text()))
    }

    /// What stands in `data`, after a look at the status.
    pub(crate) fn data(&self) -> serde_json::Value {
        let mut json = self.json();
        assert_eq!(
            (self.status, &json["status"]),
            (200, &"success".into()),
            "{json}"
        );
        json["data"].take()
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

impl Served {
    /// Sends a request line, headers and a body exactly as they are; the length and the end of
    /// the connection are added.
    pub(crate) async fn raw(&self, head: &str, body: &[u8]) -> Reply {
        let mut connection = TcpStream::connect(self.at).await.unwrap();
        let head = format!(
            "{}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            head.trim_end().replace('\n', "\r\n"),
            body.len()
        );
        connection.write_all(head.as_bytes()).await.unwrap();
        // A server that refuses a body need not read it.
        let _ = connection.write_all(body).await;
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        let end = answer
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .unwrap();
        let head = std::str::from_utf8(&answer[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap()[9..12].parse().unwrap();
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(
                http::HeaderName::try_from(name).unwrap(),
                value.parse().unwrap(),
            );
        }
        let body = &answer[end + 4..];
        let chunked = headers.contains_key(header::TRANSFER_ENCODING);
        Reply {
            status,
            headers,
            body: if chunked {
                unchunked(body)
            } else {
                body.to_vec()
            },
        }
    }

    /// A GET by somebody.
    pub(crate) async fn get(&self, who: &str, path: &str) -> Reply {
        let head =
            format!("GET /prometheus{path} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {who}");
        self.raw(&head, b"").await
    }

    /// A POST with a type by somebody.
    pub(crate) async fn post(
        &self,
        who: &str,
        path: &str,
        kind: &str,
        more: &str,
        body: &[u8],
    ) -> Reply {
        let head = format!(
            "POST {path} HTTP/1.1\nHost: localhost\nAuthorization: Bearer {who}\nContent-Type: {kind}\n{more}"
        );
        self.raw(&head, body).await
    }
}
