//! One question to a replica: GET its health path, and see the status. The connection is made
//! anew each time, so that a program which hangs in its accept loop does not look healthy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use ondol_spec::model::Health;
use ondol_types::{ReplicaId, Timestamp};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use crate::error::DeployError;
use crate::model::{Probe, Probes, Release};
use crate::room::Room;
use crate::store;

/// The most of an answer's body that is read, in bytes.
const MAX_BODY: usize = 64 << 10;
const BODY_PATIENCE: Duration = Duration::from_millis(200);

pub(super) async fn probe(
    room: &Arc<Room>,
    id: ReplicaId,
    incarnation: u64,
) -> Result<(), DeployError> {
    let found = room
        .store
        .read::<_, DeployError, _>(|tx| {
            Box::pin(async move {
                let Some(replica) = store::replica(tx, id).await? else {
                    return Ok(None);
                };
                Ok(store::release(tx, replica.release)
                    .await?
                    .map(|release| (replica, release)))
            })
        })
        .await?;
    let Some((replica, release)) = found.filter(|(replica, _)| replica.incarnation == incarnation)
    else {
        return Ok(());
    };
    let health = &release.config.service.health;
    let began = Instant::now();
    let answer = match replica.address {
        Some(address) => room.ask.ask(address, &host_of(&release), health).await,
        None => Err("the replica has no address".to_owned()),
    };
    let result = result(health, answer, began.elapsed(), room.clock.now());
    tracing::debug!(
        replica.id = %id,
        project = %replica.project,
        release.number = release.number,
        probe.ok = result.ok,
        probe.status = result.status,
        probe.error = result.error,
        probe.millis = result.millis,
        "probed"
    );
    let mut all = room.probes();
    let probes = all.entry(id).or_default();
    if probes.incarnation != incarnation {
        *probes = Probes {
            incarnation,
            ..Probes::default()
        };
    }
    probes.add(result);
    Ok(())
}

/// A name under which the program is reached anyway, for those that check it.
fn host_of(release: &Release) -> String {
    let hosts = &release.config.service.hosts;
    match hosts.iter().find(|host| !host.as_str().starts_with('*')) {
        Some(host) => host.to_string(),
        None => format!("{}.localhost", release.project),
    }
}

fn result(health: &Health, answer: Result<u16, String>, took: Duration, at: Timestamp) -> Probe {
    let ok = answer
        .as_ref()
        .is_ok_and(|status| health.expect.accepts(*status));
    let (status, error) = match answer {
        Ok(status) => (Some(status), None),
        Err(error) => (None, Some(error)),
    };
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    Probe {
        at,
        asked: format!("GET {}", health.path),
        status,
        error,
        millis,
        ok,
    }
}

/// Asks a program whether it is ready.
#[async_trait::async_trait]
pub(crate) trait Ask: Send + Sync {
    /// The status of the answer, or why there is none.
    async fn ask(&self, address: SocketAddr, host: &str, health: &Health) -> Result<u16, String>;
}

/// Asks over the network.
pub(crate) struct OverHttp;

#[async_trait::async_trait]
impl Ask for OverHttp {
    async fn ask(&self, address: SocketAddr, host: &str, health: &Health) -> Result<u16, String> {
        ask(address, host, health).await
    }
}

async fn ask(address: SocketAddr, host: &str, health: &Health) -> Result<u16, String> {
    let limit = health.timeout.duration();
    match tokio::time::timeout(limit, exchange(address, host, health.path.as_str())).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn exchange(address: SocketAddr, host: &str, path: &str) -> Result<u16, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => error.to_string(),
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("not HTTP: {error}"))?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = http::Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::USER_AGENT, "ondol-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender
        .send_request(request)
        .await
        .map_err(|error| format!("no HTTP answer: {error}"))?;
    let status = answer.status().as_u16();
    // A program whose answer is cut off writes an error into its log; a short one is let through.
    let mut body = answer.into_body();
    let mut left = MAX_BODY;
    let rest = async {
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(BODY_PATIENCE, rest).await;
    drop(connection);
    Ok(status)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 1024];
                let read = stream.read(&mut head).await.unwrap_or(0);
                if answer.is_empty() {
                    // Holds the connection without a word.
                    tokio::spawn(async move {
                        let _held = stream;
                        std::future::pending::<()>().await;
                    });
                } else if head[..read].starts_with(b"GET /up HTTP/1.1\r\n") {
                    let _ = stream.write_all(answer).await;
                }
            }
        });
        address
    }

    fn health(expect: ondol_spec::model::Expect) -> Health {
        Health {
            path: "/up".parse().unwrap(),
            expect,
            timeout: ondol_spec::model::Period::from_millis(300),
            ..Health::default()
        }
    }

    #[tokio::test]
    async fn a_probe_reads_the_status_and_not_the_body() {
        use ondol_spec::model::Expect;
        let endless = server(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(
            ask(endless, "web.localhost", &health(Expect::Success)).await,
            Ok(204)
        );
        let unfinished = server(b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\nabc").await;
        assert_eq!(
            ask(unfinished, "web.localhost", &health(Expect::Success)).await,
            Ok(200)
        );
        let not_found = server(b"HTTP/1.0 404 Not Found\r\n\r\n").await;
        assert_eq!(
            ask(not_found, "web.localhost", &health(Expect::Response)).await,
            Ok(404)
        );
    }

    #[tokio::test]
    async fn no_answer_says_why() {
        use ondol_spec::model::Expect;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let refused = ask(address, "web.localhost", &health(Expect::Success))
            .await
            .unwrap_err();
        assert_eq!(refused, "connection refused");
        let silent = server(b"").await;
        let late = ask(silent, "web.localhost", &health(Expect::Success))
            .await
            .unwrap_err();
        assert!(late.contains("no answer within 300 ms"), "{late}");
        let other = server(b"SSH-2.0-OpenSSH\r\n").await;
        assert!(
            ask(other, "web.localhost", &health(Expect::Success))
                .await
                .is_err()
        );
    }

    #[test]
    fn what_counts_depends_on_what_was_asked_for() {
        use ondol_spec::model::Expect;
        let at = Timestamp::from_micros(1);
        let judged = |expect, status| result(&health(expect), Ok(status), Duration::ZERO, at).ok;
        assert!(judged(Expect::Success, 200) && !judged(Expect::Success, 404));
        assert!(judged(Expect::Response, 404) && !judged(Expect::Response, 500));
        let failed = result(
            &health(Expect::Response),
            Err("connection refused".into()),
            Duration::from_millis(7),
            at,
        );
        assert_eq!(failed.to_string(), "GET /up → connection refused in 7 ms");
    }
}
