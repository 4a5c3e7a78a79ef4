//! Version 1: every series carries its labels as texts.

use std::sync::Arc;

use super::super::wire::{Message, WireError};
use super::super::{IngestError, MAX_LABELS};
use super::{Decoded, Limits, histogram, kind_of, labels_of, wire};
use crate::series::{Exemplar, FloatSample, HistogramSample, Metadata};

pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<Decoded, IngestError> {
    let mut out = Decoded::default();
    let mut request = Message::new(bytes);
    while let Some(field) = request.next().map_err(wire)? {
        match field.number {
            1 => {
                let message = field.message().map_err(wire)?;
                series(message, &mut out).map_err(wire)?;
            }
            3 => {
                let message = field.message().map_err(wire)?;
                let (name, said) = metadata(message).map_err(wire)?;
                out.batch.metadata.push((Arc::from(name), said));
                if out.batch.metadata.len() > limits.series {
                    return Err(IngestError::TooLarge {
                        what: "the number of metrics",
                        limit: limits.series,
                    });
                }
            }
            _ => {}
        }
        out.check(limits)?;
    }
    Ok(out)
}

fn label<'a>(mut message: Message<'a>) -> Result<(&'a str, &'a str), WireError> {
    let mut pair = ("", "");
    while let Some(field) = message.next()? {
        match field.number {
            1 => pair.0 = field.text()?,
            2 => pair.1 = field.text()?,
            _ => {}
        }
    }
    Ok(pair)
}

