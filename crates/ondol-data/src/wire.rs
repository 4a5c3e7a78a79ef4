//! The bytes of a push and of a checkout: frames of one kind byte, a length and a payload.
//!
//! Client and server share this codec. Decoding is incremental and bounded: whatever arrives, it
//! answers with a frame, the wish for more, or an error, and holds at most one frame.

use bytes::{Buf, Bytes, BytesMut};
use ondol_types::RelPath;

use crate::chunk::{ChunkRef, MAX_CHUNK_BYTES};
use crate::error::{DataError, DataResult};
use crate::key::Key;
use crate::model::{CommitHead, FileEntry};

/// The media type of framed bodies.
pub const MEDIA_TYPE: &str = "application/vnd.ondol.data.v1";
/// The largest payload of one frame: a file entry with the most chunks one file may have.
pub const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;
const HEADER: usize = 5;

const CHUNK: u8 = 1;
const FILE: u8 = 2;
const END: u8 = 3;
const HEAD: u8 = 4;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A chunk with its bytes. Whoever receives it checks the digest.
    Chunk {
        /// Its digest.
        key: Key,
        /// Its bytes.
        bytes: Bytes,
    },
    /// A file of a manifest; in a checkout its chunks follow in order.
    File(FileEntry),
    /// What is said of a commit.
    Head(CommitHead),
    /// Nothing follows. A body without it was cut off.
    End {
        /// How many frames came before.
        frames: u64,
    },
}

/// Appends a number in seven-bit groups, least first.
pub(crate) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads parts off the front of a payload.
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

impl<'a> Parts<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (front, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| "it ends too early".to_owned())?;
        self.0 = rest;
        Ok(front)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, String> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn number(&mut self) -> Result<u64, String> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err("a number is too large".to_owned())
    }

    pub(crate) fn key(&mut self) -> Result<Key, String> {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.take(32)?);
        Ok(Key::from_bytes(bytes))
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, String> {
        let length = self.number()?;
        let length = usize::try_from(length).map_err(|_| "a text is too long".to_owned())?;
        std::str::from_utf8(self.take(length)?).map_err(|_| "a text is not UTF-8".to_owned())
    }

    pub(crate) fn chunk(&mut self) -> Result<ChunkRef, String> {
        let key = self.key()?;
        let len = self.number()?;
        if len == 0 || len > MAX_CHUNK_BYTES as u64 {
            return Err(format!(
                "a chunk has {len} bytes, allowed are 1 to {MAX_CHUNK_BYTES}"
            ));
        }
        Ok(ChunkRef {
            key,
            len: len as u32,
        })
    }
}

pub(crate) fn put_chunk_ref(out: &mut Vec<u8>, chunk: &ChunkRef) {
    out.extend_from_slice(chunk.key.as_bytes());
    put_number(out, u64::from(chunk.len));
}

fn frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

impl Frame {
    /// Appends the frame to a body.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Chunk { key, bytes } => {
                out.push(CHUNK);
                out.extend_from_slice(&(bytes.len() as u32 + 32).to_le_bytes());
                out.extend_from_slice(key.as_bytes());
                out.extend_from_slice(bytes);
            }
            Self::File(file) => {
                let mut payload = Vec::with_capacity(64 + file.chunks.len() * 36);
                let path = file.path.as_str();
                put_number(&mut payload, path.len() as u64);
                payload.extend_from_slice(path.as_bytes());
                payload.push(u8::from(file.executable));
                put_number(&mut payload, file.size);
                put_number(&mut payload, file.chunks.len() as u64);
                for chunk in &file.chunks {
                    put_chunk_ref(&mut payload, chunk);
                }
                frame(out, FILE, &payload);
            }
            Self::Head(head) => {
                let payload = serde_json::to_vec(head).unwrap_or_default();
                frame(out, HEAD, &payload);
            }
            Self::End { frames } => {
                let mut payload = Vec::new();
                put_number(&mut payload, *frames);
                frame(out, END, &payload);
            }
        }
    }

    fn decode(kind: u8, payload: Bytes) -> Result<Self, String> {
        let mut parts = Parts(&payload);
        match kind {
            CHUNK => {
                let key = parts.key()?;
                let length = parts.0.len();
                if length == 0 || length > MAX_CHUNK_BYTES {
                    return Err(format!(
                        "a chunk has {length} bytes, allowed are 1 to {MAX_CHUNK_BYTES}"
                    ));
                }
                Ok(Self::Chunk {
                    key,
                    bytes: payload.slice(32..),
                })
            }
            FILE => {
                let path = parts.text()?;
                let path: RelPath = path.parse().map_err(|error| format!("{error}"))?;
                let flags = parts.byte()?;
                if flags > 1 {
                    return Err(format!("file `{path}` has unknown flags"));
                }
                let size = parts.number()?;
                let count = parts.number()?;
                if count > (parts.0.len() / 33) as u64 {
                    return Err(format!("file `{path}` ends too early"));
                }
                let chunks = (0..count)
                    .map(|_| parts.chunk())
                    .collect::<Result<Vec<_>, _>>()?;
                if !parts.0.is_empty() {
                    return Err(format!("file `{path}` is followed by other bytes"));
                }
                Ok(Self::File(FileEntry {
                    path,
                    executable: flags == 1,
                    size,
                    chunks,
                }))
            }
            HEAD => serde_json::from_slice(&payload)
                .map(Self::Head)
                .map_err(|error| format!("the head of the commit: {error}")),
            END => {
                let frames = parts.number()?;
                if !parts.0.is_empty() {
                    return Err("bytes follow the end".to_owned());
                }
                Ok(Self::End { frames })
            }
            other => Err(format!("a frame has the unknown kind {other}")),
        }
    }
}

