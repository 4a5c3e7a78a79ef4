//! Adding histograms of different layouts, without losing small numbers among large ones.
//!
//! Exponential histograms are brought to the coarser schema and to a zero bucket that no
//! populated bucket crosses; custom ones to the bounds both have. Every number is summed with a
//! compensation, so that the order of the operands hardly matters.

use std::collections::BTreeMap;

use super::{Buckets, CounterReset, Histogram, coarser_index};

/// A sum with its compensation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kahan {
    sum: f64,
    compensation: f64,
}

impl Kahan {
    /// Starts with a value.
    #[must_use]
    pub fn new(value: f64) -> Self {
        Self {
            sum: value,
            compensation: 0.0,
        }
    }

    /// Adds a value (Kahan–Babuška). A sum that left the range has no compensation.
    pub fn add(&mut self, value: f64) {
        let total = self.sum + value;
        if total.is_infinite() {
            self.compensation = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.compensation += (self.sum - total) + value;
        } else {
            self.compensation += (value - total) + self.sum;
        }
        self.sum = total;
    }

    /// The sum without its compensation.
    #[must_use]
    pub fn raw(&self) -> f64 {
        self.sum
    }

    /// The compensated sum.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.sum + self.compensation
    }

    /// The compensated sum divided, both parts first, so that neither rounds the other.
    #[must_use]
    pub fn divided(&self, divisor: f64) -> f64 {
        self.sum / divisor + self.compensation / divisor
    }

    /// Both parts changed alike.
    #[must_use]
    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self {
            sum: change(self.sum),
            compensation: change(self.compensation),
        }
    }

    /// Adds another sum, both parts of it.
    pub fn merge(&mut self, other: Self) {
        self.add(other.sum);
        self.compensation += other.compensation;
    }
}

/// Exponential and custom buckets cannot be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incompatible;

/// What happened when a histogram was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// One restarted and the other did not.
    pub reset_collision: bool,
    /// Custom bounds differed and were brought to the common ones.
    pub bounds_reconciled: bool,
}

/// A running sum of histograms.
#[derive(Clone, Debug)]
pub struct Sum {
    counter_reset: CounterReset,
    schema: i32,
    zero_threshold: f64,
    custom_values: Vec<f64>,
    zero: Kahan,
    count: Kahan,
    sum: Kahan,
    positive: BTreeMap<i32, Kahan>,
    negative: BTreeMap<i32, Kahan>,
}

impl From<&Histogram> for Sum {
    fn from(histogram: &Histogram) -> Self {
        let side = |buckets: &Buckets| {
            buckets
                .iter()
                .map(|(index, count)| (index, Kahan::new(count)))
                .collect()
        };
        Self {
            counter_reset: histogram.counter_reset,
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            custom_values: histogram.custom_values.clone(),
            zero: Kahan::new(histogram.zero_count),
            count: Kahan::new(histogram.count),
            sum: Kahan::new(histogram.sum),
            positive: side(&histogram.positive),
            negative: side(&histogram.negative),
        }
    }
}

impl Sum {
    /// Adds a histogram.
    ///
    /// # Errors
    /// One has custom bounds and the other has not; the sum is unchanged then.
    pub fn add(&mut self, other: &Histogram) -> Result<Added, Incompatible> {
        self.combine(Self::from(other))
    }

    /// Subtracts a histogram.
    ///
    /// # Errors
    /// As for [`Self::add`].
    pub fn subtract(&mut self, other: &Histogram) -> Result<Added, Incompatible> {
        self.combine(Self::from(other).map(|value| -value))
    }

    fn combine(&mut self, mut other: Self) -> Result<Added, Incompatible> {
        let custom = self.schema == super::CUSTOM_SCHEMA;
        if custom != (other.schema == super::CUSTOM_SCHEMA) {
            return Err(Incompatible);
        }
        let mut added = Added {
            reset_collision: self.adjust_counter_reset(other.counter_reset),
            bounds_reconciled: false,
        };
        if custom {
            if self.custom_values != other.custom_values {
                added.bounds_reconciled = true;
                let common = common_bounds(&self.custom_values, &other.custom_values);
                self.reduce_bounds(&common);
                other.reduce_bounds(&common);
            }
        } else {
            self.reconcile_zero(&mut other);
            let schema = self.schema.min(other.schema);
            self.reduce_schema(schema);
            other.reduce_schema(schema);
        }
        self.zero.merge(other.zero);
        self.count.merge(other.count);
        self.sum.merge(other.sum);
        for (into, from) in [
            (&mut self.positive, other.positive),
            (&mut self.negative, other.negative),
        ] {
            for (index, value) in from {
                into.entry(index).or_default().merge(value);
            }
        }
        Ok(added)
    }

    /// Scales everything.
    #[must_use]
    pub fn map(mut self, change: impl Fn(f64) -> f64 + Copy) -> Self {
        self.zero = self.zero.map(change);
        self.count = self.count.map(change);
        self.sum = self.sum.map(change);
        for value in self.positive.values_mut().chain(self.negative.values_mut()) {
            *value = value.map(change);
        }
        self
    }

    /// Whether a number left the range of doubles.
    #[must_use]
    pub fn has_overflow(&self) -> bool {
        [self.zero, self.count, self.sum]
            .iter()
            .chain(self.positive.values())
            .chain(self.negative.values())
            .any(|value| value.raw().is_infinite())
    }

    /// The sum, without empty buckets.
    #[must_use]
    pub fn finish(&self) -> Histogram {
        let side = |buckets: &BTreeMap<i32, Kahan>| {
            Buckets::from_pairs(
                buckets
                    .iter()
                    .map(|(&index, value)| (index, finite_sum(value)))
                    .filter(|&(_, count)| count != 0.0),
            )
        };
        Histogram {
            counter_reset: self.counter_reset,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: finite_sum(&self.zero),
            count: finite_sum(&self.count),
            sum: finite_sum(&self.sum),
            positive: side(&self.positive),
            negative: side(&self.negative),
            custom_values: self.custom_values.clone(),
        }
    }

