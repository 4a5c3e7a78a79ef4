//! Metrics of OpenTelemetry: `ExportMetricsServiceRequest` as protocol buffers, made into series
//! as the compatibility specification of OpenTelemetry and Prometheus says.
//!
//! Gauges and sums become numbers, histograms with explicit bounds become classic ones,
//! exponential histograms native ones. Attributes of a resource become `target_info`, and its
//! service becomes `job` and `instance`. Deltas are added up per series ([`Deltas`]); what they
//! add up to counts only once the store has acknowledged it, so that a request that is sent again
//! is not counted twice.

mod attributes;
mod delta;
mod histogram;
mod names;
mod number;

use std::sync::Arc;

pub use delta::{Deltas, Staged};
pub use names::Translation;

use super::IngestError;
use super::remote::{Decoded, Limits};
use super::wire::{Message, WireError};
use crate::series::{Labels, LabelsBuilder, METRIC_NAME, Metadata, MetricKind, Refusal, STALE_NAN};
use attributes::Attributes;

/// How metrics of OpenTelemetry become series.
#[derive(Clone, Debug)]
pub struct Config {
    /// How names are translated.
    pub translation: Translation,
    /// Whether the name and the version of the scope become labels.
    pub scope_labels: bool,
    /// Attributes of the resource that become labels of every series.
    pub promoted: Vec<String>,
    /// Ceilings of one request.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            translation: Translation::default(),
            scope_labels: false,
            promoted: vec![
                "ondol.project".to_owned(),
                "deployment.environment.name".to_owned(),
            ],
            limits: Limits::default(),
        }
    }
}

const REQUEST: &str = "OTLP metrics request";

fn wire(error: WireError) -> IngestError {
    IngestError::wire(REQUEST)(error)
}

/// How values of a sum or a histogram follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Temporality {
    Unspecified,
    Delta,
    Cumulative,
}

impl Temporality {
    fn from_number(number: u64) -> Self {
        match number {
            1 => Self::Delta,
            2 => Self::Cumulative,
            _ => Self::Unspecified,
        }
    }
}

/// The kind of data of a metric, by its field.
const GAUGE: u32 = 5;
const SUM: u32 = 7;
const HISTOGRAM: u32 = 9;
const EXPONENTIAL: u32 = 10;
const SUMMARY: u32 = 11;

/// Whether anything in a request is a delta. Points are not looked at.
///
/// # Errors
/// The bytes are no such message.
pub fn has_deltas(bytes: &[u8]) -> Result<bool, IngestError> {
    let mut found = false;
    each_metric(Message::new(bytes), &mut |mut metric| {
        while let Some(field) = metric.next()? {
            if matches!(field.number, SUM | HISTOGRAM | EXPONENTIAL) {
                let mut data = field.message()?;
                while let Some(field) = data.next()? {
                    found |= field.number == 2
                        && Temporality::from_number(field.unsigned()?) == Temporality::Delta;
                }
            }
        }
        Ok(())
    })
    .map_err(wire)?;
    Ok(found)
}

fn each_metric<'a>(
    request: Message<'a>,
    each: &mut dyn FnMut(Message<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    let mut request = request;
    while let Some(field) = request.next()? {
        if field.number != 1 {
            continue;
        }
        let mut resource = field.message()?;
        while let Some(field) = resource.next()? {
            if field.number != 2 {
                continue;
            }
            let mut scope = field.message()?;
            while let Some(field) = scope.next()? {
                if field.number == 2 {
                    each(field.message()?)?;
                }
            }
        }
    }
    Ok(())
}

/// Reads a request. What deltas add up to is staged: [`Deltas::commit`] it when the batch is
/// acknowledged.
///
/// # Errors
/// The bytes are no such message, or there is more in it than may be.
pub fn decode(
    bytes: &[u8],
    config: &Config,
    deltas: &Deltas,
) -> Result<(Decoded, Staged), IngestError> {
    let mut converter = Converter {
        config,
        deltas,
        staged: Staged::default(),
        out: Decoded::default(),
        resource: Attributes::default(),
        base: Labels::default(),
        scope: Vec::new(),
        latest: i64::MIN,
    };
    let mut request = Message::new(bytes);
    while let Some(field) = request.next().map_err(wire)? {
        if field.number == 1 {
            converter.resource_metrics(field.message().map_err(wire)?)?;
        }
    }
    Ok((converter.out, converter.staged))
}

