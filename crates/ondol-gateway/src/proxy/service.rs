//! The way of one request. Everything here runs in the client connection's own task.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;

use super::account::Account;
use super::body::{GatewayBody, Stream, send_rest};
use super::forward::{
    Forwarding, Framing, clean_response, is_idempotent, request_host, wanted_upgrade,
    write_request_head,
};
use super::reply::Refusal;
use super::tunnel::{self, Upgrade};
use crate::routing::{Found, NoReplica, WorkerReplica, WorkerRoute, normalize_host};
use crate::server::{Client, Phase};
use crate::snapshot::RouteState;
use crate::upstream::{
    Connection, Decoded, Decoder, ExchangeFailure, Limits, Pump, RequestBody, ResponseHead, Sent,
    connect, discard, send,
};

/// So many replicas are asked before a request is given up.
const MAX_REPLICAS_TRIED: usize = 3;

/// A response with a body.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    content: Content,
}

enum Content {
    Whole(Bytes),
    Stream(StreamParts),
    Tunnel(Box<Upgrade>),
}

/// A stream that does not have its account yet.
struct StreamParts {
    connection: Connection,
    decoder: Decoder,
    keep_alive: bool,
    idle_timeout: Duration,
    replica: Arc<WorkerReplica>,
    sending: Option<Arc<tokio::net::TcpStream>>,
}

/// Answers one request.
pub(crate) async fn handle(
    client: Arc<Client>,
    request: Request<Incoming>,
) -> Result<Response<GatewayBody>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let mut body = Some(body);
    let mut account = Account::open(&client, &parts);
    let worker = &client.worker;
    let answer = if worker.in_flight.load(Ordering::Relaxed) > worker.max_in_flight {
        worker.totals.overloaded.fetch_add(1, Ordering::Relaxed);
        Err(Refusal::Overloaded)
    } else {
        answer(&client, &mut account, &mut parts, &mut body).await
    };
    if let (Err(_), Some(unread)) = (&answer, body)
        && !unread.is_end_stream()
        && !parts.headers.contains_key(header::EXPECT)
    {
        tokio::spawn(discard(unread));
    }
    let request_id = account.request_id.clone();
    let (status, mut headers, body) = match answer {
        Ok(Answer {
            status,
            headers,
            content: Content::Whole(bytes),
        }) => {
            account.sent(bytes.len());
            account.complete();
            (status, headers, GatewayBody::whole(bytes))
        }
        Ok(Answer {
            status,
            headers,
            content: Content::Stream(parts),
        }) => {
            let stream = Stream {
                connection: Some(parts.connection),
                decoder: parts.decoder,
                keep_alive: parts.keep_alive,
                idle_timeout: parts.idle_timeout,
                replica: parts.replica,
                account,
                sending: parts.sending,
                broken: false,
            };
            (status, headers, GatewayBody::stream(stream))
        }
        Ok(Answer {
            status,
            headers,
            content: Content::Tunnel(upgrade),
        }) => {
            tokio::spawn(tunnel::run(*upgrade, account));
            (status, headers, GatewayBody::whole(Bytes::new()))
        }
        Err(refusal) => {
            let (headers, bytes) = refusal.render(parts.headers.get(header::ACCEPT), &request_id);
            account.answered(refusal.status().as_u16());
            if refusal != Refusal::Left {
                account.sent(bytes.len());
                account.complete();
            }
            (refusal.status(), headers, GatewayBody::whole(bytes))
        }
    };
    headers.entry("x-request-id").or_insert(request_id);
    if worker.shared.phase() != Phase::Serving
        && !client.http2
        && status != StatusCode::SWITCHING_PROTOCOLS
    {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

async fn answer(
    client: &Arc<Client>,
    account: &mut Account,
    parts: &mut Parts,
    body: &mut Option<Incoming>,
) -> Result<Answer, Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    let route = find_route(client, account, parts).await?;
    let spec = &route.spec;
    let framing = match body {
        Some(body) if !body.is_end_stream() => body
            .size_hint()
            .exact()
            .map_or(Framing::Chunked, Framing::Length),
        _ => Framing::None,
    };
    if let Framing::Length(length) = framing
        && length > spec.max_body
    {
        return Err(Refusal::TooLarge);
    }
    let upgrade = if framing == Framing::None {
        wanted_upgrade(parts)
    } else {
        None
    };
    let mut exchange = Exchange {
        client,
        route: &route,
        parts,
        framing,
        upgrade: upgrade.as_ref(),
        body,
    };
    let (connection, sent, replica) = exchange.run(account).await?;
    let on_upgrade = upgrade
        .is_some()
        .then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>())
        .flatten();
    deliver(&route, account, connection, sent, replica, on_upgrade)
}

/// The route of a request; waits while it is held.
async fn find_route(
    client: &Arc<Client>,
    account: &mut Account,
    parts: &Parts,
) -> Result<Arc<WorkerRoute>, Refusal> {
    let worker = &client.worker;
    let host = normalize_host(request_host(parts).map_err(Refusal::Bad)?)
        .ok_or(Refusal::Bad("the request's host is not a host name"))?;
    let path = parts.uri.path();
    let mut waited = None;
    loop {
        let table = worker.table();
        let route = match table.find(&host, path) {
            Some(Found::Route(route)) => route,
            Some(Found::Slash(prefix)) => {
                let query = parts
                    .uri
                    .query()
                    .map(|query| format!("?{query}"))
                    .unwrap_or_default();
                return Err(Refusal::Slash(format!("{prefix}{query}")));
            }
            None => {
                worker.totals.unrouted.fetch_add(1, Ordering::Relaxed);
                return Err(Refusal::Unrouted);
            }
        };
        account.routed(route);
        match route.spec.state {
            RouteState::Serving => return Ok(route.clone()),
            RouteState::Stopped => return Err(Refusal::Stopped),
            RouteState::Held { max_wait_ms } => {
                let since = *waited.get_or_insert_with(tokio::time::Instant::now);
                let route = route.clone();
                let until = since + Duration::from_millis(max_wait_ms);
                let generation = table.generation;
                drop(table);
                worker
                    .shared
                    .wait_for_change(generation, until, &route.stats.held)
                    .await?;
            }
        }
    }
}

/// A request and where it goes, until its answer begins.
struct Exchange<'a> {
    client: &'a Arc<Client>,
    route: &'a Arc<WorkerRoute>,
    parts: &'a mut Parts,
    framing: Framing,
    upgrade: Option<&'a HeaderValue>,
    body: &'a mut Option<Incoming>,
}

impl Exchange<'_> {
    async fn run(
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
fn deliver(
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
