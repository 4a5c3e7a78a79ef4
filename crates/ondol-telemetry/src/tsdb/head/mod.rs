//! The head: the active series and their samples that are in no block yet.
//!
//! Series are found through one index behind a lock that appends and queries share; samples lie
//! in shards with a lock each. Nothing here touches a disk. Locks are taken in this order: index,
//! then one shard at a time.

pub(crate) mod index;
pub(crate) mod series;
mod symbols;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub(crate) use index::{Index, SeriesRef, shorten};
pub(crate) use series::{Fate, Frozen, SeriesData, Value};

use super::chunk::Chunk;
use super::config::TsdbConfig;
use super::error::TsdbError;
use super::postings::{LabelIndex, select};
use crate::series::{Labels, METRIC_NAME, Matcher};

const SHARDS: usize = 16;

#[derive(Default)]
pub(crate) struct Head {
    index: RwLock<Index>,
    shards: [Mutex<Vec<SeriesData>>; SHARDS],
    /// Samples appended since the last freeze.
    fresh: AtomicU64,
    newest: AtomicI64,
    oldest: AtomicI64,
    /// Who has most series, and how many refusals may still say so before it is looked up again.
    offender: Mutex<(u32, String)>,
}

/// A series of the head with its chunks.
pub(crate) struct HeadSeries {
    pub(crate) labels: Labels,
    pub(crate) chunks: Vec<Chunk>,
}

pub(crate) fn place(slot: u32) -> (usize, usize) {
    (slot as usize % SHARDS, slot as usize / SHARDS)
}

/// The samples of a shard, one for one with the slots.
pub(crate) struct Shard<'a>(MutexGuard<'a, Vec<SeriesData>>);

impl Shard<'_> {
    pub(crate) fn series(&mut self, at: usize) -> &mut SeriesData {
        if self.0.len() <= at {
            self.0.resize_with(at + 1, SeriesData::default);
        }
        &mut self.0[at]
    }

    /// How many series have samples that are in no block.
    pub(crate) fn open_series(&self) -> usize {
        self.0.iter().filter(|series| !series.is_empty()).count()
    }
}

impl Head {
    pub(crate) fn new() -> Self {
        Self {
            newest: AtomicI64::new(i64::MIN),
            oldest: AtomicI64::new(i64::MAX),
            ..Self::default()
        }
    }

