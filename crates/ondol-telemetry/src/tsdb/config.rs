//! The ceilings and periods of the store of series.

/// Two hours, in milliseconds.
pub(crate) const WINDOW: i64 = 2 * 60 * 60 * 1000;

/// How the store of series behaves. All times are milliseconds.
#[derive(Clone, Debug)]
pub struct TsdbConfig {
    /// Samples older than this are deleted, block by block. `None` keeps them.
    pub retention: Option<i64>,
    /// The oldest blocks are deleted while all of them take more than this. `None` is no ceiling.
    pub retention_bytes: Option<u64>,
    /// How much older than the newest sample of its series a sample may be.
    pub out_of_order: i64,
    /// How far in the future a sample may be.
    pub future: i64,
    /// Active series, all together.
    pub max_series: usize,
    /// Active series of one metric.
    pub max_series_per_metric: usize,
    /// Labels of one series.
    pub max_labels: usize,
    /// Bytes of a label's name.
    pub max_name_bytes: usize,
    /// Bytes of a label's value.
    pub max_value_bytes: usize,
    /// The head becomes a block at this many samples. It bounds memory and what is replayed.
    pub flush_samples: u64,
    /// The same, by the bytes of the log.
    pub flush_bytes: u64,
    /// Series without a sample for this long leave the head.
    pub idle: i64,
    /// Exemplars that are kept, all together.
    pub max_exemplars: usize,
    /// Metrics whose type, help and unit are kept.
    pub max_metadata: usize,
    /// Bytes of index pages that are kept unfolded.
    pub cache_bytes: usize,
}

impl Default for TsdbConfig {
    fn default() -> Self {
        Self {
            retention: Some(15 * 24 * 60 * 60 * 1000),
            retention_bytes: None,
            out_of_order: 30 * 60 * 1000,
            future: 10 * 60 * 1000,
            max_series: 1_000_000,
            max_series_per_metric: 250_000,
            max_labels: 64,
            max_name_bytes: 512,
            max_value_bytes: 4096,
            flush_samples: 1_000_000,
            flush_bytes: 32 << 20,
            idle: 60 * 60 * 1000,
            max_exemplars: 10_000,
            max_metadata: 20_000,
            cache_bytes: 24 << 20,
        }
    }
}
