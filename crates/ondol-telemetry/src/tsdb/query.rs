//! How the store is read: series with their samples, names and values of labels, exemplars, and
//! what the store is made of.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::block::{Block, Cursor};
use super::chunk::{ChunkMeta, Course};
use super::error::TsdbError;
use super::head::HeadSeries;
use super::{Blocks, Tsdb};
use crate::series::{
    Exemplar, Hints, Labels, METRIC_NAME, Matcher, Metadata, Samples, SeriesSet, SeriesSource,
    SourceError,
};

/// What the store is made of.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Active series.
    pub series: usize,
    /// Distinct names and values of labels of the active series.
    pub symbols: usize,
    /// Samples that are in no block.
    pub head_samples: u64,
    /// The time of the newest sample, milliseconds; `None` before the first.
    pub newest: Option<i64>,
    /// The time of the oldest sample in a block, milliseconds.
    pub oldest: Option<i64>,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Blocks.
    pub blocks: usize,
    /// Bytes of all blocks.
    pub block_bytes: u64,
    /// Samples of all blocks; one that is in two blocks counts twice.
    pub block_samples: u64,
    /// Metrics with most active series.
    pub top_metrics: Vec<(String, usize)>,
    /// Labels with most values.
    pub top_labels: Vec<(String, usize)>,
    /// Pairs of a label and a value with most active series.
    pub top_pairs: Vec<(String, String, usize)>,
    /// Files that were damaged and set aside since the start.
    pub damage: Vec<String>,
}

/// Where a selection reads from.
enum Source {
    Head(std::vec::IntoIter<HeadSeries>, Option<HeadSeries>),
    Block(Box<Cursor>, Option<Labels>),
}

impl Source {
    fn labels(&self) -> Option<&Labels> {
        match self {
            Self::Head(_, series) => series.as_ref().map(|series| &series.labels),
            Self::Block(_, labels) => labels.as_ref(),
        }
    }
}

struct Found<'a> {
    tsdb: &'a Tsdb,
    /// Those whose samples count more first: blocks by age, then the head.
    sources: Vec<Source>,
    course: Course,
    start: i64,
    end: i64,
    max_samples: usize,
}

fn refuse(error: &TsdbError) -> SourceError {
    SourceError::Failed(error.to_string())
}

impl Found<'_> {
    /// Moves a source on; one that is damaged is set aside and does not go on.
    fn advance(&mut self, at: usize) -> Result<(), SourceError> {
        match &mut self.sources[at] {
            Source::Head(rest, series) => *series = rest.next(),
            Source::Block(cursor, labels) => match cursor.next() {
                Ok(next) => *labels = next,
                Err(error) => {
                    *labels = None;
                    let block = cursor.block().id;
                    return self.blame(block, &error);
                }
            },
        }
        Ok(())
    }

    fn blame(&self, block: u64, error: &TsdbError) -> Result<(), SourceError> {
        if matches!(error, TsdbError::Corrupted { .. }) {
            self.tsdb.set_aside(block, error);
            return Ok(());
        }
        Err(refuse(error))
    }

    /// Reads the samples of a series, and answers the block that was damaged.
    fn read(&mut self, next: &Labels) -> Result<(), (u64, TsdbError)> {
        let mut chunks: Vec<(ChunkMeta, &[u8])> = Vec::new();
        for source in &mut self.sources {
            if source.labels() != Some(next) {
                continue;
            }
            match source {
                Source::Head(_, series) => {
                    let found = series.iter().flat_map(|series| &series.chunks);
                    chunks.extend(found.map(|chunk| (chunk.meta, &*chunk.bytes)));
                }
                Source::Block(cursor, _) => {
                    let block = cursor.block().id;
                    cursor
                        .chunks(self.start, self.end, &mut chunks)
                        .map_err(|error| (block, error))?;
                }
            }
        }
        // Beyond what is of use, only as much is read as shows that it is too much.
        let mut inside = 0usize;
        let enough = chunks.iter().position(|(meta, _)| {
            if meta.min > self.start && meta.max <= self.end {
                inside += meta.count as usize;
            }
            self.max_samples > 0 && inside > self.max_samples.saturating_mul(2)
        });
        if let Some(last) = enough {
            chunks.truncate(last + 1);
        }
        self.course.gather(&chunks).map_err(|error| {
            let path = self.tsdb.disk.root.clone();
            let expected = error.0;
            let at = 0;
            (0, TsdbError::Corrupted { path, expected, at })
        })
    }
}

