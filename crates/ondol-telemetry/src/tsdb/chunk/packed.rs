//! Numbers at rest: a column of times, a column of values, each in its cheapest form.
//!
//! Values that are decimals with few digits are whole numbers divided by a power of ten, and
//! whole numbers compress well (`ints`); values that do not fit, such as the markers that end a
//! series, are listed apart. What is no decimal stays a Gorilla stream. The division gives back
//! the very bits, which is checked for every value before it counts as a decimal.

use super::{floats, ints};
use crate::tsdb::bytes::{BitReader, BitWriter, Corrupt, Reader, put_uvarint, put_varint};

const POWERS: [f64; 19] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18,
];
const EXACT: f64 = 9_007_199_254_740_992.0;
const STARTS: u8 = 1;
const DECIMAL: u8 = 2;
const EXCEPTIONS: u8 = 4;
/// The times are as far from each other everywhere; only the distance is written.
const REGULAR: u8 = 8;

fn scaled(bits: u64, exponent: usize) -> Option<i64> {
    let value = f64::from_bits(bits);
    let near = (value * POWERS[exponent]).round();
    // As it is read: a negative zero and what is no number do not survive the whole number.
    let whole = near as i64;
    let same = (whole as f64 / POWERS[exponent]).to_bits() == bits;
    (near.abs() < EXACT && same).then_some(whole)
}

/// The power of ten that makes the most of the values whole, with the whole numbers; `None` when
/// too few are decimals.
fn decimals(values: &[u64]) -> Option<(usize, Vec<i64>, Vec<usize>)> {
    let mut exponent = 0;
    let mut strangers = 0;
    for &bits in values {
        match (exponent..POWERS.len()).find(|&power| scaled(bits, power).is_some()) {
            Some(power) if power - exponent <= 12 => exponent = power,
            _ => strangers += 1,
        }
        if strangers > 2 + values.len() / 8 {
            return None;
        }
    }
    let mut whole = Vec::with_capacity(values.len());
    let mut exceptions = Vec::new();
    for (at, &bits) in values.iter().enumerate() {
        whole.push(scaled(bits, exponent).unwrap_or_else(|| {
            exceptions.push(at);
            whole.last().copied().unwrap_or(0)
        }));
    }
    (exceptions.len() <= 2 + values.len() / 8).then_some((exponent, whole, exceptions))
}

fn put_column(out: &mut Vec<u8>, values: &[i64]) {
    let mut column = Vec::new();
    ints::encode(values, &mut column);
    put_uvarint(out, column.len() as u64);
    out.extend_from_slice(&column);
}

fn column(reader: &mut Reader<'_>, count: usize, into: &mut Vec<i64>) -> Result<(), Corrupt> {
    let length = reader.count(1)?;
    ints::decode(&mut Reader::new(reader.take(length)?), count, into)
}

/// The bytes of these samples. Times rise; the start times are empty when all are unknown.
pub(crate) fn encode(times: &[i64], starts: &[i64], values: &[u64]) -> Vec<u8> {
    let mut out = vec![0u8];
    let base = times.first().copied().unwrap_or(0);
    let step = times.get(1).map_or(0, |second| second.wrapping_sub(base));
    if times
        .windows(2)
        .all(|pair| pair[1].wrapping_sub(pair[0]) == step)
    {
        out[0] |= REGULAR;
        put_varint(&mut out, step);
    } else {
        let since: Vec<i64> = times.iter().map(|time| time.wrapping_sub(base)).collect();
        put_column(&mut out, &since);
    }
    if !starts.is_empty() {
        out[0] |= STARTS;
        put_column(&mut out, starts);
    }
    let prefix = out.len();
    let mut stream = None;
    if let Some((exponent, whole, exceptions)) = decimals(values) {
        out[0] |= DECIMAL;
        out.push(exponent as u8);
        if !exceptions.is_empty() {
            out[0] |= EXCEPTIONS;
            put_uvarint(&mut out, exceptions.len() as u64);
            let mut before = 0;
            for at in exceptions {
                put_uvarint(&mut out, (at - before) as u64);
                out.extend_from_slice(&values[at].to_le_bytes());
                before = at;
            }
        }
        ints::encode(&whole, &mut out);
        if out.len() - prefix <= 3 * values.len() {
            return out;
        }
        stream = Some(out.len());
    }
    let exclusive = xor(values);
    if stream.is_none_or(|decimal| prefix + exclusive.len() < decimal) {
        out.truncate(prefix);
        out[0] &= STARTS | REGULAR;
        out.extend_from_slice(&exclusive);
    }
    out
}

fn xor(values: &[u64]) -> Vec<u8> {
    let mut writer = BitWriter::default();
    let mut before = 0u64;
    let (mut leading, mut trailing) = (0u8, 0u8);
    let mut open = false;
    for &value in values {
        let changed = value ^ before;
        before = value;
        if changed == 0 {
            writer.write(0, 1);
            continue;
        }
        let first = changed.leading_zeros() as u8;
        let last = changed.trailing_zeros() as u8;
        // A window that wastes more than its own description is closed.
        if open
            && first >= leading
            && last >= trailing
            && (first - leading) + (last - trailing) <= 12
        {
            writer.write(0b10, 2);
        } else {
            (leading, trailing, open) = (first, last, true);
            writer.write(0b11, 2);
            writer.write(u64::from(leading), 6);
            writer.write(u64::from(63 - leading - trailing), 6);
        }
        writer.write(changed >> trailing, 64 - leading - trailing);
    }
    writer.into_bytes()
}

