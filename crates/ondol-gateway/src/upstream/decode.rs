//! Where a response body ends: by length, by chunks, or with the connection. Pure over a buffer.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

const MAX_CHUNK_LINE: usize = 4 * 1024;
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_COUNT: usize = 64;

/// The framing of a body and how far it has been read.
#[derive(Debug)]
pub(crate) struct Decoder(Framing);

#[derive(Debug)]
enum Framing {
    Length(u64),
    Chunked(Chunk),
    Close,
    Done,
}

#[derive(Debug)]
enum Chunk {
    /// A size line comes next.
    Size,
    /// So many bytes of data are missing.
    Data(u64),
    /// The line end behind the data comes next.
    DataEnd,
    /// Trailers, or the line that ends the body.
    Trailers,
}

/// What a look at the buffer gave.
#[derive(Debug)]
pub(crate) enum Decoded {
    /// A part of the body.
    Data(Bytes),
    /// The fields behind a chunked body; nothing follows.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
    /// More must be read first.
    More,
}

/// The body breaks the rules of its framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the response body is malformed: {0}")]
pub(crate) struct BadBody(&'static str);

impl Decoder {
    pub(crate) fn length(length: u64) -> Self {
        Self(if length == 0 {
            Framing::Done
        } else {
            Framing::Length(length)
        })
    }

    pub(crate) fn chunked() -> Self {
        Self(Framing::Chunked(Chunk::Size))
    }

    pub(crate) fn until_close() -> Self {
        Self(Framing::Close)
    }

    /// Whether nothing is missing.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.0, Framing::Done)
    }

    /// Whether the end of the connection is the end of the body.
    pub(crate) fn ends_with_connection(&self) -> bool {
        matches!(self.0, Framing::Close)
    }

    /// How many bytes are missing, if the framing says so.
    pub(crate) fn remaining(&self) -> Option<u64> {
        match self.0 {
            Framing::Length(remaining) => Some(remaining),
            Framing::Done => Some(0),
            Framing::Chunked(_) | Framing::Close => None,
        }
    }

    /// Takes the next part out of the buffer.
    pub(crate) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Decoded, BadBody> {
        match &mut self.0 {
            Framing::Done => Ok(Decoded::End),
            Framing::Close if buffer.is_empty() => Ok(Decoded::More),
            Framing::Close => Ok(Decoded::Data(buffer.split().freeze())),
            Framing::Length(remaining) => {
                if buffer.is_empty() {
                    return Ok(Decoded::More);
                }
                let take = (buffer.len() as u64).min(*remaining);
                *remaining -= take;
                if *remaining == 0 {
                    self.0 = Framing::Done;
                }
                Ok(Decoded::Data(buffer.split_to(take as usize).freeze()))
            }
            Framing::Chunked(state) => {
                let decoded = decode_chunk(state, buffer)?;
                if matches!(decoded, Decoded::End | Decoded::Trailers(_)) {
                    self.0 = Framing::Done;
                }
                Ok(decoded)
            }
        }
    }
}

fn decode_chunk(state: &mut Chunk, buffer: &mut BytesMut) -> Result<Decoded, BadBody> {
    loop {
        match state {
            Chunk::Size => {
                let Some(end) = buffer
                    .iter()
                    .take(MAX_CHUNK_LINE)
                    .position(|&byte| byte == b'\n')
                else {
                    let long = buffer.len() >= MAX_CHUNK_LINE;
                    return if long {
                        Err(BadBody("a chunk size line is too long"))
                    } else {
                        Ok(Decoded::More)
                    };
                };
                let size = chunk_size(&buffer[..end])?;
                buffer.advance(end + 1);
                *state = if size == 0 {
                    Chunk::Trailers
                } else {
                    Chunk::Data(size)
                };
            }
            Chunk::Data(remaining) => {
                if buffer.is_empty() {
                    return Ok(Decoded::More);
                }
                let take = (buffer.len() as u64).min(*remaining);
                *remaining -= take;
                if *remaining == 0 {
                    *state = Chunk::DataEnd;
                }
                return Ok(Decoded::Data(buffer.split_to(take as usize).freeze()));
            }
            Chunk::DataEnd => {
                if buffer.len() < 2 {
                    return Ok(Decoded::More);
                }
                if &buffer[..2] != b"\r\n" {
                    return Err(BadBody("a chunk does not end where its size says"));
                }
                buffer.advance(2);
                *state = Chunk::Size;
            }
            Chunk::Trailers => return decode_trailers(buffer),
        }
    }
}

