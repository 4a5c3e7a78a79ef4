//! What the log holds: frames with a checksum, each with the parts of one commit.
//!
//! A frame is a marker, a length, a CRC-32 of the payload, and the payload. A part is a kind, a
//! length and that many bytes, compressed when that pays. The marker is what reading goes on at
//! after damage.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::series::{Exemplar, Metadata};
use crate::series::{Histogram, Labels};
use crate::tsdb::bytes::{Corrupt, Reader, put_text, put_uvarint, put_varint};
use crate::tsdb::chunk::{HistogramStream, histograms};
use crate::tsdb::exemplar::{read_labels, write_labels};

/// What a frame begins with.
pub(crate) const MARKER: [u8; 4] = *b"OWf1";
/// Bytes before the payload.
pub(crate) const HEADER: usize = 12;
/// A payload is never larger.
pub(crate) const MOST_PAYLOAD: usize = 64 << 20;
/// Parts from this size on are compressed.
const WORTH_COMPRESSING: usize = 256;

const SERIES: u8 = 1;
const FLOATS: u8 = 2;
const HISTOGRAMS: u8 = 3;
const EXEMPLARS: u8 = 4;
const METADATA: u8 = 5;
const COMPRESSED: u8 = 0x80;

/// A sample that is a number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FloatSample {
    pub(crate) series: u64,
    pub(crate) time: i64,
    pub(crate) start: i64,
    pub(crate) bits: u64,
}

/// A sample that is a histogram.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HistogramSample {
    pub(crate) series: u64,
    pub(crate) time: i64,
    pub(crate) start: i64,
    pub(crate) value: Arc<Histogram>,
}

/// One commit, or a piece of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    /// Series with their labels, as they were read; see [`each_series`].
    pub(crate) series: Vec<u8>,
    pub(crate) floats: Vec<FloatSample>,
    pub(crate) histograms: Vec<HistogramSample>,
    pub(crate) exemplars: Vec<(Labels, Exemplar)>,
    pub(crate) metadata: BTreeMap<String, Metadata>,
}

/// Collects the parts of a frame.
#[derive(Default)]
pub(crate) struct FrameWriter {
    payload: Vec<u8>,
}

impl FrameWriter {
    fn part(&mut self, kind: u8, bytes: &[u8]) {
        if bytes.len() >= WORTH_COMPRESSING
            && let Ok(small) = zstd::bulk::compress(bytes, 1)
            && small.len() + 8 < bytes.len()
        {
            self.payload.push(kind | COMPRESSED);
            put_uvarint(&mut self.payload, bytes.len() as u64);
            put_uvarint(&mut self.payload, small.len() as u64);
            self.payload.extend_from_slice(&small);
            return;
        }
        self.payload.push(kind);
        put_uvarint(&mut self.payload, bytes.len() as u64);
        self.payload.extend_from_slice(bytes);
    }