impl SeriesSet for Found<'_> {
    fn next(&mut self, samples: &mut Samples) -> Result<Option<Labels>, SourceError> {
        loop {
            let Some(next) = self
                .sources
                .iter()
                .filter_map(Source::labels)
                .min()
                .cloned()
            else {
                return Ok(None);
            };
            while let Err((block, error)) = self.read(&next) {
                let damaged = self.sources.iter().position(
                    |source| matches!(source, Source::Block(cursor, _) if cursor.block().id == block),
                );
                let Some(damaged) = damaged else {
                    return Err(refuse(&error));
                };
                self.blame(block, &error)?;
                self.sources.remove(damaged);
            }
            for at in 0..self.sources.len() {
                if self.sources[at].labels() == Some(&next) {
                    self.advance(at)?;
                }
            }
            self.course.copy_into(self.start, self.end, samples);
            if !samples.is_empty() {
                return Ok(Some(next));
            }
        }
    }
}

impl SeriesSource for Tsdb {
    fn select<'a>(
        &'a self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        hints: &Hints,
    ) -> Result<Box<dyn SeriesSet + 'a>, SourceError> {
        // The head first: samples move from it into blocks, never back.
        let head = self.head.select(matchers, start, end);
        let mut found = Found {
            tsdb: self,
            sources: Vec::new(),
            course: Course::default(),
            start,
            end,
            max_samples: hints.max_samples,
        };
        for block in self.touched(start, end).iter() {
            match block.select(matchers) {
                Ok(numbers) if numbers.is_empty() => {}
                Ok(numbers) => {
                    let cursor = Cursor::new(Arc::clone(block), numbers);
                    found.sources.push(Source::Block(Box::new(cursor), None));
                }
                Err(error) => found.blame(block.id, &error)?,
            }
        }
        found.sources.push(Source::Head(head.into_iter(), None));
        for at in 0..found.sources.len() {
            found.advance(at)?;
        }
        Ok(Box::new(found))
    }
}

impl Tsdb {
    fn touched(&self, start: i64, end: i64) -> Blocks {
        let blocks = self.blocks();
        let touched: Vec<Arc<Block>> = blocks
            .iter()
            .filter(|block| block.touches(start, end))
            .cloned()
            .collect();
        Arc::new(touched)
    }

    /// Calls with the labels of every series one of the lists of conditions holds for and that may
    /// have samples of `start <= time <= end`, at most `limit`; some are met more than once. The
    /// answer says whether the limit was reached.
    ///
    /// # Errors
    /// The disk failed.
    pub fn series(
        &self,
        selections: &[Vec<Matcher>],
        start: i64,
        end: i64,
        limit: usize,
    ) -> Result<(Vec<Labels>, bool), TsdbError> {
        let mut found: BTreeSet<Labels> = BTreeSet::new();
        let start = start.saturating_sub(1);
        for matchers in selections {
            self.head
                .each_labels(matchers, start, end, &mut |index, slot| {
                    found.insert(index.labels(slot));
                    found.len() <= limit
                });
            for block in self.touched(start, end).iter() {
                let outcome = (|| {
                    let numbers = block.select(matchers)?;
                    let mut cursor = Cursor::new(Arc::clone(block), numbers);
                    while found.len() <= limit
                        && let Some(labels) = cursor.next()?
                    {
                        if cursor.touches(start, end) {
                            found.insert(labels);
                        }
                    }
                    Ok(())
                })();
                self.go_on_without(block, outcome)?;
            }
        }
        let cut = found.len() > limit;
        Ok((found.into_iter().take(limit).collect(), cut))
    }

