//! A store in memory that takes in, answers and refuses as a real one does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use ondol_telemetry::series::{
    AppendError, Appended, Batch, Count, Exemplar, Extent, Hints, Labels, Listing, METRIC_NAME,
    Matcher, Metadata, Refusal, Samples, SeriesExemplars, SeriesIndex, SeriesSet, SeriesSource,
    SeriesWriter, SourceError, Statistics,
};

#[derive(Default)]
struct Inner {
    series: BTreeMap<Labels, Samples>,
    exemplars: BTreeMap<Labels, Vec<Exemplar>>,
    metadata: BTreeMap<Arc<str>, Vec<Metadata>>,
}

/// The store.
#[derive(Default)]
pub(crate) struct Memory {
    inner: Mutex<Inner>,
    /// Appends fail while this is set.
    pub(crate) broken: AtomicBool,
}

impl Memory {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Appends floats as they are.
    pub(crate) fn put(&self, labels: &[(&str, &str)], samples: &[(i64, f64)]) {
        let mut inner = self.inner();
        let into = inner
            .series
            .entry(Labels::from_pairs(labels.iter().copied()))
            .or_default();
        for (time, value) in samples {
            into.push_float(*time, *value);
        }
    }

    /// The floats of one series, by the way it prints itself.
    pub(crate) fn floats(&self, shown: &str) -> Vec<(i64, f64)> {
        self.inner()
            .series
            .iter()
            .find(|(labels, _)| labels.to_string() == shown)
            .map(|(_, samples)| {
                let times = samples.floats.times.iter().copied();
                times.zip(samples.floats.values.iter().copied()).collect()
            })
            .unwrap_or_default()
    }

    /// Every series with samples.
    pub(crate) fn shown(&self) -> Vec<String> {
        self.inner()
            .series
            .keys()
            .map(ToString::to_string)
            .collect()
    }
}

fn belongs(labels: &Labels, sets: &[Vec<Matcher>]) -> bool {
    sets.is_empty()
        || sets
            .iter()
            .any(|set| set.iter().all(|matcher| matcher.matches_labels(labels)))
}

fn inside(samples: &Samples, start: i64, end: i64) -> bool {
    let times = samples.floats.times.iter().chain(&samples.histograms.times);
    times.into_iter().any(|time| (start..=end).contains(time))
}

fn cut<T>(mut items: Vec<T>, limit: usize) -> Listing<T> {
    let cut = items.len() > limit;
    items.truncate(limit);
    Listing { items, cut }
}

#[async_trait]
impl SeriesWriter for Memory {
    async fn append(&self, batch: Batch) -> Result<Appended, AppendError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(AppendError::Failed("the disk is full".to_owned()));
        }
        let mut inner = self.inner();
        let mut appended = Appended::default();
        for float in batch.floats {
            let labels = &batch.series[float.series as usize];
            let samples = inner.series.entry(labels.clone()).or_default();
            let last = samples.floats.times.last().copied();
            match last {
                Some(last) if last > float.time => {
                    appended.refuse(Refusal::TooOld, || labels.to_string());
                }
                Some(last) if last == float.time => {
                    let held = samples.floats.values.last().map(|value| value.to_bits());
                    if held != Some(float.value.to_bits()) {
                        appended.refuse(Refusal::Duplicate, || labels.to_string());
                    }
                }
                _ => {
                    samples.push_float(float.time, float.value);
                    appended.floats += 1;
                }
            }
        }
        for sample in batch.histograms {
            let labels = &batch.series[sample.series as usize];
            let samples = inner.series.entry(labels.clone()).or_default();
            samples.push_histogram(sample.time, sample.value);
            appended.histograms += 1;
        }
        for (series, exemplar) in batch.exemplars {
            let labels = batch.series[series as usize].clone();
            inner.exemplars.entry(labels).or_default().push(exemplar);
            appended.exemplars += 1;
        }
        for (name, said) in batch.metadata {
            inner.metadata.insert(name, vec![said]);
        }
        Ok(appended)
    }
}

struct Found(std::vec::IntoIter<(Labels, Samples)>);

