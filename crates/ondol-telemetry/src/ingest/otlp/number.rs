//! Points of gauges, sums and summaries, and exemplars.

use super::attributes::Attributes;
use super::{Converter, Metric, Point, milliseconds};
use crate::ingest::wire::{Field, Message, WireError};
use crate::promql::format_plain;
use crate::series::{Exemplar, LabelsBuilder, METRIC_NAME};

/// Exemplars of one point at most.
const MAX_EXEMPLARS: usize = 32;
/// Quantiles of one point at most.
const MAX_QUANTILES: usize = 1_000;

impl Converter<'_> {
    /// A point of a gauge or a sum.
    pub(super) fn number(
        &mut self,
        metric: &Metric<'_>,
        mut message: Message<'_>,
    ) -> Result<(), WireError> {
        let (mut point, mut value) = (Point::default(), 0.0);
        let mut attributes = Attributes::default();
        let mut exemplars = Vec::new();
        while let Some(field) = message.next()? {
            match field.number {
                2 => point.start = milliseconds(field.fixed64()?),
                3 => point.time = milliseconds(field.fixed64()?),
                4 => value = field.double()?,
                5 => read_exemplar(&field, &mut exemplars)?,
                6 => value = field.fixed64()? as i64 as f64,
                7 => attributes.read(field.message()?)?,
                8 => point.absent = field.unsigned()? & 1 != 0,
                _ => {}
            }
        }
        let mut labels = self.labels(&attributes);
        labels.set(METRIC_NAME, metric.name);
        if let Some(series) = self.push(labels.build(), metric, point, value) {
            let place = exemplars.into_iter().map(|exemplar| (series, exemplar));
            self.out.batch.exemplars.extend(place);
        }
        Ok(())
    }

    /// A point of a summary.
    pub(super) fn summary(
        &mut self,
        metric: &Metric<'_>,
        mut message: Message<'_>,
    ) -> Result<(), WireError> {
        let mut point = Point::default();
        let (mut count, mut sum) = (0.0, 0.0);
        let mut quantiles: Vec<(f64, f64)> = Vec::new();
        let mut attributes = Attributes::default();
        while let Some(field) = message.next()? {
            match field.number {
                2 => point.start = milliseconds(field.fixed64()?),
                3 => point.time = milliseconds(field.fixed64()?),
                4 => count = field.fixed64()? as f64,
                5 => sum = field.double()?,
                6 if quantiles.len() < MAX_QUANTILES => {
                    let mut pair = (0.0, 0.0);
                    let mut message = field.message()?;
                    while let Some(field) = message.next()? {
                        match field.number {
                            1 => pair.0 = field.double()?,
                            2 => pair.1 = field.double()?,
                            _ => {}
                        }
                    }
                    quantiles.push(pair);
                }
                7 => attributes.read(field.message()?)?,
                8 => point.absent = field.unsigned()? & 1 != 0,
                _ => {}
            }
        }
        let labels = self.labels(&attributes);
        for (suffix, value) in [("_count", count), ("_sum", sum)] {
            let mut labels = labels.clone();
            labels.set(METRIC_NAME, &format!("{}{suffix}", metric.name));
            self.push(labels.build(), metric, point, value);
        }
        for (quantile, value) in quantiles {
            let mut labels = labels.clone();
            labels.set(METRIC_NAME, metric.name);
            labels.set("quantile", &format_plain(quantile));
            self.push(labels.build(), metric, point, value);
        }
        Ok(())
    }
}

/// Reads an exemplar, with the ids of its trace as labels.
pub(super) fn read_exemplar(field: &Field<'_>, into: &mut Vec<Exemplar>) -> Result<(), WireError> {
    if into.len() >= MAX_EXEMPLARS {
        return Ok(());
    }
    let mut message = field.message()?;
    let (mut time, mut value) = (0, 0.0);
    let mut attributes = Attributes::default();
    let mut labels = LabelsBuilder::default();
    while let Some(field) = message.next()? {
        match field.number {
            2 => time = milliseconds(field.fixed64()?),
            3 => value = field.double()?,
            4 => set_id(&mut labels, "span_id", field.bytes()?),
            5 => set_id(&mut labels, "trace_id", field.bytes()?),
            6 => value = field.fixed64()? as i64 as f64,
            7 => attributes.read(field.message()?)?,
            _ => {}
        }
    }
    let mut all = attributes.labels(super::Translation::default());
    for label in &labels.build() {
        all.set_shared(label.name.clone(), label.value.clone());
    }
    into.push(Exemplar {
        labels: all.build(),
        value,
        time,
    });
    Ok(())
}

fn set_id(labels: &mut LabelsBuilder, name: &str, bytes: &[u8]) {
    if bytes.len() <= 16 && bytes.iter().any(|byte| *byte != 0) {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        labels.set(name, &text);
    }
}
