//! The store of series behind the traits that the protocols know: how batches come in, and what
//! the index tells.
//!
//! Writes leave the threads that drive other tasks; a few of them run at once, so that the log
//! groups what they sync and the others wait without a thread. Nothing is acknowledged here that
//! [`Appender::commit`](super::Appender::commit) did not acknowledge.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Semaphore;

use super::append::Reason;
use super::error::TsdbError;
use super::head::{Head, SeriesRef};
use super::{Committed, Tsdb};
use crate::series::{
    AppendError, Appended, Batch, Count, Extent, Labels, Listing, METRIC_NAME, Matcher, Metadata,
    Refusal, SeriesExemplars, SeriesIndex, SeriesWriter, SourceError, Statistics,
};

/// How often a batch is tried whose series leave the head between the look-up and the commit.
const TRIES: usize = 3;

/// Takes batches in, a few at once.
#[derive(Clone)]
pub struct TsdbWriter {
    tsdb: Arc<Tsdb>,
    places: Arc<Semaphore>,
}

impl TsdbWriter {
    /// A writer that stores at most so many batches at the same time.
    #[must_use]
    pub fn new(tsdb: Arc<Tsdb>, at_once: usize) -> Self {
        Self {
            tsdb,
            places: Arc::new(Semaphore::new(at_once.max(1))),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> AppendError {
    AppendError::Failed(error.to_string())
}

#[async_trait]
impl SeriesWriter for TsdbWriter {
    async fn append(&self, batch: Batch) -> Result<Appended, AppendError> {
        if batch.is_empty() {
            return Ok(Appended::default());
        }
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(failed)?;
        let tsdb = self.tsdb.clone();
        tokio::task::spawn_blocking(move || {
            // It is held until the batch is stored, also when nobody waits for the answer.
            let _place = place;
            store(&tsdb, &batch)
        })
        .await
        .map_err(failed)?
    }
}

fn store(tsdb: &Tsdb, batch: &Batch) -> Result<Appended, AppendError> {
    for _ in 0..TRIES {
        let (committed, mut appended) = attempt(tsdb, batch)?;
        // A series that left has a successor; what was stored already is stored once.
        if committed.reasons.contains_key(&Reason::Unknown) {
            continue;
        }
        for (reason, count) in &committed.reasons {
            let why = match reason {
                Reason::Duplicate => Refusal::Duplicate,
                Reason::TooOld => Refusal::TooOld,
                Reason::TooNew => Refusal::Future,
                Reason::TooLarge => Refusal::TooLarge,
                Reason::Unknown => continue,
            };
            let first = committed.refusals.iter().find(|one| one.reason == *reason);
            let words = first.map_or_else(String::new, |one| {
                format!("{} at {} ms", one.metric, one.time)
            });
            let count = usize::try_from(*count).unwrap_or(usize::MAX);
            appended.refused.entry(why).or_insert((0, words)).0 += count;
        }
        return Ok(appended);
    }
    Err(AppendError::Busy(
        "series leave the head faster than they are written".to_owned(),
    ))
}

/// The references of the series of a batch that are looked up already, or why there is none.
type Known = Vec<Option<Result<SeriesRef, (Refusal, String)>>>;

fn attempt(tsdb: &Tsdb, batch: &Batch) -> Result<(Committed, Appended), AppendError> {
    let mut appender = tsdb.appender();
    let mut appended = Appended::default();
    let mut known: Known = vec![None; batch.series.len()];
    // Series without anything are not made.
    let mut look_up = |appender: &mut super::Appender<'_>, at: u32| {
        let (Some(slot), Some(labels)) =
            (known.get_mut(at as usize), batch.series.get(at as usize))
        else {
            return Err((Refusal::Labels, format!("there is no series {at}")));
        };
        slot.get_or_insert_with(|| find(appender, labels)).clone()
    };
    for sample in &batch.floats {
        match look_up(&mut appender, sample.series) {
            Ok(series) => appender.float(series, sample.time, sample.start, sample.value),
            Err((why, words)) => appended.refuse(why, || words),
        }
    }
    for sample in &batch.histograms {
        match look_up(&mut appender, sample.series) {
            Ok(series) => {
                appender.histogram(series, sample.time, sample.start, sample.value.clone());
            }
            Err((why, words)) => appended.refuse(why, || words),
        }
    }
    for (series, exemplar) in &batch.exemplars {
        // Those of a series that is refused go with it.
        if let Ok(series) = look_up(&mut appender, *series) {
            appender.exemplar(series, exemplar.clone());
        }
    }
    for (metric, metadata) in &batch.metadata {
        appender.metadata(metric, metadata.clone());
    }
    let committed = appender.commit().map_err(failed)?;
    let count = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    appended.floats = count(committed.stored - committed.histograms);
    appended.histograms = count(committed.histograms);
    appended.exemplars = count(committed.exemplars);
    Ok((committed, appended))
}

fn find(
    appender: &mut super::Appender<'_>,
    labels: &Labels,
) -> Result<SeriesRef, (Refusal, String)> {
    if labels.get(METRIC_NAME).is_empty() {
        return Err((Refusal::Labels, format!("{labels} has no name")));
    }
    appender.series_of(labels).map_err(|error| {
        let why = match error {
            TsdbError::TooManySeries { .. } => Refusal::TooManySeries,
            _ => Refusal::Labels,
        };
        (why, error.to_string())
    })
}

fn refused(error: TsdbError) -> SourceError {
    SourceError::Failed(error.to_string())
}

fn shared((items, cut): (Vec<String>, bool)) -> Listing<Arc<str>> {
    Listing {
        items: items.into_iter().map(Arc::from).collect(),
        cut,
    }
}

/// The store has no condition for "every series" but a list with an empty one.
fn selections(sets: &[Vec<Matcher>]) -> &[Vec<Matcher>] {
    const EVERY: &[Vec<Matcher>] = &[Vec::new()];
    if sets.is_empty() { EVERY } else { sets }
}

impl SeriesIndex for Tsdb {
    fn series(&self, extent: Extent<'_>) -> Result<Listing<Labels>, SourceError> {
        let sets = selections(extent.sets);
        let (items, cut) =
            Self::series(self, sets, extent.start, extent.end, extent.limit).map_err(refused)?;
        Ok(Listing { items, cut })
    }

    fn label_names(&self, extent: Extent<'_>) -> Result<Listing<Arc<str>>, SourceError> {
        Self::label_names(self, extent.sets, extent.start, extent.end, extent.limit)
            .map(shared)
            .map_err(refused)
    }

    fn label_values(
        &self,
        name: &str,
        extent: Extent<'_>,
    ) -> Result<Listing<Arc<str>>, SourceError> {
        let (start, end) = (extent.start, extent.end);
        Self::label_values(self, name, extent.sets, start, end, extent.limit)
            .map(shared)
            .map_err(refused)
    }

    fn exemplars(&self, extent: Extent<'_>) -> Result<Vec<SeriesExemplars>, SourceError> {
        let sets = selections(extent.sets);
        let mut by_series = BTreeMap::new();
        for (labels, exemplar) in
            Self::exemplars(self, sets, extent.start, extent.end, extent.limit)
        {
            let its: &mut Vec<_> = by_series.entry(labels).or_default();
            its.push(exemplar);
        }
        Ok(by_series
            .into_iter()
            .map(|(labels, mut exemplars)| {
                exemplars.sort_by_key(|exemplar| exemplar.time);
                SeriesExemplars { labels, exemplars }
            })
            .collect())
    }

    fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
    ) -> Result<BTreeMap<Arc<str>, Vec<Metadata>>, SourceError> {
        Ok(Self::metadata(self, metric, limit)
            .into_iter()
            .map(|(name, metadata)| (Arc::from(name), vec![metadata]))
            .collect())
    }

    fn statistics(&self, limit: usize) -> Result<Statistics, SourceError> {
        let stats = self.stats(limit);
        let count = |name: String, value: usize| Count {
            name,
            value: value as u64,
        };
        let mut bytes: Vec<Count> = Vec::new();
        let mut pairs = 0u64;
        {
            let index = self.head.index();
            for name in index.names() {
                let mut value = 0u64;
                for text in index.values(name) {
                    pairs += 1;
                    value += text.len() as u64;
                }
                bytes.push(Count {
                    name: name.to_owned(),
                    value,
                });
            }
        }
        bytes.sort_by(|a, b| b.value.cmp(&a.value).then_with(|| a.name.cmp(&b.name)));
        bytes.truncate(limit);
        let chunks = (0..Head::shards())
            .map(|at| self.head.shard(at).open_series() as u64)
            .sum();
        let known = |time: i64| {
            if matches!(time, i64::MIN | i64::MAX) {
                0
            } else {
                time
            }
        };
        Ok(Statistics {
            series: stats.series as u64,
            label_pairs: pairs,
            chunks,
            min_time: known(self.head.oldest()),
            max_time: known(self.head.newest()),
            by_metric: stats
                .top_metrics
                .into_iter()
                .map(|(name, value)| count(name, value))
                .collect(),
            values_by_label: stats
                .top_labels
                .into_iter()
                .map(|(name, value)| count(name, value))
                .collect(),
            bytes_by_label: bytes,
            by_pair: stats
                .top_pairs
                .into_iter()
                .map(|(name, value, series)| count(format!("{name}={value}"), series))
                .collect(),
            retention: self.kept(),
            corruptions: stats.damage.len() as u64,
        })
    }
}

impl Tsdb {
    /// How long samples are kept, in words.
    fn kept(&self) -> String {
        const DAY: i64 = 24 * 3_600_000;
        let age = self.config.retention.map(|age| match age {
            age if age % DAY == 0 => format!("{}d", age / DAY),
            age => format!("{}s", age / 1000),
        });
        let size = self
            .config
            .retention_bytes
            .map(|size| format!("{}MiB", size >> 20));
        match (age, size) {
            (Some(age), Some(size)) => format!("{age} or {size}"),
            (age, size) => age.or(size).unwrap_or_default(),
        }
    }
}
