//! Numbers as they arrive: a bit stream that is appended to, differences of differences of the
//! times and exclusive-or of neighbouring values, as Gorilla writes them.
//!
//! Layout: first time (varint), first value (8 bytes), with start times the first of them
//! (varint), then the bits. Any bits of a value return as they were.

use crate::tsdb::bytes::{BitReader, BitWriter, Corrupt, Reader, put_varint};

/// Widths of a difference of differences, by the ones before it; none is no difference.
const WIDTHS: [u8; 5] = [0, 7, 14, 20, 64];

/// A stream that is still written.
#[derive(Clone, Debug)]
pub(crate) struct FloatStream {
    bits: BitWriter,
    last_time: i64,
    last_start: i64,
    step: i64,
    last_value: u64,
    pub(crate) first_time: i64,
    pub(crate) count: u32,
    leading: u8,
    trailing: u8,
    pub(crate) with_starts: bool,
}

impl FloatStream {
    /// A stream of one sample.
    pub(crate) fn new(time: i64, start: i64, value: u64) -> Self {
        let with_starts = start != 0;
        let mut bytes = Vec::new();
        put_varint(&mut bytes, time);
        bytes.extend_from_slice(&value.to_le_bytes());
        if with_starts {
            put_varint(&mut bytes, start);
        }
        Self {
            bits: BitWriter::after(bytes),
            last_time: time,
            last_start: start,
            step: 0,
            last_value: value,
            first_time: time,
            count: 1,
            leading: u8::MAX,
            trailing: 0,
            with_starts,
        }
    }

    /// Appends a sample. Without start times in the stream its start has to be 0.
    pub(crate) fn push(&mut self, time: i64, start: i64, value: u64) {
        let step = time.wrapping_sub(self.last_time);
        let turn = step.wrapping_sub(self.step);
        let class = WIDTHS
            .iter()
            .position(|&width| width == 64 || fits(turn, width))
            .unwrap_or(4);
        match class {
            4 => self.bits.write(0b1111, 4),
            class => self.bits.write(((1 << class) - 1) << 1, class as u8 + 1),
        }
        self.bits.write(turn as u64, WIDTHS[class]);
        if self.with_starts {
            let moved = start != self.last_start;
            self.bits.write(u64::from(moved), 1);
            if moved {
                self.bits.write(start as u64, 64);
            }
        }
        let changed = value ^ self.last_value;
        if changed == 0 {
            self.bits.write(0, 1);
        } else {
            let leading = (changed.leading_zeros() as u8).min(31);
            let trailing = changed.trailing_zeros() as u8;
            if self.leading != u8::MAX && leading >= self.leading && trailing >= self.trailing {
                self.bits.write(0b10, 2);
            } else {
                self.leading = leading;
                self.trailing = trailing;
                self.bits.write(0b11, 2);
                self.bits.write(u64::from(leading), 5);
                // 64 does not fit into six bits and is written as 0.
                self.bits.write(u64::from(64 - leading - trailing), 6);
            }
            self.bits
                .write(changed >> self.trailing, 64 - self.leading - self.trailing);
        }
        self.last_time = time;
        self.last_start = start;
        self.step = step;
        self.last_value = value;
        self.count += 1;
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bits.bytes()
    }

    pub(crate) fn last_time(&self) -> i64 {
        self.last_time
    }
}

fn fits(value: i64, width: u8) -> bool {
    match width {
        0 => value == 0,
        width => (-(1i64 << (width - 1))..1i64 << (width - 1)).contains(&value),
    }
}

fn signed(value: u64, width: u8) -> i64 {
    match width {
        0 => 0,
        width => ((value << (64 - width)) as i64) >> (64 - width),
    }
}

/// Hands out the samples: time, start, bits of the value.
pub(crate) fn decode(
    bytes: &[u8],
    count: u32,
    with_starts: bool,
    take: &mut impl FnMut(i64, i64, u64),
) -> Result<(), Corrupt> {
    if count == 0 {
        return Ok(());
    }
    let mut reader = Reader::new(bytes);
    let mut time = reader.varint()?;
    let mut value = reader.u64()?;
    let mut start = if with_starts { reader.varint()? } else { 0 };
    take(time, start, value);
    let mut bits = BitReader::new(reader.rest());
    let (mut step, mut leading, mut trailing) = (0i64, 0u8, 0u8);
    for _ in 1..count {
        let width = WIDTHS[usize::from(bits.ones(4)?)];
        step = step.wrapping_add(signed(bits.read(width)?, width));
        time = time.wrapping_add(step);
        if with_starts && bits.read(1)? == 1 {
            start = bits.read(64)? as i64;
        }
        match bits.ones(2)? {
            0 => {}
            kind => {
                if kind == 2 {
                    leading = bits.read(5)? as u8;
                    let width = match bits.read(6)? as u8 {
                        0 => 64,
                        width => width,
                    };
                    trailing = 64u8
                        .checked_sub(leading + width)
                        .ok_or(Corrupt("a width below 64"))?;
                }
                value ^= bits.read(64 - leading - trailing)? << trailing;
            }
        }
        take(time, start, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bits_return(
            samples in prop::collection::vec((any::<i64>(), prop_oneof![Just(0i64), any::<i64>()], any::<u64>()), 1..80),
        ) {
            let with_starts = samples[0].1 != 0;
            let samples: Vec<_> = samples
                .into_iter()
                .map(|(time, start, value)| (time, if with_starts { start } else { 0 }, value))
                .collect();
            let mut stream = FloatStream::new(samples[0].0, samples[0].1, samples[0].2);
            for &(time, start, value) in &samples[1..] {
                stream.push(time, start, value);
            }
            let mut back = Vec::new();
            decode(stream.bytes(), stream.count, with_starts, &mut |time, start, value| {
                back.push((time, start, value));
            }).unwrap();
            prop_assert_eq!(back, samples);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60), count in 0u32..100, starts: bool) {
            let _ = decode(&bytes, count, starts, &mut |_, _, _| {});
        }
    }
}
