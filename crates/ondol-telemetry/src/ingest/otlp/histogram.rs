//! Points of histograms: explicit bounds become classic series, exponential ones are native.

use std::sync::Arc;

use super::attributes::Attributes;
use super::number::read_exemplar;
use super::{Converter, Metric, Point, Temporality, milliseconds};
use crate::ingest::wire::{Message, WireError};
use crate::promql::format_plain;
use crate::series::histogram::{MAX_SCHEMA, MIN_SCHEMA};
use crate::series::{
    Buckets, CounterReset, Exemplar, Histogram, HistogramSample, METRIC_NAME, Refusal, STALE_NAN,
};

/// Buckets of one point at most.
const MAX_BUCKETS: usize = 10_000;

#[derive(Default)]
struct Side {
    offset: i32,
    counts: Vec<f64>,
}

impl Side {
    fn read(&mut self, mut message: Message<'_>) -> Result<(), WireError> {
        while let Some(field) = message.next()? {
            match field.number {
                1 => self.offset = field.zigzag()? as i32,
                2 => field.each_varint(|count| {
                    if self.counts.len() <= MAX_BUCKETS {
                        self.counts.push(count as f64);
                    }
                    Ok(())
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The buckets, in a schema that is `coarser` steps below the scale they came in. Bucket `i`
    /// of OpenTelemetry ends at the bound of `i + 1`.
    fn buckets(self, coarser: u32) -> Option<Buckets> {
        let mut pairs: Vec<(i32, f64)> = Vec::new();
        for (place, count) in self.counts.into_iter().enumerate() {
            if count == 0.0 {
                continue;
            }
            let index = self.offset.checked_add(i32::try_from(place).ok()?)?;
            let index = (index >> coarser.min(31)).checked_add(1)?;
            match pairs.last_mut() {
                Some((last, sum)) if *last == index => *sum += count,
                _ => pairs.push((index, count)),
            }
        }
        Some(Buckets::from_pairs(pairs))
    }
}

impl Converter<'_> {
    /// A point of a histogram with explicit bounds.
    pub(super) fn explicit(
        &mut self,
        metric: &Metric<'_>,
        mut message: Message<'_>,
    ) -> Result<(), WireError> {
        let mut point = Point::default();
        let (mut count, mut sum) = (0.0, None);
        let (mut counts, mut bounds): (Vec<u64>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut attributes = Attributes::default();
        let mut exemplars = Vec::new();
        while let Some(field) = message.next()? {
            match field.number {
                2 => point.start = milliseconds(field.fixed64()?),
                3 => point.time = milliseconds(field.fixed64()?),
                4 => count = field.fixed64()? as f64,
                5 => sum = Some(field.double()?),
                6 => field.each_fixed64(|value| {
                    if counts.len() <= MAX_BUCKETS {
                        counts.push(value);
                    }
                    Ok(())
                })?,
                7 => field.each_fixed64(|value| {
                    if bounds.len() <= MAX_BUCKETS {
                        bounds.push(f64::from_bits(value));
                    }
                    Ok(())
                })?,
                8 => read_exemplar(&field, &mut exemplars)?,
                9 => attributes.read(field.message()?)?,
                10 => point.absent = field.unsigned()? & 1 != 0,
                _ => {}
            }
        }
        let fits = counts.is_empty() && bounds.is_empty() || counts.len() == bounds.len() + 1;
        let rising = bounds.windows(2).all(|pair| pair[0] < pair[1]);
        if !fits || !rising || counts.len() > MAX_BUCKETS {
            self.refuse(
                Refusal::Labels,
                format!("a histogram of {} with bounds that do not fit", metric.name),
            );
            return Ok(());
        }
        let labels = self.labels(&attributes);
        if let Some(sum) = sum {
            let mut labels = labels.clone();
            labels.set(METRIC_NAME, &format!("{}_sum", metric.name));
            self.push(labels.build(), metric, point, sum);
        }
        let mut whole = labels.clone();
        whole.set(METRIC_NAME, &format!("{}_count", metric.name));
        self.push(whole.build(), metric, point, count);
        let bucket = format!("{}_bucket", metric.name);
        let mut below = 0.0;
        let upper = bounds.iter().copied().filter(|bound| bound.is_finite());
        let last = (f64::INFINITY, count);
        let mut lower = f64::NEG_INFINITY;
        for (bound, total) in upper
            .zip(counts)
            .map(|(bound, held)| {
                below += held as f64;
                (bound, below)
            })
            .chain([last])
        {
            let mut labels = labels.clone();
            labels.set(METRIC_NAME, &bucket);
            labels.set("le", &format_plain(bound));
            if let Some(series) = self.push(labels.build(), metric, point, total) {
                let inside =
                    |exemplar: &&Exemplar| exemplar.value > lower && exemplar.value <= bound;
                let found = exemplars.iter().filter(inside).cloned();
                self.out
                    .batch
                    .exemplars
                    .extend(found.map(|exemplar| (series, exemplar)));
            }
            lower = bound;
        }
        Ok(())
    }

    /// A point of an exponential histogram.
    pub(super) fn exponential(
        &mut self,
        metric: &Metric<'_>,
        mut message: Message<'_>,
    ) -> Result<(), WireError> {
        let mut point = Point::default();
        let mut scale = 0;
        let mut histogram = Histogram::default();
        let (mut positive, mut negative) = (Side::default(), Side::default());
        let mut attributes = Attributes::default();
        let mut exemplars = Vec::new();
        while let Some(field) = message.next()? {
            match field.number {
                1 => attributes.read(field.message()?)?,
                2 => point.start = milliseconds(field.fixed64()?),
                3 => point.time = milliseconds(field.fixed64()?),
                4 => histogram.count = field.fixed64()? as f64,
                5 => histogram.sum = field.double()?,
                6 => scale = field.zigzag()?,
                7 => histogram.zero_count = field.fixed64()? as f64,
                8 => positive.read(field.message()?)?,
                9 => negative.read(field.message()?)?,
                10 => point.absent = field.unsigned()? & 1 != 0,
                11 => read_exemplar(&field, &mut exemplars)?,
                14 => histogram.zero_threshold = field.double()?,
                _ => {}
            }
        }
        let mut labels = self.labels(&attributes);
        labels.set(METRIC_NAME, metric.name);
        let labels = labels.build();
        let (value, start) = if point.absent {
            let stale = Histogram {
                sum: f64::from_bits(STALE_NAN),
                ..Histogram::default()
            };
            (Arc::new(stale), point.start)
        } else {
            let coarser = scale.saturating_sub(i64::from(MAX_SCHEMA)).clamp(0, 31) as u32;
            let fits = scale >= i64::from(MIN_SCHEMA)
                && positive.counts.len() <= MAX_BUCKETS
                && negative.counts.len() <= MAX_BUCKETS
                && histogram.zero_threshold >= 0.0;
            let sides = (positive.buckets(coarser), negative.buckets(coarser));
            let (true, (Some(positive), Some(negative))) = (fits, sides) else {
                self.refuse(
                    Refusal::Labels,
                    format!("an exponential histogram of {labels} with scale {scale} or too many buckets"),
                );
                return Ok(());
            };
            histogram.schema = scale.min(i64::from(MAX_SCHEMA)) as i32;
            histogram.positive = positive;
            histogram.negative = negative;
            histogram.counter_reset = CounterReset::Unknown;
            if metric.temporality == Temporality::Delta {
                match self.staged.histogram(
                    self.deltas,
                    &labels,
                    point.start,
                    point.time,
                    histogram,
                ) {
                    Ok((start, total)) => (total, start),
                    Err(why) => {
                        self.refuse(why, format!("a delta of {labels} at {} ms", point.time));
                        return Ok(());
                    }
                }
            } else {
                (Arc::new(histogram), point.start)
            }
        };
        self.latest = self.latest.max(point.time);
        let series = self.out.batch.add_series(labels);
        self.out.batch.histograms.push(HistogramSample {
            series,
            time: point.time,
            start,
            value,
        });
        let place = exemplars.into_iter().map(|exemplar| (series, exemplar));
        self.out.batch.exemplars.extend(place);
        Ok(())
    }
}
