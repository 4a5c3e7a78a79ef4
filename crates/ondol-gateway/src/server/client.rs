//! A client's connection as its requests see it, and its socket.
//!
//! The socket notes when it waits for the client, so that one sweep per second finds clients that
//! are too slow, instead of a timer for every request.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::worker::Worker;
use crate::upstream::ClientStall;

/// What the requests of one connection share.
pub(crate) struct Client {
    pub(crate) worker: Arc<Worker>,
    pub(crate) state: Arc<ConnectionState>,
    pub(crate) peer: IpAddr,
    pub(crate) peer_text: Box<str>,
    pub(crate) http2: bool,
}

/// How a connection is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Go on.
    Serve,
    /// End when no request is in progress.
    Finish,
    /// End now.
    Abort,
}

/// What is known about a connection from outside its task. Times are milliseconds since `epoch`;
/// zero is never.
pub(crate) struct ConnectionState {
    worker: Arc<Worker>,
    epoch: Instant,
    order: AtomicU8,
    pub(crate) waker: AtomicWaker,
    http2: AtomicBool,
    requests: AtomicU32,
    idle_since: AtomicU64,
    head_since: AtomicU64,
    body_since: AtomicU64,
    write_since: AtomicU64,
    finish_since: AtomicU64,
    offers: Mutex<Vec<Weak<Offer>>>,
}

/// A part of an answer that an HTTP/2 client has not asked for yet. Such a client can close the
/// window of each stream for itself, which the socket does not show.
#[derive(Debug)]
pub(crate) struct Offer {
    epoch: Instant,
    since: AtomicU64,
}

impl Offer {
    /// The client may take more from now on.
    pub(crate) fn made(&self) {
        let now = self.epoch.elapsed().as_millis() as u64 + 1;
        self.since.store(now, Ordering::Relaxed);
    }

    /// The client takes what there is; now it is the replica that is waited for.
    pub(crate) fn taken(&self) {
        self.since.store(0, Ordering::Relaxed);
    }
}

/// Why a connection is too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slow {
    /// Idle for too long: it may end politely.
    Idle,
    /// The client neither sends nor takes.
    Stalled,
}

impl ConnectionState {
    pub(crate) fn new(worker: &Arc<Worker>) -> Self {
        worker.live.fetch_add(1, Ordering::AcqRel);
        Self {
            worker: worker.clone(),
            epoch: Instant::now(),
            order: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            http2: AtomicBool::new(false),
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(1),
            head_since: AtomicU64::new(1),
            body_since: AtomicU64::new(0),
            write_since: AtomicU64::new(0),
            finish_since: AtomicU64::new(0),
            offers: Mutex::default(),
        }
    }

    /// Watches whether the client takes an answer that is streamed to it.
    pub(crate) fn offer(&self) -> Arc<Offer> {
        let offer = Arc::new(Offer {
            epoch: self.epoch,
            since: AtomicU64::new(0),
        });
        offer.made();
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        // Streams end in any order; what is over goes when there is twice as much as needed.
        if offers.len() == offers.capacity() {
            offers.retain(|offer| offer.strong_count() > 0);
        }
        offers.push(Arc::downgrade(&offer));
        offer
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64 + 1
    }

    pub(crate) fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Serve,
            1 => Order::Finish,
            _ => Order::Abort,
        }
    }

    pub(crate) fn give(&self, order: Order) {
        self.order.fetch_max(order as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// HTTP/2 connections exchange frames while idle, so only HTTP/1 has a time for its next head.
    pub(crate) fn set_http2(&self, http2: bool) {
        self.http2.store(http2, Ordering::Relaxed);
    }

    pub(crate) fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_since.store(0, Ordering::Relaxed);
        self.body_since.store(0, Ordering::Relaxed);
        self.finish_since.store(0, Ordering::Relaxed);
    }

    pub(crate) fn end_request(&self) {
        self.body_since.store(0, Ordering::Relaxed);
        if self.requests.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.idle_since.store(self.now(), Ordering::Relaxed);
        }
    }

    /// Whether the client is too slow now.
    pub(crate) fn slow(&self) -> Option<Slow> {
        let limits = &self.worker.shared.limits;
        let now = self.now();
        let longer = |since: &AtomicU64, limit: std::time::Duration| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && now.saturating_sub(since) > limit.as_millis() as u64
        };
        let refused_offer = || {
            let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
            offers.retain(|offer| offer.strong_count() > 0);
            offers
                .iter()
                .filter_map(Weak::upgrade)
                .any(|offer| longer(&offer.since, limits.stall_timeout))
        };
        if longer(&self.write_since, limits.stall_timeout)
            || longer(&self.body_since, limits.stall_timeout)
            || longer(&self.finish_since, limits.stall_timeout)
            || refused_offer()
        {
            return Some(Slow::Stalled);
        }
        if self.requests.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if !self.http2.load(Ordering::Relaxed) && longer(&self.head_since, limits.head_timeout) {
            return Some(Slow::Stalled);
        }
        if !longer(&self.idle_since, limits.idle_timeout) {
            return None;
        }
        // Asked to end, an HTTP/2 client still has its say; it may not take forever.
        let _ = self
            .finish_since
            .compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        Some(Slow::Idle)
    }
}

impl Drop for ConnectionState {
    fn drop(&mut self) {
        self.worker.live.fetch_sub(1, Ordering::AcqRel);
    }
}

impl ClientStall for ConnectionState {
    fn waiting(&self, waiting: bool) {
        if !waiting {
            self.body_since.store(0, Ordering::Relaxed);
        } else if self.body_since.load(Ordering::Relaxed) == 0 {
            self.body_since.store(self.now(), Ordering::Relaxed);
        }
    }
}

/// A client's socket.
pub(crate) struct ClientIo {
    io: TokioIo<TcpStream>,
    state: Arc<ConnectionState>,
}

impl ClientIo {
    pub(crate) fn new(stream: TcpStream, state: Arc<ConnectionState>) -> Self {
        Self {
            io: TokioIo::new(stream),
            state,
        }
    }

    fn wrote<T>(&self, written: &Poll<T>) {
        match written {
            Poll::Pending if self.state.write_since.load(Ordering::Relaxed) == 0 => {
                self.state
                    .write_since
                    .store(self.state.now(), Ordering::Relaxed);
            }
            Poll::Pending => {}
            Poll::Ready(_) => self.state.write_since.store(0, Ordering::Relaxed),
        }
    }
}

impl Read for ClientIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        let state = &self.state;
        if read.is_ready()
            && state.requests.load(Ordering::Relaxed) == 0
            && state.head_since.load(Ordering::Relaxed) == 0
        {
            // The first bytes of the next request: from here its head has so much time.
            state.head_since.store(state.now(), Ordering::Relaxed);
        }
        read
    }
}

impl Write for ClientIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
