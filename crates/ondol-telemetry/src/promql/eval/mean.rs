//! Means and variances that grow by one value after the other.

use crate::series::Histogram;
use crate::series::histogram::{Incompatible, Kahan, Sum};

/// The mean: of the sum as long as that is in the range of doubles, step by step beyond.
pub(super) fn average(values: &[f64]) -> f64 {
    let mut mean = Mean::new(values[0]);
    for &value in &values[1..] {
        mean.add(value);
    }
    mean.value()
}

/// A mean that grows by one value after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mean {
    count: f64,
    sum: Kahan,
    incremental: bool,
}

impl Mean {
    pub(super) fn new(value: f64) -> Self {
        Self {
            count: 1.0,
            sum: Kahan::new(value),
            incremental: false,
        }
    }

    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.incremental {
            let mut sum = self.sum;
            sum.add(value);
            if !sum.raw().is_infinite() {
                self.sum = sum;
                return;
            }
            self.incremental = true;
            let count = self.count - 1.0;
            self.sum = self.sum.map(|part| part / count);
        }
        let share = (self.count - 1.0) / self.count;
        self.sum = self.sum.map(|part| share * part);
        self.sum.add(value / self.count);
    }

    pub(super) fn value(&self) -> f64 {
        if self.incremental {
            self.sum.value()
        } else {
            self.sum.divided(self.count)
        }
    }
}

/// The same for histograms.
pub(super) struct HistogramMean {
    count: f64,
    sum: Sum,
    incremental: bool,
}

impl HistogramMean {
    pub(super) fn new(first: &Histogram) -> Self {
        Self {
            count: 1.0,
            sum: Sum::from(first),
            incremental: false,
        }
    }

    /// Adds one; the result says whether custom bounds were brought together.
    pub(super) fn add(&mut self, histogram: &Histogram) -> Result<bool, Incompatible> {
        self.count += 1.0;
        if !self.incremental {
            let mut sum = self.sum.clone();
            let added = sum.add(histogram)?;
            if !sum.has_overflow() {
                self.sum = sum;
                return Ok(added.bounds_reconciled);
            }
            self.incremental = true;
            let count = self.count - 1.0;
            self.sum = self.sum.clone().map(|part| part / count);
        }
        let share = (self.count - 1.0) / self.count;
        self.sum = self.sum.clone().map(|part| part * share);
        Ok(self
            .sum
            .add(&histogram.divided(self.count))?
            .bounds_reconciled)
    }

    pub(super) fn value(&self) -> Histogram {
        if self.incremental {
            self.sum.finish()
        } else {
            let count = self.count;
            self.sum.clone().map(|part| part / count).finish()
        }
    }
}

/// A variance that grows by one value after the other (Welford, compensated).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spread {
    count: f64,
    mean: Kahan,
    squares: Kahan,
}

impl Spread {
    pub(super) fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean.value();
        self.mean.add(delta / self.count);
        self.squares.add(delta * (value - self.mean.value()));
    }

    pub(super) fn variance(&self) -> f64 {
        self.squares.value() / self.count
    }
}
