//! A batch out of an exposition.
//!
//! A sample `…_created` of OpenMetrics is not a series here: it is the start time of the samples
//! of its family that have the same labels.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::IngestError;
use super::{Format, Line, Lines, Sample, series_labels};
use crate::series::{Batch, Exemplar, Labels, METRIC_NAME, Metadata, MetricKind};

/// How an exposition becomes a batch.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The format.
    pub format: Format,
    /// The time of samples that say none, in milliseconds.
    pub time: i64,
    /// Whether times in the text count.
    pub honor_timestamps: bool,
    /// Samples at most.
    pub max_samples: usize,
}

/// What an exposition held.
#[derive(Debug, Default)]
pub struct Collected {
    /// What is to be added.
    pub batch: Batch,
    /// Samples in the text, those that were dropped included.
    pub seen: usize,
    /// The series whose sample says its own time, by place in the batch, rising.
    pub timed: Vec<u32>,
}

/// The family whose lines are being read.
#[derive(Default)]
struct Family {
    name: String,
    said: Metadata,
    /// Its first sample in the batch.
    first: usize,
    created: HashMap<Labels, i64>,
}

impl Family {
    fn has_created(&self) -> bool {
        matches!(
            self.said.kind,
            MetricKind::Counter | MetricKind::Histogram | MetricKind::Summary
        )
    }

    /// Whether this is the name of the family with `_created` behind it.
    fn is_created(&self, series: &str) -> bool {
        self.has_created()
            && series
                .strip_prefix(self.name.as_str())
                .and_then(|rest| rest.strip_prefix("_created"))
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['{', ' ', '\t']))
    }

    fn key(labels: &Labels) -> Labels {
        labels.without(|name| matches!(name, METRIC_NAME | "le" | "quantile"))
    }

    /// Ends the family: its start times go to its samples.
    fn finish(&mut self, batch: &mut Batch) {
        if !self.created.is_empty() {
            for sample in &mut batch.floats[self.first..] {
                let labels = &batch.series[sample.series as usize];
                if let Some(start) = self.created.get(&Self::key(labels)) {
                    sample.start = *start;
                }
            }
        }
        if self.said != Metadata::default() {
            let name = Arc::from(self.name.as_str());
            batch.metadata.push((name, std::mem::take(&mut self.said)));
        }
    }

    /// Goes on with a family of this name; the same one goes on as it is.
    fn enter(&mut self, name: &str, batch: &mut Batch) {
        if self.name != name {
            self.finish(batch);
            *self = Self {
                name: name.to_owned(),
                first: batch.floats.len(),
                ..Self::default()
            };
        }
    }
}

/// Makes labels of the text of a series, or nothing when the series is to be dropped. It is told
/// whether the series is a mere start time. The error says what is wrong with the text.
pub type Resolve<'a> = dyn FnMut(&str, bool) -> Result<Option<Labels>, String> + 'a;

/// Makes a batch of an exposition.
///
/// # Errors
/// A line cannot be read, or there are too many samples.
pub fn collect(
    text: &str,
    options: Options,
    resolve: &mut Resolve<'_>,
) -> Result<Collected, IngestError> {
    let mut out = Collected::default();
    let mut family = Family::default();
    let mut lines = Lines::new(text, options.format);
    while let Some(line) = lines.next() {
        match line? {
            Line::Type(name, kind) => {
                family.enter(&name, &mut out.batch);
                family.said.kind = kind;
            }
            Line::Help(name, help) => {
                family.enter(&name, &mut out.batch);
                family.said.help = help.into_owned();
            }
            Line::Unit(name, unit) => {
                family.enter(&name, &mut out.batch);
                family.said.unit = unit.to_owned();
            }
            Line::Sample(sample) => {
                if out.seen >= options.max_samples {
                    return Err(IngestError::TooLarge {
                        what: "the number of samples",
                        limit: options.max_samples,
                    });
                }
                let number = lines.number();
                let refuse = |reason| IngestError::Line {
                    line: number,
                    reason,
                };
                let created =
                    options.format == Format::OpenMetrics && family.is_created(sample.series);
                let labels = resolve(sample.series, created).map_err(refuse)?;
                match labels {
                    Some(labels) if created => {
                        let start = sample.value * 1000.0;
                        if start > 0.0 && start < 9e15 {
                            family.created.insert(Family::key(&labels), start as i64);
                        }
                    }
                    Some(labels) => {
                        out.seen += 1;
                        add(&mut out, labels, sample, options);
                    }
                    None => out.seen += 1,
                }
            }
        }
    }
    family.finish(&mut out.batch);
    Ok(out)
}

fn add(out: &mut Collected, labels: Labels, sample: Sample<'_>, options: Options) {
    let series = out.batch.add_series(labels);
    let own = sample.time.filter(|_| options.honor_timestamps);
    if own.is_some() {
        out.timed.push(series);
    }
    let time = own.unwrap_or(options.time);
    out.batch.float(series, time, sample.value);
    if let Some(exemplar) = sample.exemplar {
        let exemplar = Exemplar {
            labels: exemplar.labels,
            value: exemplar.value,
            time: exemplar.time.unwrap_or(time),
        };
        out.batch.exemplars.push((series, exemplar));
    }
}

/// Makes a batch of an exposition with every series as it stands.
///
/// # Errors
/// The bytes are no UTF-8, a line cannot be read, or there are too many samples.
pub fn read(bytes: &[u8], options: Options) -> Result<Collected, IngestError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| IngestError::malformed("exposition", error.to_string()))?;
    collect(text, options, &mut |series, _| {
        series_labels(series).map(Some)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(format: Format) -> Options {
        Options {
            format,
            time: 5000,
            honor_timestamps: true,
            max_samples: 100,
        }
    }

    #[test]
    fn created_samples_become_start_times() {
        let text = "# TYPE a counter\na_total{x=\"1\"} 5\na_created{x=\"1\"} 1.5\na_total{x=\"2\"} 6\n# TYPE b histogram\nb_bucket{le=\"+Inf\"} 1\nb_count 1\nb_created 2\n# TYPE c gauge\nc_created 7\n# EOF\n";
        let found = read(text.as_bytes(), options(Format::OpenMetrics)).unwrap();
        let starts: Vec<i64> = found.batch.floats.iter().map(|float| float.start).collect();
        assert_eq!(starts, [1500, 0, 2000, 2000, 0]);
        assert_eq!(found.seen, 5);
    }

    #[test]
    fn metadata_times_and_exemplars_are_kept() {
        let text = "# HELP a_seconds Time.\n# TYPE a_seconds counter\n# UNIT a_seconds seconds\na_seconds_total 1 2 # {id=\"x\"} 3\nb 4\n# EOF\n";
        let found = read(text.as_bytes(), options(Format::OpenMetrics)).unwrap();
        assert_eq!(found.batch.metadata.len(), 1);
        assert_eq!(
            found.batch.metadata[0].1,
            Metadata {
                kind: MetricKind::Counter,
                unit: "seconds".to_owned(),
                help: "Time.".to_owned(),
            }
        );
        assert_eq!(found.batch.floats[0].time, 2000);
        assert_eq!(found.batch.floats[1].time, 5000);
        assert_eq!(found.timed, [0]);
        assert_eq!(found.batch.exemplars[0].1.time, 2000);
    }

    #[test]
    fn there_is_a_ceiling_of_samples() {
        let error = read(
            b"a 1\nb 2\n",
            Options {
                max_samples: 1,
                ..options(Format::Prometheus)
            },
        );
        assert!(matches!(error, Err(IngestError::TooLarge { .. })));
    }
}
