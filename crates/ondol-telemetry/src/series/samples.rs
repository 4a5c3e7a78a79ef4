//! The samples of one series, in columns.
//!
//! Floats and native histograms stand in columns of their own, each sorted by time. Times are
//! milliseconds since the Unix epoch. A start time of 0 means that it is unknown; a column of
//! start times may be shorter than its samples, and the rest is unknown then.

use std::sync::Arc;

use super::Histogram;

/// The bits of the NaN that ends a series.
pub const STALE_NAN: u64 = 0x7ff0_0000_0000_0002;

/// Whether a value is the marker that ends a series.
#[must_use]
pub fn is_stale_nan(value: f64) -> bool {
    value.to_bits() == STALE_NAN
}

/// Float samples.
#[derive(Clone, Debug, Default)]
pub struct FloatColumn {
    /// When each sample was taken.
    pub times: Vec<i64>,
    /// What it says.
    pub values: Vec<f64>,
    /// Since when it counts, 0 when unknown.
    pub starts: Vec<i64>,
}

/// Native histogram samples.
#[derive(Clone, Debug, Default)]
pub struct HistogramColumn {
    /// When each sample was taken.
    pub times: Vec<i64>,
    /// What it says.
    pub values: Vec<Arc<Histogram>>,
    /// Since when it counts, 0 when unknown.
    pub starts: Vec<i64>,
}

/// The samples of one series.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// Samples that are numbers.
    pub floats: FloatColumn,
    /// Samples that are native histograms.
    pub histograms: HistogramColumn,
}

impl Samples {
    /// Forgets every sample and keeps the memory.
    pub fn clear(&mut self) {
        self.floats.times.clear();
        self.floats.values.clear();
        self.floats.starts.clear();
        self.histograms.times.clear();
        self.histograms.values.clear();
        self.histograms.starts.clear();
    }

    /// Appends a number.
    pub fn push_float(&mut self, time: i64, value: f64) {
        self.floats.times.push(time);
        self.floats.values.push(value);
    }

    /// Appends a histogram.
    pub fn push_histogram(&mut self, time: i64, value: Arc<Histogram>) {
        self.histograms.times.push(time);
        self.histograms.values.push(value);
    }

    /// How many samples there are; a histogram counts as the numbers it is made of would.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.floats.times.len()
            + self
                .histograms
                .values
                .iter()
                .map(|histogram| histogram.weight())
                .sum::<usize>()
    }

    /// Whether there is no sample.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.floats.times.is_empty() && self.histograms.times.is_empty()
    }
}