/// What is on its way from a request into a batch.
struct Converter<'a> {
    config: &'a Config,
    deltas: &'a Deltas,
    staged: Staged,
    out: Decoded,
    /// Attributes of the resource that is being read.
    resource: Attributes,
    /// Labels that every series of the resource has.
    base: Labels,
    /// Labels of the scope.
    scope: Vec<(String, String)>,
    /// The latest sample of the resource.
    latest: i64,
}

/// What points of one metric have in common.
struct Metric<'m> {
    name: &'m str,
    temporality: Temporality,
}

/// What a point says beside its value.
#[derive(Clone, Copy, Debug, Default)]
struct Point {
    time: i64,
    start: i64,
    /// There is no value: the series ends.
    absent: bool,
}

impl Point {
    fn or_stale(self, value: f64) -> f64 {
        if self.absent {
            f64::from_bits(STALE_NAN)
        } else {
            value
        }
    }
}

/// Milliseconds of nanoseconds.
fn milliseconds(nanoseconds: u64) -> i64 {
    (nanoseconds / 1_000_000) as i64
}

impl Converter<'_> {
    fn resource_metrics(&mut self, message: Message<'_>) -> Result<(), IngestError> {
        self.resource = Attributes::default();
        self.latest = i64::MIN;
        let mut walk = message;
        while let Some(field) = walk.next().map_err(wire)? {
            if field.number == 1 {
                let mut resource = field.message().map_err(wire)?;
                while let Some(field) = resource.next().map_err(wire)? {
                    if field.number == 1 {
                        let message = field.message().map_err(wire)?;
                        self.resource.read(message).map_err(wire)?;
                    }
                }
            }
        }
        self.set_base();
        let mut walk = message;
        while let Some(field) = walk.next().map_err(wire)? {
            if field.number == 2 {
                self.scope_metrics(field.message().map_err(wire)?)?;
            }
        }
        self.target_info();
        Ok(())
    }

    /// `job`, `instance` and promoted attributes.
    fn set_base(&mut self) {
        let mut builder = LabelsBuilder::default();
        for name in &self.config.promoted {
            if let Some(value) = self.resource.get(name) {
                // The attribute that names the project is the label that permission looks at.
                let label = if name == "ondol.project" {
                    "project".to_owned()
                } else {
                    self.config.translation.label(name)
                };
                builder.set(&label, value);
            }
        }
        if let Some(service) = self.resource.get("service.name") {
            let job = match self.resource.get("service.namespace") {
                Some(namespace) => format!("{namespace}/{service}"),
                None => service.to_owned(),
            };
            builder.set("job", &job);
        }
        if let Some(instance) = self.resource.get("service.instance.id") {
            builder.set("instance", instance);
        }
        self.base = builder.build();
    }

    /// What else is known about the resource, as a series that queries can join.
    fn target_info(&mut self) {
        const IDENTITY: [&str; 3] = ["service.name", "service.namespace", "service.instance.id"];
        let known = self.base.has("job") || self.base.has("instance");
        if self.latest == i64::MIN || !known {
            return;
        }
        let rest = self.resource.without(&IDENTITY);
        if rest.is_empty() {
            return;
        }
        let mut builder = rest.labels(self.config.translation);
        for label in &self.base {
            builder.set_shared(label.name.clone(), label.value.clone());
        }
        builder.set(METRIC_NAME, "target_info");
        let series = self.out.batch.add_series(builder.build());
        self.out.batch.float(series, self.latest, 1.0);
    }

    fn scope_metrics(&mut self, message: Message<'_>) -> Result<(), IngestError> {
        self.scope.clear();
        let mut walk = message;
        while let Some(field) = walk.next().map_err(wire)? {
            if field.number == 1 && self.config.scope_labels {
                let mut scope = field.message().map_err(wire)?;
                while let Some(field) = scope.next().map_err(wire)? {
                    let label = match field.number {
                        1 => "otel_scope_name",
                        2 => "otel_scope_version",
                        _ => continue,
                    };
                    let value = field.text().map_err(wire)?.to_owned();
                    self.scope.push((label.to_owned(), value));
                }
            }
        }
        let mut walk = message;
        while let Some(field) = walk.next().map_err(wire)? {
            if field.number == 2 {
                self.metric(field.message().map_err(wire)?).map_err(wire)?;
                self.out.check(self.config.limits)?;
            }
        }
        Ok(())
    }

    fn metric(&mut self, message: Message<'_>) -> Result<(), WireError> {
        let (mut name, mut help, mut unit) = ("", "", "");
        let mut data = None;
        let mut walk = message;
        while let Some(field) = walk.next()? {
            match field.number {
                1 => name = field.text()?,
                2 => help = field.text()?,
                3 => unit = field.text()?,
                GAUGE | SUM | HISTOGRAM | EXPONENTIAL | SUMMARY => {
                    data = Some((field.number, field.message()?));
                }
                _ => {}
            }
        }
        let Some((which, data)) = data else {
            return Ok(());
        };
        if name.is_empty() {
            self.out.refuse("a metric has no name".to_owned());
            return Ok(());
        }
        let (mut temporality, mut monotonic) = (Temporality::Unspecified, false);
        let mut walk = data;
        while let Some(field) = walk.next()? {
            match (which, field.number) {
                (SUM | HISTOGRAM | EXPONENTIAL, 2) => {
                    temporality = Temporality::from_number(field.unsigned()?);
                }
                (SUM, 3) => monotonic = field.unsigned()? != 0,
                _ => {}
            }
        }
        if matches!(which, SUM | HISTOGRAM | EXPONENTIAL) && temporality == Temporality::Unspecified
        {
            self.out.refuse(format!(
                "the metric {name:?} has no aggregation temporality"
            ));
            return Ok(());
        }
        let kind = match which {
            SUM if monotonic => MetricKind::Counter,
            GAUGE | SUM => MetricKind::Gauge,
            SUMMARY => MetricKind::Summary,
            _ => MetricKind::Histogram,
        };
        let translated = self
            .config
            .translation
            .metric(name, unit, kind, which == GAUGE);
        if translated.is_empty() {
            self.out
                .refuse(format!("the metric {name:?} has no usable name"));
            return Ok(());
        }
        let said = Metadata {
            kind,
            unit: names::unit_words(unit),
            help: help.to_owned(),
        };
        self.out
            .batch
            .metadata
            .push((Arc::from(translated.as_str()), said));
        let metric = Metric {
            name: &translated,
            temporality,
        };
        let mut walk = data;
        while let Some(field) = walk.next()? {
            if field.number != 1 {
                continue;
            }
            let point = field.message()?;
            match which {
                GAUGE | SUM => self.number(&metric, point)?,
                HISTOGRAM => self.explicit(&metric, point)?,
                EXPONENTIAL => self.exponential(&metric, point)?,
                _ => self.summary(&metric, point)?,
            }
            // A message of many points stops growing here; the caller sees that it is too large.
            if self.out.check(self.config.limits).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Labels of a point, without the name of the metric.
    fn labels(&self, attributes: &Attributes) -> LabelsBuilder {
        let mut builder = attributes.labels(self.config.translation);
        for (name, value) in &self.scope {
            builder.set(name, value);
        }
        for label in &self.base {
            builder.set_shared(label.name.clone(), label.value.clone());
        }
        builder
    }

    /// Adds a number. A delta is added to what its series had.
    fn push(
        &mut self,
        labels: Labels,
        metric: &Metric<'_>,
        point: Point,
        value: f64,
    ) -> Option<u32> {
        let (mut start, mut value) = (point.start, point.or_stale(value));
        if metric.temporality == Temporality::Delta && !point.absent {
            match self
                .staged
                .number(self.deltas, &labels, point.start, point.time, value)
            {
                Ok(total) => (start, value) = total,
                Err(why) => {
                    self.out
                        .refused
                        .refuse(why, || format!("a delta of {labels} at {} ms", point.time));
                    return None;
                }
            }
        }
        self.latest = self.latest.max(point.time);
        let series = self.out.batch.add_series(labels);
        self.out.batch.float(series, point.time, value);
        if let Some(sample) = self.out.batch.floats.last_mut() {
            sample.start = start;
        }
        Some(series)
    }

    fn refuse(&mut self, why: Refusal, text: String) {
        self.out.refused.refuse(why, || text);
    }
}

#[cfg(test)]
mod tests;
