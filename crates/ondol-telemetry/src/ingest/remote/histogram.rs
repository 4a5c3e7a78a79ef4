//! Native histograms as both versions of remote write carry them.
//!
//! Counts of buckets are differences of neighbours for histograms of integers, and absolute for
//! histograms of floats.

use super::super::wire::{Field, Message, WireError, zigzag};
use crate::series::histogram::{CUSTOM_SCHEMA, MAX_SCHEMA, MIN_SCHEMA};
use crate::series::{Buckets, CounterReset, Histogram, STALE_NAN, Span};

/// Buckets of one side at most.
const MAX_BUCKETS: usize = 10_000;

/// A histogram with its times.
pub(super) struct Timed {
    pub(super) time: i64,
    pub(super) start: i64,
    pub(super) histogram: Result<Histogram, &'static str>,
}

#[derive(Default)]
struct Side {
    spans: Vec<Span>,
    deltas: Vec<i64>,
    counts: Vec<f64>,
}

impl Side {
    fn span(&mut self, field: &Field<'_>) -> Result<(), WireError> {
        let mut message = field.message()?;
        let mut span = Span {
            offset: 0,
            length: 0,
        };
        while let Some(field) = message.next()? {
            match field.number {
                1 => span.offset = field.zigzag()? as i32,
                2 => span.length = field.unsigned()? as u32,
                _ => {}
            }
        }
        // One more than may be is enough to tell that there are too many.
        if self.spans.len() <= MAX_BUCKETS {
            self.spans.push(span);
        }
        Ok(())
    }

    /// The buckets, and how many observations they hold.
    fn finish(self) -> Result<(Buckets, f64), &'static str> {
        let mut counts = self.counts;
        if counts.is_empty() {
            let mut sum = 0i64;
            for delta in self.deltas {
                sum = sum
                    .checked_add(delta)
                    .filter(|sum| *sum >= 0)
                    .ok_or("a bucket with less than nothing in it")?;
                counts.push(sum as f64);
            }
        }
        if counts.iter().any(|count| count.is_nan() || *count < 0.0) {
            return Err("a bucket with less than nothing in it");
        }
        let mut length = 0u64;
        for (at, span) in self.spans.iter().enumerate() {
            if at > 0 && span.offset < 0 {
                return Err("runs of buckets that overlap");
            }
            length += u64::from(span.length);
        }
        if length != counts.len() as u64 {
            return Err("runs and counts of buckets that do not fit together");
        }
        let total = counts.iter().sum();
        Ok((Buckets::new(self.spans, counts), total))
    }

    fn is_too_long(&self) -> bool {
        self.spans.len() > MAX_BUCKETS
            || self.deltas.len() > MAX_BUCKETS
            || self.counts.len() > MAX_BUCKETS
    }
}

/// Reads a message `Histogram`.
pub(super) fn read(mut message: Message<'_>) -> Result<Timed, WireError> {
    let mut histogram = Histogram::default();
    let (mut time, mut start) = (0, 0);
    let (mut negative, mut positive) = (Side::default(), Side::default());
    while let Some(field) = message.next()? {
        match field.number {
            1 => histogram.count = field.unsigned()? as f64,
            2 => histogram.count = field.double()?,
            3 => histogram.sum = field.double()?,
            4 => histogram.schema = field.zigzag()? as i32,
            5 => histogram.zero_threshold = field.double()?,
            6 => histogram.zero_count = field.unsigned()? as f64,
            7 => histogram.zero_count = field.double()?,
            8 => negative.span(&field)?,
            11 => positive.span(&field)?,
            9 | 12 => {
                let side = if field.number == 9 {
                    &mut negative
                } else {
                    &mut positive
                };
                field.each_varint(|value| {
                    if side.deltas.len() <= MAX_BUCKETS {
                        side.deltas.push(zigzag(value));
                    }
                    Ok(())
                })?;
            }
            10 | 13 => {
                let side = if field.number == 10 {
                    &mut negative
                } else {
                    &mut positive
                };
                field.each_fixed64(|value| {
                    if side.counts.len() <= MAX_BUCKETS {
                        side.counts.push(f64::from_bits(value));
                    }
                    Ok(())
                })?;
            }
            14 => {
                histogram.counter_reset = match field.unsigned()? {
                    1 => CounterReset::Reset,
                    2 => CounterReset::NotReset,
                    3 => CounterReset::Gauge,
                    _ => CounterReset::Unknown,
                };
            }
            15 => time = field.signed()?,
            16 => field.each_fixed64(|value| {
                if histogram.custom_values.len() <= MAX_BUCKETS {
                    histogram.custom_values.push(f64::from_bits(value));
                }
                Ok(())
            })?,
            17 => start = field.signed()?,
            _ => {}
        }
    }
    Ok(Timed {
        time,
        start,
        histogram: finish(histogram, negative, positive),
    })
}

fn finish(
    mut histogram: Histogram,
    negative: Side,
    positive: Side,
) -> Result<Histogram, &'static str> {
    if histogram.sum.to_bits() == STALE_NAN {
        return Ok(Histogram {
            sum: histogram.sum,
            ..Histogram::default()
        });
    }
    if negative.is_too_long()
        || positive.is_too_long()
        || histogram.custom_values.len() > MAX_BUCKETS
    {
        return Err("too many buckets");
    }
    match histogram.schema {
        CUSTOM_SCHEMA => {
            let rising = histogram
                .custom_values
                .windows(2)
                .all(|pair| pair[0] < pair[1]);
            if !rising || histogram.custom_values.iter().any(|bound| bound.is_nan()) {
                return Err("custom bounds that do not rise");
            }
            if !negative.spans.is_empty() || histogram.zero_count != 0.0 {
                return Err("custom bounds beside a zero bucket or negative buckets");
            }
        }
        MIN_SCHEMA..=MAX_SCHEMA if histogram.custom_values.is_empty() => {}
        MIN_SCHEMA..=MAX_SCHEMA => return Err("custom bounds beside an exponential schema"),
        _ => return Err("a schema that is not known"),
    }
    let finite = |value: f64| value.is_finite() && value >= 0.0;
    if !finite(histogram.zero_threshold)
        || !finite(histogram.zero_count)
        || !finite(histogram.count)
    {
        return Err("a count that is none");
    }
    let (negative, below) = negative.finish()?;
    let (positive, above) = positive.finish()?;
    let observed = below + above + histogram.zero_count;
    // Observations that are NaN are in no bucket; fractions round.
    if observed > histogram.count * (1.0 + 1e-9) + 1e-9 {
        return Err("more observations in its buckets than all together");
    }
    histogram.negative = negative;
    histogram.positive = positive;
    Ok(histogram)
}
