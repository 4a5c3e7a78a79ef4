//! Carries a request to a replica and turns what comes back into an answer; decides what may be
//! tried again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hyper::body::Incoming;

use super::account::Account;
use super::body::send_rest;
use super::forward::{
    Forwarding, Framing, clean_response, is_idempotent, request_host, write_request_head,
};
use super::reply::Refusal;
use super::tunnel::Upgrade;
use crate::routing::{NoReplica, WorkerReplica, WorkerRoute};
use crate::server::Client;
use crate::upstream::{
    Connection, Decoded, Decoder, ExchangeFailure, Limits, Pump, RequestBody, ResponseHead, Sent,
    connect, send,
};

/// So many replicas are asked before a request is given up.
const MAX_REPLICAS_TRIED: usize = 3;

/// A response with a body.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) content: Content,
}

pub(super) enum Content {
    Whole(Bytes),
    Stream(StreamParts),
    Tunnel(Box<Upgrade>),
}

/// A stream that does not have its account yet.
pub(super) struct StreamParts {
    pub(super) connection: Connection,
    pub(super) decoder: Decoder,
    pub(super) keep_alive: bool,
    pub(super) idle_timeout: Duration,
    pub(super) replica: Arc<WorkerReplica>,
    pub(super) sending: Option<Arc<tokio::net::TcpStream>>,
}

/// A request and where it goes, until its answer begins.
pub(super) struct Exchange<'a> {
    pub(super) client: &'a Arc<Client>,
    pub(super) route: &'a Arc<WorkerRoute>,
    pub(super) parts: &'a mut Parts,
    pub(super) framing: Framing,
    pub(super) upgrade: Option<&'a HeaderValue>,
    pub(super) body: &'a mut Option<Incoming>,
}

impl Exchange<'_> {
    pub(super) async fn run(
        &mut self,
        account: &mut Account,
    ) -> Result<(Connection, Sent, Arc<WorkerReplica>), Refusal> {
        let repeatable = self.framing == Framing::None
            && self.upgrade.is_none()
            && is_idempotent(&self.parts.method);
        let mut tried: Vec<Arc<WorkerReplica>> = Vec::new();
        let mut again: Option<Arc<WorkerReplica>> = None;
        let mut spare = HeaderMap::new();
        loop {
            let replica = match again.take() {
                Some(replica) => replica,
                None => match self.route.pick(&tried) {
                    Ok(permit) => {
                        let replica = permit.replica.clone();
                        account.sent_to(permit);
                        replica
                    }
                    Err(NoReplica::Full) => return Err(Refusal::Busy),
                    Err(NoReplica::Missing) if tried.is_empty() => return Err(Refusal::Empty),
                    Err(NoReplica::Missing) => return Err(Refusal::Unreachable),
                },
            };
            let fresh = !repeatable || tried.iter().any(|other| Arc::ptr_eq(other, &replica));
            let pooled = if fresh { None } else { replica.pool.take() };
            let mut connection = match pooled {
                Some(connection) => connection,
                None => {
                    match connect(replica.shared.address, self.route.spec.connect_timeout).await {
                        Ok(connection) => connection,
                        Err(error) => {
                            replica.refused(&error);
                            tried.push(replica);
                            if tried.len() >= MAX_REPLICAS_TRIED {
                                return Err(Refusal::Unreachable);
                            }
                            continue;
                        }
                    }
                }
            };
            let pump = self.pump(&mut connection, account)?;
            let limits = Limits {
                response_timeout: self.route.spec.response_timeout,
                cut: &replica.shared.cut,
                expects_continue: self.framing != Framing::None
                    && self.parts.headers.contains_key(header::EXPECT),
            };
            let failure = match send(
                &mut connection,
                pump,
                &self.parts.method,
                &mut spare,
                limits,
            )
            .await
            {
                Ok(sent) => return Ok((connection, sent, replica)),
                Err(failure) => failure,
            };
            // The replica closed an idle connection just when we used it: nothing happened, and
            // the same request on a fresh one is safe.
            if let ExchangeFailure::Closed {
                untouched: true, ..
            } = failure
                && connection.reused
                && repeatable
            {
                replica.stats.retries.fetch_add(1, Ordering::Relaxed);
                tried.push(replica.clone());
                again = Some(replica);
                continue;
            }
            return Err(refusal_of(&failure, &replica));
        }
    }

    fn pump(
        &mut self,
        connection: &mut Connection,
        account: &mut Account,
    ) -> Result<Pump, Refusal> {
        let mut head = std::mem::take(&mut connection.out);
        head.clear();
        let host = request_host(self.parts).map_err(Refusal::Bad)?;
        let forwarding = Forwarding {
            host,
            peer: &self.client.peer_text,
            prefix: self.route.spec.stripped(),
            trusted: self.client.worker.shared.trust_forwarded,
            request_id: &account.request_id,
            framing: self.framing,
            upgrade: self.upgrade,
        };
        write_request_head(&mut head, self.parts, forwarding).map_err(Refusal::Bad)?;
        if self.framing == Framing::None {
            return Ok(Pump::bodyless(head));
        }
        let Some(incoming) = self.body.take() else {
            return Ok(Pump::bodyless(head));
        };
        let length = match self.framing {
            Framing::Length(length) => Some(length),
            Framing::None | Framing::Chunked => None,
        };
        let stall = self.client.state.clone();
        let received = account.receiving();
        let body = RequestBody {
            incoming,
            length,
            limit: self.route.spec.max_body,
            received,
            stall,
        };
        Ok(Pump::with_body(head, body))
    }
}

