//! Exemplars and what metrics mean: both bounded, both kept over restarts.

use std::collections::{BTreeMap, VecDeque};

use super::bytes::{Corrupt, Reader, put_text, put_uvarint, put_varint};
use crate::series::{Exemplar, Labels, Metadata, MetricKind};

pub(crate) fn write_labels(labels: &Labels, out: &mut Vec<u8>) {
    put_uvarint(out, labels.len() as u64);
    for label in labels {
        put_text(out, &label.name);
        put_text(out, &label.value);
    }
}

pub(crate) fn read_labels(reader: &mut Reader<'_>) -> Result<Labels, Corrupt> {
    let count = reader.count(2)?;
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push((reader.text()?, reader.text()?));
    }
    Ok(Labels::from_pairs(pairs))
}

impl Exemplar {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        write_labels(&self.labels, out);
        out.extend_from_slice(&self.value.to_bits().to_le_bytes());
        put_varint(out, self.time);
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Self {
            labels: read_labels(reader)?,
            value: f64::from_bits(reader.u64()?),
            time: reader.varint()?,
        })
    }
}

impl Metadata {
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        for text in [self.kind.as_str(), &self.help, &self.unit] {
            put_text(out, text);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Self {
            // A kind that a later version may know is better forgotten than the metric.
            kind: MetricKind::from_name(reader.text()?).unwrap_or_default(),
            help: reader.text()?.to_owned(),
            unit: reader.text()?.to_owned(),
        })
    }
}

/// The newest exemplars, and the metadata of metrics.
#[derive(Default)]
pub(crate) struct Annexes {
    exemplars: VecDeque<(Labels, Exemplar)>,
    metadata: BTreeMap<String, Metadata>,
    max_exemplars: usize,
    max_metadata: usize,
}

/// Characters of the labels of an exemplar, as OpenMetrics limits them.
const EXEMPLAR_CHARACTERS: usize = 128;
const HELP_BYTES: usize = 1024;

impl Annexes {
    pub(crate) fn new(max_exemplars: usize, max_metadata: usize) -> Self {
        Self {
            max_exemplars,
            max_metadata,
            ..Self::default()
        }
    }

    /// Whether an exemplar is small enough.
    pub(crate) fn fits(exemplar: &Exemplar) -> bool {
        let characters: usize = exemplar
            .labels
            .iter()
            .map(|label| label.name.chars().count() + label.value.chars().count())
            .sum();
        characters <= EXEMPLAR_CHARACTERS
    }

    /// Keeps an exemplar; the oldest one leaves when there are too many. Answers whether it is new.
    pub(crate) fn exemplar(&mut self, series: &Labels, exemplar: &Exemplar) -> bool {
        let known = self
            .exemplars
            .iter()
            .rev()
            .take(64)
            .any(|(labels, other)| labels == series && other == exemplar);
        if known || self.max_exemplars == 0 {
            return false;
        }
        while self.exemplars.len() >= self.max_exemplars {
            self.exemplars.pop_front();
        }
        self.exemplars.push_back((series.clone(), exemplar.clone()));
        true
    }

    /// Keeps what a metric is. Answers whether it changed anything.
    pub(crate) fn describe(&mut self, metric: &str, metadata: &Metadata) -> bool {
        if self.metadata.get(metric) == Some(metadata)
            || (self.metadata.len() >= self.max_metadata && !self.metadata.contains_key(metric))
            || metadata.help.len() + metadata.unit.len() > HELP_BYTES
        {
            return false;
        }
        self.metadata.insert(metric.to_owned(), metadata.clone());
        true
    }

    pub(crate) fn exemplars(&self) -> impl Iterator<Item = &(Labels, Exemplar)> {
        self.exemplars.iter()
    }

    pub(crate) fn metadata(&self) -> &BTreeMap<String, Metadata> {
        &self.metadata
    }
}
