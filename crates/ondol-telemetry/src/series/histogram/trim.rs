//! Cutting a histogram at a value.
//!
//! A bucket that the value lies in keeps the share that interpolation gives it: logarithmic in
//! exponential buckets, linear in custom ones and in the zero bucket. The sum is estimated from
//! the middle of each bucket, unless nothing was cut. What a bucket without an end holds beyond
//! the value is unknown, so such a bucket goes whole.

use super::{Bucket, Buckets, Histogram};

/// Which side of the value stays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Below,
    Above,
}

/// Which scale values in a bucket are spread on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Positive,
    Negative,
}

impl Histogram {
    /// The observations of at most `value`.
    #[must_use]
    pub fn trimmed_above(&self, value: f64) -> Self {
        self.trimmed(value, Keep::Below)
    }

    /// The observations of at least `value`.
    #[must_use]
    pub fn trimmed_below(&self, value: f64) -> Self {
        self.trimmed(value, Keep::Above)
    }

    fn trimmed(&self, value: f64, keep: Keep) -> Self {
        let mut totals = Totals::default();
        let custom = self.is_custom();
        let scale = |exponential| if custom { Scale::Linear } else { exponential };
        let (positive, has_positive) = trim_side(
            &self.positive,
            self.positive_buckets(),
            value,
            keep,
            scale(Scale::Positive),
            &mut totals,
        );
        let (negative, has_negative) = trim_side(
            &self.negative,
            self.negative_buckets(),
            value,
            keep,
            scale(Scale::Negative),
            &mut totals,
        );
        let mut zero_count = self.zero_count;
        if self.zero_count > 0.0 {
            let mut zero = self.zero_bucket();
            // With observations on one side only, those in the zero bucket are on that side too.
            if has_negative && !has_positive {
                zero.upper = 0.0;
            }
            if has_positive && !has_negative {
                zero.lower = 0.0;
            }
            let (kept, middle) = split_finite(&zero, value, keep, Scale::Linear);
            if kept != self.zero_count {
                zero_count = kept;
                totals.changed = true;
            }
            totals.take(kept, middle);
        }
        if !totals.changed {
            return self.clone();
        }
        Self {
            zero_count,
            count: totals.count,
            sum: totals.sum,
            positive,
            negative,
            custom_values: self.custom_values.clone(),
            ..*self
        }
        .compacted()
    }
}

#[derive(Default)]
struct Totals {
    count: f64,
    sum: f64,
    changed: bool,
}

impl Totals {
    fn take(&mut self, count: f64, middle: f64) {
        self.count += count;
        self.sum += middle * count;
    }
}

/// The side after the cut, and whether it held anything before.
fn trim_side(
    side: &Buckets,
    buckets: impl Iterator<Item = Bucket>,
    value: f64,
    keep: Keep,
    scale: Scale,
    totals: &mut Totals,
) -> (Buckets, bool) {
    let mut held = false;
    let pairs: Vec<(i32, f64)> = side
        .iter()
        .zip(buckets)
        .map(|((index, count), bucket)| {
            if count == 0.0 {
                return (index, count);
            }
            held = true;
            let (whole, part) = match keep {
                Keep::Below => (bucket.upper <= value, bucket.lower < value),
                Keep::Above => (bucket.lower >= value, bucket.upper > value),
            };
            let kept = if whole {
                totals.take(count, middle(bucket.lower, bucket.upper, scale));
                count
            } else if part {
                let (kept, middle) = if bucket.lower.is_infinite() || bucket.upper.is_infinite() {
                    split_endless(&bucket, value, keep)
                } else {
                    split_finite(&bucket, value, keep, scale)
                };
                totals.take(kept, middle);
                kept
            } else {
                0.0
            };
            totals.changed |= kept != count;
            (index, kept)
        })
        .collect();
    (Buckets::from_pairs(pairs), held)
}

/// How much of a bucket stays, and the middle of what stays.
fn split_finite(bucket: &Bucket, value: f64, keep: Keep, scale: Scale) -> (f64, f64) {
    let (lower, upper) = (bucket.lower, bucket.upper);
    let below = if value <= lower {
        0.0
    } else if value >= upper {
        1.0
    } else {
        let log = |bound: f64| bound.abs().log2();
        match scale {
            Scale::Linear => (value - lower) / (upper - lower),
            Scale::Positive => (log(value) - log(lower)) / (log(upper) - log(lower)),
            Scale::Negative => 1.0 - (log(value) - log(upper)) / (log(lower) - log(upper)),
        }
    };
    let cut = value.clamp(lower.min(upper), upper.max(lower));
    match keep {
        Keep::Below => (bucket.count * below, middle(lower, cut, scale)),
        Keep::Above => (
            bucket.count - bucket.count * below,
            middle(cut, upper, scale),
        ),
    }
}

/// The same for a bucket that has no lower or no upper end.
fn split_endless(bucket: &Bucket, value: f64, keep: Keep) -> (f64, f64) {
    let count = bucket.count;
    if bucket.lower == f64::NEG_INFINITY {
        // A lowest bucket that reaches above zero is taken to start at zero.
        let from_zero = bucket.upper > 0.0 && bucket.upper.is_finite();
        return match keep {
            Keep::Below if from_zero && value > 0.0 => (count * value / bucket.upper, value / 2.0),
            Keep::Below if bucket.upper <= 0.0 => (count, value),
            Keep::Above if from_zero && value >= 0.0 => (
                count * (1.0 - value / bucket.upper),
                (value + bucket.upper) / 2.0,
            ),
            _ => (0.0, 0.0),
        };
    }
    match keep {
        Keep::Above if value >= bucket.lower => (count, value),
        _ => (0.0, 0.0),
    }
}

/// The value that stands for all values between two bounds.
fn middle(lower: f64, upper: f64, scale: Scale) -> f64 {
    match (lower.is_infinite(), upper.is_infinite()) {
        (true, true) => 0.0,
        (true, false) if upper > 0.0 => upper / 2.0,
        (true, false) => upper,
        (false, true) => lower,
        (false, false) => match scale {
            Scale::Linear => f64::midpoint(lower, upper),
            Scale::Positive => (lower * upper).abs().sqrt(),
            Scale::Negative => -(lower * upper).abs().sqrt(),
        },
    }
}
