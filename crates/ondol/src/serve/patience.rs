//! How long the door waits for a client: for the next part of a body, and for room to answer.
//!
//! A limit on single pauses alone would let a client hold a place for ever with a byte a minute.
//! So waiting is paid for: every byte that arrives buys some, up to a most. Only time in which the
//! client is waited for counts, never time in which a handler or the disk is slow.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How much waiting a client has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// What is left.
    pub(super) left: Duration,
    /// The most that can be left, which is also the longest single pause.
    pub(super) most: Duration,
    /// Bytes that buy a second.
    pub(super) rate: u32,
}

impl Allowance {
    fn received(&mut self, bytes: usize) {
        let bought = Duration::from_secs_f64(bytes as f64 / f64::from(self.rate.max(1)));
        self.left = self.left.saturating_add(bought).min(self.most);
    }

    fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

/// A body whose client must keep sending.
pub(super) struct PacedBody {
    body: Incoming,
    allowance: Allowance,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl PacedBody {
    pub(super) fn new(body: Incoming, allowance: Allowance) -> Self {
        Self {
            body,
            allowance,
            waiting: None,
        }
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            if let Some((since, _)) = this.waiting.take() {
                this.allowance.waited(since.elapsed());
            }
            if let Some(Ok(frame)) = &frame {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                this.allowance.received(bytes);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let left = this.allowance.left;
        let (_, end) = this
            .waiting
            .get_or_insert_with(|| (Instant::now(), Box::pin(tokio::time::sleep(left))));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Some(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client sends too slowly",
        )
        .into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose client must take its answers: one that leaves no room for so long is ended.
pub(super) struct Taken<S> {
    stream: S,
    patience: Duration,
    blocked: Option<Pin<Box<Sleep>>>,
}

impl<S> Taken<S> {
    pub(super) fn new(stream: S, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            blocked: None,
        }
    }

    fn judge<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.blocked = None;
            return outcome;
        }
        let patience = self.patience;
        let end = self
            .blocked
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not take its answer",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.judge(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.judge(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(context);
        this.judge(context, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Counts open connections per IPv4 address or IPv6 network of 64 bits. The listener's own ceiling
/// bounds the table.
#[derive(Clone, Default)]
pub(super) struct Clients(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One open connection; it is counted until this is dropped.
pub(super) struct Place {
    clients: Clients,
    network: IpAddr,
}

impl Clients {
    fn table(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more connection of `peer`; nothing when it has `most` already.
    pub(super) fn enter(&self, peer: IpAddr, most: usize) -> Option<Place> {
        let network = match peer.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(
                address.to_bits() & !u128::from(u64::MAX),
            )),
            v4 => v4,
        };
        let mut table = self.table();
        let open = table.get(&network).copied().unwrap_or(0);
        if open >= most {
            return None;
        }
        table.insert(network, open + 1);
        drop(table);
        Some(Place {
            clients: self.clone(),
            network,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.clients.table();
        if let Some(open) = table.get_mut(&self.network) {
            *open -= 1;
            if *open == 0 {
                table.remove(&self.network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_a_second_does_not_buy_a_second_and_a_fast_client_has_the_longest_pause() {
        let second = Duration::from_secs(1);
        let mut slow = Allowance {
            left: 60 * second,
            most: 120 * second,
            rate: 1_024,
        };
        let mut lasted = 0;
        while slow.left > Duration::ZERO && lasted < 1_000 {
            slow.waited(second);
            slow.received(1);
            lasted += 1;
            if slow.left < Duration::from_millis(2) {
                break;
            }
        }
        assert!((60..=61).contains(&lasted), "{lasted}");
        let mut fast = slow;
        fast.received(10 << 30);
        assert_eq!(fast.left, 120 * second);
        // What is sent at the least rate can go on without end.
        for _ in 0..10_000 {
            fast.waited(second);
            fast.received(1_024);
        }
        assert!(fast.left > 100 * second);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_ends() {
        use tokio::io::AsyncWriteExt;
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut ours = Taken::new(ours, Duration::from_millis(50));
        let error = ours.write_all(&[0; 1_000]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn connections_are_counted_per_network_and_leave_nothing_behind() {
        let clients = Clients::default();
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::ffff".parse().unwrap();
        let first = clients.enter(one, 2).unwrap();
        let second = clients.enter(neighbour, 2).unwrap();
        assert!(clients.enter(one, 2).is_none());
        assert!(clients.enter("127.0.0.1".parse().unwrap(), 2).is_some());
        drop(first);
        assert!(clients.enter(one, 2).is_some());
        drop(second);
        assert!(clients.table().is_empty());
    }
}