fn refusal_of(failure: &ExchangeFailure, replica: &WorkerReplica) -> Refusal {
    let refusal = match failure {
        ExchangeFailure::Client => return Refusal::Left,
        ExchangeFailure::TooLarge => return Refusal::TooLarge,
        ExchangeFailure::Closed { error, .. } => {
            replica.failed(
                "replica.closed",
                error
                    .as_ref()
                    .map_or("connection ended", |_| "connection broke"),
            );
            Refusal::Unreachable
        }
        ExchangeFailure::Malformed(bad) => {
            replica.failed("replica.malformed", &bad.to_string());
            Refusal::Nonsense
        }
        ExchangeFailure::TimedOut => {
            replica.failed("replica.timeout", "no answer in time");
            Refusal::Slow
        }
        ExchangeFailure::Cut => Refusal::Drained,
    };
    replica
        .stats
        .upstream_errors
        .fetch_add(1, Ordering::Relaxed);
    refusal
}

/// Turns a response that has begun into an answer.
pub(super) fn deliver(
    route: &WorkerRoute,
    account: &mut Account,
    mut connection: Connection,
    sent: Sent,
    replica: Arc<WorkerReplica>,
    on_upgrade: Option<hyper::upgrade::OnUpgrade>,
) -> Result<Answer, Refusal> {
    let Sent {
        head:
            ResponseHead {
                status,
                mut headers,
                body: mut decoder,
                keep_alive,
            },
        unsent,
    } = sent;
    account.answered(status.as_u16());
    clean_response(&mut headers, status, route.spec.stripped());
    if status == StatusCode::SWITCHING_PROTOCOLS {
        let Some(client) = on_upgrade else {
            replica.failed(
                "replica.malformed",
                "it changed protocols without being asked",
            );
            return Err(Refusal::Nonsense);
        };
        let websocket = headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let entry = replica.shared.open_tunnel();
        account.upgrade();
        let upgrade = Upgrade {
            client,
            connection,
            websocket,
            entry,
        };
        return Ok(Answer {
            status,
            headers,
            content: Content::Tunnel(Box::new(upgrade)),
        });
    }
    let sending = unsent.map(|pump| {
        let socket = connection.stream.clone();
        send_rest(pump, socket.clone());
        socket
    });
    // Most answers are here already as a whole: they need no stream, and their connection is free.
    if sending.is_none()
        && decoder
            .remaining()
            .is_some_and(|missing| missing <= connection.read.len() as u64)
    {
        let bytes = match decoder.decode(&mut connection.read) {
            Ok(Decoded::Data(bytes)) => bytes,
            _ => Bytes::new(),
        };
        if keep_alive {
            replica.give_back(connection);
        }
        return Ok(Answer {
            status,
            headers,
            content: Content::Whole(bytes),
        });
    }
    let stream = StreamParts {
        connection,
        decoder,
        keep_alive,
        idle_timeout: route.spec.idle_timeout,
        replica,
        sending,
    };
    Ok(Answer {
        status,
        headers,
        content: Content::Stream(stream),
    })
}
