//! Native histograms.
//!
//! An exponential histogram of schema `n` has bucket bounds at the powers of `2^(2^-n)`; bucket
//! `i` holds what is above bound `i-1` and at most bound `i`, mirrored for negative values. What
//! is closer to zero than the zero threshold is in the zero bucket. A histogram with custom
//! bounds (schema −53) lists its upper bounds; its last bucket goes to infinity. Bucket counts
//! are absolute numbers, never differences of neighbours.

mod accumulate;
mod reset;
mod trim;

pub use accumulate::{Added, Incompatible, Kahan, Sum};

use std::fmt;

/// The schema of histograms with custom bounds.
pub const CUSTOM_SCHEMA: i32 = -53;
/// The coarsest exponential schema.
pub const MIN_SCHEMA: i32 = -4;
/// The finest exponential schema.
pub const MAX_SCHEMA: i32 = 8;

/// What is known about a restart of the count before a sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CounterReset {
    /// Nothing: the buckets have to be compared.
    #[default]
    Unknown,
    /// It restarted.
    Reset,
    /// It did not restart.
    NotReset,
    /// It is no counter.
    Gauge,
}

/// A run of buckets that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Buckets between the end of the run before and this one; for the first run its index.
    pub offset: i32,
    /// How many buckets it has.
    pub length: u32,
}

/// The counts of one side, by runs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Buckets {
    spans: Vec<Span>,
    counts: Vec<f64>,
}

impl Buckets {
    /// The buckets of these runs.
    ///
    /// Counts beyond the runs are dropped and missing ones are zero, so that the result is
    /// consistent whatever was given. Runs that would leave the range of indexes end the list.
    #[must_use]
    pub fn new(spans: Vec<Span>, mut counts: Vec<f64>) -> Self {
        let mut end: i32 = 0;
        let mut kept = Vec::with_capacity(spans.len());
        let mut total = 0usize;
        for span in spans {
            let Some(next) = end
                .checked_add(span.offset)
                .and_then(|start| start.checked_add(i32::try_from(span.length).ok()?))
            else {
                break;
            };
            // More buckets than counts were given for would only be zeros.
            total += span.length as usize;
            kept.push(span);
            end = next;
            if total >= counts.len() {
                break;
            }
        }
        counts.resize(total.min(1 << 20), 0.0);
        Self {
            spans: kept,
            counts,
        }
    }

    /// The buckets with these indexes, which have to rise.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (i32, f64)>) -> Self {
        let mut buckets = Self::default();
        let mut next: Option<i32> = None;
        for (index, count) in pairs {
            match next {
                Some(expected) if expected == index => {
                    if let Some(span) = buckets.spans.last_mut() {
                        span.length += 1;
                    }
                }
                _ => buckets.spans.push(Span {
                    offset: index.wrapping_sub(next.unwrap_or(0)),
                    length: 1,
                }),
            }
            buckets.counts.push(count);
            next = Some(index.wrapping_add(1));
        }
        buckets
    }

    /// Every bucket with its index, rising.
    pub fn iter(&self) -> impl Iterator<Item = (i32, f64)> + '_ {
        let mut position = 0i32;
        self.spans
            .iter()
            .flat_map(move |span| {
                let start = position.wrapping_add(span.offset);
                position = start.wrapping_add(span.length as i32);
                (0..span.length as i32).map(move |step| start.wrapping_add(step))
            })
            .zip(self.counts.iter().copied())
    }

    /// The runs.
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The counts, run after run.
    #[must_use]
    pub fn counts(&self) -> &[f64] {
        &self.counts
    }

    /// Whether there is no bucket at all, not even an empty one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            spans: self.spans.clone(),
            counts: self.counts.iter().map(|&count| change(count)).collect(),
        }
    }

    fn compacted(&self) -> Self {
        if self.counts.iter().all(|&count| count != 0.0) {
            return self.clone();
        }
        Self::from_pairs(self.iter().filter(|&(_, count)| count != 0.0))
    }
}

/// One bucket with its bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    /// Below every value in it.
    pub lower: f64,
    /// Above every value in it.
    pub upper: f64,
    /// Whether the lower bound itself is in it.
    pub lower_inclusive: bool,
    /// Whether the upper bound itself is in it.
    pub upper_inclusive: bool,
    /// How many observations it holds.
    pub count: f64,
}

