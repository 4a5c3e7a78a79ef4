//! A connection that stopped being HTTP: bytes both ways until both sides are done.
//!
//! A WebSocket ends politely when its replica drains: a close frame is put into the stream towards
//! the client where one frame ends, the client's own close still passes, and then both are closed.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::account::Account;
use super::websocket::{FrameTracker, GOING_AWAY};
use crate::routing::{TunnelEntry, TunnelOrder};
use crate::upstream::Connection;

/// How long a client has to answer a close frame.
const GOODBYE_TIME: Duration = Duration::from_secs(2);

/// How long one side may go on after the other has ended.
const HALF_OPEN_TIME: Duration = Duration::from_secs(30);

const READ_SIZE: usize = 8 * 1024;

/// What a tunnel is made of.
pub(crate) struct Upgrade {
    pub(crate) client: OnUpgrade,
    pub(crate) connection: Connection,
    pub(crate) websocket: bool,
    pub(crate) entry: TunnelEntry,
}

/// Runs a tunnel to its end.
pub(crate) async fn run(upgrade: Upgrade, mut account: Account) {
    let Upgrade {
        client,
        connection,
        websocket,
        entry,
    } = upgrade;
    let Ok(upgraded) = client.await else { return };
    let mut tunnel = Tunnel {
        client: TokioIo::new(upgraded),
        connection,
        websocket,
        entry,
        down: Side::default(),
        up: Side::default(),
        goodbye_said: false,
        limit: None,
    };
    let _ = poll_fn(|cx| tunnel.poll(cx)).await;
    account.tunnelled(tunnel.up.passed, tunnel.down.passed);
}

/// One direction.
#[derive(Default)]
struct Side {
    waiting: Bytes,
    frames: FrameTracker,
    passed: u64,
    ended: bool,
    closed: bool,
}

struct Tunnel<C> {
    client: C,
    connection: Connection,
    websocket: bool,
    entry: TunnelEntry,
    /// From the replica to the client.
    down: Side,
    /// From the client to the replica.
    up: Side,
    goodbye_said: bool,
    limit: Option<Pin<Box<Sleep>>>,
}

impl<C: AsyncRead + AsyncWrite + Unpin> Tunnel<C> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.entry.signal.waker.register(cx.waker());
        let order = self.entry.signal.order();
        if order == TunnelOrder::Cut || (order == TunnelOrder::Goodbye && !self.websocket) {
            return Poll::Ready(Ok(()));
        }
        let leaving = order == TunnelOrder::Goodbye;
        if leaving && self.limit.is_none() {
            self.limit = Some(Box::pin(tokio::time::sleep(GOODBYE_TIME)));
        }
        loop {
            let down = self.poll_down(cx, leaving)?;
            let up = self.poll_up(cx)?;
            let said = self.goodbye_said || self.down.frames.closed();
            // Half a WebSocket is none: with either side gone and the rest delivered, it is over.
            let halved = self.websocket && (self.down.closed || self.up.closed) && self.flushed();
            if halved
                || (self.down.closed && self.up.closed)
                || (leaving && said && self.up.frames.closed() && self.flushed())
            {
                return Poll::Ready(Ok(()));
            }
            if down.is_pending() && up.is_pending() {
                break;
            }
        }
        if (self.down.closed || self.up.closed) && self.limit.is_none() {
            self.limit = Some(Box::pin(tokio::time::sleep(HALF_OPEN_TIME)));
        }
        match &mut self.limit {
            Some(limit) => limit.as_mut().poll(cx).map(Ok),
            None => Poll::Pending,
        }
    }

    fn flushed(&self) -> bool {
        self.down.waiting.is_empty() && self.up.waiting.is_empty()
    }

    /// One step towards the client.
    fn poll_down(&mut self, cx: &mut Context<'_>, leaving: bool) -> Poll<io::Result<()>> {
        let side = &mut self.down;
        if side.closed {
            return Poll::Pending;
        }
        if !side.waiting.is_empty() {
            return match Pin::new(&mut self.client).poll_write(cx, &side.waiting) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    side.waiting.advance(count);
                    side.passed += count as u64;
                    Poll::Ready(Ok(()))
                }
                Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                Poll::Pending => Poll::Pending,
            };
        }
        if leaving && !self.goodbye_said && !side.frames.closed() && side.frames.at_boundary() {
            self.goodbye_said = true;
            side.waiting = Bytes::from_static(GOING_AWAY);
            return Poll::Ready(Ok(()));
        }
        if side.ended {
            return match Pin::new(&mut self.client).poll_shutdown(cx) {
                Poll::Ready(_) => {
                    side.closed = true;
                    Poll::Ready(Ok(()))
                }
                Poll::Pending => Poll::Pending,
            };
        }
        if self.connection.read.is_empty() {
            match self.connection.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    side.ended = true;
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return flush(&mut self.client, cx),
            }
        }
        let mut bytes = self.connection.read.split().freeze();
        if self.goodbye_said {
            // Nothing may follow a close frame.
            return Poll::Ready(Ok(()));
        }
        if self.websocket && leaving {
            let whole = side.frames.advance_to_boundary(&bytes);
            bytes.truncate(whole);
        } else if self.websocket {
            side.frames.advance(&bytes);
        }
        side.waiting = bytes;
        Poll::Ready(Ok(()))
    }

    /// One step towards the replica.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let side = &mut self.up;
        if side.closed {
            return Poll::Pending;
        }
        if !side.waiting.is_empty() {
            return match self.connection.stream.try_write(&side.waiting) {
                Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    side.waiting.advance(count);
                    side.passed += count as u64;
                    Poll::Ready(Ok(()))
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.connection.stream.poll_write_ready(cx)
                }
                Err(error) => Poll::Ready(Err(error)),
            };
        }
        if side.ended {
            side.closed = true;
            let _ = rustix::net::shutdown(&self.connection.stream, rustix::net::Shutdown::Write);
            return Poll::Ready(Ok(()));
        }
        let mut space = [0u8; READ_SIZE];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut self.client).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => side.ended = true,
            Poll::Ready(Ok(())) => {
                if self.websocket {
                    side.frames.advance(buffer.filled());
                }
                side.waiting = BytesMut::from(buffer.filled()).freeze();
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
        Poll::Ready(Ok(()))
    }
}

fn flush<C: AsyncWrite + Unpin>(client: &mut C, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    match Pin::new(client).poll_flush(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
    }
}
