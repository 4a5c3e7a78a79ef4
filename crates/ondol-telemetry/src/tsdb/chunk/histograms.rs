//! Native histograms, each as its difference from the one before.
//!
//! The layout (schema, zero threshold, bounds, runs of buckets) is written when it changes.
//! Counts that are whole numbers are differences of neighbours in time; others are exclusive-or.
//! A sample carries what is known about a restart before it, so that nothing has to be compared
//! again when it is read.

use std::sync::Arc;

use crate::series::{Buckets, CounterReset, Histogram, Span, is_stale_nan};
use crate::tsdb::bytes::{Corrupt, Reader, put_uvarint, put_varint};

const LAYOUT: u8 = 1;
const START: u8 = 2;
const WHOLE: u8 = 4;
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A stream that is still written.
#[derive(Clone, Debug)]
pub(crate) struct HistogramStream {
    bytes: Vec<u8>,
    last: Arc<Histogram>,
    last_whole: bool,
    last_time: i64,
    last_start: i64,
    step: i64,
    pub(crate) first_time: i64,
    pub(crate) count: u32,
}

fn same_layout(a: &Histogram, b: &Histogram) -> bool {
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive.spans() == b.positive.spans()
        && a.negative.spans() == b.negative.spans()
        && a.positive.counts().len() == b.positive.counts().len()
        && a.negative.counts().len() == b.negative.counts().len()
        && same_bits(&a.custom_values, &b.custom_values)
}

fn same_bits(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// Whether a histogram certainly follows another without a restart.
pub(crate) fn continues(previous: &Histogram, next: &Histogram) -> bool {
    if previous.counter_reset == CounterReset::Gauge
        || matches!(
            next.counter_reset,
            CounterReset::Reset | CounterReset::Gauge
        )
        || is_stale_nan(previous.sum)
        || is_stale_nan(next.sum)
        || previous.schema != next.schema
        || previous.zero_threshold != next.zero_threshold
        || previous.custom_values != next.custom_values
    {
        return false;
    }
    if next.counter_reset == CounterReset::Unknown {
        return !next.detects_reset(previous);
    }
    let mut unknown = next.clone();
    unknown.counter_reset = CounterReset::Unknown;
    !unknown.detects_reset(previous)
}

fn numbers(histogram: &Histogram) -> impl Iterator<Item = f64> + '_ {
    [histogram.count, histogram.zero_count]
        .into_iter()
        .chain(histogram.positive.counts().iter().copied())
        .chain(histogram.negative.counts().iter().copied())
}

fn is_whole(value: f64) -> bool {
    value.abs() < EXACT && (value as i64 as f64).to_bits() == value.to_bits()
}

fn put_runs(out: &mut Vec<u8>, side: &Buckets) {
    put_uvarint(out, side.spans().len() as u64);
    for span in side.spans() {
        put_varint(out, i64::from(span.offset));
        put_uvarint(out, u64::from(span.length));
    }
    put_uvarint(out, side.counts().len() as u64);
}

impl HistogramStream {
    /// A stream of one sample.
    pub(crate) fn new(time: i64, start: i64, value: &Arc<Histogram>) -> Self {
        let mut stream = Self {
            bytes: Vec::new(),
            last: Arc::new(Histogram::default()),
            last_whole: false,
            last_time: 0,
            last_start: 0,
            step: 0,
            first_time: time,
            count: 0,
        };
        stream.push(time, start, value);
        stream
    }

    /// Appends a sample.
    pub(crate) fn push(&mut self, time: i64, start: i64, value: &Arc<Histogram>) {
        let out = &mut self.bytes;
        let layout = self.count == 0 || !same_layout(&self.last, value);
        let whole = numbers(value).all(is_whole);
        let moved = start != self.last_start;
        let reset = match value.counter_reset {
            CounterReset::Unknown => 0u8,
            CounterReset::Reset => 1,
            CounterReset::NotReset => 2,
            CounterReset::Gauge => 3,
        };
        out.push(
            (u8::from(layout) * LAYOUT)
                | (u8::from(moved) * START)
                | (u8::from(whole) * WHOLE)
                | (reset << 3),
        );
        let step = time.wrapping_sub(self.last_time);
        put_varint(out, step.wrapping_sub(self.step));
        if moved {
            put_varint(out, start);
        }
        if layout {
            put_varint(out, i64::from(value.schema));
            out.extend_from_slice(&value.zero_threshold.to_bits().to_le_bytes());
            put_uvarint(out, value.custom_values.len() as u64);
            for bound in &value.custom_values {
                out.extend_from_slice(&bound.to_bits().to_le_bytes());
            }
            put_runs(out, &value.positive);
            put_runs(out, &value.negative);
        }
        let alike = !layout && whole == self.last_whole;
        put_uvarint(
            out,
            (value.sum.to_bits() ^ if alike { self.last.sum.to_bits() } else { 0 }).swap_bytes(),
        );
        let last = Arc::clone(&self.last);
        let mut before = numbers(&last);
        let mut neighbour = 0i64;
        for number in numbers(value) {
            let previous = if alike {
                before.next().unwrap_or(0.0)
            } else {
                0.0
            };
            if !whole {
                put_uvarint(out, (number.to_bits() ^ previous.to_bits()).swap_bytes());
            } else if alike {
                put_varint(out, number as i64 - previous as i64);
            } else {
                put_varint(out, number as i64 - neighbour);
                neighbour = number as i64;
            }
        }
        self.last = Arc::clone(value);
        self.last_whole = whole;
        self.step = if self.count == 0 { 0 } else { step };
        self.last_time = time;
        self.last_start = start;
        self.count += 1;
    }

    pub(crate) fn last(&self) -> &Arc<Histogram> {
        &self.last
    }

