//! Cutting content into chunks where the content itself says so, so that an insertion moves no
//! cut but its own.

use std::io::{self, Cursor, Read};

use bytes::Bytes;
use fastcdc::v2020::StreamCDC;

use crate::key::Key;

/// The name of the cutting rule. A client with another one still stores correct data; it only
/// shares fewer chunks.
pub const CHUNKING: &str = "fastcdc2020-16k-64k-256k";
/// The smallest chunk in bytes, apart from the last of a file.
pub const MIN_CHUNK_BYTES: usize = 16 * 1024;
/// The chunk size aimed at, in bytes.
pub const AVERAGE_CHUNK_BYTES: usize = 64 * 1024;
/// The largest chunk in bytes.
pub const MAX_CHUNK_BYTES: usize = 256 * 1024;

/// A chunk of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChunkRef {
    /// The digest of its bytes.
    pub key: Key,
    /// Their number.
    pub len: u32,
}

/// Cuts `content` and gives each chunk with its bytes to `each`, in order.
///
/// # Errors
/// What reading or `each` returns.
pub fn cut<E: From<io::Error>>(
    mut content: impl Read,
    mut each: impl FnMut(ChunkRef, Bytes) -> Result<(), E>,
) -> Result<(), E> {
    let mut give = |bytes: Vec<u8>| {
        let chunk = ChunkRef {
            key: Key::of(&bytes),
            len: bytes.len() as u32,
        };
        each(chunk, bytes.into())
    };
    // Most files are smaller than the smallest chunk and need no cutter with its large buffer.
    let mut head = Vec::new();
    (&mut content)
        .take(MIN_CHUNK_BYTES as u64 + 1)
        .read_to_end(&mut head)?;
    if head.is_empty() {
        return Ok(());
    }
    if head.len() <= MIN_CHUNK_BYTES {
        return give(head);
    }
    let cutter = StreamCDC::new(
        Cursor::new(head).chain(content),
        MIN_CHUNK_BYTES,
        AVERAGE_CHUNK_BYTES,
        MAX_CHUNK_BYTES,
    );
    for chunk in cutter {
        give(chunk.map_err(io::Error::from)?.data)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn noise(length: usize, seed: u64) -> Vec<u8> {
        let mut state = seed | 1;
        (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect()
    }

    fn chunks(content: &[u8]) -> Vec<(ChunkRef, Bytes)> {
        let mut all = Vec::new();
        cut::<io::Error>(content, |chunk, bytes| {
            all.push((chunk, bytes));
            Ok(())
        })
        .unwrap();
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn chunks_put_together_are_the_content(length in 0usize..600_000, seed in any::<u64>()) {
            let content = noise(length, seed);
            let cut = chunks(&content);
            let together: Vec<u8> = cut.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
            prop_assert_eq!(together, content);
            for (chunk, bytes) in &cut {
                prop_assert_eq!(chunk.len as usize, bytes.len());
                prop_assert!(bytes.len() <= MAX_CHUNK_BYTES && !bytes.is_empty());
                prop_assert_eq!(chunk.key, Key::of(bytes));
            }
        }
    }

    #[test]
    fn an_insertion_changes_few_chunks() {
        let before = noise(4 << 20, 7);
        let mut after = before.clone();
        after.splice(1_000_000..1_000_000, *b"inserted");
        let old: HashSet<Key> = chunks(&before).iter().map(|(chunk, _)| chunk.key).collect();
        let new = chunks(&after)
            .iter()
            .filter(|(chunk, _)| !old.contains(&chunk.key))
            .count();
        assert!(new <= 3, "{new} chunks of {} changed", old.len());
    }
}
