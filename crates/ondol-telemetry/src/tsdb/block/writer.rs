//! Writes a block under a temporary name and publishes it.
//!
//! Series come in the order of their labels, each once. Memory grows with the number of series
//! and distinct labels, never with samples. An error leaves the temporary file, which the next
//! start or the next block of that name removes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::format::{
    Directory, Extent, GROUP_BYTES, GROUP_SERIES, Group, LABEL_PAGE, MAGIC, Name, SYMBOLS,
    SeriesRuns,
};
use crate::series::Labels;
use crate::tsdb::bytes::{put_uvarint, put_varint};
use crate::tsdb::chunk::ChunkMeta;
use crate::tsdb::disk::{Disk, TEMPORARY};

/// The name of a block's file.
pub(crate) fn name(id: u64) -> String {
    format!("{id:016x}.block")
}

pub(crate) fn parse(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".block")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

pub(crate) struct BlockWriter {
    disk: Disk,
    id: u64,
    file: BufWriter<File>,
    offset: u64,
    directory: Directory,
    symbols: HashMap<Arc<str>, u32, RandomState>,
    texts: Vec<Arc<str>>,
    /// By the symbol of the name, then of the value.
    labels: HashMap<u32, HashMap<u32, SeriesRuns, RandomState>, RandomState>,
    /// The chunks and the index of the group that is written.
    chunks: Vec<u8>,
    index: Vec<u8>,
    in_group: usize,
    before: Vec<(u32, u32)>,
}

