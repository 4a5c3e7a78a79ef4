//! What gateways counted: cumulative, so that every reader takes differences of its own.

use std::collections::BTreeMap;

use ondol_types::{ReleaseId, ReplicaId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

const PARTS: u64 = 16;

/// The first microsecond of a bucket and the first behind it.
fn bounds(bucket: u16) -> (f64, f64) {
    let (group, part) = (u64::from(bucket) / PARTS, u64::from(bucket) % PARTS);
    if group == 0 {
        return (part as f64, (part + 1) as f64);
    }
    let width = 2f64.powi(group.min(1_000) as i32 - 1);
    let low = (PARTS + part) as f64 * width;
    (low, low + width)
}

/// A cumulative distribution of durations in logarithmic buckets: each power of two microseconds
/// in sixteen equal parts. Bucket `b` below 16 holds exactly `b` µs; above, with `g = b / 16` and
/// `p = b % 16`, those from `(16 + p) · 2^(g-1)` µs on, up to the next bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Bucket number and count, ascending, empty buckets left out.
    pub buckets: Vec<(u16, u64)>,
    /// The sum of all durations, in microseconds.
    pub sum_micros: u64,
}

impl Histogram {
    /// What was added since an earlier state of the same distribution.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        let before: BTreeMap<u16, u64> = earlier.buckets.iter().copied().collect();
        let buckets = self
            .buckets
            .iter()
            .map(|&(bucket, count)| {
                (
                    bucket,
                    count.saturating_sub(before.get(&bucket).copied().unwrap_or(0)),
                )
            })
            .filter(|&(_, count)| count > 0)
            .collect();
        Histogram {
            buckets,
            sum_micros: self.sum_micros.saturating_sub(earlier.sum_micros),
        }
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    /// The duration in seconds below which the share `q` (0 to 1) lies; `None` without samples.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total == 0 || !q.is_finite() {
            return None;
        }
        let rank = (q.clamp(0.0, 1.0) * total as f64).max(f64::MIN_POSITIVE);
        let mut seen = 0u64;
        for &(bucket, count) in &self.buckets {
            if (seen + count) as f64 >= rank && count > 0 {
                let (low, high) = bounds(bucket);
                let share = (rank - seen as f64) / count as f64;
                return Some((low + (high - low) * share.clamp(0.0, 1.0)) / 1e6);
            }
            seen += count;
        }
        None
    }
}

/// What one release answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReleaseTraffic {
    /// Finished requests.
    pub requests: u64,
    /// Those of them that failed: status 5xx, no answer, or an answer that broke off.
    pub errors: u64,
    /// Requests in progress now.
    pub in_flight: u64,
    /// How long they took.
    pub durations: Histogram,
}

impl ReleaseTraffic {
    /// What was counted since an earlier state. What is in progress is as of now.
    pub fn since(&self, earlier: &ReleaseTraffic) -> ReleaseTraffic {
        ReleaseTraffic {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            in_flight: self.in_flight,
            durations: self.durations.since(&earlier.durations),
        }
    }

    /// The share of failed requests; `None` without requests.
    pub fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| (self.errors as f64 / self.requests as f64).min(1.0))
    }
}

/// What one replica works on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaTraffic {
    /// Requests sent to it.
    pub requests: u64,
    /// Those that failed.
    pub errors: u64,
    /// Requests in progress now.
    pub in_flight: u64,
    /// WebSockets and other upgraded connections open now.
    pub tunnels: u64,
}

/// Everything counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By release.
    pub releases: BTreeMap<ReleaseId, ReleaseTraffic>,
    /// By endpoint of a replica. One that is missing has nothing in progress.
    pub replicas: BTreeMap<ReplicaId, ReplicaTraffic>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gaps() {
        for bucket in 0..400 {
            assert_eq!(bounds(bucket).1, bounds(bucket + 1).0, "{bucket}");
        }
    }

    #[test]
    fn quantiles_lie_in_the_bucket_of_their_rank() {
        // 90 requests of about 100 ms and 10 of about 1.6 s.
        let fast = (16 * 14 + 8, 90);
        let slow = (16 * 18 + 8, 10);
        let histogram = Histogram {
            buckets: vec![fast, slow],
            sum_micros: 0,
        };
        let within = |q: f64, bucket: u16| {
            let (low, high) = bounds(bucket);
            let value = histogram.quantile(q).unwrap() * 1e6;
            assert!(
                (low..=high).contains(&value),
                "{q}: {value} not in {low}..{high}"
            );
        };
        within(0.5, fast.0);
        within(0.9, fast.0);
        within(0.95, slow.0);
        within(1.0, slow.0);
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(histogram.quantile(f64::NAN), None);
    }

    #[test]
    fn an_error_rate_needs_requests() {
        assert_eq!(ReleaseTraffic::default().error_rate(), None);
        let some = ReleaseTraffic {
            requests: 200,
            errors: 3,
            ..ReleaseTraffic::default()
        };
        assert_eq!(some.error_rate(), Some(0.015));
    }

    proptest! {
        #[test]
        fn a_difference_and_its_base_make_the_whole(
            base in proptest::collection::btree_map(0u16..400, 1u64..1_000, 0..20),
            more in proptest::collection::btree_map(0u16..400, 1u64..1_000, 0..20),
        ) {
            let mut whole = base.clone();
            for (bucket, count) in &more {
                *whole.entry(*bucket).or_default() += count;
            }
            let histogram = |map: &BTreeMap<u16, u64>| Histogram {
                buckets: map.iter().map(|(b, c)| (*b, *c)).collect(),
                sum_micros: 0,
            };
            prop_assert_eq!(histogram(&whole).since(&histogram(&base)), histogram(&more));
        }
    }
}
