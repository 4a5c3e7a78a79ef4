//! Snappy's block format, with the length it claims checked before anything is allocated.

use super::IngestError;

/// The bytes behind a snappy block of at most `limit` bytes.
///
/// # Errors
/// The bytes are no block, or it claims more than the limit. What a block claims costs nothing,
/// and a block holds at most 22 times its own bytes.
pub fn decompress(block: &[u8], limit: usize) -> Result<Vec<u8>, IngestError> {
    let refuse = |error: snap::Error| IngestError::malformed("snappy block", error.to_string());
    let length = snap::raw::decompress_len(block).map_err(refuse)?;
    if length > limit {
        return Err(IngestError::TooLarge {
            what: "the decompressed body",
            limit,
        });
    }
    // The best the format can do is 64 bytes from a copy of three.
    if length / 32 > block.len() {
        return Err(IngestError::malformed(
            "snappy block",
            "it claims more bytes than it can hold",
        ));
    }
    snap::raw::Decoder::new()
        .decompress_vec(block)
        .map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_not_believed() {
        let body = vec![7u8; 1 << 20];
        let block = snap::raw::Encoder::new().compress_vec(&body).unwrap();
        assert_eq!(decompress(&block, 1 << 20).unwrap(), body);
        assert!(matches!(
            decompress(&block, (1 << 20) - 1),
            Err(IngestError::TooLarge { .. })
        ));
        // A block of six bytes that claims four gigabytes.
        assert!(decompress(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0x00], usize::MAX).is_err());
    }
}
