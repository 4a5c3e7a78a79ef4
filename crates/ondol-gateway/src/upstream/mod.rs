//! The side towards replicas: HTTP/1.1 over kept connections.
//!
//! Written by hand rather than with hyper's client, because three of the gateway's promises depend
//! on knowing exactly what has happened on the wire: a request is repeated only if not one byte of
//! an answer arrived on a *reused* connection; a body is never sent on a connection that may be
//! stale; and an exchange runs inside the client's own task, without a hop through another.

mod connection;
mod decode;
mod exchange;
mod head;
mod pump;

pub(crate) use connection::{Connection, Pool, connect};
pub(crate) use decode::{Decoded, Decoder};
pub(crate) use exchange::{ExchangeFailure, Limits, Sent, send};
pub(crate) use head::ResponseHead;
pub(crate) use head::has_token;
pub(crate) use pump::{ClientStall, Pump, PumpFailure, RequestBody, discard};

/// A response means the same in whatever pieces it comes. The first byte is the size of the
/// pieces.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    use bytes::BytesMut;
    use http::{HeaderMap, Method};

    /// Head, body, trailers, whether it is complete, and how it failed.
    type Outcome = (
        Option<(u16, HeaderMap, bool)>,
        Vec<u8>,
        Option<HeaderMap>,
        bool,
        Option<String>,
    );
    fn run(bytes: &[u8], step: usize) -> Outcome {
        let (mut buffer, mut scanned) = (BytesMut::new(), 0);
        let mut head: Option<ResponseHead> = None;
        let (mut body, mut trailers, mut failure) = (Vec::new(), None, None);
        'pieces: for piece in bytes.chunks(step.max(1)) {
            buffer.extend_from_slice(piece);
            if head.is_none() {
                match head::take_head(
                    &mut buffer,
                    &mut scanned,
                    &Method::GET,
                    &mut HeaderMap::new(),
                ) {
                    Ok(found) => head = found,
                    Err(error) => {
                        failure = Some(error.to_string());
                        break;
                    }
                }
            }
            let Some(head) = &mut head else { continue };
            loop {
                match head.body.decode(&mut buffer) {
                    Ok(Decoded::Data(part)) => {
                        assert!(!part.is_empty(), "a part of a body has bytes");
                        body.extend_from_slice(&part);
                    }
                    Ok(Decoded::Trailers(fields)) => trailers = Some(fields),
                    Ok(Decoded::End | Decoded::More) => break,
                    Err(error) => {
                        failure = Some(error.to_string());
                        break 'pieces;
                    }
                }
            }
        }
        let done = head.as_ref().is_some_and(|head| head.body.is_done());
        let known = head.map(|head| (head.status.as_u16(), head.headers, head.keep_alive));
        (known, body, trailers, done, failure)
    }

    let Some((&step, bytes)) = data.split_first() else {
        return;
    };
    let whole = run(bytes, bytes.len());
    let pieces = run(bytes, usize::from(step));
    assert_eq!(whole, pieces);
    if let (Some((_, headers, _)), body, _, done, None) = whole {
        let lengths = headers.get_all(http::header::CONTENT_LENGTH).iter().count();
        assert!(lengths <= 1 && !headers.contains_key(http::header::TRANSFER_ENCODING));
        let length = headers
            .get(http::header::CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if let (Some(length), true, false) = (length, done, body.is_empty()) {
            assert_eq!(length, body.len());
        }
    }
}