fn unxor(bytes: &[u8], count: usize, into: &mut Vec<u64>) -> Result<(), Corrupt> {
    let mut bits = BitReader::new(bytes);
    let mut value = 0u64;
    let (mut width, mut trailing) = (0u8, 0u8);
    for _ in 0..count {
        match bits.ones(2)? {
            0 => {}
            kind => {
                if kind == 2 {
                    let leading = bits.read(6)? as u8;
                    width = bits.read(6)? as u8 + 1;
                    trailing = 64u8
                        .checked_sub(leading + width)
                        .ok_or(Corrupt("a width below 64"))?;
                }
                value ^= bits.read(width)? << trailing;
            }
        }
        into.push(value);
    }
    Ok(())
}

/// The columns of a chunk, reused from one to the next.
#[derive(Default)]
pub(crate) struct Columns {
    pub(crate) times: Vec<i64>,
    pub(crate) starts: Vec<i64>,
    whole: Vec<i64>,
    pub(crate) values: Vec<u64>,
}

impl Columns {
    pub(crate) fn clear(&mut self) {
        self.times.clear();
        self.starts.clear();
        self.values.clear();
    }

    /// Reads `count` samples, the first at `base`, into the cleared columns.
    pub(crate) fn decode(&mut self, bytes: &[u8], count: usize, base: i64) -> Result<(), Corrupt> {
        self.clear();
        let mut reader = Reader::new(bytes);
        let form = reader.byte()?;
        if form & REGULAR == 0 {
            column(&mut reader, count, &mut self.times)?;
            for time in &mut self.times {
                *time = time.wrapping_add(base);
            }
        } else {
            let step = reader.varint()?;
            self.times
                .extend((0..count as i64).map(|at| base.wrapping_add(at.wrapping_mul(step))));
        }
        if form & STARTS != 0 {
            column(&mut reader, count, &mut self.starts)?;
        }
        if form & DECIMAL == 0 {
            return unxor(reader.rest(), count, &mut self.values);
        }
        let power = *POWERS
            .get(usize::from(reader.byte()?))
            .ok_or(Corrupt("a power of ten"))?;
        let exceptions = if form & EXCEPTIONS == 0 {
            0
        } else {
            reader.count(9)?
        };
        let listed = reader;
        for _ in 0..exceptions {
            reader.uvarint()?;
            reader.u64()?;
        }
        self.whole.clear();
        ints::decode(&mut reader, count, &mut self.whole)?;
        self.values.extend(
            self.whole
                .iter()
                .map(|&whole| (whole as f64 / power).to_bits()),
        );
        let mut listed = listed;
        let mut at = 0usize;
        for _ in 0..exceptions {
            at = at.saturating_add(listed.uvarint()? as usize);
            *self
                .values
                .get_mut(at)
                .ok_or(Corrupt("a place in the chunk"))? = listed.u64()?;
        }
        Ok(())
    }

    /// Reads a stream of the head.
    pub(crate) fn decode_stream(
        &mut self,
        bytes: &[u8],
        count: u32,
        with_starts: bool,
    ) -> Result<(), Corrupt> {
        self.clear();
        floats::decode(bytes, count, with_starts, &mut |time, start, value| {
            self.times.push(time);
            if with_starts {
                self.starts.push(start);
            }
            self.values.push(value);
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::series::STALE_NAN;

    fn size(values: &[u64]) -> usize {
        let times: Vec<i64> = (0..values.len() as i64).map(|at| at * 15_000).collect();
        let bytes = encode(&times, &[], values);
        let mut columns = Columns::default();
        columns.decode(&bytes, values.len(), 0).unwrap();
        assert_eq!(columns.times, times);
        assert_eq!(columns.values, values);
        bytes.len()
    }

    #[test]
    fn a_gauge_of_two_digits_takes_what_its_course_takes() {
        let mut state = 7u64;
        let values: Vec<u64> = (0..480)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                (((state >> 40) % 100) as f64 / 100.0).to_bits()
            })
            .collect();
        assert!(size(&values) < 480 * 8 / 8, "{}", size(&values));
        let mut stale = values;
        stale[479] = STALE_NAN;
        assert!(size(&stale) < 500);
    }

    proptest! {
        #[test]
        fn any_bits_return(values in prop::collection::vec(any::<u64>(), 0..60)) {
            size(&values);
        }

        #[test]
        fn any_mix_returns(
            values in prop::collection::vec(prop_oneof![
                any::<i32>().prop_map(|whole| f64::from(whole) / 100.0),
                any::<i64>().prop_map(|whole| whole as f64),
                Just(0.0), Just(-0.0), Just(f64::NAN), Just(f64::INFINITY), Just(f64::NEG_INFINITY),
                Just(f64::from_bits(STALE_NAN)), Just(0.1 + 0.2), Just(1e300), Just(5e-324), Just(1e17),
            ], 1..80),
            starts in prop::collection::vec(any::<i64>(), 80),
        ) {
            let bits: Vec<u64> = values.iter().map(|value| value.to_bits()).collect();
            size(&bits);
            let times: Vec<i64> = (0..bits.len() as i64).collect();
            let bytes = encode(&times, &starts[..bits.len()], &bits);
            let mut columns = Columns::default();
            columns.decode(&bytes, bits.len(), 0).unwrap();
            prop_assert_eq!(&columns.values, &bits);
            prop_assert_eq!(&columns.starts, &starts[..bits.len()]);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60), count in 0usize..100) {
            let _ = Columns::default().decode(&bytes, count, 7);
        }
    }
}
