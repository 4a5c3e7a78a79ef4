//! Packs: many small blobs in one file, one sync for all of them.
//!
//! A pack begins with its format name; each record is a mark, the algorithm, the length and the
//! digest before the bytes, so that a pack can be read without any index. A pack is written under
//! a temporary name, synced and renamed, and never changes afterwards.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use ondol_types::{Algorithm, Digest};

use super::writer::{Hasher, NEXT};
use super::{Blobs, blocking};
use crate::db::StoreFuture;
use crate::error::StoreError;

const FORMAT: &[u8; 8] = b"ondolpk1";
const MARK: u8 = 0xB1;
/// A pack is sealed once it has this many bytes.
const SEAL_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes gathered before they are hashed and written together.
const GATHER_BYTES: usize = 4 * 1024 * 1024;
/// The largest blob that goes into a pack.
pub const PACKED_MAX_BYTES: usize = 512 * 1024;

/// One record of a pack: where its bytes lie.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) digest: Digest,
    pub(super) position: u64,
    pub(super) size: u64,
}

/// What reading a pack through found.
pub(super) struct Scanned {
    pub(super) records: Vec<Record>,
    pub(super) size: u64,
    pub(super) problem: Option<String>,
}

pub(super) fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Blake3 => 1,
        Algorithm::Sha256 => 2,
        Algorithm::Sha512 => 3,
    }
}

pub(super) fn algorithm_of(code: u8) -> Option<Algorithm> {
    super::index::ALGORITHMS
        .into_iter()
        .find(|algorithm| algorithm_code(*algorithm) == code)
}

pub(super) fn path(folder: &Path, id: i64) -> PathBuf {
    folder.join(format!("{id:010}.pack"))
}

/// The numbers of the packs in a folder.
pub(super) fn list(folder: &Path) -> Result<std::collections::BTreeSet<i64>, StoreError> {
    let mut found = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
        let name = entry.map_err(StoreError::io("list", folder))?.file_name();
        let id: Option<i64> = name
            .to_str()
            .and_then(|name| name.strip_suffix(".pack"))
            .and_then(|digits| digits.parse().ok());
        found.extend(id);
    }
    Ok(found)
}

/// Reads a pack through and returns the records whose bytes have their digest.
pub(super) fn scan(path: &Path) -> Result<Scanned, StoreError> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let size = file
        .metadata()
        .map_err(StoreError::io("look at", path))?
        .len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut records = Vec::new();
    let mut format = [0; 8];
    let mut position = 8;
    let problem = match reader.read_exact(&mut format) {
        Ok(()) if &format == FORMAT => scan_records(&mut reader, size, &mut position, &mut records)
            .err()
            .map(|what| format!("{what} at byte {position}")),
        _ => Some("it does not begin as a pack".to_owned()),
    };
    Ok(Scanned {
        records,
        size,
        problem,
    })
}

fn scan_records(
    reader: &mut impl Read,
    size: u64,
    position: &mut u64,
    records: &mut Vec<Record>,
) -> Result<(), String> {
    let mut bytes = Vec::new();
    while *position < size {
        let mut head = [0; 6];
        reader
            .read_exact(&mut head)
            .map_err(|error| error.to_string())?;
        let length = u32::from_le_bytes([head[2], head[3], head[4], head[5]]) as usize;
        let algorithm = algorithm_of(head[1])
            .filter(|_| head[0] == MARK && length <= PACKED_MAX_BYTES)
            .ok_or("no record begins")?;
        let mut hash = [0; 64];
        let hash = &mut hash[..algorithm.length()];
        reader.read_exact(hash).map_err(|error| error.to_string())?;
        bytes.resize(length, 0);
        reader
            .read_exact(&mut bytes)
            .map_err(|error| error.to_string())?;
        let start = *position + 6 + algorithm.length() as u64;
        let digest = Digest::from_bytes(algorithm, hash);
        // A record whose bytes rotted is left out; those after it are still good.
        if Hasher::digest(algorithm, &bytes) == digest {
            records.push(Record {
                digest,
                position: start,
                size: length as u64,
            });
        }
        *position = start + length as u64;
    }
    Ok(())
}

/// Reads one record's bytes and checks them.
pub(super) fn read_at(
    file: &File,
    path: &Path,
    digest: &Digest,
    position: u64,
    size: u64,
) -> Result<Bytes, StoreError> {
    let mut bytes = vec![0; size as usize];
    match file.read_exact_at(&mut bytes, position) {
        Ok(()) => {}
        // A pack that ends too early no longer holds what was written.
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => bytes.clear(),
        Err(error) => return Err(StoreError::io("read", path)(error)),
    }
    check(digest, &bytes)?;
    Ok(bytes.into())
}

/// Refuses bytes that do not have their digest.
pub(super) fn check(digest: &Digest, bytes: &[u8]) -> Result<(), StoreError> {
    let actual = Hasher::digest(digest.algorithm(), bytes);
    if actual == *digest {
        return Ok(());
    }
    Err(StoreError::Corrupted {
        expected: digest.clone(),
        actual,
    })
}

/// A pack under its temporary name.
pub(super) struct OpenPack {
    temporary: PathBuf,
    file: File,
    size: u64,
    records: Vec<Record>,
}