    pub(crate) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shard(&self, at: usize) -> Shard<'_> {
        Shard(
            self.shards[at % SHARDS]
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    pub(crate) const fn shards() -> usize {
        SHARDS
    }

    /// The series with these labels, which is made when there is none and the ceilings allow it.
    pub(crate) fn series(
        &self,
        labels: &[(&str, &str)],
        config: &TsdbConfig,
    ) -> Result<SeriesRef, TsdbError> {
        {
            let index = self.index();
            if let Some(found) = index.find(labels) {
                let touched = &index.metas[found.slot() as usize].touched;
                if !touched.load(Ordering::Relaxed) {
                    touched.store(true, Ordering::Relaxed);
                }
                return Ok(found);
            }
        }
        check(labels, config)?;
        // A flood of refusals passes under the shared lock.
        self.room(&self.index(), labels, config)?;
        let mut index = self.index_mut();
        if let Some(found) = index.find(labels) {
            return Ok(found);
        }
        self.room(&index, labels, config)?;
        Ok(index.create(labels))
    }

    fn room(
        &self,
        index: &Index,
        labels: &[(&str, &str)],
        config: &TsdbConfig,
    ) -> Result<(), TsdbError> {
        let name = labels
            .iter()
            .find(|(name, _)| *name == METRIC_NAME)
            .map_or("", |(_, value)| value);
        let (limit, scope) = if index.len() >= config.max_series {
            (config.max_series, "of the store")
        } else if index.count(METRIC_NAME, name) >= config.max_series_per_metric {
            (config.max_series_per_metric, "of one metric")
        } else {
            return Ok(());
        };
        let mut offender = self.offender.lock().unwrap_or_else(PoisonError::into_inner);
        if offender.0 == 0 {
            *offender = (1000, index.offender());
        }
        offender.0 -= 1;
        Err(TsdbError::TooManySeries {
            limit,
            scope,
            offender: offender.1.clone(),
            refused: shorten(name),
        })
    }

    /// The series of a record of the log, without regard to ceilings: it was accepted before.
    pub(crate) fn restore(&self, labels: &[(&str, &str)]) -> SeriesRef {
        let mut index = self.index_mut();
        match index.find(labels) {
            Some(found) => found,
            None => index.create(labels),
        }
    }

    /// Counts samples that were stored.
    pub(crate) fn stored(&self, samples: u64, oldest: i64, newest: i64) {
        self.fresh.fetch_add(samples, Ordering::Relaxed);
        self.newest.fetch_max(newest, Ordering::Relaxed);
        self.oldest.fetch_min(oldest, Ordering::Relaxed);
    }

    /// Notes the time of a sample that is in a block.
    pub(crate) fn seen(&self, newest: i64) {
        self.newest.fetch_max(newest, Ordering::Relaxed);
    }

    /// Samples since the last freeze.
    pub(crate) fn fresh(&self) -> u64 {
        self.fresh.load(Ordering::Relaxed)
    }

    /// The time of the newest sample there ever was, or `i64::MIN`.
    pub(crate) fn newest(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// The time of the oldest sample since the last freeze, or `i64::MAX`.
    pub(crate) fn oldest(&self) -> i64 {
        self.oldest.load(Ordering::Relaxed)
    }

    /// The series the conditions hold for, with their chunks, sorted by labels.
    pub(crate) fn select(&self, matchers: &[Matcher], start: i64, end: i64) -> Vec<HeadSeries> {
        let index = self.index();
        let Ok(slots) = select(&*index, matchers);
        let mut found = Vec::new();
        for shard in 0..SHARDS {
            let mut data = self.shard(shard);
            for &slot in &slots {
                let (at, position) = place(slot);
                if at == shard {
                    let mut chunks = Vec::new();
                    data.series(position).chunks(start, end, &mut chunks);
                    if !chunks.is_empty() {
                        found.push((slot, chunks));
                    }
                }
            }
        }
        let mut series: Vec<HeadSeries> = found
            .into_iter()
            .map(|(slot, chunks)| HeadSeries {
                labels: index.labels(slot),
                chunks,
            })
            .collect();
        drop(index);
        series.sort_unstable_by(|a, b| a.labels.cmp(&b.labels));
        series
    }

    /// Calls for each series that may have samples of `start < time <= end`; stops at `false`.
    pub(crate) fn each_labels(
        &self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        take: &mut dyn FnMut(&Index, u32) -> bool,
    ) {
        let index = self.index();
        let slots = if matchers.is_empty() {
            index.all()
        } else {
            let Ok(slots) = select(&*index, matchers);
            slots
        };
        for slot in slots {
            let (at, position) = place(slot);
            if self.shard(at).series(position).touches(start, end) && !take(&index, slot) {
                return;
            }
        }
    }

    /// Closes all that is open. The samples stay until [`Head::forget`].
    pub(crate) fn freeze(&self) -> Vec<(u32, Frozen, Vec<Chunk>)> {
        self.fresh.store(0, Ordering::Relaxed);
        self.oldest.store(i64::MAX, Ordering::Relaxed);
        let mut taken = Vec::new();
        for at in 0..SHARDS {
            let mut shard = self.shard(at);
            for (position, series) in shard.0.iter_mut().enumerate() {
                if series.is_empty() {
                    continue;
                }
                let mut chunks = Vec::new();
                let frozen = series.freeze(&mut chunks);
                if !frozen.is_empty() {
                    taken.push(((position * SHARDS + at) as u32, frozen, chunks));
                }
            }
        }
        taken
    }

    /// Lets go of what was frozen.
    pub(crate) fn forget(&self, frozen: &[(u32, Frozen)]) {
        for at in 0..SHARDS {
            let mut shard = self.shard(at);
            for &(slot, frozen) in frozen {
                let (of, position) = place(slot);
                if of == at {
                    shard.series(position).forget(frozen);
                }
            }
        }
    }

    /// Lets idle series leave: those without a sample since `before` that nobody asked for since
    /// the last time. Answers how many left.
    pub(crate) fn expire(&self, before: i64) -> usize {
        let mut index = self.index_mut();
        let mut gone = Vec::new();
        for slot in index.all() {
            let touched = index.metas[slot as usize].touched.get_mut();
            let (at, position) = place(slot);
            let mut shard = self.shard(at);
            let data = shard.series(position);
            if std::mem::replace(touched, false) || !data.is_empty() || data.last_time >= before {
                continue;
            }
            *data = SeriesData::default();
            gone.push(slot);
        }
        index.remove(&gone);
        gone.len()
    }
}

fn check(labels: &[(&str, &str)], config: &TsdbConfig) -> Result<(), TsdbError> {
    let refuse = |problem: String| {
        let series = labels
            .iter()
            .find(|(name, _)| *name == METRIC_NAME)
            .map_or_else(|| "without a name".to_owned(), |(_, value)| shorten(value));
        Err(TsdbError::Labels { series, problem })
    };
    if labels.is_empty() {
        return refuse("has no labels".to_owned());
    }
    if labels.len() > config.max_labels {
        return refuse(format!(
            "has {} labels, the limit is {}",
            labels.len(),
            config.max_labels
        ));
    }
    for (at, (name, value)) in labels.iter().enumerate() {
        if name.is_empty() || value.is_empty() {
            return refuse(format!("label {:?} is empty", shorten(name)));
        }
        if at > 0 && labels[at - 1].0 >= *name {
            return refuse(format!("label {:?} is there twice", shorten(name)));
        }
        if name.len() > config.max_name_bytes {
            return refuse(format!(
                "the name of label {:?} has {} bytes, the limit is {}",
                shorten(name),
                name.len(),
                config.max_name_bytes
            ));
        }
        if value.len() > config.max_value_bytes {
            return refuse(format!(
                "the value of label {:?} has {} bytes, the limit is {}",
                shorten(name),
                value.len(),
                config.max_value_bytes
            ));
        }
    }
    Ok(())
}
