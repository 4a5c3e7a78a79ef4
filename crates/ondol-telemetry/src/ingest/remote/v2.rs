//! Version 2: texts stand once in a table of symbols, and series refer to them.

use std::sync::Arc;

use super::super::wire::{Field, Message, WireError};
use super::super::{IngestError, MAX_LABELS};
use super::{Decoded, Limits, REQUEST, histogram, kind_of, labels_of, wire};
use crate::series::{Exemplar, FloatSample, HistogramSample, METRIC_NAME, Metadata, MetricKind};

/// Why a series cannot be read.
enum Broken {
    Wire(WireError),
    /// It refers to a symbol that is not in the table.
    Symbol(u64),
    Odd,
}

impl From<WireError> for Broken {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

impl From<Broken> for IngestError {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Wire(error) => wire(error),
            Broken::Symbol(at) => Self::malformed(REQUEST, format!("there is no symbol {at}")),
            Broken::Odd => Self::malformed(REQUEST, "a label name has no value"),
        }
    }
}

struct Symbols<'a>(Vec<&'a str>);

impl<'a> Symbols<'a> {
    fn get(&self, at: u64) -> Result<&'a str, Broken> {
        usize::try_from(at)
            .ok()
            .and_then(|place| self.0.get(place))
            .copied()
            .ok_or(Broken::Symbol(at))
    }

    fn pairs(&self, references: &[u64]) -> Result<Vec<(&'a str, &'a str)>, Broken> {
        if !references.len().is_multiple_of(2) {
            return Err(Broken::Odd);
        }
        references
            .chunks_exact(2)
            .map(|pair| Ok((self.get(pair[0])?, self.get(pair[1])?)))
            .collect()
    }
}

pub(super) fn decode(bytes: &[u8], limits: Limits) -> Result<Decoded, IngestError> {
    // The table usually comes first, and may come anywhere.
    let mut symbols = Symbols(Vec::new());
    let mut request = Message::new(bytes);
    while let Some(field) = request.next().map_err(wire)? {
        if field.number == 4 {
            symbols.0.push(field.text().map_err(wire)?);
            if symbols.0.len() > limits.samples {
                return Err(IngestError::TooLarge {
                    what: "the number of symbols",
                    limit: limits.samples,
                });
            }
        }
    }
    if symbols.0.first().is_some_and(|first| !first.is_empty()) {
        return Err(IngestError::malformed(
            REQUEST,
            "the first symbol is not the empty text",
        ));
    }
    let mut out = Decoded::default();
    let mut request = Message::new(bytes);
    while let Some(field) = request.next().map_err(wire)? {
        if field.number == 5 {
            series(field.message().map_err(wire)?, &symbols, &mut out)?;
            out.check(limits)?;
        }
    }
    Ok(out)
}

fn references(field: &Field<'_>, into: &mut Vec<u64>) -> Result<(), WireError> {
    field.each_varint(|value| {
        // One pair more than may be is enough to tell that there are too many.
        if into.len() < 2 * (MAX_LABELS + 1) {
            into.push(value);
        }
        Ok(())
    })
}

