//! One question to a replica: GET its health path, and see the status. The connection is made
//! anew each time, so that a program which hangs in its accept loop does not look healthy.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use ondol_spec::model::Health;
use ondol_types::{ReplicaId, Timestamp};
use tokio::net::TcpStream;

use crate::error::DeployError;
use crate::model::{Probe, Probes};
use crate::room::Room;
use crate::store;

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
        Some(address) => room.ask.ask(address, health).await,
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
    async fn ask(&self, address: SocketAddr, health: &Health) -> Result<u16, String>;
}

/// Asks over the network.
pub(crate) struct OverHttp;

#[async_trait::async_trait]
impl Ask for OverHttp {
    async fn ask(&self, address: SocketAddr, health: &Health) -> Result<u16, String> {
        ask(address, health).await
    }
}

async fn ask(address: SocketAddr, health: &Health) -> Result<u16, String> {
    let limit = health.timeout.duration();
    match tokio::time::timeout(limit, exchange(address, health.path.as_str())).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("no answer within {} ms", limit.as_millis())),
    }
}

async fn exchange(address: SocketAddr, path: &str) -> Result<u16, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            _ => error.to_string(),
        })?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("not HTTP: {error}"))?;
    let request = http::Request::get(path)
        .header(http::header::HOST, address.to_string())
        .header(http::header::USER_AGENT, "ondol-probe")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let sent = sender.send_request(request);
    tokio::pin!(sent, connection);
    // The body is of no interest: with the answer's head the connection is dropped.
    let answer = tokio::select! {
        biased;
        answer = &mut sent => answer,
        ended = &mut connection => match ended {
            Ok(()) => sent.await,
            Err(error) => Err(error),
        },
    };
    answer
        .map(|answer| answer.status().as_u16())
        .map_err(|error| format!("no HTTP answer: {error}"))
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
        assert_eq!(ask(endless, &health(Expect::Success)).await, Ok(204));
        let unfinished = server(b"HTTP/1.1 200 OK\r\ncontent-length: 999999\r\n\r\nabc").await;
        assert_eq!(ask(unfinished, &health(Expect::Success)).await, Ok(200));
        let not_found = server(b"HTTP/1.0 404 Not Found\r\n\r\n").await;
        assert_eq!(ask(not_found, &health(Expect::Response)).await, Ok(404));
    }

    #[tokio::test]
    async fn no_answer_says_why() {
        use ondol_spec::model::Expect;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let refused = ask(address, &health(Expect::Success)).await.unwrap_err();
        assert_eq!(refused, "connection refused");
        let silent = server(b"").await;
        let late = ask(silent, &health(Expect::Success)).await.unwrap_err();
        assert!(late.contains("no answer within 300 ms"), "{late}");
        let other = server(b"SSH-2.0-OpenSSH\r\n").await;
        assert!(ask(other, &health(Expect::Success)).await.is_err());
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
