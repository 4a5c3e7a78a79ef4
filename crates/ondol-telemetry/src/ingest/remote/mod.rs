//! Remote write 1.0 (`prometheus.WriteRequest`) and 2.0 (`io.prometheus.write.v2.Request`), from
//! the bytes behind the compression.
//!
//! A message that cannot be read is refused whole. A series with labels that no store could take
//! is counted and left out, as is a histogram that contradicts itself, so that the rest of the
//! request is not lost with it.

mod histogram;
mod v1;
mod v2;

use super::IngestError;
use super::wire::{Field, WireError};
use crate::series::{Appended, Batch, Labels, LabelsBuilder, METRIC_NAME, MetricKind, Refusal};

/// A message of remote write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `prometheus.WriteRequest`
    V1,
    /// `io.prometheus.write.v2.Request`
    V2,
}

impl Version {
    /// The message that a `Content-Type` names; `None` for one that is not known. Without
    /// parameter it is version 1.
    #[must_use]
    pub fn of_content_type(value: &str) -> Option<Self> {
        let mut parts = value.split(';').map(str::trim);
        if !parts
            .next()
            .is_some_and(|kind| kind.eq_ignore_ascii_case("application/x-protobuf"))
        {
            return None;
        }
        for part in parts {
            let (name, value) = part.split_once('=')?;
            if name.trim().eq_ignore_ascii_case("proto") {
                return match value.trim().trim_matches('"') {
                    "prometheus.WriteRequest" => Some(Self::V1),
                    "io.prometheus.write.v2.Request" => Some(Self::V2),
                    _ => None,
                };
            }
        }
        Some(Self::V1)
    }
}

/// Ceilings of one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Series.
    pub series: usize,
    /// Samples, histograms and exemplars together.
    pub samples: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            series: 200_000,
            samples: 2_000_000,
        }
    }
}

/// What a request held.
#[derive(Debug, Default)]
pub struct Decoded {
    /// What is to be added.
    pub batch: Batch,
    /// What was left out and why.
    pub refused: Appended,
}

impl Decoded {
    /// Checks a ceiling after something was added.
    pub(super) fn check(&self, limits: Limits) -> Result<(), IngestError> {
        if self.batch.series.len() > limits.series {
            return Err(IngestError::TooLarge {
                what: "the number of series",
                limit: limits.series,
            });
        }
        if self.batch.samples() + self.batch.exemplars.len() > limits.samples {
            return Err(IngestError::TooLarge {
                what: "the number of samples",
                limit: limits.samples,
            });
        }
        Ok(())
    }

    pub(super) fn refuse(&mut self, why: String) {
        self.refused.refuse(Refusal::Labels, || why);
    }
}

/// Reads a request.
///
/// # Errors
/// The bytes are no such message, or there is more in it than may be.
pub fn decode(bytes: &[u8], version: Version, limits: Limits) -> Result<Decoded, IngestError> {
    match version {
        Version::V1 => v1::decode(bytes, limits),
        Version::V2 => v2::decode(bytes, limits),
    }
}

const REQUEST: &str = "remote write request";

fn wire(error: WireError) -> IngestError {
    IngestError::wire(REQUEST)(error)
}

/// The kind of this number; the numbers are the same in both versions.
fn kind(number: u64) -> MetricKind {
    match number {
        1 => MetricKind::Counter,
        2 => MetricKind::Gauge,
        3 => MetricKind::Histogram,
        4 => MetricKind::GaugeHistogram,
        5 => MetricKind::Summary,
        6 => MetricKind::Info,
        7 => MetricKind::StateSet,
        _ => MetricKind::Unknown,
    }
}

/// Labels of pairs, in the order in which they came.
///
/// # Errors
/// Why no series can have them.
fn labels_of(pairs: &[(&str, &str)], named: bool) -> Result<Labels, String> {
    if pairs.len() > super::MAX_LABELS {
        return Err(format!("more than {} labels", super::MAX_LABELS));
    }
    let mut builder = LabelsBuilder::default();
    let mut last: Option<&str> = None;
    let mut sorted = true;
    for (name, value) in pairs {
        if name.is_empty() {
            return Err("a label without a name".to_owned());
        }
        if name.len() > super::MAX_LABEL_BYTES || value.len() > super::MAX_LABEL_BYTES {
            return Err(format!(
                "a label of more than {} bytes",
                super::MAX_LABEL_BYTES
            ));
        }
        sorted &= last.is_none_or(|last| last < *name);
        last = Some(name);
        builder.set(name, value);
    }
    if !sorted {
        let mut names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("the label {:?} stands there twice", twice[0]));
        }
    }
    if named && builder.get(METRIC_NAME).is_empty() {
        return Err("a series without a name".to_owned());
    }
    Ok(builder.build())
}

/// A field that is a number of the enumeration of kinds.
fn kind_of(field: &Field<'_>) -> Result<MetricKind, WireError> {
    field.unsigned().map(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_type_says_which_message_it_is() {
        let of = Version::of_content_type;
        assert_eq!(of("application/x-protobuf"), Some(Version::V1));
        assert_eq!(
            of("application/x-protobuf;proto=prometheus.WriteRequest"),
            Some(Version::V1)
        );
        assert_eq!(
            of("application/x-protobuf; proto=io.prometheus.write.v2.Request"),
            Some(Version::V2)
        );
        assert_eq!(of("application/x-protobuf;proto=other"), None);
        assert_eq!(of("application/json"), None);
    }

    #[test]
    fn labels_are_checked() {
        assert!(labels_of(&[("__name__", "a"), ("b", "c")], true).is_ok());
        assert!(labels_of(&[("b", "c"), ("__name__", "a")], true).is_ok());
        assert!(labels_of(&[("b", "c")], true).is_err());
        assert!(labels_of(&[("__name__", "a"), ("__name__", "b")], true).is_err());
        assert!(labels_of(&[("", "a")], false).is_err());
    }
}