    fn adjust_counter_reset(&mut self, other: CounterReset) -> bool {
        use CounterReset::{Gauge, Unknown};
        match (self.counter_reset, other) {
            (mine, theirs) if mine == theirs => false,
            (Gauge, _) => false,
            (_, Gauge) => {
                self.counter_reset = Gauge;
                false
            }
            (Unknown, _) => false,
            (_, Unknown) => {
                self.counter_reset = Unknown;
                false
            }
            _ => {
                self.counter_reset = Unknown;
                true
            }
        }
    }

    fn reduce_schema(&mut self, schema: i32) {
        if schema >= self.schema {
            return;
        }
        for side in [&mut self.positive, &mut self.negative] {
            let mut reduced: BTreeMap<i32, Kahan> = BTreeMap::new();
            for (&index, &value) in side.iter() {
                let index = coarser_index(index, self.schema, schema);
                match reduced.get_mut(&index) {
                    Some(known) => known.merge(value),
                    None => {
                        reduced.insert(index, value);
                    }
                }
            }
            *side = reduced;
        }
        self.schema = schema;
    }

    fn reduce_bounds(&mut self, common: &[f64]) {
        let mut reduced: BTreeMap<i32, Kahan> = BTreeMap::new();
        for (&index, &value) in &self.positive {
            let target = usize::try_from(index)
                .ok()
                .and_then(|at| self.custom_values.get(at))
                .map_or(common.len(), |bound| {
                    common.partition_point(|known| known < bound)
                });
            match reduced.get_mut(&(target as i32)) {
                Some(known) => known.merge(value),
                None => {
                    reduced.insert(target as i32, value);
                }
            }
        }
        self.positive = reduced;
        self.custom_values = common.to_vec();
    }

    /// Brings both to the smallest zero bucket that holds both and that no populated bucket of
    /// either crosses.
    fn reconcile_zero(&mut self, other: &mut Self) {
        while self.zero_threshold != other.zero_threshold {
            // A threshold that is no number would never be reached.
            if self.zero_threshold.is_nan() || other.zero_threshold.is_nan() {
                return;
            }
            if self.zero_threshold > other.zero_threshold {
                other.widen_zero(self.zero_threshold);
            } else {
                self.widen_zero(other.zero_threshold);
            }
        }
    }

    fn widen_zero(&mut self, wanted: f64) {
        let mut threshold = wanted;
        'again: loop {
            for side in [&self.positive, &self.negative] {
                for (&index, value) in side {
                    let lower = super::exponential_bound(index.wrapping_sub(1), self.schema);
                    let upper = super::exponential_bound(index, self.schema);
                    if lower >= threshold {
                        break;
                    }
                    if upper > threshold && value.value() != 0.0 {
                        threshold = upper;
                        continue 'again;
                    }
                }
            }
            break;
        }
        let schema = self.schema;
        for side in [&mut self.positive, &mut self.negative] {
            let inside: Vec<i32> = side
                .keys()
                .copied()
                .take_while(|index| {
                    super::exponential_bound(index.wrapping_sub(1), schema) < threshold
                })
                .collect();
            for index in inside {
                if let Some(value) = side.remove(&index) {
                    self.zero.merge(value);
                }
            }
        }
        self.zero_threshold = threshold;
    }
}

fn finite_sum(value: &Kahan) -> f64 {
    if value.raw().is_infinite() {
        value.raw()
    } else {
        value.value()
    }
}

/// The bounds both lists have.
pub(super) fn common_bounds(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut common = Vec::new();
    let (mut i, mut j) = (0, 0);
    while i < a.len() && j < b.len() {
        if a[i] == b[j] {
            common.push(a[i]);
            i += 1;
            j += 1;
        } else if a[i] < b[j] {
            i += 1;
        } else {
            j += 1;
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exponential(schema: i32, counts: &[(i32, f64)]) -> Histogram {
        Histogram {
            schema,
            count: counts.iter().map(|pair| pair.1).sum(),
            positive: Buckets::from_pairs(counts.iter().copied()),
            ..Histogram::default()
        }
    }

    #[test]
    fn the_coarser_schema_wins() {
        let mut sum = Sum::from(&exponential(0, &[(1, 1.0)]));
        sum.add(&exponential(1, &[(1, 2.0), (2, 3.0), (3, 4.0)]))
            .unwrap();
        let result = sum.finish();
        assert_eq!(result.schema, 0);
        assert_eq!(
            result.positive.iter().collect::<Vec<_>>(),
            [(1, 6.0), (2, 4.0)]
        );
    }

    #[test]
    fn a_zero_bucket_grows_to_the_end_of_a_populated_bucket() {
        let mut wide = exponential(0, &[]);
        wide.zero_threshold = 1.5;
        wide.zero_count = 1.0;
        let mut sum = Sum::from(&wide);
        sum.add(&exponential(0, &[(1, 2.0), (2, 3.0)])).unwrap();
        let result = sum.finish();
        assert_eq!(result.zero_threshold, 2.0);
        assert_eq!(result.zero_count, 3.0);
        assert_eq!(result.positive.iter().collect::<Vec<_>>(), [(2, 3.0)]);
    }

    #[test]
    fn small_numbers_survive_large_ones() {
        let mut sum = Kahan::default();
        for value in [1.0, 1e100, 1.0, -1e100] {
            sum.add(value);
        }
        assert_eq!(sum.value(), 2.0);
    }
}
