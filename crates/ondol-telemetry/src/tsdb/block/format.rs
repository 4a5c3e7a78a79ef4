//! How a block lies in its file.
//!
//! ```text
//! magic (8)
//! for each group of series: their chunks, then their index page (zstd)
//! symbol pages (zstd): texts by number, in the order in which they were met
//! label pages (zstd): for each name, the values sorted by text, with their series
//! directory (zstd)
//! tail: offset of the directory (8), its length (4), its unfolded length (4), CRC-32 (4), magic (8)
//! ```
//!
//! Each extent has a CRC-32 in the directory, and the directory has one in the tail; so a block
//! can be opened by its tail alone, and every byte is checked before it is believed. Series are
//! numbered in the order of their labels.

use crate::tsdb::bytes::{Corrupt, Reader, put_text, put_uvarint, put_varint};

pub(crate) const MAGIC: [u8; 8] = *b"ONDOLts1";
pub(crate) const TAIL: usize = 28;
/// Series of a group, at most.
pub(crate) const GROUP_SERIES: usize = 256;
/// Bytes of chunks after which a group ends.
pub(crate) const GROUP_BYTES: usize = 64 << 10;
/// Symbols of a page.
pub(crate) const SYMBOLS: usize = 512;
/// Bytes of a label page before it is compressed, about.
pub(crate) const LABEL_PAGE: usize = 32 << 10;
/// What a page may claim to unfold to.
pub(crate) const MOST_UNFOLDED: usize = 256 << 20;

/// A place in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u32,
    /// Before it was compressed; the same when it is not.
    pub(crate) unfolded: u32,
    pub(crate) crc: u32,
}

/// A group of series.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// The number of its first series.
    pub(crate) first: u32,
    pub(crate) chunks: Extent,
    pub(crate) index: Extent,
}

/// The values of a label, in pages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) name: String,
    /// Each with its first value.
    pub(crate) pages: Vec<(String, Extent)>,
}

/// What a block is and where its parts are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Directory {
    /// The time of the oldest sample.
    pub(crate) min: i64,
    /// The time of the newest sample.
    pub(crate) max: i64,
    pub(crate) series: u32,
    pub(crate) samples: u64,
    /// The number of the oldest block its samples were in: the older they are, the more they count.
    pub(crate) age: u64,
    /// The blocks this one replaces.
    pub(crate) sources: Vec<u64>,
    /// The generations of the log up to this one are in blocks; 0 says nothing.
    pub(crate) flushed: u32,
    pub(crate) groups: Vec<Group>,
    pub(crate) symbols: Vec<Extent>,
    pub(crate) names: Vec<Name>,
}

fn put_extent(out: &mut Vec<u8>, extent: &Extent, before: &mut u64) {
    put_varint(out, extent.offset.wrapping_sub(*before) as i64);
    put_uvarint(out, u64::from(extent.length));
    put_uvarint(out, u64::from(extent.unfolded));
    out.extend_from_slice(&extent.crc.to_le_bytes());
    *before = extent.offset + u64::from(extent.length);
}

fn extent(reader: &mut Reader<'_>, before: &mut u64) -> Result<Extent, Corrupt> {
    let narrow = |value: u64| u32::try_from(value).map_err(|_| Corrupt("a length"));
    let extent = Extent {
        offset: before.wrapping_add(reader.varint()? as u64),
        length: narrow(reader.uvarint()?)?,
        unfolded: narrow(reader.uvarint()?)?,
        crc: reader.u32()?,
    };
    *before = extent.offset.wrapping_add(u64::from(extent.length));
    Ok(extent)
}

