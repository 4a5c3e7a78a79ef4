//! Numbers as bytes: variable-length integers, bit streams, and a reader that cannot overrun.
//!
//! Everything that is read back from a disk goes through [`Reader`] and [`BitReader`]; they
//! answer [`Corrupt`] instead of panicking, whatever the bytes are.

/// Bytes that are not what was written. The text says what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Corrupt(pub(crate) &'static str);

/// Small numbers of either sign become small numbers.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The number that [`zigzag`] was given.
pub(crate) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Seven bits a byte, least significant first.
pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A signed number, small ones short.
pub(crate) fn put_varint(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, zigzag(value));
}

/// A length and that many bytes.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_uvarint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Walks through bytes.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at >= self.bytes.len()
    }

    pub(crate) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at.min(self.bytes.len())..]
    }

    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Corrupt> {
        let end = self.at.checked_add(length).ok_or(Corrupt("a length"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Corrupt("more bytes"))?;
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Corrupt> {
        let byte = *self.bytes.get(self.at).ok_or(Corrupt("a byte"))?;
        self.at += 1;
        Ok(byte)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Corrupt> {
        let taken = self.take(4)?;
        Ok(u32::from_le_bytes([taken[0], taken[1], taken[2], taken[3]]))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Corrupt> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    pub(crate) fn uvarint(&mut self) -> Result<u64, Corrupt> {
        let mut value = 0u64;
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(Corrupt("a number below 2^64"));
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
            shift += 7;
            if shift > 63 {
                return Err(Corrupt("a number of at most ten bytes"));
            }
        }
    }

    pub(crate) fn varint(&mut self) -> Result<i64, Corrupt> {
        Ok(unzigzag(self.uvarint()?))
    }

    /// A count of things that take at least `least` bytes each: more than can follow is refused
    /// before anything is allocated.
    pub(crate) fn count(&mut self, least: usize) -> Result<usize, Corrupt> {
        let count = self.uvarint()?;
        let room = (self.bytes.len() - self.at) as u64;
        if count.saturating_mul(least as u64) > room {
            return Err(Corrupt("a count that fits"));
        }
        Ok(count as usize)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Corrupt> {
        let length = self.count(1)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| Corrupt("UTF-8 text"))
    }
}

/// Appends bits, most significant first.
#[derive(Clone, Debug, Default)]
pub(crate) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits of the last byte that are not used yet.
    free: u8,
}

impl BitWriter {
    /// Goes on after whole bytes.
    pub(crate) fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    pub(crate) fn write(&mut self, value: u64, mut bits: u8) {
        while bits > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let taken = self.free.min(bits);
            bits -= taken;
            let part = (value >> bits) & ((1u64 << taken) - 1);
            self.free -= taken;
            if let Some(last) = self.bytes.last_mut() {
                *last |= (part as u8) << self.free;
            }
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads what [`BitWriter`] wrote.
pub(crate) struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Bits not handed out yet, at the top.
    window: u64,
    filled: u8,
}

impl<'a> BitReader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            window: 0,
            filled: 0,
        }
    }

    fn fill(&mut self) {
        if let Some(eight) = self.bytes.get(self.at..self.at + 8) {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(eight);
            let whole = (64 - self.filled) / 8;
            let word = u64::from_be_bytes(bytes);
            let kept = if whole == 8 {
                word
            } else {
                word & !(u64::MAX >> (whole * 8))
            };
            self.window |= kept.checked_shr(u32::from(self.filled)).unwrap_or(0);
            self.filled += whole * 8;
            self.at += usize::from(whole);
            return;
        }
        while self.filled <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else {
                return;
            };
            self.window |= u64::from(byte) << (56 - self.filled);
            self.filled += 8;
            self.at += 1;
        }
    }

    /// At most 56 bits.
    fn short(&mut self, bits: u8) -> Result<u64, Corrupt> {
        if bits == 0 {
            return Ok(0);
        }
        if self.filled < bits {
            self.fill();
            if self.filled < bits {
                return Err(Corrupt("more bits"));
            }
        }
        let value = self.window >> (64 - bits);
        self.window <<= bits;
        self.filled -= bits;
        Ok(value)
    }

    /// At most 64 bits.
    pub(crate) fn read(&mut self, bits: u8) -> Result<u64, Corrupt> {
        if bits <= 56 {
            return self.short(bits);
        }
        let high = self.short(bits - 32)?;
        Ok(high << 32 | self.short(32)?)
    }

    /// How many ones stand before the next zero, which is taken too; at most `most` ones, after
    /// which no zero follows.
    pub(crate) fn ones(&mut self, most: u8) -> Result<u8, Corrupt> {
        if self.filled < most {
            self.fill();
        }
        let ones = (self.window.leading_ones() as u8).min(most);
        let taken = if ones == most { most } else { ones + 1 };
        if taken > self.filled {
            return Err(Corrupt("more bits"));
        }
        self.window = self.window.checked_shl(u32::from(taken)).unwrap_or(0);
        self.filled -= taken;
        Ok(ones)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_return(values in prop::collection::vec(any::<i64>(), 0..50)) {
            let mut bytes = Vec::new();
            for &value in &values {
                put_varint(&mut bytes, value);
                put_uvarint(&mut bytes, value as u64);
            }
            let mut reader = Reader::new(&bytes);
            for &value in &values {
                prop_assert_eq!(reader.varint(), Ok(value));
                prop_assert_eq!(reader.uvarint(), Ok(value as u64));
            }
            prop_assert!(reader.is_empty() && reader.uvarint().is_err());
        }

        #[test]
        fn bits_return(parts in prop::collection::vec((any::<u64>(), 1u8..=64, 0u8..40), 0..200)) {
            let mut writer = BitWriter::default();
            for &(value, bits, ones) in &parts {
                writer.write(value, bits);
                for _ in 0..ones {
                    writer.write(1, 1);
                }
                if ones < 32 {
                    writer.write(0, 1);
                }
            }
            let bytes = writer.into_bytes();
            let mut reader = BitReader::new(&bytes);
            for &(value, bits, ones) in &parts {
                let kept = if bits == 64 { value } else { value & ((1 << bits) - 1) };
                prop_assert_eq!(reader.read(bits), Ok(kept));
                prop_assert_eq!(reader.ones(32), Ok(ones.min(32)));
                for _ in 32..ones {
                    prop_assert_eq!(reader.read(1), Ok(1));
                }
            }
            prop_assert!(reader.read(8).is_err());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut reader = Reader::new(&bytes);
            while reader.text().is_ok() && !reader.is_empty() {}
            let mut bits = BitReader::new(&bytes);
            while bits.ones(31).is_ok() && bits.read(61).is_ok() {}
        }
    }
}
