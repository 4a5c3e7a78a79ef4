//! Git's packet lines: four hexadecimal digits of length, then the payload.

/// The longest payload of a packet.
pub(super) const MAX_PAYLOAD: usize = 65_516;

/// One packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    /// A line or other payload.
    Data(&'a [u8]),
    /// `0000`, the end of a section.
    Flush,
}

/// Bytes that are not packet lines.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is not in git's packet format")]
pub(super) struct Malformed;

/// The first packet of `input` and how many bytes it takes; `None` when more bytes are needed.
pub(super) fn parse(input: &[u8]) -> Result<Option<(Packet<'_>, usize)>, Malformed> {
    let Some(digits) = input.get(..4) else {
        return Ok(None);
    };
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed);
    }
    let text = std::str::from_utf8(digits).map_err(|_| Malformed)?;
    let length = usize::from_str_radix(text, 16).map_err(|_| Malformed)?;
    match length {
        0 => Ok(Some((Packet::Flush, 4))),
        // Delimiters and response ends belong to version 2, which has no push; 3 is nothing.
        1..=3 => Err(Malformed),
        _ if length > MAX_PAYLOAD + 4 => Err(Malformed),
        _ => Ok(input
            .get(4..length)
            .map(|payload| (Packet::Data(payload), length))),
    }
}

/// Appends a packet.
pub(super) fn write(out: &mut Vec<u8>, payload: &[u8]) {
    for part in payload.chunks(MAX_PAYLOAD) {
        out.extend_from_slice(format!("{:04x}", part.len() + 4).as_bytes());
        out.extend_from_slice(part);
    }
}

/// Appends `0000`.
pub(super) fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(b"0000");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_told_apart() {
        assert_eq!(parse(b"0000rest"), Ok(Some((Packet::Flush, 4))));
        assert_eq!(parse(b"0006a\nrest"), Ok(Some((Packet::Data(b"a\n"), 6))));
        assert_eq!(parse(b"0004"), Ok(Some((Packet::Data(b""), 4))));
        assert_eq!(parse(b"0006a"), Ok(None));
        assert_eq!(parse(b"00"), Ok(None));
        for bad in ["0001", "0002", "0003", "zzzz", "+006a\n", "ffff", " 006"] {
            assert_eq!(parse(bad.as_bytes()), Err(Malformed), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, used))) = parse(&bytes) {
                prop_assert!(used <= bytes.len() && used >= 4);
            }
        }

        #[test]
        fn what_is_written_is_read(payload in proptest::collection::vec(any::<u8>(), 1..300)) {
            let mut out = Vec::new();
            write(&mut out, &payload);
            let used = out.len();
            out.extend_from_slice(b"tail");
            prop_assert_eq!(parse(&out), Ok(Some((Packet::Data(&payload), used))));
        }
    }
}
