//! The head of a response: parsed strictly, because what a replica says twice differently could be
//! read differently by the client.

use std::mem::MaybeUninit;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::decode::Decoder;

const MAX_HEAD: usize = 64 * 1024;
const MAX_FIELDS: usize = 128;

/// A response's head.
#[derive(Debug)]
pub(crate) struct ResponseHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Decoder,
    /// Whether the connection can carry another exchange after this one.
    pub(crate) keep_alive: bool,
}

/// The replica's answer is not HTTP as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response head is malformed: {0}")]
pub(crate) struct BadHead(&'static str);

/// Where the head ends in `buffer`, looking on from `from`.
fn head_end(buffer: &[u8], from: usize) -> Option<usize> {
    let mut place = from.saturating_sub(3);
    while let Some(offset) = buffer[place..].iter().position(|&byte| byte == b'\n') {
        let next = place + offset + 1;
        match buffer.get(next) {
            Some(b'\n') => return Some(next + 1),
            Some(b'\r') if buffer.get(next + 1) == Some(&b'\n') => return Some(next + 2),
            _ => place = next,
        }
    }
    None
}

/// Takes a complete head out of the buffer; none while some of it is missing. `scanned` remembers
/// how far the buffer was looked through, and `spare` is a map to fill.
pub(crate) fn take_head(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    method: &Method,
    spare: &mut HeaderMap,
) -> Result<Option<ResponseHead>, BadHead> {
    let Some(end) = head_end(buffer, *scanned) else {
        *scanned = buffer.len();
        return if buffer.len() >= MAX_HEAD {
            Err(BadHead("it is too long"))
        } else {
            Ok(None)
        };
    };
    *scanned = 0;
    if end > MAX_HEAD {
        return Err(BadHead("it is too long"));
    }
    let head = buffer.split_to(end).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        &head,
        &mut fields,
    );
    match status {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(BadHead("it ends too early")),
        Err(httparse::Error::TooManyHeaders) => return Err(BadHead("it has too many fields")),
        Err(_) => return Err(BadHead("it is not an HTTP/1.1 response")),
    }
    let status = parsed
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(BadHead("its status is not a number"))?;
    let mut headers = std::mem::take(spare);
    headers.clear();
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut coded = false;
    let mut keep_alive = parsed.version == Some(1);
    for field in parsed.headers.iter() {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadHead("a field's name"))?;
        match name {
            header::CONTENT_LENGTH => {
                let value = parse_length(field.value)?;
                if length.is_some_and(|known| known != value) {
                    return Err(BadHead("its lengths contradict each other"));
                }
                if length.replace(value).is_some() {
                    continue;
                }
            }
            header::TRANSFER_ENCODING => {
                coded = true;
                chunked = is_last_token(field.value, b"chunked");
                if field.value.contains(&b',') {
                    return Err(BadHead("its transfer coding is not chunked alone"));
                }
                continue;
            }
            header::CONNECTION => {
                if has_token(field.value, b"close") {
                    keep_alive = false;
                } else if parsed.version == Some(0) && has_token(field.value, b"keep-alive") {
                    keep_alive = true;
                }
            }
            _ => {}
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value))
            .map_err(|_| BadHead("a field's value"))?;
        headers.append(name, value);
    }
    if coded && !chunked {
        return Err(BadHead("its transfer coding is unknown"));
    }
    if coded && length.is_some() {
        // One of the two is wrong; chunks are what is on the wire, and nothing may follow them.
        headers.remove(header::CONTENT_LENGTH);
        keep_alive = false;
    }
    let bodyless = *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let body = if bodyless {
        Decoder::length(0)
    } else if coded {
        Decoder::chunked()
    } else if let Some(length) = length {
        Decoder::length(length)
    } else {
        keep_alive = false;
        Decoder::until_close()
    };
    Ok(Some(ResponseHead {
        status,
        headers,
        body,
        keep_alive,
    }))
}

fn parse_length(value: &[u8]) -> Result<u64, BadHead> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(BadHead("its length is not a number"));
    }
    Ok(value
        .iter()
        .fold(0u64, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

fn is_last_token(value: &[u8], token: &[u8]) -> bool {
    value
        .rsplit(|&byte| byte == b',')
        .next()
        .is_some_and(|last| last.trim_ascii().eq_ignore_ascii_case(token))
}

/// Whether a comma-separated list has a token, in any case of letters.
pub(crate) fn has_token(value: &[u8], token: &[u8]) -> bool {
    value
        .split(|&byte| byte == b',')
        .any(|part| part.trim_ascii().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str, method: Method) -> Result<Option<ResponseHead>, BadHead> {
        let mut buffer = BytesMut::from(text);
        take_head(&mut buffer, &mut 0, &method, &mut HeaderMap::new())
    }

    #[test]
    fn framing_follows_the_fields() {
        let head = parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::GET)
            .unwrap()
            .unwrap();
        assert_eq!((head.body.remaining(), head.keep_alive), (Some(5), true));
        let head = parse("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::HEAD)
            .unwrap()
            .unwrap();
        assert!(head.body.is_done() && head.headers["content-length"] == "5");
        let head = parse("HTTP/1.0 200 OK\r\n\r\n", Method::GET)
            .unwrap()
            .unwrap();
        assert!(head.body.ends_with_connection() && !head.keep_alive);
        let head = parse("HTTP/1.1 304 Not Modified\nETag: x\n\n", Method::GET)
            .unwrap()
            .unwrap();
        assert!(head.body.is_done() && head.keep_alive);
        let both = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n";
        let head = parse(both, Method::GET).unwrap().unwrap();
        assert!(
            !head.keep_alive
                && head.body.remaining().is_none()
                && !head.headers.contains_key("content-length")
        );
    }

    #[test]
    fn contradictions_and_rubbish_are_refused() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX : a\r\n\r\n",
            "HELLO\r\n\r\n",
        ] {
            assert!(parse(text, Method::GET).is_err(), "{text:?}");
        }
        assert!(
            parse(
                &format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(70_000)),
                Method::GET
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn a_head_may_come_in_any_pieces(cuts in prop::collection::vec(0usize..60, 0..6)) {
            let text = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok";
            let mut places: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            places.extend([0, text.len()]);
            places.sort_unstable();
            let (mut buffer, mut scanned, mut found) = (BytesMut::new(), 0, None);
            for pair in places.windows(2) {
                buffer.extend_from_slice(&text[pair[0]..pair[1]]);
                if found.is_none() {
                    found = take_head(&mut buffer, &mut scanned, &Method::GET, &mut HeaderMap::new()).unwrap();
                }
            }
            prop_assert_eq!(found.unwrap().status, StatusCode::CREATED);
            prop_assert_eq!(&buffer[..], b"ok");
        }

        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            let _ = take_head(&mut buffer, &mut 0, &Method::GET, &mut HeaderMap::new());
        }
    }
}
