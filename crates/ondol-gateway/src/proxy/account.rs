//! The account of one request: opened when its head is read, closed exactly once when its answer
//! is complete or given up, whatever path it took. Counters, access log and work-in-progress
//! numbers all follow from it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::request::Parts;
use http::{HeaderValue, Method, Uri};
use ondol_types::RequestId;

use crate::access_log::Entry;
use crate::routing::{Permit, WorkerReplica, WorkerRoute};
use crate::server::Client;
use crate::stats::Outcome;

const MAX_REQUEST_ID: usize = 128;

/// nginx's number for a client that left.
const CLIENT_LEFT: u16 = 499;

pub(crate) struct Account {
    client: Arc<Client>,
    started: Instant,
    method: Method,
    uri: Uri,
    pub(crate) request_id: HeaderValue,
    route: Option<Arc<WorkerRoute>>,
    permit: Option<Permit>,
    status: u16,
    complete: bool,
    truncated: bool,
    upgraded: Option<Arc<WorkerReplica>>,
    received: Option<Arc<AtomicU64>>,
    sent: u64,
    waited: Option<Duration>,
}

impl Account {
    pub(crate) fn open(client: &Arc<Client>, parts: &Parts) -> Self {
        client.state.begin_request();
        client.worker.in_flight.fetch_add(1, Ordering::Relaxed);
        Self {
            client: client.clone(),
            started: Instant::now(),
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            request_id: request_id(client, parts),
            route: None,
            permit: None,
            status: 0,
            complete: false,
            truncated: false,
            upgraded: None,
            received: None,
            sent: 0,
            waited: None,
        }
    }

    pub(crate) fn routed(&mut self, route: &Arc<WorkerRoute>) {
        self.route = Some(route.clone());
    }

    /// Enters the replica that works on the request now.
    pub(crate) fn sent_to(&mut self, permit: Permit) {
        self.permit = Some(permit);
    }

    /// A counter for the bytes of the request's body.
    pub(crate) fn receiving(&mut self) -> Arc<AtomicU64> {
        self.received.get_or_insert_with(Arc::default).clone()
    }

    /// The answer's head is known.
    pub(crate) fn answered(&mut self, status: u16) {
        self.status = status;
        self.waited = Some(self.started.elapsed());
    }

    /// More of the answer's body went to the client.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// The answer is complete.
    pub(crate) fn complete(&mut self) {
        self.complete = true;
    }

    /// The replica broke off in the middle of its answer.
    pub(crate) fn truncate(&mut self) {
        self.truncated = true;
    }

    /// The connection speaks another protocol from now on; its replica counts it as a tunnel.
    pub(crate) fn upgrade(&mut self) {
        self.complete = true;
        if let Some(permit) = self.permit.take() {
            let replica = permit.replica.clone();
            replica.requests.fetch_add(1, Ordering::Relaxed);
            replica
                .stats
                .finish(Outcome::Answered(self.status), 0, 0, None);
            self.upgraded = Some(replica);
        }
    }

    /// What went through a tunnel.
    pub(crate) fn tunnelled(&mut self, received: u64, sent: u64) {
        self.receiving().fetch_add(received, Ordering::Relaxed);
        self.sent += sent;
    }
}

fn request_id(client: &Client, parts: &Parts) -> HeaderValue {
    if let Some(given) = parts.headers.get("x-request-id") {
        let bytes = given.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:/+=@".contains(byte);
        if (1..=MAX_REQUEST_ID).contains(&bytes.len()) && bytes.iter().all(plain) {
            return given.clone();
        }
    }
    let id = RequestId::generate(&*client.worker.shared.clock).to_string();
    HeaderValue::from_maybe_shared(bytes::Bytes::from(id))
        .unwrap_or(HeaderValue::from_static("req"))
}

impl Drop for Account {
    fn drop(&mut self) {
        let worker = &self.client.worker;
        worker.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.client.state.end_request();
        let duration = self.started.elapsed();
        let received = self
            .received
            .as_ref()
            .map_or(0, |bytes| bytes.load(Ordering::Relaxed));
        let outcome = if self.truncated {
            Outcome::Truncated(self.status)
        } else if self.complete {
            Outcome::Answered(self.status)
        } else {
            Outcome::Cancelled
        };
        if let Some(permit) = &self.permit {
            let replica = &permit.replica;
            replica.requests.fetch_add(1, Ordering::Relaxed);
            if self.truncated || (self.complete && self.status >= 500) {
                replica.errors.fetch_add(1, Ordering::Relaxed);
            }
            replica
                .stats
                .finish(outcome, received, self.sent, Some(duration));
        } else if let Some(replica) = &self.upgraded {
            replica.stats.passed(received, self.sent);
        } else if let (Some(route), true) = (&self.route, self.complete) {
            route.stats.count(self.status);
        }
        if let Some(log) = &worker.shared.access_log {
            let status = if outcome == Outcome::Cancelled {
                CLIENT_LEFT
            } else {
                self.status
            };
            log.push(
                worker.index,
                Entry {
                    started: self.started,
                    duration,
                    waited: self.waited,
                    route: self.route.take(),
                    replica: self
                        .permit
                        .as_ref()
                        .map(|permit| permit.replica.clone())
                        .or(self.upgraded.take()),
                    method: std::mem::take(&mut self.method),
                    uri: std::mem::take(&mut self.uri),
                    status,
                    truncated: self.truncated,
                    received,
                    sent: self.sent,
                    client: self.client.peer,
                    request_id: self.request_id.clone(),
                },
            );
        }
    }
}