fn chunk_size(line: &[u8]) -> Result<u64, BadBody> {
    let line = line
        .strip_suffix(b"\r")
        .ok_or(BadBody("a chunk size line does not end in CR LF"))?;
    let digits = line.split(|&byte| byte == b';').next().unwrap_or(line);
    let digits = digits.trim_ascii_end();
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(BadBody("a chunk size is not a hexadecimal number"));
    }
    let text = std::str::from_utf8(digits).map_err(|_| BadBody("a chunk size is not text"))?;
    u64::from_str_radix(text, 16).map_err(|_| BadBody("a chunk size is too large"))
}

fn decode_trailers(buffer: &mut BytesMut) -> Result<Decoded, BadBody> {
    if buffer.starts_with(b"\r\n") {
        buffer.advance(2);
        return Ok(Decoded::End);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_COUNT];
    let (length, trailers) = match httparse::parse_headers(buffer, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) => {
            let mut trailers = HeaderMap::with_capacity(fields.len());
            for field in fields {
                let name = HeaderName::from_bytes(field.name.as_bytes())
                    .map_err(|_| BadBody("a trailer's name"))?;
                let value = HeaderValue::from_bytes(field.value)
                    .map_err(|_| BadBody("a trailer's value"))?;
                trailers.append(name, value);
            }
            (length, trailers)
        }
        Ok(httparse::Status::Partial) if buffer.len() < MAX_TRAILERS => return Ok(Decoded::More),
        Ok(httparse::Status::Partial) => return Err(BadBody("the trailers are too long")),
        Err(_) => return Err(BadBody("the trailers are not header fields")),
    };
    buffer.advance(length);
    Ok(Decoded::Trailers(trailers))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds the wire in the given pieces and gathers what comes out.
    fn run(
        mut decoder: Decoder,
        pieces: &[&[u8]],
    ) -> Result<(Vec<u8>, Option<HeaderMap>, bool, usize), BadBody> {
        let mut buffer = BytesMut::new();
        let (mut data, mut trailers) = (Vec::new(), None);
        for piece in pieces {
            buffer.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut buffer)? {
                    Decoded::Data(bytes) => data.extend_from_slice(&bytes),
                    Decoded::Trailers(map) => trailers = Some(map),
                    Decoded::End | Decoded::More => break,
                }
            }
        }
        Ok((data, trailers, decoder.is_done(), buffer.len()))
    }

    proptest! {
        #[test]
        fn chunks_survive_any_split(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
            with_trailer in any::<bool>(),
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(format!("{:X};ext=1\r\n", chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b"0\r\n");
            if with_trailer {
                wire.extend_from_slice(b"x-sum: 7\r\n");
            }
            wire.extend_from_slice(b"\r\nNEXT");
            let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
            places.extend([0, wire.len()]);
            places.sort_unstable();
            let pieces: Vec<&[u8]> = places.windows(2).map(|pair| &wire[pair[0]..pair[1]]).collect();
            let (data, trailers, done, left) = run(Decoder::chunked(), &pieces).unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert!(done);
            prop_assert_eq!(trailers.is_some(), with_trailer);
            prop_assert_eq!(left, 4);
        }

        #[test]
        fn rubbish_never_panics(wire in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = run(Decoder::chunked(), &[&wire]);
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for wire in [
            "x\r\n",
            "5\n12345\r\n",
            "5\r\n123456\r\n",
            "\r\n",
            "-1\r\n",
            "ffffffffffffffff1\r\n",
            "0x5\r\n",
            "5 5\r\n",
        ] {
            assert!(
                run(Decoder::chunked(), &[wire.as_bytes()]).is_err(),
                "{wire:?}"
            );
        }
        assert!(run(Decoder::chunked(), &["1".repeat(5_000).as_bytes()]).is_err());
    }

    #[test]
    fn a_length_leaves_the_rest_in_the_buffer() {
        let (data, _, done, left) = run(Decoder::length(3), &[b"ab", b"cde"]).unwrap();
        assert_eq!((data.as_slice(), done, left), (b"abc".as_slice(), true, 2));
        assert!(Decoder::length(0).is_done());
    }
}