/// A native histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// What is known about a restart before it.
    pub counter_reset: CounterReset,
    /// −4 to 8, or [`CUSTOM_SCHEMA`].
    pub schema: i32,
    /// Observations at most this far from zero are in the zero bucket.
    pub zero_threshold: f64,
    /// Observations in the zero bucket.
    pub zero_count: f64,
    /// All observations, those that are NaN included.
    pub count: f64,
    /// The sum of all observations; NaN when one of them is, or the marker that ends a series.
    pub sum: f64,
    /// Buckets above zero, or all buckets of a histogram with custom bounds.
    pub positive: Buckets,
    /// Buckets below zero, counted away from zero.
    pub negative: Buckets,
    /// Upper bounds of custom buckets, rising, without infinity.
    pub custom_values: Vec<f64>,
}

impl Histogram {
    /// Whether it has custom bounds.
    #[must_use]
    pub fn is_custom(&self) -> bool {
        self.schema == CUSTOM_SCHEMA
    }

    /// How many numbers it is made of, in units of a float sample.
    #[must_use]
    pub fn weight(&self) -> usize {
        let numbers = self.positive.counts.len()
            + self.positive.spans.len()
            + self.negative.counts.len()
            + self.negative.spans.len()
            + self.custom_values.len();
        10 + numbers / 2
    }

    /// Every observation counted `factor` times. A negative factor makes a gauge.
    #[must_use]
    pub fn multiplied(&self, factor: f64) -> Self {
        self.scaled(factor < 0.0, |value| value * factor)
    }

    /// Every count and the sum divided. A negative divisor makes a gauge; zero leaves no buckets.
    #[must_use]
    pub fn divided(&self, divisor: f64) -> Self {
        let mut result = self.scaled(divisor < 0.0, |value| value / divisor);
        if divisor == 0.0 {
            result.positive = Buckets::default();
            result.negative = Buckets::default();
        }
        result
    }

    fn scaled(&self, gauge: bool, change: impl Fn(f64) -> f64) -> Self {
        Self {
            counter_reset: if gauge {
                CounterReset::Gauge
            } else {
                self.counter_reset
            },
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: change(self.zero_count),
            count: change(self.count),
            sum: change(self.sum),
            positive: self.positive.map(&change),
            negative: self.negative.map(&change),
            custom_values: self.custom_values.clone(),
        }
    }

    /// Without buckets that hold nothing.
    #[must_use]
    pub fn compacted(&self) -> Self {
        Self {
            positive: self.positive.compacted(),
            negative: self.negative.compacted(),
            custom_values: self.custom_values.clone(),
            ..*self
        }
    }

    /// Whether both say the same, except for what is known about a restart. Empty buckets count,
    /// and NaN equals itself.
    #[must_use]
    pub fn equals(&self, other: &Self) -> bool {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || a == b;
        let same_side = |a: &Buckets, b: &Buckets| {
            a.counts.len() == b.counts.len()
                && a.iter()
                    .zip(b.iter())
                    .all(|(x, y)| x.0 == y.0 && same(x.1, y.1))
        };
        self.schema == other.schema
            && same(self.count, other.count)
            && same(self.sum, other.sum)
            && (!self.is_custom() || self.custom_values == other.custom_values)
            && self.zero_threshold == other.zero_threshold
            && same(self.zero_count, other.zero_count)
            && same_side(&self.positive, &other.positive)
            && same_side(&self.negative, &other.negative)
    }

    /// The upper bound of the positive bucket with this index.
    #[must_use]
    pub fn bound(&self, index: i32) -> f64 {
        if self.is_custom() {
            if index < 0 {
                return f64::NEG_INFINITY;
            }
            return self
                .custom_values
                .get(index as usize)
                .copied()
                .unwrap_or(f64::INFINITY);
        }
        exponential_bound(index, self.schema)
    }