impl Directory {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.min);
        put_varint(&mut out, self.max);
        put_uvarint(&mut out, u64::from(self.series));
        put_uvarint(&mut out, self.samples);
        put_uvarint(&mut out, u64::from(self.flushed));
        put_uvarint(&mut out, self.age);
        put_uvarint(&mut out, self.sources.len() as u64);
        for source in &self.sources {
            put_uvarint(&mut out, *source);
        }
        let mut at = 0;
        put_uvarint(&mut out, self.groups.len() as u64);
        let mut series = 0;
        for group in &self.groups {
            put_uvarint(&mut out, u64::from(group.first - series));
            series = group.first;
            put_extent(&mut out, &group.chunks, &mut at);
            put_extent(&mut out, &group.index, &mut at);
        }
        put_uvarint(&mut out, self.symbols.len() as u64);
        for page in &self.symbols {
            put_extent(&mut out, page, &mut at);
        }
        put_uvarint(&mut out, self.names.len() as u64);
        for name in &self.names {
            put_text(&mut out, &name.name);
            put_uvarint(&mut out, name.pages.len() as u64);
            for (first, page) in &name.pages {
                put_text(&mut out, first);
                put_extent(&mut out, page, &mut at);
            }
        }
        out
    }

    pub(crate) fn read(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader::new(bytes);
        let narrow = |value: u64| u32::try_from(value).map_err(|_| Corrupt("a smaller number"));
        let mut directory = Self {
            min: reader.varint()?,
            max: reader.varint()?,
            series: narrow(reader.uvarint()?)?,
            samples: reader.uvarint()?,
            flushed: narrow(reader.uvarint()?)?,
            age: reader.uvarint()?,
            ..Self::default()
        };
        for _ in 0..reader.count(1)? {
            directory.sources.push(reader.uvarint()?);
        }
        let mut at = 0;
        let mut series = 0u32;
        for _ in 0..reader.count(15)? {
            series = series
                .checked_add(narrow(reader.uvarint()?)?)
                .ok_or(Corrupt("a smaller number"))?;
            directory.groups.push(Group {
                first: series,
                chunks: extent(&mut reader, &mut at)?,
                index: extent(&mut reader, &mut at)?,
            });
        }
        for _ in 0..reader.count(7)? {
            directory.symbols.push(extent(&mut reader, &mut at)?);
        }
        for _ in 0..reader.count(2)? {
            let name = reader.text()?.to_owned();
            let mut pages = Vec::new();
            for _ in 0..reader.count(8)? {
                pages.push((reader.text()?.to_owned(), extent(&mut reader, &mut at)?));
            }
            directory.names.push(Name { name, pages });
        }
        Ok(directory)
    }
}

/// Series that rise, as gaps and runs.
#[derive(Default)]
pub(crate) struct SeriesRuns {
    bytes: Vec<u8>,
    /// Where the run that is open begins and ends; nothing is open while both are the same.
    begin: u32,
    end: u32,
    /// The end of the run before.
    before: u32,
    pub(crate) count: u32,
}

impl SeriesRuns {
    pub(crate) fn push(&mut self, series: u32) {
        if self.count > 0 && series == self.end {
            self.end += 1;
        } else {
            self.close();
            self.begin = series;
            self.end = series + 1;
        }
        self.count += 1;
    }

    fn close(&mut self) {
        let length = self.end - self.begin;
        if length == 0 {
            return;
        }
        let gap = u64::from(self.begin - self.before);
        put_uvarint(&mut self.bytes, gap << 1 | u64::from(length > 1));
        if length > 1 {
            put_uvarint(&mut self.bytes, u64::from(length));
        }
        self.before = self.end;
    }

    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.close();
        self.bytes
    }
}

/// Appends the series of such a list; none reaches `limit`.
pub(crate) fn read_runs(bytes: &[u8], limit: u32, into: &mut Vec<u32>) -> Result<(), Corrupt> {
    let mut reader = Reader::new(bytes);
    let mut at = 0u64;
    while !reader.is_empty() {
        let head = reader.uvarint()?;
        let length = if head & 1 == 0 { 1 } else { reader.uvarint()? };
        let begin = at.saturating_add(head >> 1);
        at = begin.saturating_add(length);
        if at > u64::from(limit) {
            return Err(Corrupt("the number of a series"));
        }
        into.extend(begin as u32..at as u32);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lists_return(series in prop::collection::btree_set(0u32..2000, 0..300)) {
            let mut runs = SeriesRuns::default();
            series.iter().for_each(|&series| runs.push(series));
            let mut back = Vec::new();
            read_runs(&runs.finish(), 2000, &mut back).unwrap();
            prop_assert_eq!(back, series.into_iter().collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Directory::read(&bytes);
            let _ = read_runs(&bytes, 1 << 20, &mut Vec::new());
        }
    }
}
