//! The way of one request. Everything here runs in the client connection's own task.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;

use super::account::Account;
use super::body::{GatewayBody, Stream};
use super::carry::{Answer, Content, Exchange, deliver};
use super::forward::{Framing, request_host, wanted_upgrade};
use super::reply::Refusal;
use super::tunnel;
use crate::routing::{Found, WorkerRoute, normalize_host};
use crate::server::{Client, Phase};
use crate::snapshot::RouteState;
use crate::upstream::discard;

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
                offer: client.http2.then(|| client.state.offer()),
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
    // The coding ends here, so what another coding below `chunked` means would be lost.
    let codings = parts.headers.get_all(header::TRANSFER_ENCODING);
    if codings.iter().any(|coding| {
        !coding
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
    }) {
        return Err(Refusal::Bad("its transfer coding is not chunked alone"));
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
