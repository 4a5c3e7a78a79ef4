//! How a store of series is read.

use super::{Labels, Matcher, Samples};

/// What a store may use to do less. None of it changes what is correct: a store that ignores the
/// hints is only slower.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// Milliseconds between two evaluations, 0 for a single one.
    pub step: i64,
    /// The function the samples go into, when there is one.
    pub function: Option<&'static str>,
    /// Only `sum` and `count` of histograms are looked at: buckets need not be decoded.
    pub only_sum_and_count: bool,
    /// No more samples than this are of use: the query is over its limit beyond them.
    pub max_samples: usize,
}

/// A store could not answer.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Something under the store failed.
    #[error("{0}")]
    Failed(String),
    /// The store refuses because of a limit of its own; the text names it.
    #[error("{0}")]
    Limited(String),
}

/// The series a selection found, one after the other.
pub trait SeriesSet: Send {
    /// Moves to the next series and appends its samples to the cleared columns, sorted by time,
    /// those of `start < time <= end` or more. `None` at the end.
    ///
    /// # Errors
    /// The store failed; the set is at its end then.
    fn next(&mut self, samples: &mut Samples) -> Result<Option<Labels>, SourceError>;
}

/// A store of series.
pub trait SeriesSource: Send + Sync {
    /// The series all matchers hold for, with their samples of `start < time <= end`
    /// (milliseconds). Each label set appears once. Markers that end a series are part of the
    /// samples. Any order is allowed, and the same order each time.
    ///
    /// # Errors
    /// The store failed or refuses.
    fn select<'a>(
        &'a self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        hints: &Hints,
    ) -> Result<Box<dyn SeriesSet + 'a>, SourceError>;
}
