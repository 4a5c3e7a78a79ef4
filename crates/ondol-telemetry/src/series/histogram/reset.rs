//! Whether a counter restarted between two histograms.

use std::collections::BTreeMap;

use super::accumulate::common_bounds;
use super::{Buckets, CounterReset, Histogram, coarser_index};

impl Histogram {
    /// Whether the count restarted between `previous` and this one.
    ///
    /// What is known beforehand decides. Otherwise a restart is anything that cannot happen to a
    /// counter: a smaller count anywhere, a finer schema, a smaller zero bucket.
    #[must_use]
    pub fn detects_reset(&self, previous: &Self) -> bool {
        match self.counter_reset {
            CounterReset::Reset => return true,
            CounterReset::NotReset => return false,
            CounterReset::Unknown | CounterReset::Gauge => {}
        }
        if self.is_custom() != previous.is_custom() || self.count < previous.count {
            return true;
        }
        if self.is_custom() {
            let common = common_bounds(&self.custom_values, &previous.custom_values);
            return shrank(&by_bounds(self, &common), &by_bounds(previous, &common));
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        let (zero_count, threshold) = previous.zero_count_within(self.zero_threshold);
        if threshold != self.zero_threshold || self.zero_count < zero_count {
            return true;
        }
        [
            (&self.positive, &previous.positive),
            (&self.negative, &previous.negative),
        ]
        .into_iter()
        .any(|(now, before)| {
            shrank(
                &self.outside_zero(now, self.schema, self.zero_threshold),
                &previous.outside_zero(before, self.schema, self.zero_threshold),
            )
        })
    }

    /// What the zero bucket would hold with a larger threshold, and the threshold it would have
    /// to have so that no populated bucket crosses it.
    fn zero_count_within(&self, wanted: f64) -> (f64, f64) {
        let mut threshold = wanted;
        'again: loop {
            let mut count = self.zero_count;
            for side in [&self.positive, &self.negative] {
                for (index, inside) in side.iter() {
                    if self.bound(index.wrapping_sub(1)) >= threshold {
                        break;
                    }
                    count += inside;
                    let upper = self.bound(index);
                    if upper > threshold && inside != 0.0 {
                        threshold = upper;
                        continue 'again;
                    }
                }
            }
            return (count, threshold);
        }
    }

    fn outside_zero(&self, side: &Buckets, schema: i32, threshold: f64) -> BTreeMap<i32, f64> {
        let mut counts = BTreeMap::new();
        for (index, count) in side.iter() {
            if self.bound(index) > threshold {
                *counts
                    .entry(coarser_index(index, self.schema, schema))
                    .or_insert(0.0) += count;
            }
        }
        counts
    }
}

fn by_bounds(histogram: &Histogram, common: &[f64]) -> BTreeMap<i32, f64> {
    let mut counts = BTreeMap::new();
    for (index, count) in histogram.positive.iter() {
        let upper = histogram.bound(index);
        let target = common.partition_point(|known| *known < upper) as i32;
        *counts.entry(target).or_insert(0.0) += count;
    }
    counts
}

fn shrank(now: &BTreeMap<i32, f64>, before: &BTreeMap<i32, f64>) -> bool {
    before
        .iter()
        .any(|(index, &count)| now.get(index).copied().unwrap_or(0.0) < count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_that_shrinks_is_a_restart_and_a_hint_decides() {
        let make = |pairs: &[(i32, f64)], count: f64| Histogram {
            count,
            positive: Buckets::from_pairs(pairs.iter().copied()),
            ..Histogram::default()
        };
        let before = make(&[(0, 1.0), (1, 2.0)], 3.0);
        let mut after = make(&[(0, 3.0), (1, 1.0)], 4.0);
        assert!(after.detects_reset(&before));
        assert!(!make(&[(0, 1.0), (1, 3.0)], 4.0).detects_reset(&before));
        after.counter_reset = CounterReset::NotReset;
        assert!(!after.detects_reset(&before));
    }

    #[test]
    fn custom_bounds_are_compared_where_both_have_them() {
        let make = |bounds: &[f64], counts: &[f64]| Histogram {
            schema: super::super::CUSTOM_SCHEMA,
            count: counts.iter().sum(),
            custom_values: bounds.to_vec(),
            positive: Buckets::from_pairs(
                counts
                    .iter()
                    .enumerate()
                    .map(|(index, &count)| (index as i32, count)),
            ),
            ..Histogram::default()
        };
        let before = make(&[2.0, 4.0, 6.0], &[1.0, 2.0, 5.0, 7.0]);
        assert!(make(&[2.0, 3.0, 4.0, 6.0], &[1.0, 0.0, 1.0, 5.0, 8.0]).detects_reset(&before));
        assert!(!make(&[2.0, 3.0, 4.0, 6.0], &[1.0, 1.0, 1.0, 5.0, 8.0]).detects_reset(&before));
    }
}