/// Takes bytes as they arrive and gives whole frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
    frames: u64,
    ended: bool,
}

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in bytes. Call [`Decoder::next`] until it wants more before the next ones.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame; `None` when more bytes are needed or the body has ended.
    ///
    /// # Errors
    /// [`DataError::Wire`] when the bytes are no frame.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is fed in between, which an iterator is not"
    )]
    pub fn next(&mut self) -> DataResult<Option<Frame>> {
        if self.ended {
            return if self.buffer.is_empty() {
                Ok(None)
            } else {
                Err(DataError::Wire("bytes follow the end".to_owned()))
            };
        }
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let kind = self.buffer[0];
        let length = u32::from_le_bytes([
            self.buffer[1],
            self.buffer[2],
            self.buffer[3],
            self.buffer[4],
        ]) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(DataError::Wire(format!(
                "a frame has {length} bytes, more than {MAX_FRAME_BYTES}"
            )));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let payload = self.buffer.split_to(length).freeze();
        let frame = Frame::decode(kind, payload).map_err(DataError::Wire)?;
        if let Frame::End { frames } = frame {
            if frames != self.frames {
                return Err(DataError::Wire(format!(
                    "it announces {frames} frames and has {}",
                    self.frames
                )));
            }
            self.ended = true;
        }
        self.frames += 1;
        Ok(Some(frame))
    }

    /// Checks that the body was whole.
    ///
    /// # Errors
    /// [`DataError::Wire`] when it was cut off.
    pub fn finish(&self) -> DataResult<()> {
        if self.ended && self.buffer.is_empty() {
            return Ok(());
        }
        Err(DataError::Wire("it was cut off".to_owned()))
    }
}

/// Keys one after the other: the body of a question for missing chunks, and of its answer.
pub fn encode_keys(keys: &[Key]) -> Bytes {
    keys.iter()
        .flat_map(|key| key.as_bytes().iter().copied())
        .collect::<Vec<u8>>()
        .into()
}

/// Reads what [`encode_keys`] wrote.
///
/// # Errors
/// [`DataError::Wire`] when it is not whole keys.
pub fn decode_keys(bytes: &[u8]) -> DataResult<Vec<Key>> {
    let (keys, rest) = bytes.as_chunks::<32>();
    if !rest.is_empty() {
        return Err(DataError::Wire(
            "a list of digests is not a multiple of 32 bytes".to_owned(),
        ));
    }
    Ok(keys.iter().map(|key| Key::from_bytes(*key)).collect())
}

/// A whole commit as a body.
pub fn encode_commit(head: &CommitHead, files: &[FileEntry]) -> Bytes {
    let mut out = Vec::with_capacity(1024 + files.len() * 96);
    Frame::Head(head.clone()).encode(&mut out);
    for file in files {
        Frame::File(file.clone()).encode(&mut out);
    }
    Frame::End {
        frames: files.len() as u64 + 1,
    }
    .encode(&mut out);
    out.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file() -> impl Strategy<Value = FileEntry> {
        let chunk =
            (any::<[u8; 32]>(), 1u32..=MAX_CHUNK_BYTES as u32).prop_map(|(key, len)| ChunkRef {
                key: Key::from_bytes(key),
                len,
            });
        (
            "[a-z가-힣]{1,9}(/[a-z.]{3,8}){0,3}",
            any::<bool>(),
            any::<u64>(),
            proptest::collection::vec(chunk, 0..5),
        )
            .prop_filter_map("a path", |(path, executable, size, chunks)| {
                Some(FileEntry {
                    path: path.parse().ok()?,
                    executable,
                    size,
                    chunks,
                })
            })
    }

    proptest! {
        #[test]
        fn frames_round_trip_however_they_are_cut(
            files in proptest::collection::vec(file(), 0..8),
            bytes in proptest::collection::vec(any::<u8>(), 1..300),
            message in "\\PC{0,20}",
            step in 1usize..40,
        ) {
            let mut frames = vec![Frame::Head(CommitHead { message, ..CommitHead::default() })];
            frames.extend(files.into_iter().map(Frame::File));
            frames.push(Frame::Chunk { key: Key::of(&bytes), bytes: bytes.into() });
            frames.push(Frame::End { frames: frames.len() as u64 });
            let mut body = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut body));
            let mut decoder = Decoder::new();
            let mut read = Vec::new();
            for part in body.chunks(step) {
                prop_assert!(decoder.finish().is_err());
                decoder.feed(part);
                while let Some(frame) = decoder.next().unwrap() {
                    read.push(frame);
                }
            }
            decoder.finish().unwrap();
            prop_assert_eq!(read, frames);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..6) {
            let mut decoder = Decoder::new();
            let mut framed = vec![kind];
            framed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            framed.extend_from_slice(&bytes);
            decoder.feed(&framed);
            while let Ok(Some(_)) = decoder.next() {}
            let mut raw = Decoder::new();
            raw.feed(&bytes);
            while let Ok(Some(_)) = raw.next() {}
            let _ = decode_keys(&bytes);
        }
    }

    #[test]
    fn a_frame_that_claims_to_be_huge_is_refused_at_once() {
        let mut decoder = Decoder::new();
        decoder.feed(&[CHUNK, 0xff, 0xff, 0xff, 0xff]);
        assert!(decoder.next().is_err());
    }
}