    pub(crate) fn last_time(&self) -> i64 {
        self.last_time
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn runs(reader: &mut Reader<'_>) -> Result<(Vec<Span>, usize), Corrupt> {
    let count = reader.count(2)?;
    let mut spans = Vec::with_capacity(count);
    for _ in 0..count {
        spans.push(Span {
            offset: i32::try_from(reader.varint()?).map_err(|_| Corrupt("an offset"))?,
            length: u32::try_from(reader.uvarint()?).map_err(|_| Corrupt("a length"))?,
        });
    }
    // Each bucket takes a byte at least.
    Ok((spans, reader.count(1)?))
}

/// Hands out the samples: time, start, histogram.
pub(crate) fn decode(
    bytes: &[u8],
    count: u32,
    take: &mut impl FnMut(i64, i64, Arc<Histogram>),
) -> Result<(), Corrupt> {
    let mut reader = Reader::new(bytes);
    let (mut time, mut step, mut start) = (0i64, 0i64, 0i64);
    let mut schema = 0;
    let mut zero_threshold = 0.0;
    let mut bounds: Vec<f64> = Vec::new();
    let mut positive = (Vec::new(), 0);
    let mut negative = (Vec::new(), 0);
    let mut before: Vec<f64> = Vec::new();
    let (mut last_sum, mut last_whole) = (0u64, false);
    for at in 0..count {
        let flags = reader.byte()?;
        step = step.wrapping_add(reader.varint()?);
        time = time.wrapping_add(step);
        if at == 0 {
            step = 0;
        }
        if flags & START != 0 {
            start = reader.varint()?;
        }
        let layout = flags & LAYOUT != 0;
        if layout {
            schema = i32::try_from(reader.varint()?).map_err(|_| Corrupt("a schema"))?;
            zero_threshold = f64::from_bits(reader.u64()?);
            let custom = reader.count(8)?;
            bounds.clear();
            for _ in 0..custom {
                bounds.push(f64::from_bits(reader.u64()?));
            }
            positive = runs(&mut reader)?;
            negative = runs(&mut reader)?;
        }
        let whole = flags & WHOLE != 0;
        let alike = !layout && whole == last_whole;
        let sum = reader.uvarint()?.swap_bytes() ^ if alike { last_sum } else { 0 };
        let total = 2 + positive.1 + negative.1;
        if !alike {
            before.clear();
        }
        before.resize(total, 0.0);
        let mut neighbour = 0i64;
        for number in &mut before {
            *number = if !whole {
                f64::from_bits(number.to_bits() ^ reader.uvarint()?.swap_bytes())
            } else if alike {
                (*number as i64).wrapping_add(reader.varint()?) as f64
            } else {
                neighbour = neighbour.wrapping_add(reader.varint()?);
                neighbour as f64
            };
        }
        (last_sum, last_whole) = (sum, whole);
        take(
            time,
            start,
            Arc::new(Histogram {
                counter_reset: match (flags >> 3) & 3 {
                    0 => CounterReset::Unknown,
                    1 => CounterReset::Reset,
                    2 => CounterReset::NotReset,
                    _ => CounterReset::Gauge,
                },
                schema,
                zero_threshold,
                zero_count: before[1],
                count: before[0],
                sum: f64::from_bits(sum),
                positive: Buckets::new(positive.0.clone(), before[2..2 + positive.1].to_vec()),
                negative: Buckets::new(negative.0.clone(), before[2 + positive.1..].to_vec()),
                custom_values: bounds.clone(),
            }),
        );
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_histogram() -> impl Strategy<Value = Histogram> {
        let number = prop_oneof![(0u32..1000).prop_map(f64::from), any::<f64>(), Just(-0.0)];
        let side = prop::collection::vec((1i32..4, number.clone()), 0..6);
        (
            prop_oneof![Just(-53i32), -4i32..9],
            prop::collection::vec(number, 4),
            side.clone(),
            side,
            prop::collection::vec(any::<f64>(), 0..3),
            0u8..4,
        )
            .prop_map(
                |(schema, numbers, positive, negative, custom_values, reset)| {
                    let buckets = |side: Vec<(i32, f64)>| {
                        let mut index = -3;
                        Buckets::from_pairs(side.into_iter().map(|(gap, count)| {
                            index += gap;
                            (index, count)
                        }))
                    };
                    Histogram {
                        counter_reset: [
                            CounterReset::Unknown,
                            CounterReset::Reset,
                            CounterReset::NotReset,
                            CounterReset::Gauge,
                        ][usize::from(reset)],
                        schema,
                        zero_threshold: numbers[0],
                        zero_count: numbers[1],
                        count: numbers[2],
                        sum: numbers[3],
                        positive: buckets(positive),
                        negative: buckets(negative),
                        custom_values,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn any_histograms_return(samples in prop::collection::vec((any::<i64>(), any::<i64>(), any_histogram()), 1..12)) {
            let samples: Vec<_> = samples
                .into_iter()
                .map(|(time, start, value)| (time, start, Arc::new(value)))
                .collect();
            let mut stream = HistogramStream::new(samples[0].0, samples[0].1, &samples[0].2);
            for (time, start, value) in &samples[1..] {
                stream.push(*time, *start, value);
            }
            let mut back = Vec::new();
            decode(stream.bytes(), stream.count, &mut |time, start, value| {
                back.push((time, start, value));
            }).unwrap();
            // Debug text tells NaN and the sign of zero apart from nothing else.
            prop_assert_eq!(format!("{back:?}"), format!("{samples:?}"));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..80), count in 0u32..20) {
            let _ = decode(&bytes, count, &mut |_, _, _| {});
        }
    }
}