    /// A damaged block is set aside, and the others answer.
    fn go_on_without(
        &self,
        block: &Block,
        outcome: Result<(), TsdbError>,
    ) -> Result<(), TsdbError> {
        match outcome {
            Err(error @ TsdbError::Corrupted { .. }) => {
                self.set_aside(block.id, &error);
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// The names of labels, of all series or of those one of the lists of conditions holds for,
    /// and whether the limit was reached.
    ///
    /// # Errors
    /// The disk failed.
    pub fn label_names(
        &self,
        selections: &[Vec<Matcher>],
        start: i64,
        end: i64,
        limit: usize,
    ) -> Result<(Vec<String>, bool), TsdbError> {
        let mut names: BTreeSet<String> = BTreeSet::new();
        if selections.is_empty() {
            names.extend(self.head.index().names().map(str::to_owned));
            for block in self.touched(start.saturating_sub(1), end).iter() {
                names.extend(block.names().map(str::to_owned));
            }
        } else {
            let (series, _) = self.series(selections, start, end, usize::MAX)?;
            for labels in &series {
                names.extend(labels.iter().map(|label| label.name.to_string()));
            }
        }
        let cut = names.len() > limit;
        Ok((names.into_iter().take(limit).collect(), cut))
    }

    /// The values of a label, of all series or of those one of the lists of conditions holds for,
    /// and whether the limit was reached.
    ///
    /// # Errors
    /// The disk failed.
    pub fn label_values(
        &self,
        name: &str,
        selections: &[Vec<Matcher>],
        start: i64,
        end: i64,
        limit: usize,
    ) -> Result<(Vec<String>, bool), TsdbError> {
        let mut values: BTreeSet<String> = BTreeSet::new();
        if selections.is_empty() {
            values.extend(self.head.index().values(name).map(str::to_owned));
            for block in self.touched(start.saturating_sub(1), end).iter() {
                let outcome = block.values(name, &mut |value| {
                    values.insert(value.to_owned());
                    true
                });
                self.go_on_without(block, outcome)?;
            }
        } else {
            let (series, _) = self.series(selections, start, end, usize::MAX)?;
            values.extend(
                series
                    .iter()
                    .map(|labels| labels.get(name).to_owned())
                    .filter(|value| !value.is_empty()),
            );
        }
        let cut = values.len() > limit;
        Ok((values.into_iter().take(limit).collect(), cut))
    }

    /// Exemplars of `start <= time <= end` of the series one of the lists of conditions holds for,
    /// the newest first, at most `limit`.
    #[must_use]
    pub fn exemplars(
        &self,
        selections: &[Vec<Matcher>],
        start: i64,
        end: i64,
        limit: usize,
    ) -> Vec<(Labels, Exemplar)> {
        let annexes = self.annexes();
        let mut found: Vec<(Labels, Exemplar)> = annexes
            .exemplars()
            .filter(|(labels, exemplar)| {
                (start..=end).contains(&exemplar.time)
                    && selections.iter().any(|matchers| {
                        matchers
                            .iter()
                            .all(|matcher| matcher.matches_labels(labels))
                    })
            })
            .cloned()
            .collect();
        found.sort_by_key(|(_, exemplar)| std::cmp::Reverse(exemplar.time));
        found.truncate(limit);
        found
    }

    /// What metrics are, of one or of all, at most `limit`.
    #[must_use]
    pub fn metadata(&self, metric: Option<&str>, limit: usize) -> Vec<(String, Metadata)> {
        self.annexes()
            .metadata()
            .iter()
            .filter(|(name, _)| metric.is_none_or(|metric| metric == name.as_str()))
            .take(limit)
            .map(|(name, metadata)| (name.clone(), metadata.clone()))
            .collect()
    }

    /// What the store is made of, with the `top` largest of each kind.
    #[must_use]
    pub fn stats(&self, top: usize) -> Stats {
        let blocks = self.blocks();
        let index = self.head.index();
        Stats {
            series: index.len(),
            symbols: index.symbols.len(),
            head_samples: self.head.fresh(),
            newest: Some(self.head.newest()).filter(|&newest| newest != i64::MIN),
            oldest: blocks.iter().map(|block| block.directory.min).min(),
            log_bytes: self.wal.size(),
            blocks: blocks.len(),
            block_bytes: blocks.iter().map(|block| block.size).sum(),
            block_samples: blocks.iter().map(|block| block.directory.samples).sum(),
            top_metrics: index.top_values(METRIC_NAME, top),
            top_labels: index.top_names(top),
            top_pairs: index.top_pairs(top),
            damage: self
                .damage
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone(),
        }
    }
}