    pub(crate) fn series<'a, L: Iterator<Item = (&'a str, &'a str)>>(
        &mut self,
        series: impl Iterator<Item = (u64, usize, L)>,
    ) {
        let mut bytes = Vec::new();
        for (id, labels, pairs) in series {
            put_uvarint(&mut bytes, id);
            put_uvarint(&mut bytes, labels as u64);
            for (name, value) in pairs {
                put_text(&mut bytes, name);
                put_text(&mut bytes, value);
            }
        }
        if !bytes.is_empty() {
            self.part(SERIES, &bytes);
        }
    }

    /// Columns: series, times, start times when one is known, values by the rank of their bytes.
    pub(crate) fn floats(&mut self, samples: &[FloatSample]) {
        if samples.is_empty() {
            return;
        }
        let mut bytes = Vec::with_capacity(samples.len() * 11);
        put_uvarint(&mut bytes, samples.len() as u64);
        let (mut series, mut time) = (0i64, 0i64);
        for sample in samples {
            put_varint(&mut bytes, (sample.series as i64).wrapping_sub(series));
            series = sample.series as i64;
        }
        for sample in samples {
            put_varint(&mut bytes, sample.time.wrapping_sub(time));
            time = sample.time;
        }
        let starts = samples.iter().any(|sample| sample.start != 0);
        bytes.push(u8::from(starts));
        if starts {
            for sample in samples {
                put_varint(&mut bytes, sample.start);
            }
        }
        for rank in 0..8 {
            bytes.extend(
                samples
                    .iter()
                    .map(|sample| (sample.bits >> (8 * rank)) as u8),
            );
        }
        self.part(FLOATS, &bytes);
    }

    pub(crate) fn histograms(&mut self, samples: &[HistogramSample]) {
        if samples.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        for sample in samples {
            put_uvarint(&mut bytes, sample.series);
            // A stream of one sample; it says everything about the histogram.
            let stream = HistogramStream::new(sample.time, sample.start, &sample.value);
            put_uvarint(&mut bytes, stream.bytes().len() as u64);
            bytes.extend_from_slice(stream.bytes());
        }
        self.part(HISTOGRAMS, &bytes);
    }

    pub(crate) fn exemplars<'a>(
        &mut self,
        exemplars: impl Iterator<Item = &'a (Labels, Exemplar)>,
    ) {
        let mut bytes = Vec::new();
        for (series, exemplar) in exemplars {
            write_labels(series, &mut bytes);
            exemplar.write(&mut bytes);
        }
        if !bytes.is_empty() {
            self.part(EXEMPLARS, &bytes);
        }
    }

    pub(crate) fn metadata<'a>(
        &mut self,
        metadata: impl Iterator<Item = (&'a String, &'a Metadata)>,
    ) {
        let mut bytes = Vec::new();
        for (metric, described) in metadata {
            put_text(&mut bytes, metric);
            described.write(&mut bytes);
        }
        if !bytes.is_empty() {
            self.part(METADATA, &bytes);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.payload.is_empty()
    }

    /// Appends the frame.
    pub(crate) fn finish(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MARKER);
        out.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(&self.payload).to_le_bytes());
        out.extend_from_slice(&self.payload);
    }
}

/// The payload of the frame at the start of these bytes, and how long the frame is.
pub(crate) fn frame(bytes: &[u8]) -> Result<(&[u8], usize), Corrupt> {
    let mut reader = Reader::new(bytes);
    if reader.take(4)? != MARKER {
        return Err(Corrupt("the marker of a frame"));
    }
    let length = reader.u32()? as usize;
    let crc = reader.u32()?;
    if length > MOST_PAYLOAD {
        return Err(Corrupt("a frame of fewer bytes"));
    }
    let payload = reader.take(length).map_err(|_| Corrupt("a whole frame"))?;
    if crc32fast::hash(payload) != crc {
        return Err(Corrupt("the checksum of a frame"));
    }
    Ok((payload, HEADER + length))
}

/// Reads a payload.
pub(crate) fn entry(payload: &[u8]) -> Result<Entry, Corrupt> {
    let mut entry = Entry::default();
    let mut reader = Reader::new(payload);
    while !reader.is_empty() {
        let kind = reader.byte()?;
        let length = reader.uvarint()? as usize;
        let unfolded;
        let bytes = if kind & COMPRESSED == 0 {
            reader.take(length)?
        } else {
            if length > MOST_PAYLOAD {
                return Err(Corrupt("a part of fewer bytes"));
            }
            let small = reader.count(1)?;
            unfolded = zstd::bulk::decompress(reader.take(small)?, length)
                .map_err(|_| Corrupt("a zstd frame"))?;
            &unfolded
        };
        let part = Reader::new(bytes);
        match kind & !COMPRESSED {
            SERIES => {
                each_series(bytes, &mut |_, _| {})?;
                entry.series.extend_from_slice(bytes);
            }
            FLOATS => read_floats(part, &mut entry)?,
            HISTOGRAMS => read_histograms(part, &mut entry)?,
            EXEMPLARS => read_exemplars(part, &mut entry)?,
            METADATA => read_metadata(part, &mut entry)?,
            _ => return Err(Corrupt("a known kind of part")),
        }
    }
    Ok(entry)
}

/// Told of a series and its labels.
type TakeSeries<'a> = dyn FnMut(u64, &[(&str, &str)]) + 'a;