impl SeriesSet for Found {
    fn next(&mut self, into: &mut Samples) -> Result<Option<Labels>, SourceError> {
        Ok(self.0.next().map(|(labels, samples)| {
            *into = samples;
            labels
        }))
    }
}

impl SeriesSource for Memory {
    fn select<'a>(
        &'a self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        _: &Hints,
    ) -> Result<Box<dyn SeriesSet + 'a>, SourceError> {
        let sets = [matchers.to_vec()];
        let found: Vec<(Labels, Samples)> = self
            .inner()
            .series
            .iter()
            .filter(|(labels, _)| belongs(labels, &sets))
            .map(|(labels, all)| {
                let mut samples = Samples::default();
                for (time, value) in all.floats.times.iter().zip(&all.floats.values) {
                    if *time > start && *time <= end {
                        samples.push_float(*time, *value);
                    }
                }
                for (time, value) in all.histograms.times.iter().zip(&all.histograms.values) {
                    if *time > start && *time <= end {
                        samples.push_histogram(*time, value.clone());
                    }
                }
                (labels.clone(), samples)
            })
            .collect();
        Ok(Box::new(Found(found.into_iter())))
    }
}

impl Memory {
    fn matching(&self, extent: &Extent<'_>) -> Vec<Labels> {
        self.inner()
            .series
            .iter()
            .filter(|(labels, samples)| {
                belongs(labels, extent.sets) && inside(samples, extent.start, extent.end)
            })
            .map(|(labels, _)| labels.clone())
            .collect()
    }
}

impl SeriesIndex for Memory {
    fn series(&self, extent: Extent<'_>) -> Result<Listing<Labels>, SourceError> {
        Ok(cut(self.matching(&extent), extent.limit))
    }

    fn label_names(&self, extent: Extent<'_>) -> Result<Listing<Arc<str>>, SourceError> {
        let names: BTreeSet<Arc<str>> = self
            .matching(&extent)
            .iter()
            .flat_map(|labels| labels.iter().map(|label| label.name.clone()))
            .collect();
        Ok(cut(names.into_iter().collect(), extent.limit))
    }

    fn label_values(
        &self,
        name: &str,
        extent: Extent<'_>,
    ) -> Result<Listing<Arc<str>>, SourceError> {
        let values: BTreeSet<Arc<str>> = self
            .matching(&extent)
            .iter()
            .filter(|labels| labels.has(name))
            .map(|labels| Arc::from(labels.get(name)))
            .collect();
        Ok(cut(values.into_iter().collect(), extent.limit))
    }

    fn exemplars(&self, extent: Extent<'_>) -> Result<Vec<SeriesExemplars>, SourceError> {
        let inner = self.inner();
        let found = inner
            .exemplars
            .iter()
            .filter(|(labels, _)| belongs(labels, extent.sets))
            .map(|(labels, exemplars)| SeriesExemplars {
                labels: labels.clone(),
                exemplars: exemplars
                    .iter()
                    .filter(|one| (extent.start..=extent.end).contains(&one.time))
                    .cloned()
                    .collect(),
            });
        Ok(found.collect())
    }

    fn metadata(
        &self,
        metric: Option<&str>,
        limit: usize,
    ) -> Result<BTreeMap<Arc<str>, Vec<Metadata>>, SourceError> {
        let inner = self.inner();
        let found = inner
            .metadata
            .iter()
            .filter(|(name, _)| metric.is_none_or(|metric| metric == name.as_ref()));
        Ok(found
            .take(limit)
            .map(|(name, said)| (name.clone(), said.clone()))
            .collect())
    }

    fn statistics(&self, limit: usize) -> Result<Statistics, SourceError> {
        let inner = self.inner();
        let mut by_metric: BTreeMap<&str, u64> = BTreeMap::new();
        for labels in inner.series.keys() {
            *by_metric.entry(labels.get(METRIC_NAME)).or_default() += 1;
        }
        Ok(Statistics {
            series: inner.series.len() as u64,
            by_metric: by_metric
                .into_iter()
                .map(|(name, value)| Count {
                    name: name.to_owned(),
                    value,
                })
                .take(limit)
                .collect(),
            ..Statistics::default()
        })
    }
}