impl BlockWriter {
    pub(crate) fn new(disk: &Disk, id: u64) -> io::Result<Self> {
        let temporary = name(id) + TEMPORARY;
        let file = disk.create_temporary(&temporary, "telemetry.tsdb.block.create")?;
        let mut writer = Self {
            disk: disk.clone(),
            id,
            file: BufWriter::with_capacity(128 << 10, file),
            offset: 0,
            directory: Directory {
                min: i64::MAX,
                max: i64::MIN,
                ..Directory::default()
            },
            symbols: HashMap::default(),
            texts: Vec::new(),
            labels: HashMap::default(),
            chunks: Vec::new(),
            index: Vec::new(),
            in_group: 0,
            before: Vec::new(),
        };
        writer.write(&MAGIC)?;
        Ok(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn plain(&mut self, bytes: &[u8]) -> io::Result<Extent> {
        let extent = Extent {
            offset: self.offset,
            length: u32::try_from(bytes.len()).map_err(io::Error::other)?,
            unfolded: bytes.len() as u32,
            crc: crc32fast::hash(bytes),
        };
        self.write(bytes)?;
        Ok(extent)
    }

    fn folded(&mut self, bytes: &[u8]) -> io::Result<Extent> {
        let small = zstd::bulk::compress(bytes, 3)?;
        let mut extent = self.plain(&small)?;
        extent.unfolded = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(extent)
    }

    fn symbol(&mut self, text: &Arc<str>) -> u32 {
        if let Some(&id) = self.symbols.get(text) {
            return id;
        }
        let id = self.texts.len() as u32;
        self.symbols.insert(Arc::clone(text), id);
        self.texts.push(Arc::clone(text));
        id
    }

    /// Adds a series with its chunks, sorted by their first time.
    pub(crate) fn add(
        &mut self,
        labels: &Labels,
        chunks: &[(ChunkMeta, impl AsRef<[u8]>)],
    ) -> io::Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let series = self.directory.series;
        let pairs: Vec<(u32, u32)> = labels
            .iter()
            .map(|label| (self.symbol(&label.name), self.symbol(&label.value)))
            .collect();
        for &(name, value) in &pairs {
            let values = self.labels.entry(name).or_default();
            values.entry(value).or_default().push(series);
        }
        let shared = pairs
            .iter()
            .zip(&self.before)
            .take_while(|(a, b)| a == b)
            .count();
        put_uvarint(&mut self.index, shared as u64);
        put_uvarint(&mut self.index, (pairs.len() - shared) as u64);
        for (at, &(name, value)) in pairs.iter().enumerate().skip(shared) {
            let before = self.before.get(at).map_or(0, |&(_, value)| value);
            put_uvarint(&mut self.index, u64::from(name));
            put_varint(&mut self.index, i64::from(value) - i64::from(before));
        }
        self.before = pairs;
        put_uvarint(&mut self.index, chunks.len() as u64);
        let mut time = 0i64;
        for (meta, bytes) in chunks {
            let bytes = bytes.as_ref();
            self.index.push(meta.kind as u8);
            put_varint(&mut self.index, meta.min.wrapping_sub(time));
            put_uvarint(&mut self.index, meta.max.wrapping_sub(meta.min) as u64);
            put_uvarint(&mut self.index, u64::from(meta.count));
            put_uvarint(&mut self.index, bytes.len() as u64);
            self.chunks.extend_from_slice(bytes);
            time = meta.max;
            self.directory.min = self.directory.min.min(meta.min);
            self.directory.max = self.directory.max.max(meta.max);
            self.directory.samples += u64::from(meta.count);
        }
        self.directory.series += 1;
        self.in_group += 1;
        if self.in_group >= GROUP_SERIES || self.chunks.len() >= GROUP_BYTES {
            self.close_group()?;
        }
        Ok(())
    }

    fn close_group(&mut self) -> io::Result<()> {
        if self.in_group == 0 {
            return Ok(());
        }
        self.disk.steps.before("telemetry.tsdb.block.write")?;
        let chunks = std::mem::take(&mut self.chunks);
        let index = std::mem::take(&mut self.index);
        let group = Group {
            first: self.directory.series - self.in_group as u32,
            chunks: self.plain(&chunks)?,
            index: self.folded(&index)?,
        };
        self.directory.groups.push(group);
        self.in_group = 0;
        self.before.clear();
        (self.chunks, self.index) = (chunks, index);
        self.chunks.clear();
        self.index.clear();
        Ok(())
    }

    fn write_symbols(&mut self) -> io::Result<()> {
        let texts = std::mem::take(&mut self.texts);
        for page in texts.chunks(SYMBOLS) {
            // How many, where each ends, then the texts: one is found without reading others.
            let mut bytes = (page.len() as u32).to_le_bytes().to_vec();
            let mut end = 0u32;
            for text in page {
                end = u32::try_from(text.len())
                    .ok()
                    .and_then(|length| end.checked_add(length))
                    .ok_or_else(|| io::Error::other("a page of symbols is too large"))?;
                bytes.extend_from_slice(&end.to_le_bytes());
            }
            for text in page {
                bytes.extend_from_slice(text.as_bytes());
            }
            let extent = self.folded(&bytes)?;
            self.directory.symbols.push(extent);
        }
        self.texts = texts;
        Ok(())
    }

    fn write_labels(&mut self) -> io::Result<()> {
        let mut names: Vec<_> = std::mem::take(&mut self.labels)
            .into_iter()
            .map(|(name, values)| (Arc::clone(&self.texts[name as usize]), values))
            .collect();
        names.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        for (name, values) in names {
            let mut entry = Name {
                name: name.to_string(),
                pages: Vec::new(),
            };
            let mut sorted: Vec<_> = values
                .into_iter()
                .map(|(value, runs)| (Arc::clone(&self.texts[value as usize]), value, runs))
                .collect();
            sorted.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            let mut page = Vec::new();
            let mut first = String::new();
            for (text, value, runs) in sorted {
                if page.is_empty() {
                    first = text.to_string();
                }
                put_uvarint(&mut page, u64::from(value));
                put_uvarint(&mut page, u64::from(runs.count));
                let bytes = runs.finish();
                put_uvarint(&mut page, bytes.len() as u64);
                page.extend_from_slice(&bytes);
                if page.len() >= LABEL_PAGE {
                    let extent = self.folded(&page)?;
                    entry.pages.push((std::mem::take(&mut first), extent));
                    page.clear();
                }
            }
            if !page.is_empty() {
                let extent = self.folded(&page)?;
                entry.pages.push((first, extent));
            }
            self.directory.names.push(entry);
        }
        Ok(())
    }

    pub(crate) fn series(&self) -> u32 {
        self.directory.series
    }

    /// Makes the block durable under its name. `sources` are the blocks it replaces, `age` the
    /// number of the oldest block its samples were in, `flushed` the newest generation of the log
    /// that is in blocks with it.
    pub(crate) fn publish(mut self, sources: Vec<u64>, age: u64, flushed: u32) -> io::Result<()> {
        self.directory.sources = sources;
        self.directory.age = age;
        self.directory.flushed = flushed;
        self.close_group()?;
        self.disk.steps.before("telemetry.tsdb.block.index")?;
        self.write_symbols()?;
        self.write_labels()?;
        let plain = self.directory.write();
        let extent = self.folded(&plain)?;
        let mut tail = Vec::with_capacity(super::format::TAIL);
        tail.extend_from_slice(&extent.offset.to_le_bytes());
        tail.extend_from_slice(&extent.length.to_le_bytes());
        tail.extend_from_slice(&extent.unfolded.to_le_bytes());
        tail.extend_from_slice(&extent.crc.to_le_bytes());
        tail.extend_from_slice(&MAGIC);
        self.write(&tail)?;
        self.disk.steps.before("telemetry.tsdb.block.sync")?;
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let name = name(self.id);
        self.disk.publish(
            &(name.clone() + TEMPORARY),
            &name,
            "telemetry.tsdb.block.publish",
        )
    }

    /// Removes what was written.
    pub(crate) fn abandon(disk: &Disk, id: u64) {
        let _ = std::fs::remove_file(disk.path(&(name(id) + TEMPORARY)));
    }
}
