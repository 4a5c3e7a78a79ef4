//! Carries a request to the replica: its head, then its body as it comes, never more of it than
//! one part at a time.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body;
use hyper::body::Incoming;
use tokio::net::TcpStream;

use crate::proxy::clean_trailers;

/// After its replica has answered or gone, so much of a client's upload is still read and thrown
/// away: a client that is cut off while it sends never sees the answer.
const DISCARD_LIMIT: u64 = 4 * 1024 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Hears whether the client keeps its body coming.
pub(crate) trait ClientStall: Send + Sync {
    /// The body's next part is being waited for, or came.
    fn waiting(&self, waiting: bool);
}

/// A request body and how it is framed towards the replica.
pub(crate) struct RequestBody {
    pub(crate) incoming: Incoming,
    /// The exact length, or none for chunks.
    pub(crate) length: Option<u64>,
    /// The most bytes it may have.
    pub(crate) limit: u64,
    /// Counts the bytes that came.
    pub(crate) received: Arc<AtomicU64>,
    pub(crate) stall: Arc<dyn ClientStall>,
}

/// Why a request could not be carried over.
#[derive(Debug)]
pub(crate) enum PumpFailure {
    /// The client broke off or sent nonsense.
    Client,
    /// The body is longer than allowed.
    TooLarge,
    /// The replica does not take it. It may have answered nevertheless.
    Replica(io::Error),
}

/// A request on its way.
pub(crate) struct Pump {
    out: BytesMut,
    part: Bytes,
    tail: &'static [u8],
    body: Option<RequestBody>,
    complete: bool,
    begun: bool,
    /// Set whenever bytes left; the exchange restarts its time then.
    pub(crate) progressed: bool,
}

impl Pump {
    /// A request whose whole is `head`.
    pub(crate) fn bodyless(head: BytesMut) -> Self {
        Self {
            out: head,
            part: Bytes::new(),
            tail: b"",
            body: None,
            complete: true,
            begun: false,
            progressed: false,
        }
    }

    /// A request whose body follows its `head`.
    pub(crate) fn with_body(head: BytesMut, body: RequestBody) -> Self {
        let body = Some(body);
        Self {
            out: head,
            part: Bytes::new(),
            tail: b"",
            body,
            complete: false,
            begun: false,
            progressed: false,
        }
    }

    /// Whether everything was handed to the system.
    pub(crate) fn is_done(&self) -> bool {
        self.complete && self.is_flushed()
    }

    fn is_flushed(&self) -> bool {
        self.out.is_empty() && self.part.is_empty() && self.tail.is_empty()
    }

    /// Whether the next byte must come from the client.
    pub(crate) fn waits_for_client(&self) -> bool {
        !self.complete && self.is_flushed()
    }

    /// Whether the client was asked for its body.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The head's buffer, for the next request.
    pub(crate) fn into_spare(mut self) -> BytesMut {
        self.out.clear();
        self.out
    }

    /// Sends only what is buffered: the head of a request whose body waits for leave.
    pub(crate) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
    ) -> Poll<Result<(), PumpFailure>> {
        while !self.is_flushed() {
            let slices = [
                IoSlice::new(&self.out),
                IoSlice::new(&self.part),
                IoSlice::new(self.tail),
            ];
            let written = if self.part.is_empty() && self.tail.is_empty() {
                stream.try_write(&self.out)
            } else {
                stream.try_write_vectored(&slices)
            };
            match written {
                Ok(0) => {
                    return Poll::Ready(Err(PumpFailure::Replica(io::ErrorKind::WriteZero.into())));
                }
                Ok(mut count) => {
                    self.progressed = true;
                    let head = count.min(self.out.len());
                    self.out.advance(head);
                    count -= head;
                    let part = count.min(self.part.len());
                    self.part.advance(part);
                    self.tail = &self.tail[count - part..];
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(stream.poll_write_ready(cx)).map_err(PumpFailure::Replica)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(PumpFailure::Replica(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Goes on until everything was sent.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
    ) -> Poll<Result<(), PumpFailure>> {
        loop {
            // The first part of a body goes out together with the head.
            let head_waits = !self.out.is_empty() && self.part.is_empty() && !self.complete;
            if !head_waits {
                ready!(self.poll_flush(cx, stream))?;
                if self.complete {
                    return Poll::Ready(Ok(()));
                }
            }
            match self.poll_part(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if head_waits {
                        ready!(self.poll_flush(cx, stream))?;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpFailure>> {
        let Some(body) = &mut self.body else {
            self.complete = true;
            return Poll::Ready(Ok(()));
        };
        self.begun = true;
        let frame = match Pin::new(&mut body.incoming).poll_frame(cx) {
            Poll::Pending => {
                body.stall.waiting(true);
                return Poll::Pending;
            }
            Poll::Ready(frame) => frame,
        };
        body.stall.waiting(false);
        match frame {
            Some(Err(_)) => Poll::Ready(Err(PumpFailure::Client)),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let total = body
                        .received
                        .fetch_add(data.len() as u64, Ordering::Relaxed)
                        + data.len() as u64;
                    if total > body.limit {
                        return Poll::Ready(Err(PumpFailure::TooLarge));
                    }
                    if data.is_empty() {
                        return Poll::Ready(Ok(()));
                    }
                    if body.length.is_none() {
                        put_hex(&mut self.out, data.len());
                        self.tail = b"\r\n";
                    }
                    self.part = data;
                    Poll::Ready(Ok(()))
                }
                Err(frame) => {
                    if let (Ok(mut trailers), None) = (frame.into_trailers(), body.length) {
                        clean_trailers(&mut trailers);
                        self.out.put_slice(b"0\r\n");
                        for (name, value) in &trailers {
                            self.out.put_slice(name.as_str().as_bytes());
                            self.out.put_slice(b": ");
                            self.out.put_slice(value.as_bytes());
                            self.out.put_slice(b"\r\n");
                        }
                        self.out.put_slice(b"\r\n");
                    }
                    self.complete = true;
                    Poll::Ready(Ok(()))
                }
            },
            None => {
                match body.length {
                    None => self.out.put_slice(b"0\r\n\r\n"),
                    Some(length) if body.received.load(Ordering::Relaxed) != length => {
                        return Poll::Ready(Err(PumpFailure::Client));
                    }
                    Some(_) => {}
                }
                self.complete = true;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Reads on without sending, for a replica that no longer listens.
    pub(crate) async fn discard(self) {
        if let Some(body) = self.body
            && self.begun
        {
            discard(body.incoming).await;
        }
    }
}

/// Reads a body that nobody wants, within bounds, so that its sender hears the answer instead of a
/// reset.
pub(crate) async fn discard(mut body: Incoming) {
    let reading = async {
        let mut read = 0;
        while read < DISCARD_LIMIT {
            match poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) | None => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

fn put_hex(out: &mut BytesMut, length: usize) {
    let digits = (usize::BITS - length.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.put_u8(b"0123456789abcdef"[(length >> (place * 4)) & 15]);
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_hexadecimal() {
        for length in [1usize, 9, 15, 16, 255, 256, 65_535, 1 << 20] {
            let mut out = BytesMut::new();
            put_hex(&mut out, length);
            assert_eq!(out, format!("{length:x}\r\n").as_bytes());
        }
    }
}
