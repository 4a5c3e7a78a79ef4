//! Quantiles and fractions of samples, of classic buckets and of native histograms.

use super::annotations::Remark;
use crate::series::{Bucket, Histogram};

/// The quantile of values that are sorted, NaN first.
pub(super) fn quantile_sorted(q: f64, sorted: &[f64]) -> f64 {
    if sorted.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    let last = sorted.len() - 1;
    let rank = q * last as f64;
    let lower = rank.floor().max(0.0);
    let weight = rank - lower;
    let lower = (lower as usize).min(last);
    let upper = (lower + 1).min(last);
    sorted[lower] * (1.0 - weight) + sorted[upper] * weight
}

/// A bucket of a classic histogram: how many observations are at most its bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClassicBucket {
    pub(super) upper: f64,
    pub(super) count: f64,
}

/// How counts that fell, which cannot be, were made to rise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Forced {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) difference: f64,
}

/// Differences below this share are rounding errors, not falling counts.
const SMALL_DELTA: f64 = 1e-12;

/// Sorts buckets and adds up those with equal bounds. Empty unless the last one is infinite.
fn ordered(mut buckets: Vec<ClassicBucket>) -> Vec<ClassicBucket> {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    if buckets
        .last()
        .is_none_or(|last| last.upper != f64::INFINITY)
    {
        return Vec::new();
    }
    let mut merged: Vec<ClassicBucket> = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        match merged.last_mut() {
            Some(last) if last.upper == bucket.upper => last.count += bucket.count,
            _ => merged.push(bucket),
        }
    }
    merged
}

fn make_monotonic(buckets: &mut [ClassicBucket]) -> Option<Forced> {
    let mut forced: Option<Forced> = None;
    let mut previous = buckets.first()?.count;
    for bucket in &mut buckets[1..] {
        let count = bucket.count;
        if count == previous {
            continue;
        }
        let size = (previous.abs() + count.abs()).min(f64::MAX);
        if (previous - count).abs() / size < SMALL_DELTA {
            bucket.count = previous;
            continue;
        }
        if count < previous {
            bucket.count = previous;
            let difference = previous - count;
            let so_far = forced.get_or_insert(Forced {
                low: bucket.upper,
                high: bucket.upper,
                difference,
            });
            so_far.low = so_far.low.min(bucket.upper);
            so_far.high = so_far.high.max(bucket.upper);
            so_far.difference = so_far.difference.max(difference);
            continue;
        }
        previous = count;
    }
    forced
}