impl OpenPack {
    pub(super) fn create(blobs: &Blobs) -> Result<Self, StoreError> {
        let temporary = blobs
            .0
            .root
            .join("incoming")
            .join(format!("{}.pack", NEXT.fetch_add(1, Ordering::Relaxed)));
        let file = File::create(&temporary).map_err(StoreError::io("create", &temporary))?;
        let mut pack = Self {
            temporary,
            file,
            size: 0,
            records: Vec::new(),
        };
        pack.write(FORMAT)?;
        Ok(pack)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file
            .write_all(bytes)
            .map_err(StoreError::io("write", &self.temporary))?;
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Appends records, each already known to have its digest.
    pub(super) fn append(&mut self, batch: &[(Digest, Bytes)]) -> Result<(), StoreError> {
        let mut buffer = Vec::with_capacity(batch.iter().map(|(_, bytes)| bytes.len() + 70).sum());
        for (digest, bytes) in batch {
            buffer.push(MARK);
            buffer.push(algorithm_code(digest.algorithm()));
            buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            buffer.extend_from_slice(&digest.to_bytes());
            self.records.push(Record {
                digest: digest.clone(),
                position: self.size + buffer.len() as u64,
                size: bytes.len() as u64,
            });
            buffer.extend_from_slice(bytes);
        }
        self.write(&buffer)
    }

    /// Makes the bytes durable and gives the pack its name.
    pub(super) fn publish(&self, folder: &Path, id: i64) -> Result<(), StoreError> {
        self.file
            .sync_all()
            .map_err(StoreError::io("sync", &self.temporary))?;
        let target = path(folder, id);
        std::fs::rename(&self.temporary, &target)
            .map_err(StoreError::io("rename into", &target))?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(StoreError::io("sync", folder))
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn records(&self) -> &[Record] {
        &self.records
    }
}

impl Drop for OpenPack {
    fn drop(&mut self) {
        // After a rename there is nothing under the temporary name, and that is fine.
        let _ = std::fs::remove_file(&self.temporary);
    }
}

/// What a [`PackWriter`] took in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Blobs given, also those that were here before.
    pub blobs: u64,
    /// Blobs that were not here before.
    pub stored: u64,
    /// Their bytes.
    pub stored_bytes: u64,
}

/// Writes many small blobs. They are visible and durable when [`PackWriter::finish`] returns;
/// dropping the writer before leaves at most packs that were full, which nobody refers to.
pub struct PackWriter {
    blobs: Blobs,
    open: Option<OpenPack>,
    gathered: Vec<(Digest, Bytes)>,
    gathered_bytes: usize,
    packed: Packed,
}

impl PackWriter {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            open: None,
            gathered: Vec::new(),
            gathered_bytes: 0,
            packed: Packed::default(),
        }
    }

    /// Takes one blob. Memory stays bounded: what is gathered is written out in between.
    ///
    /// # Errors
    /// [`StoreError::Corrupted`] when some bytes taken so far do not have their digest, and
    /// [`StoreError::Io`], also when the disk is full.
    pub async fn add(&mut self, digest: Digest, bytes: Bytes) -> Result<(), StoreError> {
        self.packed.blobs += 1;
        if bytes.len() > PACKED_MAX_BYTES {
            let mut writer = self.blobs.writer(digest.algorithm()).await?;
            writer.write(&bytes).await?;
            writer.finish(Some(&digest)).await?;
            self.packed.stored += 1;
            self.packed.stored_bytes += bytes.len() as u64;
            return Ok(());
        }
        self.gathered_bytes += bytes.len() + 128;
        self.gathered.push((digest, bytes));
        if self.gathered_bytes >= GATHER_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    fn flush(&mut self) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let gathered = std::mem::take(&mut self.gathered);
            self.gathered_bytes = 0;
            if gathered.is_empty() {
                return Ok(());
            }
            let root = self.blobs.0.root.clone();
            // The bytes are hashed even when they are here already: who sends them proves to have them.
            let gathered = blocking(&root, move || {
                for (digest, bytes) in &gathered {
                    check(digest, bytes)?;
                }
                Ok(gathered)
            })
            .await?;
            let digests: Vec<Digest> = gathered.iter().map(|(digest, _)| digest.clone()).collect();
            let present = self.blobs.touch_many(&digests).await?;
            let written: std::collections::HashSet<&Digest> = self
                .open
                .iter()
                .flat_map(|pack| pack.records.iter().map(|record| &record.digest))
                .collect();
            let mut seen = std::collections::HashSet::new();
            let fresh: Vec<(Digest, Bytes)> = gathered
                .iter()
                .zip(present)
                .filter(|((digest, _), here)| {
                    !here && !written.contains(digest) && seen.insert(digest.clone())
                })
                .map(|(pair, _)| pair.clone())
                .collect();
            if fresh.is_empty() {
                return Ok(());
            }
            self.packed.stored += fresh.len() as u64;
            self.packed.stored_bytes += fresh
                .iter()
                .map(|(_, bytes)| bytes.len() as u64)
                .sum::<u64>();
            let open = self.open.take();
            let blobs = self.blobs.clone();
            let pack = blocking(&root, move || {
                let mut pack = match open {
                    Some(pack) => pack,
                    None => OpenPack::create(&blobs)?,
                };
                pack.append(&fresh)?;
                Ok(pack)
            })
            .await?;
            if pack.size >= SEAL_BYTES {
                self.blobs.seal(pack).await?;
            } else {
                self.open = Some(pack);
            }
            Ok(())
        })
    }

    /// Makes everything taken durable and visible.
    ///
    /// # Errors
    /// As [`PackWriter::add`].
    pub fn finish(mut self) -> StoreFuture<'static, Packed> {
        Box::pin(async move {
            self.flush().await?;
            if let Some(pack) = self.open.take() {
                self.blobs.seal(pack).await?;
            }
            Ok(self.packed)
        })
    }
}
