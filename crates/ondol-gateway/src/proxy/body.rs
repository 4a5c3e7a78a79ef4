//! The body of an answer on its way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use rustix::net::Shutdown;
use tokio::net::TcpStream;

use super::account::Account;
use crate::routing::WorkerReplica;
use crate::server::Offer;
use crate::upstream::{Connection, Decoded, Decoder, Pump, PumpFailure};

/// The replica broke off; the client's connection ends with it, so that it notices.
#[derive(Debug, thiserror::Error)]
#[error("the replica broke off in the middle of its answer")]
pub(crate) struct BrokenOff;

/// What hyper sends.
pub(crate) struct GatewayBody(Kind);

enum Kind {
    Whole(Option<Bytes>),
    Stream(Box<Stream>),
}

/// A body that is still coming from its replica.
pub(crate) struct Stream {
    pub(crate) connection: Option<Connection>,
    pub(crate) decoder: Decoder,
    pub(crate) keep_alive: bool,
    pub(crate) idle_timeout: Duration,
    pub(crate) replica: Arc<WorkerReplica>,
    pub(crate) account: Account,
    /// The socket of a request that is still being sent while its answer comes.
    pub(crate) sending: Option<Arc<TcpStream>>,
    pub(crate) broken: bool,
    /// Watches an HTTP/2 client, whose stream can be closed to us while its socket is not.
    pub(crate) offer: Option<Arc<Offer>>,
}

impl GatewayBody {
    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self(Kind::Whole((!bytes.is_empty()).then_some(bytes)))
    }

    pub(crate) fn stream(mut stream: Stream) -> Self {
        if let Some(connection) = &mut stream.connection {
            connection.arm(stream.idle_timeout);
        }
        Self(Kind::Stream(Box::new(stream)))
    }
}

impl Body for GatewayBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match &mut self.0 {
            Kind::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Stream(stream) => {
                let frame = stream.poll_frame(cx);
                if let Some(offer) = &stream.offer {
                    match &frame {
                        Poll::Pending => offer.taken(),
                        Poll::Ready(_) => offer.made(),
                    }
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_none(),
            Kind::Stream(stream) => stream.decoder.is_done(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Stream(stream) => stream
                .decoder
                .remaining()
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

impl Stream {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.broken {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        // A stream that never pauses would never look at its timer.
        if self.replica.shared.cut.load(Ordering::Acquire) && self.connection.is_some() {
            return self.break_off(cx);
        }
        loop {
            let Some(connection) = &mut self.connection else {
                return Poll::Ready(None);
            };
            match self.decoder.decode(&mut connection.read) {
                Ok(Decoded::Data(bytes)) => {
                    self.account.sent(bytes.len());
                    if self.decoder.is_done() {
                        self.finish();
                    } else {
                        connection.arm(self.idle_timeout);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.finish();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(_) => return self.break_off(cx),
            }
            match connection.poll_read(cx) {
                Poll::Ready(Ok(0)) if self.decoder.ends_with_connection() => {
                    self.keep_alive = false;
                    self.finish();
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0) | Err(_)) => return self.break_off(cx),
                Poll::Ready(Ok(_)) => continue,
                Poll::Pending => {}
            }
            return match connection.poll_expired(cx, &self.replica.shared.cut) {
                Poll::Ready(_) => self.break_off(cx),
                Poll::Pending => Poll::Pending,
            };
        }
    }

    /// The body is complete: the connection goes back, the account closes with the body.
    fn finish(&mut self) {
        self.account.complete();
        if let Some(connection) = self.connection.take()
            && self.keep_alive
            && self.sending.is_none()
        {
            self.replica.give_back(connection);
        }
    }

    /// The client first gets what there is: hyper sends it when the body pauses.
    fn break_off(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.account.truncate();
        self.connection = None;
        self.broken = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Nobody hears the rest of the answer, so nothing more of the request is sent either.
        if let Some(socket) = &self.sending {
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }
}

/// Goes on sending a request whose answer has begun already. When the replica does not want the
/// rest, it is read for a moment and thrown away, so that the client hears the answer instead of a
/// reset.
pub(crate) fn send_rest(mut pump: Pump, socket: Arc<TcpStream>) {
    tokio::spawn(async move {
        match std::future::poll_fn(|cx| pump.poll(cx, &socket)).await {
            Ok(()) => {}
            Err(PumpFailure::Replica(_)) => pump.discard().await,
            Err(PumpFailure::Client | PumpFailure::TooLarge) => {
                let _ = rustix::net::shutdown(&socket, Shutdown::Both);
                pump.discard().await;
            }
        }
    });
}