fn series(message: Message<'_>, out: &mut Decoded) -> Result<(), WireError> {
    let mut pairs = Vec::new();
    let mut walk = message;
    while let Some(field) = walk.next()? {
        // One more than may be is enough to tell that there are too many.
        if field.number == 1 && pairs.len() <= MAX_LABELS {
            pairs.push(label(field.message()?)?);
        }
    }
    let labels = match labels_of(&pairs, true) {
        Ok(labels) => labels,
        Err(why) => {
            out.refuse(format!(
                "{why}: {:?}",
                pairs.iter().take(8).collect::<Vec<_>>()
            ));
            return Ok(());
        }
    };
    let place = out.batch.add_series(labels);
    let mut walk = message;
    while let Some(field) = walk.next()? {
        match field.number {
            2 => {
                let (mut value, mut time) = (0.0, 0);
                let mut sample = field.message()?;
                while let Some(field) = sample.next()? {
                    match field.number {
                        1 => value = field.double()?,
                        2 => time = field.signed()?,
                        _ => {}
                    }
                }
                out.batch.floats.push(FloatSample {
                    series: place,
                    time,
                    start: 0,
                    value,
                });
            }
            3 => {
                let mut exemplar = field.message()?;
                let (mut pairs, mut value, mut time) = (Vec::new(), 0.0, 0);
                while let Some(field) = exemplar.next()? {
                    match field.number {
                        1 if pairs.len() <= MAX_LABELS => pairs.push(label(field.message()?)?),
                        2 => value = field.double()?,
                        3 => time = field.signed()?,
                        _ => {}
                    }
                }
                if let Ok(labels) = labels_of(&pairs, false) {
                    let exemplar = Exemplar {
                        labels,
                        value,
                        time,
                    };
                    out.batch.exemplars.push((place, exemplar));
                }
            }
            4 => {
                let timed = histogram::read(field.message()?)?;
                match timed.histogram {
                    Ok(value) => out.batch.histograms.push(HistogramSample {
                        series: place,
                        time: timed.time,
                        start: 0,
                        value: Arc::new(value),
                    }),
                    Err(why) => {
                        let name = out.batch.series[place as usize].clone();
                        out.refuse(format!("a histogram of {name} has {why}"));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn metadata(mut message: Message<'_>) -> Result<(&str, Metadata), WireError> {
    let mut name = "";
    let mut said = Metadata::default();
    while let Some(field) = message.next()? {
        match field.number {
            1 => said.kind = kind_of(&field)?,
            2 => name = field.text()?,
            4 => said.help = field.text()?.to_owned(),
            5 => said.unit = field.text()?.to_owned(),
            _ => {}
        }
    }
    Ok((name, said))
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::Writer;
    use super::*;
    use crate::series::{MetricKind, STALE_NAN};

    fn label(writer: &mut Writer, name: &str, value: &str) {
        writer.message(1, |label| {
            label.bytes(1, name.as_bytes());
            label.bytes(2, value.as_bytes());
        });
    }

    #[test]
    fn series_exemplars_histograms_and_metadata_are_read() {
        let mut request = Writer::default();
        request.message(1, |series| {
            label(series, "__name__", "up");
            label(series, "job", "node");
            series.message(2, |sample| {
                sample.double(1, 1.0);
                sample.unsigned(2, 1000);
            });
            series.message(3, |exemplar| {
                label(exemplar, "trace_id", "ab");
                exemplar.double(2, 0.5);
                exemplar.unsigned(3, 999);
            });
            series.message(4, |histogram| {
                histogram.unsigned(1, 6);
                histogram.double(3, 9.0);
                histogram.zigzag(4, 1);
                histogram.double(5, 0.001);
                histogram.unsigned(6, 1);
                histogram.message(11, |span| {
                    span.zigzag(1, -1);
                    span.unsigned(2, 2);
                });
                histogram.packed(12, &[4, 2]);
                histogram.unsigned(15, 2000);
            });
        });
        request.message(1, |series| label(series, "job", "without a name"));
        request.message(3, |said| {
            said.unsigned(1, 2);
            said.bytes(2, b"up");
            said.bytes(4, b"Whether it is up.");
        });
        let found = decode(&request.0, Limits::default()).unwrap();
        assert_eq!(found.batch.series.len(), 1);
        assert_eq!(found.batch.floats[0].time, 1000);
        assert_eq!(found.batch.exemplars[0].1.labels.get("trace_id"), "ab");
        let histogram = &found.batch.histograms[0].value;
        assert_eq!(histogram.positive.counts(), [2.0, 3.0]);
        assert_eq!(found.batch.metadata[0].1.kind, MetricKind::Gauge);
        assert_eq!(found.refused.refused.len(), 1);
    }

    #[test]
    fn histograms_that_contradict_themselves_are_left_out() {
        let read = |write: &dyn Fn(&mut Writer)| {
            let mut request = Writer::default();
            request.message(1, |series| {
                label(series, "__name__", "h");
                series.message(4, |histogram| write(histogram));
            });
            decode(&request.0, Limits::default()).unwrap()
        };
        let wrong = read(&|histogram| {
            histogram.unsigned(1, 1);
            histogram.message(11, |span| span.unsigned(2, 2));
            histogram.packed(12, &[4, 0]);
        });
        assert!(wrong.batch.histograms.is_empty() && !wrong.refused.refused.is_empty());
        let endless = read(&|histogram| {
            histogram.unsigned(1, 1);
            histogram.message(11, |span| span.unsigned(2, u64::from(u32::MAX)));
        });
        assert!(endless.batch.histograms.is_empty());
        let stale = read(&|histogram| histogram.double(3, f64::from_bits(STALE_NAN)));
        assert_eq!(stale.batch.histograms[0].value.sum.to_bits(), STALE_NAN);
    }

    #[test]
    fn there_is_a_ceiling_of_series_and_samples() {
        let mut request = Writer::default();
        for _ in 0..3 {
            request.message(1, |series| label(series, "__name__", "a"));
        }
        let limits = Limits {
            series: 2,
            samples: 10,
        };
        assert!(matches!(
            decode(&request.0, limits),
            Err(IngestError::TooLarge { .. })
        ));
        assert!(decode(b"\xff\xff", limits).is_err());
    }
}