fn series(message: Message<'_>, symbols: &Symbols<'_>, out: &mut Decoded) -> Result<(), Broken> {
    let mut labels = Vec::new();
    // The start of the whole series, as drafts of the protocol had it.
    let mut created = 0;
    let mut walk = message;
    while let Some(field) = walk.next()? {
        match field.number {
            1 => references(&field, &mut labels)?,
            6 => created = field.signed()?,
            _ => {}
        }
    }
    let pairs = symbols.pairs(&labels)?;
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
    let name = labels.get(METRIC_NAME).to_owned();
    let place = out.batch.add_series(labels);
    let start_or = |start: i64| if start == 0 { created } else { start };
    let mut walk = message;
    while let Some(field) = walk.next()? {
        match field.number {
            2 => {
                let (mut value, mut time, mut start) = (0.0, 0, 0);
                let mut sample = field.message()?;
                while let Some(field) = sample.next()? {
                    match field.number {
                        1 => value = field.double()?,
                        2 => time = field.signed()?,
                        3 => start = field.signed()?,
                        _ => {}
                    }
                }
                out.batch.floats.push(FloatSample {
                    series: place,
                    time,
                    start: start_or(start),
                    value,
                });
            }
            3 => {
                let timed = histogram::read(field.message()?)?;
                match timed.histogram {
                    Ok(value) => out.batch.histograms.push(HistogramSample {
                        series: place,
                        time: timed.time,
                        start: start_or(timed.start),
                        value: Arc::new(value),
                    }),
                    Err(why) => out.refuse(format!("a histogram of {name} has {why}")),
                }
            }
            4 => {
                let mut exemplar = field.message()?;
                let (mut labels, mut value, mut time) = (Vec::new(), 0.0, 0);
                while let Some(field) = exemplar.next()? {
                    match field.number {
                        1 => references(&field, &mut labels)?,
                        2 => value = field.double()?,
                        3 => time = field.signed()?,
                        _ => {}
                    }
                }
                if let Ok(labels) = labels_of(&symbols.pairs(&labels)?, false) {
                    let exemplar = Exemplar {
                        labels,
                        value,
                        time,
                    };
                    out.batch.exemplars.push((place, exemplar));
                }
            }
            5 => {
                let said = metadata(field.message()?, symbols)?;
                if said != Metadata::default() {
                    let name = family(&name, said.kind);
                    // Series of one family repeat what is said about it.
                    let known = out.batch.metadata.last();
                    if known.is_none_or(|(last, _)| last.as_ref() != name) {
                        out.batch.metadata.push((Arc::from(name), said));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The name of the family that a series of this name belongs to.
fn family(name: &str, kind: MetricKind) -> &str {
    let suffixes: &[&str] = match kind {
        MetricKind::Histogram | MetricKind::GaugeHistogram => &["_bucket", "_count", "_sum"],
        MetricKind::Summary => &["_count", "_sum"],
        _ => &[],
    };
    suffixes
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .filter(|family| !family.is_empty())
        .unwrap_or(name)
}

fn metadata(mut message: Message<'_>, symbols: &Symbols<'_>) -> Result<Metadata, Broken> {
    let mut said = Metadata::default();
    while let Some(field) = message.next()? {
        match field.number {
            1 => said.kind = kind_of(&field)?,
            3 => said.help = symbols.get(field.unsigned()?)?.to_owned(),
            4 => said.unit = symbols.get(field.unsigned()?)?.to_owned(),
            _ => {}
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::super::super::wire::Writer;
    use super::*;

    fn request(symbols: &[&str], write: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let mut request = Writer::default();
        request.message(5, write);
        for symbol in symbols {
            request.bytes(4, symbol.as_bytes());
        }
        request.0
    }

    #[test]
    fn symbols_may_stand_behind_the_series() {
        let bytes = request(
            &[
                "",
                "__name__",
                "rpc_seconds_count",
                "job",
                "x",
                "Calls.",
                "seconds",
            ],
            |series| {
                series.packed(1, &[1, 2, 3, 4]);
                series.message(2, |sample| {
                    sample.double(1, 2.0);
                    sample.unsigned(2, 5000);
                    sample.unsigned(3, 1000);
                });
                series.message(4, |exemplar| {
                    exemplar.packed(1, &[3, 4]);
                    exemplar.double(2, 1.0);
                    exemplar.unsigned(3, 4000);
                });
                series.message(5, |said| {
                    said.unsigned(1, 3);
                    said.unsigned(3, 5);
                    said.unsigned(4, 6);
                });
            },
        );
        let found = decode(&bytes, Limits::default()).unwrap();
        assert_eq!(found.batch.series[0].get("job"), "x");
        assert_eq!(
            (found.batch.floats[0].time, found.batch.floats[0].start),
            (5000, 1000)
        );
        assert_eq!(found.batch.exemplars.len(), 1);
        assert_eq!(found.batch.metadata[0].0.as_ref(), "rpc_seconds");
        assert_eq!(found.batch.metadata[0].1.unit, "seconds");
    }

    #[test]
    fn what_refers_to_nothing_is_refused() {
        for labels in [&[1, 9][..], &[1], &[1, u64::MAX]] {
            let bytes = request(&["", "__name__", "a"], |series| series.packed(1, labels));
            assert!(decode(&bytes, Limits::default()).is_err(), "{labels:?}");
        }
        let bytes = request(&["first"], |_| {});
        assert!(decode(&bytes, Limits::default()).is_err());
    }
}
