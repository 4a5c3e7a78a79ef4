//! Reads a block: by positioned reads, page by page, each checked before it is believed.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::cache::Cache;
use super::format::{Directory, Extent, MAGIC, MOST_UNFOLDED, SYMBOLS, TAIL, read_runs};
use super::plan::Summary;
use crate::series::{Label, Labels, Matcher};
use crate::tsdb::bytes::{Corrupt, Reader};
use crate::tsdb::chunk::{ChunkMeta, Kind};
use crate::tsdb::error::TsdbError;
use crate::tsdb::postings::{LabelIndex, select};

/// A published block.
pub(crate) struct Block {
    pub(crate) id: u64,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) directory: Directory,
    file: File,
    cache: Arc<Cache>,
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {:016x}", self.id)
    }
}

type Result<T> = std::result::Result<T, TsdbError>;

impl Block {
    pub(crate) fn open(path: PathBuf, id: u64, cache: Arc<Cache>) -> Result<Self> {
        let fail = |error| TsdbError::disk("open", &path, error);
        let file = File::open(&path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        let mut block = Self {
            id,
            size,
            directory: Directory::default(),
            file,
            cache,
            path,
        };
        let tail_at = size
            .checked_sub((TAIL + MAGIC.len()) as u64)
            .map(|_| size - TAIL as u64)
            .ok_or_else(|| block.corrupt(Corrupt("a whole block"), size))?;
        let mut tail = [0; TAIL];
        block.read_at(&mut tail, tail_at)?;
        let mut magic = [0; 8];
        block.read_at(&mut magic, 0)?;
        let parsed = (|| {
            let mut reader = Reader::new(&tail);
            let extent = Extent {
                offset: reader.u64()?,
                length: reader.u32()?,
                unfolded: reader.u32()?,
                crc: reader.u32()?,
            };
            if reader.rest() != MAGIC || magic != MAGIC {
                return Err(Corrupt("the mark of a block"));
            }
            Ok(extent)
        })();
        let extent = parsed.map_err(|error| block.corrupt(error, tail_at))?;
        let plain = block.unfold(&extent)?;
        block.directory =
            Directory::read(&plain).map_err(|error| block.corrupt(error, extent.offset))?;
        Ok(block)
    }

    pub(crate) fn corrupt(&self, error: Corrupt, at: u64) -> TsdbError {
        TsdbError::Corrupted {
            path: self.path.clone(),
            expected: error.0,
            at,
        }
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> Result<()> {
        self.file.read_exact_at(into, at).map_err(|error| {
            if error.kind() == std::io::ErrorKind::UnexpectedEof {
                self.corrupt(Corrupt("more bytes"), at)
            } else {
                TsdbError::disk("read", &self.path, error)
            }
        })
    }

    fn plain(&self, extent: &Extent) -> Result<Vec<u8>> {
        let end = extent.offset.saturating_add(u64::from(extent.length));
        if end > self.size {
            return Err(self.corrupt(Corrupt("an extent inside the file"), extent.offset));
        }
        let mut bytes = vec![0; extent.length as usize];
        self.read_at(&mut bytes, extent.offset)?;
        if crc32fast::hash(&bytes) != extent.crc {
            return Err(self.corrupt(Corrupt("the checksum of a page"), extent.offset));
        }
        Ok(bytes)
    }

    fn unfold(&self, extent: &Extent) -> Result<Vec<u8>> {
        if extent.unfolded as usize > MOST_UNFOLDED {
            return Err(self.corrupt(Corrupt("a smaller page"), extent.offset));
        }
        let unfolded = extent.unfolded as usize;
        zstd::bulk::decompress(&self.plain(extent)?, unfolded)
            .ok()
            .filter(|plain| plain.len() == unfolded)
            .ok_or_else(|| self.corrupt(Corrupt("a zstd frame"), extent.offset))
    }

    fn page(&self, extent: &Extent) -> Result<Arc<[u8]>> {
        self.cache.get((self.id, extent.offset), || {
            Ok(Arc::from(self.unfold(extent)?))
        })
    }

    /// Whether it can have samples of `start < time <= end`.
    pub(crate) fn touches(&self, start: i64, end: i64) -> bool {
        self.directory.max > start && self.directory.min <= end
    }

    /// Blocks whose samples count more come first.
    pub(crate) fn rank(&self) -> (u64, u64) {
        (self.directory.age, self.id)
    }

    pub(crate) fn summary(&self) -> Summary {
        Summary {
            id: self.id,
            min: self.directory.min,
            max: self.directory.max,
            samples: self.directory.samples,
            bytes: self.size,
        }
    }

    /// The series all conditions hold for.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> Result<Vec<u32>> {
        select(&BlockIndex::new(self), matchers)
    }

    /// The names of labels.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.directory.names.iter().map(|name| name.name.as_str())
    }

    /// Calls with each value of a label, sorted, until it answers `false`.
    pub(crate) fn values(&self, name: &str, take: &mut dyn FnMut(&str) -> bool) -> Result<()> {
        let index = BlockIndex::new(self);
        index.each(name, 0, &mut |value, _| Ok(take(value)))
    }
}