    /// The zero bucket.
    #[must_use]
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// Positive buckets, away from zero.
    pub fn positive_buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.positive.iter().map(|(index, count)| Bucket {
            lower: self.bound(index.wrapping_sub(1)),
            upper: self.bound(index),
            // The lowest custom bucket has no neighbour that could hold its lower bound.
            lower_inclusive: self.is_custom() && index == 0,
            upper_inclusive: true,
            count,
        })
    }

    /// Negative buckets, away from zero.
    pub fn negative_buckets(&self) -> impl Iterator<Item = Bucket> + '_ {
        self.negative.iter().map(|(index, count)| Bucket {
            lower: -self.bound(index),
            upper: -self.bound(index.wrapping_sub(1)),
            lower_inclusive: true,
            upper_inclusive: false,
            count,
        })
    }

    /// All buckets from the lowest to the highest, the zero bucket among them when it holds
    /// something. Buckets that reach into the zero bucket are cut at its threshold.
    #[must_use]
    pub fn all_buckets(&self) -> Vec<Bucket> {
        let mut buckets: Vec<Bucket> = self
            .negative_buckets()
            .filter(|bucket| self.is_custom() || bucket.lower < -self.zero_threshold)
            .map(|mut bucket| {
                if !self.is_custom() {
                    bucket.upper = bucket.upper.min(-self.zero_threshold);
                }
                bucket
            })
            .collect();
        buckets.reverse();
        if self.zero_count > 0.0 {
            buckets.push(self.zero_bucket());
        }
        buckets.extend(
            self.positive_buckets()
                .filter(|bucket| self.is_custom() || bucket.upper > self.zero_threshold)
                .map(|mut bucket| {
                    if !self.is_custom() {
                        bucket.lower = bucket.lower.max(self.zero_threshold);
                    }
                    bucket
                }),
        );
        buckets
    }
}

/// The upper bound of bucket `index` of an exponential schema.
fn exponential_bound(index: i32, schema: i32) -> f64 {
    let (fraction, exponent) = if schema < 0 {
        let exponent = i64::from(index) << -schema;
        if exponent == 1024 {
            return f64::MAX;
        }
        (1.0, exponent)
    } else {
        let steps = 1i32 << schema;
        let within = index & (steps - 1);
        let exponent = i64::from(index >> schema);
        if within == 0 && exponent == 1024 {
            return f64::MAX;
        }
        ((f64::from(within) / f64::from(steps)).exp2(), exponent)
    };
    scale_by_power_of_two(fraction, exponent)
}

/// `value * 2^exponent`, rounded once.
fn scale_by_power_of_two(value: f64, exponent: i64) -> f64 {
    let exponent = exponent.clamp(-2200, 2200) as i32;
    let half = exponent / 2;
    value * 2f64.powi(half) * 2f64.powi(exponent - half)
}

/// The index, in a coarser schema, of the bucket that holds bucket `index` of a finer one.
fn coarser_index(index: i32, from: i32, to: i32) -> i32 {
    ((index.wrapping_sub(1)) >> (from - to)).wrapping_add(1)
}

/// As Prometheus prints a histogram: its count, its sum and its buckets.
impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::promql::format_float;
        write!(
            f,
            "{{count:{}, sum:{}",
            format_float(self.count),
            format_float(self.sum)
        )?;
        for bucket in self.all_buckets() {
            if bucket.count == 0.0 {
                continue;
            }
            write!(
                f,
                ", {}{},{}{}:{}",
                if bucket.lower_inclusive { '[' } else { '(' },
                format_float(bucket.lower),
                format_float(bucket.upper),
                if bucket.upper_inclusive { ']' } else { ')' },
                format_float(bucket.count)
            )?;
        }
        f.write_str("}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers_of_two_to_the_schema() {
        assert_eq!(exponential_bound(0, 0), 1.0);
        assert_eq!(exponential_bound(3, 0), 8.0);
        assert_eq!(exponential_bound(-1, 0), 0.5);
        assert_eq!(exponential_bound(1, -1), 4.0);
        assert!((exponential_bound(1, 1) - std::f64::consts::SQRT_2).abs() < 1e-15);
        assert_eq!(exponential_bound(1024, 0), f64::MAX);
        assert_eq!(exponential_bound(1025, 0), f64::INFINITY);
        assert_eq!(coarser_index(2, 1, 0), 1);
        assert_eq!(coarser_index(3, 1, 0), 2);
    }

    #[test]
    fn runs_and_indexes_are_the_same_thing() {
        let buckets = Buckets::from_pairs([(-2, 1.0), (-1, 2.0), (3, 4.0)]);
        assert_eq!(
            buckets.spans(),
            [
                Span {
                    offset: -2,
                    length: 2
                },
                Span {
                    offset: 3,
                    length: 1
                }
            ]
        );
        assert_eq!(
            buckets.iter().collect::<Vec<_>>(),
            [(-2, 1.0), (-1, 2.0), (3, 4.0)]
        );
        let wild = Buckets::new(
            vec![Span {
                offset: i32::MAX,
                length: u32::MAX,
            }],
            vec![1.0],
        );
        assert!(wild.is_empty());
    }
}
