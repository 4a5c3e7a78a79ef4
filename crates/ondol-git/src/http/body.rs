//! Request bodies: streamed, unpacked when the client packed them, bounded in size and silence.

use std::io::Write;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;

use crate::error::GitError;

/// Compressed bytes that are unpacked at once: at most a thousand times as much comes out.
const SLICE: usize = 4 * 1024;

enum Coding {
    Plain,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
}

/// A body on its way to git.
pub(super) struct RequestBody {
    source: BodyDataStream,
    coding: Coding,
    packed: Bytes,
    ended: bool,
    left: u64,
    limit: u64,
    idle: Duration,
}

impl RequestBody {
    /// A body of at most `limit` bytes, counted after unpacking.
    pub(super) fn new(
        headers: &HeaderMap,
        body: Body,
        limit: u64,
        idle: Duration,
    ) -> Result<Self, GitError> {
        let coding = match headers.get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
            None | Some(b"identity") => Coding::Plain,
            Some(b"gzip" | b"x-gzip") => Coding::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Some(_) => {
                return Err(GitError::Protocol(
                    "the body has a content encoding other than gzip".to_owned(),
                ));
            }
        };
        Ok(Self {
            source: body.into_data_stream(),
            coding,
            packed: Bytes::new(),
            ended: false,
            left: limit,
            limit,
            idle,
        })
    }

    /// The next bytes, or `None` at a proper end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, GitError> {
        let bytes = match &self.coding {
            Coding::Plain => self.receive().await?,
            Coding::Gzip(_) => self.unpacked().await?,
        };
        let Some(bytes) = bytes else {
            return Ok(None);
        };
        self.left = self
            .left
            .checked_sub(bytes.len() as u64)
            .ok_or(GitError::BodyTooLarge(self.limit))?;
        Ok(Some(bytes))
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, GitError> {
        loop {
            let next = tokio::time::timeout(self.idle, self.source.next())
                .await
                .map_err(|_| GitError::Timeout("receive-pack"))?;
            match next {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => return Ok(Some(bytes)),
                Some(Err(error)) => {
                    return Err(GitError::Protocol(format!("the client broke off: {error}")));
                }
                None => return Ok(None),
            }
        }
    }

    async fn unpacked(&mut self) -> Result<Option<Bytes>, GitError> {
        let broken = |_| GitError::Protocol("the gzip body is damaged or cut".to_owned());
        loop {
            if self.ended {
                return Ok(None);
            }
            if self.packed.is_empty() {
                match self.receive().await? {
                    Some(bytes) => self.packed = bytes,
                    None => self.ended = true,
                }
            }
            let Coding::Gzip(decoder) = &mut self.coding else {
                return Ok(None);
            };
            if self.ended {
                decoder.try_finish().map_err(broken)?;
            } else {
                let slice = self.packed.split_to(self.packed.len().min(SLICE));
                decoder.write_all(&slice).map_err(broken)?;
            }
            let out = std::mem::take(decoder.get_mut());
            if !out.is_empty() {
                return Ok(Some(Bytes::from(out)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http::HeaderValue;

    use super::*;

    async fn read(
        coding: Option<&'static str>,
        bytes: Vec<u8>,
        limit: u64,
    ) -> Result<Vec<u8>, GitError> {
        let mut headers = HeaderMap::new();
        if let Some(coding) = coding {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
        }
        let mut body =
            RequestBody::new(&headers, Body::from(bytes), limit, Duration::from_secs(5))?;
        let mut all = Vec::new();
        while let Some(bytes) = body.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[tokio::test]
    async fn packed_and_plain_bodies_read_alike() {
        let text: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
        assert_eq!(read(None, text.clone(), 1 << 20).await.unwrap(), text);
        assert_eq!(
            read(Some("gzip"), packed(&text), 1 << 20).await.unwrap(),
            text
        );
    }

    #[tokio::test]
    async fn bombs_cuts_and_junk_are_refused() {
        let bomb = packed(&vec![0u8; 64 << 20]);
        assert!(bomb.len() < 100_000);
        assert!(matches!(
            read(Some("gzip"), bomb, 1 << 20).await,
            Err(GitError::BodyTooLarge(_))
        ));
        let mut cut = packed(b"some text that is cut");
        cut.truncate(cut.len() - 10);
        assert!(read(Some("gzip"), cut, 1 << 20).await.is_err());
        assert!(read(Some("gzip"), b"junk".to_vec(), 1 << 20).await.is_err());
        assert!(read(Some("br"), b"junk".to_vec(), 1 << 20).await.is_err());
        assert!(matches!(
            read(None, vec![0; 11], 10).await,
            Err(GitError::BodyTooLarge(10))
        ));
    }
}
