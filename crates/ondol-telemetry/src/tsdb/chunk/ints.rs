//! Whole numbers in as few bits as their course needs.
//!
//! The numbers are divided by what all their differences have in common, then taken as they are,
//! as differences, or as differences of differences, and written either in one fixed width above
//! their smallest (noise within a range) or as Golomb-Rice codes around their middle (bell-shaped
//! noise, rare outliers). The cost of every combination is computed and the cheapest is taken.
//! Arithmetic wraps, so any numbers are allowed.

use crate::tsdb::bytes::{
    BitReader, BitWriter, Corrupt, Reader, put_uvarint, put_varint, unzigzag, zigzag,
};

/// This many ones escape from a Golomb-Rice code to a number of 64 bits.
const ESCAPE: u8 = 24;

#[derive(Clone, Copy)]
enum Coder {
    /// Width; above the smallest.
    Fixed { least: i64, width: u8 },
    /// Bits of the remainder; around the middle.
    Rice { middle: i64, low: u8 },
}

struct Plan {
    order: u8,
    coder: Coder,
    bits: u64,
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

fn differences(values: &mut Vec<i64>) {
    for at in (1..values.len()).rev() {
        values[at] = values[at].wrapping_sub(values[at - 1]);
    }
    if !values.is_empty() {
        values.remove(0);
    }
}

fn plan(values: &[i64], order: u8, sorted: &mut Vec<i64>) -> Plan {
    let (Some(&least), Some(&most)) = (values.iter().min(), values.iter().max()) else {
        return Plan {
            order,
            coder: Coder::Fixed { least: 0, width: 0 },
            bits: 0,
        };
    };
    let range = most.wrapping_sub(least) as u64;
    let width = (64 - range.leading_zeros()) as u8;
    let mut best = Plan {
        order,
        coder: Coder::Fixed { least, width },
        bits: values.len() as u64 * u64::from(width),
    };
    if width < 3 && best.bits <= 64 {
        return best;
    }
    sorted.clear();
    sorted.extend_from_slice(values);
    let half = sorted.len() / 2;
    let middle = *sorted.select_nth_unstable(half).1;
    let sizes = sorted;
    for size in sizes.iter_mut() {
        *size = zigzag(size.wrapping_sub(middle)) as i64;
    }
    let typical = *sizes.select_nth_unstable(half).1 as u64;
    let around = 64 - typical.leading_zeros() as i32;
    for low in (around - 2).max(0)..=(around + 1).min(60) {
        let bits = sizes
            .iter()
            .map(|&size| {
                let ones = (size as u64) >> low;
                if ones >= u64::from(ESCAPE) {
                    u64::from(ESCAPE) + 64
                } else {
                    ones + 1 + low as u64
                }
            })
            .sum();
        if bits < best.bits {
            best = Plan {
                order,
                coder: Coder::Rice {
                    middle,
                    low: low as u8,
                },
                bits,
            };
        }
    }
    best
}

/// Appends the numbers. How many there are is not written.
pub(crate) fn encode(values: &[i64], out: &mut Vec<u8>) {
    let Some(&first) = values.first() else {
        return;
    };
    let mut divisor = 0;
    for pair in values.windows(2) {
        divisor = common_divisor(pair[1].wrapping_sub(pair[0]).unsigned_abs(), divisor);
        if divisor == 1 {
            break;
        }
    }
    // Differences that wrapped are not differences of the numbers themselves.
    let spread = values.iter().all(|value| value.unsigned_abs() < 1 << 62);
    let divisor = if spread && divisor > 1 {
        divisor as i64
    } else {
        1
    };
    let scaled: Vec<i64> = if divisor == 1 {
        values
            .iter()
            .map(|value| value.wrapping_sub(first))
            .collect()
    } else {
        values
            .iter()
            .map(|value| (value - first) / divisor)
            .collect()
    };
    let mut scratch = Vec::new();
    let mut course = scaled.clone();
    let mut best = plan(&course, 0, &mut scratch);
    for order in 1..=(values.len() - 1).min(2) as u8 {
        differences(&mut course);
        let next = plan(&course, order, &mut scratch);
        // The numbers a course begins with are written apart.
        if next.bits + 8 < best.bits {
            best = next;
        }
    }
    let low = match best.coder {
        Coder::Fixed { width, .. } => width,
        Coder::Rice { low, .. } => low,
    };
    let kind = best.order | (u8::from(matches!(best.coder, Coder::Rice { .. })) << 2);
    out.push(kind | (u8::from(divisor != 1) << 3));
    out.push(low);
    put_varint(out, first);
    if divisor != 1 {
        put_uvarint(out, divisor as u64);
    }
    let mut course = scaled;
    for _ in 0..best.order {
        if !course.is_empty() {
            put_varint(out, course[0]);
        }
        differences(&mut course);
    }
    match best.coder {
        Coder::Fixed { least, width } => {
            put_varint(out, least);
            let mut bits = BitWriter::after(std::mem::take(out));
            for value in course {
                bits.write(value.wrapping_sub(least) as u64, width);
            }
            *out = bits.into_bytes();
        }
        Coder::Rice { middle, low } => {
            put_varint(out, middle);
            let mut bits = BitWriter::after(std::mem::take(out));
            for value in course {
                let size = zigzag(value.wrapping_sub(middle));
                let ones = size >> low;
                if ones >= u64::from(ESCAPE) {
                    bits.write((1 << ESCAPE) - 1, ESCAPE);
                    bits.write(size, 64);
                } else {
                    bits.write(((1 << ones) - 1) << 1, ones as u8 + 1);
                    bits.write(size, low);
                }
            }
            *out = bits.into_bytes();
        }
    }
}

/// Appends `count` numbers to the column. They take all the bytes that are left.
pub(crate) fn decode(
    reader: &mut Reader<'_>,
    count: usize,
    into: &mut Vec<i64>,
) -> Result<(), Corrupt> {
    if count == 0 {
        return Ok(());
    }
    let kind = reader.byte()?;
    let width = reader.byte()?;
    let order = usize::from(kind & 3);
    if order > 2 || kind > 15 || width > 64 || order >= count {
        return Err(Corrupt("a known form of numbers"));
    }
    let first = reader.varint()?;
    let divisor = if kind & 8 == 0 {
        1
    } else {
        reader.uvarint()? as i64
    };
    let mut begins = [0i64; 2];
    for begin in begins.iter_mut().take(order) {
        *begin = reader.varint()?;
    }
    let base = reader.varint()?;
    let mut bits = BitReader::new(reader.rest());
    let rice = kind & 4 != 0;
    into.reserve(count);
    let mut next = || -> Result<i64, Corrupt> {
        if rice {
            let ones = bits.ones(ESCAPE)?;
            let size = if ones == ESCAPE {
                bits.read(64)?
            } else {
                (u64::from(ones) << width.min(63)) | bits.read(width)?
            };
            Ok(base.wrapping_add(unzigzag(size)))
        } else {
            Ok(base.wrapping_add(bits.read(width)? as i64))
        }
    };
    let mut put = |value: i64| into.push(first.wrapping_add(value.wrapping_mul(divisor)));
    match order {
        0 => {
            for _ in 0..count {
                put(next()?);
            }
        }
        1 => {
            let mut value = begins[0];
            put(value);
            for _ in 1..count {
                value = value.wrapping_add(next()?);
                put(value);
            }
        }
        _ => {
            let mut value = begins[0];
            let mut step = begins[1];
            put(value);
            value = value.wrapping_add(step);
            put(value);
            for _ in 2..count {
                step = step.wrapping_add(next()?);
                value = value.wrapping_add(step);
                put(value);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size(values: &[i64]) -> usize {
        let mut bytes = Vec::new();
        encode(values, &mut bytes);
        let mut back = Vec::new();
        decode(&mut Reader::new(&bytes), values.len(), &mut back).unwrap();
        assert_eq!(back, values);
        bytes.len()
    }

    #[test]
    fn regular_courses_take_no_bits() {
        assert!(size(&[5; 500]) < 6);
        assert!(size(&(0..500).map(|at| at * 15_000).collect::<Vec<_>>()) < 9);
        // A gap now and then.
        let gaps: Vec<i64> = (0..500).map(|at| (at + at / 100) * 15_000).collect();
        assert!(size(&gaps) < 80, "{}", size(&gaps));
    }

    proptest! {
        #[test]
        fn any_numbers_return(values in prop::collection::vec(any::<i64>(), 0..60)) {
            size(&values);
        }

        #[test]
        fn near_numbers_return(
            start in any::<i32>(),
            steps in prop::collection::vec(-50i64..5000, 0..300),
            factor in 1i64..5000,
        ) {
            let mut at = i64::from(start);
            let values: Vec<i64> = steps.iter().map(|step| { at += step * factor; at }).collect();
            size(&values);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..40), count in 0usize..100) {
            let _ = decode(&mut Reader::new(&bytes), count, &mut Vec::new());
        }
    }
}
