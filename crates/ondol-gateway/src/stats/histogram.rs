//! Durations in logarithmic buckets: each power of two microseconds in sixteen equal parts, so
//! that any quantile is known within about three percent from 16 µs to nine minutes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

const PARTS: u64 = 16;
const PART_BITS: u32 = 4;
const TOP_EXPONENT: u32 = 29;
const BUCKETS: usize = (PARTS as usize) * (TOP_EXPONENT as usize - PART_BITS as usize + 2);

fn index_of(micros: u64) -> usize {
    if micros < PARTS {
        return micros as usize;
    }
    let exponent = 63 - micros.leading_zeros();
    if exponent > TOP_EXPONENT {
        return BUCKETS - 1;
    }
    let part = (micros >> (exponent - PART_BITS)) & (PARTS - 1);
    ((exponent - PART_BITS + 1) as usize) * (PARTS as usize) + part as usize
}

/// The first microsecond of a bucket and the first behind it.
fn bounds_of(index: usize) -> (u64, u64) {
    let (group, part) = (index / PARTS as usize, (index % PARTS as usize) as u64);
    if group == 0 {
        return (part, part + 1);
    }
    let width = 1u64 << (group - 1);
    let low = (PARTS + part) * width;
    (low, low + width)
}

/// Counts that many threads add to.
#[derive(Debug)]
pub(crate) struct AtomicHistogram {
    buckets: Box<[AtomicU64]>,
    sum_micros: AtomicU64,
}

impl AtomicHistogram {
    pub(crate) fn new() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            sum_micros: AtomicU64::new(0),
        }
    }

    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX >> 8);
        self.buckets[index_of(micros)].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn add_to(&self, target: &mut Histogram) {
        for (index, bucket) in self.buckets.iter().enumerate() {
            target.add(index as u16, bucket.load(Ordering::Relaxed));
        }
        target.sum_micros += self.sum_micros.load(Ordering::Relaxed);
    }
}

/// A cumulative distribution of durations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Bucket number and count, ascending, empty buckets left out.
    pub buckets: Vec<(u16, u64)>,
    /// The sum of all durations, in microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    fn add(&mut self, bucket: u16, count: u64) {
        if count == 0 || usize::from(bucket) >= BUCKETS {
            return;
        }
        match self
            .buckets
            .binary_search_by_key(&bucket, |&(index, _)| index)
        {
            Ok(place) => self.buckets[place].1 += count,
            Err(place) => self.buckets.insert(place, (bucket, count)),
        }
    }

    /// Adds another distribution to this one.
    pub fn merge(&mut self, other: &Histogram) {
        for &(bucket, count) in &other.buckets {
            self.add(bucket, count);
        }
        self.sum_micros += other.sum_micros;
    }

    /// What was added since an earlier state of the same distribution.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let mut difference = Histogram::default();
        for &(bucket, count) in &self.buckets {
            let before = match earlier
                .buckets
                .binary_search_by_key(&bucket, |&(index, _)| index)
            {
                Ok(place) => earlier.buckets[place].1,
                Err(_) => 0,
            };
            difference.add(bucket, count.saturating_sub(before));
        }
        difference.sum_micros = self.sum_micros.saturating_sub(earlier.sum_micros);
        difference
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// The duration, in seconds, that the share `q` (0 to 1) of all stays below; none without samples.
    pub fn quantile_seconds(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 || !q.is_finite() {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * total as f64).ceil() as u64).clamp(1, total);
        let mut seen = 0;
        for &(bucket, count) in &self.buckets {
            seen += count;
            if seen >= rank {
                let (low, high) = bounds_of(usize::from(bucket));
                return Some((low as f64 + high as f64) / 2e6);
            }
        }
        None
    }

    /// The mean duration in seconds; none without samples.
    pub fn mean_seconds(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum_micros as f64 / count as f64 / 1e6)
    }

    /// How many durations were below 2^`exponent` microseconds.
    pub(crate) fn below_power(&self, exponent: u32) -> u64 {
        let limit = 1u64 << exponent;
        self.buckets
            .iter()
            .filter(|&&(bucket, _)| bounds_of(usize::from(bucket)).1 <= limit)
            .map(|&(_, n)| n)
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_duration_lies_in_its_bucket(micros in 0u64..(1 << 30)) {
            let (low, high) = bounds_of(index_of(micros));
            prop_assert!(low <= micros && micros < high, "{low} {micros} {high}");
        }

        #[test]
        fn quantiles_are_within_five_percent(mut samples in prop::collection::vec(100u64..50_000_000, 1..400), q in 0.01f64..1.0) {
            let histogram = AtomicHistogram::new();
            for &micros in &samples {
                histogram.record(Duration::from_micros(micros));
            }
            let mut view = Histogram::default();
            histogram.add_to(&mut view);
            samples.sort_unstable();
            let rank = ((q * samples.len() as f64).ceil() as usize).clamp(1, samples.len());
            let exact = samples[rank - 1] as f64 / 1e6;
            let found = view.quantile_seconds(q).unwrap();
            prop_assert!((found - exact).abs() <= exact * 0.05, "{found} for {exact}");
        }

        #[test]
        fn merging_and_subtracting_are_inverse(a in prop::collection::vec(0u64..10_000_000, 0..50), b in prop::collection::vec(0u64..10_000_000, 0..50)) {
            let fill = |samples: &[u64]| {
                let histogram = AtomicHistogram::new();
                samples.iter().for_each(|&micros| histogram.record(Duration::from_micros(micros)));
                let mut view = Histogram::default();
                histogram.add_to(&mut view);
                view
            };
            let (first, second) = (fill(&a), fill(&b));
            let mut both = first.clone();
            both.merge(&second);
            prop_assert_eq!(both.since(&first), second);
        }
    }

    #[test]
    fn an_empty_distribution_has_no_quantile() {
        assert_eq!(Histogram::default().quantile_seconds(0.5), None);
    }

    #[test]
    fn absurd_durations_go_to_the_last_bucket() {
        assert_eq!(index_of(u64::MAX >> 8), BUCKETS - 1);
        assert_eq!(index_of((1 << 30) - 1), BUCKETS - 1);
    }
}