/// Looks texts up by number, and keeps the pages it needed.
struct Symbols<'a> {
    block: &'a Block,
    pages: HashMap<u32, Arc<[u8]>>,
}

impl Symbols<'_> {
    fn text(&mut self, id: u32) -> Result<&str> {
        let number = id / SYMBOLS as u32;
        let extent = self
            .block
            .directory
            .symbols
            .get(number as usize)
            .ok_or_else(|| self.block.corrupt(Corrupt("a known symbol"), 0))?;
        if !self.pages.contains_key(&number) {
            let page = self.block.page(extent)?;
            self.pages.insert(number, page);
        }
        let page = &self.pages[&number];
        let bad = |what| self.block.corrupt(Corrupt(what), extent.offset);
        let number_at = |at: usize| -> Option<usize> {
            let bytes = page.get(at * 4..at * 4 + 4)?;
            Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize)
        };
        let total = number_at(0).ok_or_else(|| bad("a page of symbols"))?;
        let within = id as usize % SYMBOLS;
        if within >= total {
            return Err(bad("a known symbol"));
        }
        let begin = if within == 0 {
            Some(0)
        } else {
            number_at(within)
        };
        let (Some(begin), Some(end)) = (begin, number_at(within + 1)) else {
            return Err(bad("a page of symbols"));
        };
        page.get((total + 1).saturating_mul(4)..)
            .and_then(|texts| texts.get(begin..end))
            .and_then(|text| std::str::from_utf8(text).ok())
            .ok_or_else(|| bad("a text"))
    }
}

struct BlockIndex<'a> {
    block: &'a Block,
    symbols: RefCell<Symbols<'a>>,
}

impl<'a> BlockIndex<'a> {
    fn new(block: &'a Block) -> Self {
        Self {
            block,
            symbols: RefCell::new(Symbols {
                block,
                pages: HashMap::new(),
            }),
        }
    }

