//! Deltas added up, series by series.
//!
//! What is added up lives in memory alone: after a restart a series counts from zero with a new
//! start, which is what a restart of its sender looks like. The number of series has a ceiling;
//! at it, those that were not heard of for longest make room.

use std::collections::HashMap;
use std::sync::Arc;

use crate::series::histogram::Sum;
use crate::series::{CounterReset, Histogram, Labels, Refusal};

/// Series that are added up at most.
const MAX_STREAMS: usize = 200_000;
/// Buckets of an added up histogram at most; beyond them its series starts anew.
const MAX_BUCKETS: usize = 4_000;

/// What a series adds up to.
#[derive(Clone, Debug)]
enum Total {
    Number(f64),
    Histogram(Arc<Histogram>),
}

#[derive(Clone, Debug)]
struct Stream {
    start: i64,
    time: i64,
    total: Total,
}

/// What series with deltas add up to so far.
#[derive(Debug, Default)]
pub struct Deltas {
    streams: HashMap<Labels, Stream>,
}

/// What a request changes about [`Deltas`], before it is acknowledged.
#[derive(Debug, Default)]
pub struct Staged {
    streams: HashMap<Labels, Stream>,
}

impl Deltas {
    /// How many series are added up.
    #[must_use]
    pub fn len(&self) -> usize {
        self.streams.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Makes what a request changed the state, after its batch was acknowledged.
    pub fn commit(&mut self, staged: Staged) {
        self.streams.extend(staged.streams);
        if self.streams.len() > MAX_STREAMS {
            // A tenth goes at once, so that not every request has to look for the oldest.
            let mut times: Vec<i64> = self.streams.values().map(|stream| stream.time).collect();
            let keep = MAX_STREAMS - MAX_STREAMS / 10;
            let at = times.len() - keep;
            let (_, oldest, _) = times.select_nth_unstable(at);
            let oldest = *oldest;
            self.streams.retain(|_, stream| stream.time > oldest);
        }
    }
}

impl Staged {
    fn known<'a>(&'a self, deltas: &'a Deltas, labels: &Labels) -> Option<&'a Stream> {
        self.streams
            .get(labels)
            .or_else(|| deltas.streams.get(labels))
    }

    /// Adds a number; results in the start of the series and what it adds up to.
    pub(super) fn number(
        &mut self,
        deltas: &Deltas,
        labels: &Labels,
        start: i64,
        time: i64,
        delta: f64,
    ) -> Result<(i64, f64), Refusal> {
        let (start, total) = match self.known(deltas, labels) {
            Some(stream) if stream.time >= time => return Err(Refusal::TooOld),
            Some(Stream {
                start,
                total: Total::Number(total),
                ..
            }) => (*start, total + delta),
            _ => (start, delta),
        };
        self.streams.insert(
            labels.clone(),
            Stream {
                start,
                time,
                total: Total::Number(total),
            },
        );
        Ok((start, total))
    }

    /// Adds a histogram; results in the start of the series and what it adds up to.
    pub(super) fn histogram(
        &mut self,
        deltas: &Deltas,
        labels: &Labels,
        start: i64,
        time: i64,
        delta: Histogram,
    ) -> Result<(i64, Arc<Histogram>), Refusal> {
        let summed = match self.known(deltas, labels) {
            Some(stream) if stream.time >= time => return Err(Refusal::TooOld),
            Some(Stream {
                start,
                total: Total::Histogram(total),
                ..
            }) => {
                let mut sum = Sum::from(total.as_ref());
                sum.add(&delta)
                    .ok()
                    .map(|_| sum.finish())
                    .filter(|sum| {
                        sum.positive.counts().len() + sum.negative.counts().len() <= MAX_BUCKETS
                    })
                    .map(|sum| (*start, sum))
            }
            _ => None,
        };
        let (start, mut total) = summed.unwrap_or((start, delta));
        total.counter_reset = CounterReset::Unknown;
        let total = Arc::new(total);
        self.streams.insert(
            labels.clone(),
            Stream {
                start,
                time,
                total: Total::Histogram(total.clone()),
            },
        );
        Ok((start, total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_acknowledged_is_not_counted() {
        let labels = Labels::from_pairs([("__name__", "a")]);
        let mut deltas = Deltas::default();
        let mut staged = Staged::default();
        assert_eq!(staged.number(&deltas, &labels, 10, 20, 3.0), Ok((10, 3.0)));
        assert_eq!(staged.number(&deltas, &labels, 20, 30, 4.0), Ok((10, 7.0)));
        drop(staged);
        let mut again = Staged::default();
        assert_eq!(again.number(&deltas, &labels, 10, 20, 3.0), Ok((10, 3.0)));
        deltas.commit(again);
        let mut late = Staged::default();
        assert_eq!(
            late.number(&deltas, &labels, 10, 20, 3.0),
            Err(Refusal::TooOld)
        );
        assert_eq!(late.number(&deltas, &labels, 20, 30, 1.0), Ok((10, 4.0)));
    }

    #[test]
    fn the_oldest_series_make_room() {
        let mut deltas = Deltas::default();
        let mut staged = Staged::default();
        for at in 0..=MAX_STREAMS as i64 {
            let labels = Labels::from_pairs([("n", at.to_string())]);
            staged.number(&deltas, &labels, 0, at + 1, 1.0).unwrap();
        }
        deltas.commit(staged);
        assert!(deltas.len() < MAX_STREAMS && deltas.len() > MAX_STREAMS / 2);
        assert!(
            !deltas
                .streams
                .contains_key(&Labels::from_pairs([("n", "0")]))
        );
    }
}