/// The quantile of a classic histogram, interpolated linearly.
pub(super) fn bucket_quantile(q: f64, buckets: Vec<ClassicBucket>) -> (f64, Option<Forced>) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    let mut buckets = ordered(buckets);
    let forced = make_monotonic(&mut buckets);
    if buckets.len() < 2 {
        return (f64::NAN, forced);
    }
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if observations == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * observations;
    let at = buckets[..last]
        .iter()
        .position(|bucket| bucket.count >= rank)
        .unwrap_or(last);
    if at == last {
        return (buckets[last - 1].upper, forced);
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let end = buckets[at].upper;
    let mut count = buckets[at].count;
    let mut start = 0.0;
    if at > 0 {
        start = buckets[at - 1].upper;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (start + (end - start) * (rank / count), forced)
}

/// The share of observations of a classic histogram between two values.
pub(super) fn bucket_fraction(lower: f64, upper: f64, buckets: Vec<ClassicBucket>) -> f64 {
    let buckets = ordered(buckets);
    let Some(last) = buckets.last() else {
        return f64::NAN;
    };
    let count = last.count;
    if count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let mut below = if buckets[0].upper <= 0.0 {
        f64::NEG_INFINITY
    } else {
        0.0
    };
    let mut rank = 0.0;
    let mut ranks = [None, None];
    for bucket in &buckets {
        for (slot, value) in ranks.iter_mut().zip([lower, upper]) {
            if slot.is_some() {
                continue;
            }
            if below >= value {
                *slot = Some(rank);
            } else if bucket.upper > value {
                *slot = Some(if below == f64::NEG_INFINITY {
                    bucket.count
                } else {
                    rank + (bucket.count - rank) * (value - below) / (bucket.upper - below)
                });
            }
        }
        rank = bucket.count;
        below = bucket.upper;
    }
    let [lower, upper] =
        ranks.map(|rank| rank.map_or(count, |rank| if rank > count { count } else { rank }));
    (upper - lower) / count
}

/// The remark a quantile or fraction of a histogram calls for.
pub(super) type Note = fn(&str) -> Remark<'_>;

/// With observations on one side of zero only, those in the zero bucket are on that side too.
fn lean_to_one_side(histogram: &Histogram, bucket: &mut Bucket) {
    match (histogram.negative.is_empty(), histogram.positive.is_empty()) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
}

/// The quantile of a native histogram: interpolated logarithmically in exponential buckets,
/// linearly in custom buckets and in the zero bucket.
pub(super) fn histogram_quantile(q: f64, histogram: &Histogram) -> (f64, Option<Note>) {
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    if histogram.count == 0.0 || q.is_nan() {
        return (f64::NAN, None);
    }
    let total = histogram.count;
    let has_nan = histogram.sum.is_nan();
    let mut buckets = histogram.all_buckets();
    // Observations that are NaN are in the count and in no bucket; they count as the highest.
    let forward = has_nan || q < 0.5;
    let mut rank = if forward {
        q * total
    } else {
        (1.0 - q) * total
    };
    if !forward {
        buckets.reverse();
    }
    let mut bucket = Bucket {
        lower: 0.0,
        upper: 0.0,
        lower_inclusive: false,
        upper_inclusive: false,
        count: 0.0,
    };
    let mut count = 0.0;
    let mut rest = buckets.iter();
    for next in rest.by_ref() {
        bucket = *next;
        if bucket.count == 0.0 {
            continue;
        }
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    if histogram.is_custom() {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return (bucket.upper, None);
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return (bucket.lower, None);
        }
    } else if bucket.lower < 0.0 && bucket.upper > 0.0 {
        lean_to_one_side(histogram, &mut bucket);
    }
    count = count.min(total);
    if count < rank {
        return if has_nan {
            (f64::NAN, Some(|name| Remark::QuantileNan(name)))
        } else {
            (bucket.upper, None)
        };
    }
    if forward {
        rank -= count - bucket.count;
    } else {
        rank = count - rank;
    }
    let mut note: Option<Note> = None;
    if has_nan {
        let counted = count + rest.map(|bucket| bucket.count).sum::<f64>();
        if counted < total {
            note = Some(|name| Remark::QuantileSkewed(name));
        }
    }
    let fraction = rank / bucket.count;
    if histogram.is_custom() || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return (
            bucket.lower + (bucket.upper - bucket.lower) * fraction,
            note,
        );
    }
    let low = bucket.lower.abs().log2();
    let high = bucket.upper.abs().log2();
    let value = if bucket.lower > 0.0 {
        (low + (high - low) * fraction).exp2()
    } else {
        -(high + (low - high) * (1.0 - fraction)).exp2()
    };
    (value, note)
}

/// The share of observations of a native histogram between two values.
pub(super) fn histogram_fraction(
    lower: f64,
    upper: f64,
    histogram: &Histogram,
) -> (f64, Option<Note>) {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return (f64::NAN, None);
    }
    if lower >= upper {
        return (0.0, None);
    }
    let buckets = histogram.all_buckets();
    let mut rank = 0.0;
    let mut ranks: [Option<f64>; 2] = [None, None];
    for bucket in &buckets {
        let mut bucket = *bucket;
        let zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        if zero {
            lean_to_one_side(histogram, &mut bucket);
        }
        for (slot, value) in ranks.iter_mut().zip([lower, upper]) {
            if slot.is_some() {
                continue;
            }
            if bucket.lower >= value {
                *slot = Some(rank);
            } else if bucket.upper > value {
                *slot = Some(if histogram.is_custom() || zero {
                    if bucket.lower == f64::NEG_INFINITY {
                        bucket.count
                    } else {
                        rank + bucket.count * (value - bucket.lower) / (bucket.upper - bucket.lower)
                    }
                } else {
                    let low = bucket.lower.abs().log2();
                    let high = bucket.upper.abs().log2();
                    let at = value.abs().log2();
                    let fraction = if value > 0.0 {
                        (at - low) / (high - low)
                    } else {
                        1.0 - (at - high) / (low - high)
                    };
                    rank + bucket.count * fraction
                });
            }
        }
        rank += bucket.count;
    }
    let mut count = histogram.count;
    let mut note: Option<Note> = None;
    if histogram.sum.is_nan() {
        count = buckets.iter().map(|bucket| bucket.count).sum();
        if count < histogram.count {
            note = Some(|name| Remark::FractionNan(name));
        }
    }
    let [lower, upper] =
        ranks.map(|rank| rank.map_or(count, |rank| if rank > count { count } else { rank }));
    ((upper - lower) / histogram.count, note)
}