/// Hands out the series of an entry with their labels. The texts are not copied: a start reads
/// hundreds of thousands of them.
pub(crate) fn each_series(part: &[u8], take: &mut TakeSeries<'_>) -> Result<(), Corrupt> {
    let mut part = Reader::new(part);
    let mut labels: Vec<(&str, &str)> = Vec::new();
    while !part.is_empty() {
        let id = part.uvarint()?;
        labels.clear();
        for _ in 0..part.count(2)? {
            labels.push((part.text()?, part.text()?));
        }
        take(id, &labels);
    }
    Ok(())
}

fn read_floats(mut part: Reader<'_>, entry: &mut Entry) -> Result<(), Corrupt> {
    let count = part.count(10)?;
    let first = entry.floats.len();
    let mut series = 0i64;
    for _ in 0..count {
        series = series.wrapping_add(part.varint()?);
        entry.floats.push(FloatSample {
            series: series as u64,
            time: 0,
            start: 0,
            bits: 0,
        });
    }
    let samples = &mut entry.floats[first..];
    let mut time = 0i64;
    for sample in samples.iter_mut() {
        time = time.wrapping_add(part.varint()?);
        sample.time = time;
    }
    if part.byte()? != 0 {
        for sample in samples.iter_mut() {
            sample.start = part.varint()?;
        }
    }
    for rank in 0..8 {
        let plane = part.take(count)?;
        for (sample, &byte) in samples.iter_mut().zip(plane) {
            sample.bits |= u64::from(byte) << (8 * rank);
        }
    }
    Ok(())
}

fn read_histograms(mut part: Reader<'_>, entry: &mut Entry) -> Result<(), Corrupt> {
    while !part.is_empty() {
        let series = part.uvarint()?;
        let length = part.count(1)?;
        let samples = &mut entry.histograms;
        histograms::decode(part.take(length)?, 1, &mut |time, start, value| {
            samples.push(HistogramSample {
                series,
                time,
                start,
                value,
            });
        })?;
    }
    Ok(())
}

fn read_exemplars(mut part: Reader<'_>, entry: &mut Entry) -> Result<(), Corrupt> {
    while !part.is_empty() {
        let series = read_labels(&mut part)?;
        entry.exemplars.push((series, Exemplar::read(&mut part)?));
    }
    Ok(())
}

fn read_metadata(mut part: Reader<'_>, entry: &mut Entry) -> Result<(), Corrupt> {
    while !part.is_empty() {
        let metric = part.text()?.to_owned();
        entry.metadata.insert(metric, Metadata::read(&mut part)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tsdb::chunk::histograms::tests::any_histogram;

    proptest! {
        #[test]
        fn an_entry_returns(
            floats in prop::collection::vec((any::<u64>(), any::<i64>(), any::<i64>(), any::<u64>()), 0..100),
            histograms in prop::collection::vec((any::<u64>(), any::<i64>(), any::<i64>(), any_histogram()), 0..4),
            series in prop::collection::vec((any::<u64>(), prop::collection::vec((".{0,5}", ".{0,40}"), 1..4)), 0..20),
        ) {
            let given = Entry {
                floats: floats.into_iter().map(|(series, time, start, bits)| FloatSample { series, time, start, bits }).collect(),
                histograms: histograms
                    .into_iter()
                    .map(|(series, time, start, value)| HistogramSample { series, time, start, value: Arc::new(value) })
                    .collect(),
                ..Entry::default()
            };
            let mut writer = FrameWriter::default();
            writer.series(series.iter().map(|(id, labels)| {
                (*id, labels.len(), labels.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            }));
            writer.floats(&given.floats);
            writer.histograms(&given.histograms);
            let mut bytes = Vec::new();
            writer.finish(&mut bytes);
            let (payload, length) = frame(&bytes).unwrap();
            prop_assert_eq!(length, bytes.len());
            let mut read = entry(payload).unwrap();
            let mut described = Vec::new();
            each_series(&std::mem::take(&mut read.series), &mut |id, labels| {
                let owned = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
                described.push((id, owned.collect::<Vec<_>>()));
            }).unwrap();
            prop_assert_eq!(described, series);
            prop_assert_eq!(format!("{read:?}"), format!("{given:?}"));
            for cut in 0..bytes.len() {
                prop_assert!(frame(&bytes[..cut]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = frame(&bytes);
            let _ = entry(&bytes);
        }
    }
}