    /// Calls with each value of a label and its list, from a page on, until it answers `false`.
    fn each(
        &self,
        name: &str,
        from: usize,
        take: &mut dyn FnMut(&str, &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let names = &self.block.directory.names;
        let Ok(at) = names.binary_search_by(|entry| entry.name.as_str().cmp(name)) else {
            return Ok(());
        };
        for (_, extent) in names[at].pages.iter().skip(from) {
            let page = self.block.page(extent)?;
            let bad = |error| self.block.corrupt(error, extent.offset);
            let mut reader = Reader::new(&page);
            while !reader.is_empty() {
                let value = reader.uvarint().map_err(bad)?;
                reader.uvarint().map_err(bad)?;
                let length = reader.count(1).map_err(bad)?;
                let list = reader.take(length).map_err(bad)?;
                let mut symbols = self.symbols.borrow_mut();
                let text = symbols.text(value as u32)?;
                if !take(text, list)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn read(&self, list: &[u8], into: &mut Vec<u32>) -> Result<()> {
        read_runs(list, self.block.directory.series, into)
            .map_err(|error| self.block.corrupt(error, 0))
    }
}

impl LabelIndex for BlockIndex<'_> {
    type Error = TsdbError;

    fn all(&self) -> Vec<u32> {
        (0..self.block.directory.series).collect()
    }

    fn lookup(&self, name: &str, value: &str, into: &mut Vec<u32>) -> Result<()> {
        let names = &self.block.directory.names;
        let Ok(at) = names.binary_search_by(|entry| entry.name.as_str().cmp(name)) else {
            return Ok(());
        };
        let page = names[at]
            .pages
            .partition_point(|(first, _)| first.as_str() <= value);
        let Some(page) = page.checked_sub(1) else {
            return Ok(());
        };
        self.each(name, page, &mut |text, list| {
            if text == value {
                self.read(list, into)?;
            }
            Ok(text < value)
        })
    }

    fn scan(
        &self,
        name: &str,
        wanted: &mut dyn FnMut(&str) -> bool,
        into: &mut Vec<u32>,
    ) -> Result<()> {
        self.each(name, 0, &mut |text, list| {
            if wanted(text) {
                self.read(list, into)?;
            }
            Ok(true)
        })
    }
}

struct Entry {
    labels: Vec<(u32, u32)>,
    chunks: std::ops::Range<usize>,
}

/// Walks through some of the series of a block, in the order of their labels.
pub(crate) struct Cursor {
    block: Arc<Block>,
    numbers: std::vec::IntoIter<u32>,
    group: Option<usize>,
    entries: Vec<Entry>,
    chunks: Vec<(ChunkMeta, std::ops::Range<usize>)>,
    bytes: Option<Vec<u8>>,
    texts: HashMap<u32, Arc<str>>,
    pages: HashMap<u32, Arc<[u8]>>,
    entry: usize,
}

impl Cursor {
    pub(crate) fn new(block: Arc<Block>, numbers: Vec<u32>) -> Self {
        Self {
            block,
            numbers: numbers.into_iter(),
            group: None,
            entries: Vec::new(),
            chunks: Vec::new(),
            bytes: None,
            texts: HashMap::new(),
            pages: HashMap::new(),
            entry: 0,
        }
    }

    /// A walk through all series.
    pub(crate) fn all(block: &Arc<Block>) -> Self {
        Self::new(Arc::clone(block), (0..block.directory.series).collect())
    }

    pub(crate) fn block(&self) -> &Arc<Block> {
        &self.block
    }

    /// The labels of the next series.
    pub(crate) fn next(&mut self) -> Result<Option<Labels>> {
        let Some(number) = self.numbers.next() else {
            return Ok(None);
        };
        let groups = &self.block.directory.groups;
        let group = groups
            .partition_point(|group| group.first <= number)
            .checked_sub(1)
            .ok_or_else(|| self.block.corrupt(Corrupt("a known series"), 0))?;
        if self.group != Some(group) {
            self.load(group)?;
        }
        self.entry = (number - self.block.directory.groups[group].first) as usize;
        if self.entry >= self.entries.len() {
            return Err(self.block.corrupt(Corrupt("a known series"), 0));
        }
        let mut symbols = Symbols {
            block: &self.block,
            pages: std::mem::take(&mut self.pages),
        };
        let mut labels = Vec::with_capacity(self.entries[self.entry].labels.len());
        for &(name, value) in &self.entries[self.entry].labels {
            let mut text = |id: u32| -> Result<Arc<str>> {
                if let Some(text) = self.texts.get(&id) {
                    return Ok(Arc::clone(text));
                }
                let text: Arc<str> = Arc::from(symbols.text(id)?);
                self.texts.insert(id, Arc::clone(&text));
                Ok(text)
            };
            labels.push(Label {
                name: text(name)?,
                value: text(value)?,
            });
        }
        self.pages = symbols.pages;
        Ok(Some(Labels::from_sorted(labels.into_iter())))
    }

    fn load(&mut self, number: usize) -> Result<()> {
        let group = self.block.directory.groups[number];
        let page = self.block.page(&group.index)?;
        self.group = None;
        self.bytes = None;
        self.entries.clear();
        self.chunks.clear();
        self.parse(&page, group.chunks.length as usize)
            .map_err(|error| self.block.corrupt(error, group.index.offset))?;
        self.group = Some(number);
        Ok(())
    }

    fn parse(&mut self, page: &[u8], room: usize) -> std::result::Result<(), Corrupt> {
        let mut reader = Reader::new(page);
        let mut before: Vec<(u32, u32)> = Vec::new();
        let mut offset = 0usize;
        while !reader.is_empty() {
            let shared = reader.uvarint()? as usize;
            let own = reader.count(2)?;
            let mut labels = before
                .get(..shared)
                .ok_or(Corrupt("labels of the series before"))?
                .to_vec();
            for at in shared..shared + own {
                let name = reader.uvarint()? as u32;
                let near = before.get(at).map_or(0, |&(_, value)| value);
                let value = i64::from(near).wrapping_add(reader.varint()?);
                labels.push((name, value as u32));
            }
            before.clone_from(&labels);
            let first = self.chunks.len();
            let mut time = 0i64;
            for _ in 0..reader.count(5)? {
                let kind = Kind::from_byte(reader.byte()?)?;
                let min = time.wrapping_add(reader.varint()?);
                let max = min.wrapping_add(reader.uvarint()? as i64);
                let count = u32::try_from(reader.uvarint()?).map_err(|_| Corrupt("a count"))?;
                let length = reader.uvarint()? as usize;
                let end = offset
                    .checked_add(length)
                    .filter(|&end| end <= room)
                    .ok_or(Corrupt("a chunk inside its group"))?;
                let meta = ChunkMeta {
                    kind,
                    min,
                    max,
                    count,
                };
                self.chunks.push((meta, offset..end));
                offset = end;
                time = max;
            }
            self.entries.push(Entry {
                labels,
                chunks: first..self.chunks.len(),
            });
        }
        Ok(())
    }

    /// Whether the series at hand can have samples of `start < time <= end`.
    pub(crate) fn touches(&self, start: i64, end: i64) -> bool {
        self.chunks[self.entries[self.entry].chunks.clone()]
            .iter()
            .any(|(meta, _)| meta.touches(start, end))
    }

    /// The chunks of the series at hand that can have samples of `start < time <= end`.
    pub(crate) fn chunks<'a>(
        &'a mut self,
        start: i64,
        end: i64,
        into: &mut Vec<(ChunkMeta, &'a [u8])>,
    ) -> Result<()> {
        if !self.touches(start, end) {
            return Ok(());
        }
        if self.bytes.is_none()
            && let Some(group) = self.group
        {
            let extent = self.block.directory.groups[group].chunks;
            self.bytes = Some(self.block.plain(&extent)?);
        }
        let bytes = self.bytes.as_deref().unwrap_or_default();
        for (meta, place) in &self.chunks[self.entries[self.entry].chunks.clone()] {
            if meta.touches(start, end) {
                let taken = bytes
                    .get(place.clone())
                    .ok_or_else(|| self.block.corrupt(Corrupt("a chunk"), 0))?;
                into.push((*meta, taken));
            }
        }
        Ok(())
    }
}
