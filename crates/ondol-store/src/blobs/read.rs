//! Reading blobs, wherever they lie. Everything that is handed out whole was hashed on the way.

use std::collections::{BTreeMap, HashMap};
use std::fs::File as StdFile;
use std::io::{Cursor, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use ondol_types::Digest;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::index::Location;
use super::{Blobs, Hasher, blocking, pack};
use crate::db::StoreFuture;
use crate::error::StoreError;

/// How often a reader looks again when a pack was replaced between the look-up and the read.
const LOOKS: u32 = 3;

/// Reads one blob from its beginning.
#[derive(Debug)]
pub struct BlobReader(Source);

#[derive(Debug)]
enum Source {
    File(File),
    Memory(Cursor<Bytes>),
}

impl AsyncRead for BlobReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match &mut self.0 {
            Source::File(file) => Pin::new(file).poll_read(cx, buf),
            Source::Memory(bytes) => Pin::new(bytes).poll_read(cx, buf),
        }
    }
}

impl Blobs {
    fn open_loose<'a>(&'a self, digest: &'a Digest) -> StoreFuture<'a, Option<(File, u64)>> {
        Box::pin(async move {
            let path = self.path(digest);
            let file = match File::open(&path).await {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(StoreError::io("open", path)(error)),
            };
            let size = file
                .metadata()
                .await
                .map_err(StoreError::io("look at", path))?
                .len();
            Ok(Some((file, size)))
        })
    }

    /// Opens a blob as a file, with its length. The bytes of a large blob are not hashed on the
    /// way: use [`Blobs::read`] or [`Blobs::verify`] where that matters. A packed blob is copied
    /// into an unnamed temporary file; where a file is not needed, [`Blobs::open_reader`] is
    /// cheaper.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not here.
    pub fn open_file<'a>(&'a self, digest: &'a Digest) -> StoreFuture<'a, (File, u64)> {
        Box::pin(async move {
            if let Some(found) = self.open_loose(digest).await? {
                return Ok(found);
            }
            let bytes = self.read_packed(digest).await?;
            let incoming = self.0.root.join("incoming");
            let file = blocking(&self.0.root, move || {
                let copy = || -> std::io::Result<StdFile> {
                    let mut file = unnamed(&incoming)?;
                    file.write_all(&bytes)?;
                    file.seek(SeekFrom::Start(0))?;
                    Ok(file)
                };
                let size = bytes.len() as u64;
                copy()
                    .map(|file| (file, size))
                    .map_err(StoreError::io("write in", &incoming))
            })
            .await?;
            Ok((File::from_std(file.0), file.1))
        })
    }

    /// Opens a blob for reading from its beginning, with its length. A packed blob was hashed, a
    /// large one is not.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not here, [`StoreError::Corrupted`] when a packed one
    /// rotted.
    pub fn open_reader<'a>(&'a self, digest: &'a Digest) -> StoreFuture<'a, (BlobReader, u64)> {
        Box::pin(async move {
            if let Some((file, size)) = self.open_loose(digest).await? {
                return Ok((BlobReader(Source::File(file)), size));
            }
            let bytes = self.read_packed(digest).await?;
            let size = bytes.len() as u64;
            Ok((BlobReader(Source::Memory(Cursor::new(bytes))), size))
        })
    }

    async fn read_packed(&self, digest: &Digest) -> Result<Bytes, StoreError> {
        let mut read = self
            .read_many(std::slice::from_ref(digest), pack::PACKED_MAX_BYTES as u64)
            .await?;
        read.pop().ok_or_else(|| StoreError::NoBlob(digest.clone()))
    }

    /// Reads a whole blob of at most `limit` bytes and checks its digest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::TooLarge`], and [`StoreError::Corrupted`] when the
    /// bytes no longer match their address.
    pub fn read<'a>(&'a self, digest: &'a Digest, limit: u64) -> StoreFuture<'a, Bytes> {
        Box::pin(async move {
            let (path, wanted) = (self.path(digest), digest.clone());
            let loose = blocking(&self.0.root, move || read_loose(&path, &wanted, limit)).await?;
            if let Some(bytes) = loose {
                return Ok(bytes);
            }
            let mut read = self.read_many(std::slice::from_ref(digest), limit).await?;
            read.pop().ok_or_else(|| StoreError::NoBlob(digest.clone()))
        })
    }

    /// Reads blobs of at most `limit` bytes each, in the order asked for, and checks their
    /// digests. The caller bounds how many it asks for at once.
    ///
    /// # Errors
    /// As [`Blobs::read`], for the first that fails.
    pub fn read_many<'a>(
        &'a self,
        digests: &'a [Digest],
        limit: u64,
    ) -> StoreFuture<'a, Vec<Bytes>> {
        Box::pin(async move {
            let mut read: Vec<Option<Bytes>> = vec![None; digests.len()];
            for _ in 0..LOOKS {
                let wanted: Vec<(usize, Digest)> = digests
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| read[*at].is_none())
                    .map(|(at, digest)| (at, digest.clone()))
                    .collect();
                if wanted.is_empty() {
                    break;
                }
                let places = match self.index_if_any().await? {
                    Some(index) => {
                        let digests: Vec<Digest> =
                            wanted.iter().map(|(_, digest)| digest.clone()).collect();
                        index.locate(&digests).await?
                    }
                    None => HashMap::new(),
                };
                let blobs = self.clone();
                let found = blocking(&self.0.root, move || {
                    blobs.read_wanted(&wanted, &places, limit)
                })
                .await?;
                if found.is_empty() {
                    break;
                }
                for (at, bytes) in found {
                    read[at] = Some(bytes);
                }
            }
            digests
                .iter()
                .zip(read)
                .map(|(digest, bytes)| bytes.ok_or_else(|| StoreError::NoBlob(digest.clone())))
                .collect()
        })
    }

    fn read_wanted(
        &self,
        wanted: &[(usize, Digest)],
        places: &HashMap<Digest, Location>,
        limit: u64,
    ) -> Result<Vec<(usize, Bytes)>, StoreError> {
        let mut found = Vec::with_capacity(wanted.len());
        let mut by_pack: BTreeMap<i64, Vec<(u64, u64, usize, &Digest)>> = BTreeMap::new();
        for (at, digest) in wanted {
            match places.get(digest) {
                Some(place) => {
                    too_large(digest, place.size, limit)?;
                    by_pack.entry(place.pack).or_default().push((
                        place.position,
                        place.size,
                        *at,
                        digest,
                    ));
                }
                None => {
                    if let Some(bytes) = read_loose(&self.path(digest), digest, limit)? {
                        found.push((*at, bytes));
                    }
                }
            }
        }
        let folder = self.0.root.join("packs");
        for (pack, mut reads) in by_pack {
            let path = pack::path(&folder, pack);
            let file = match StdFile::open(&path) {
                Ok(file) => file,
                // Replaced since the look-up: the next look finds where the blob went.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(StoreError::io("open", path)(error)),
            };
            reads.sort_unstable_by_key(|(position, ..)| *position);
            for (position, size, at, digest) in reads {
                found.push((at, pack::read_at(&file, &path, digest, position, size)?));
            }
        }
        Ok(found)
    }

    /// Reads a blob through and checks that it still has its digest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] and [`StoreError::Corrupted`].
    pub fn verify<'a>(&'a self, digest: &'a Digest) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let Some((mut file, _)) = self.open_loose(digest).await? else {
                return self.read_packed(digest).await.map(|_| ());
            };
            let mut hasher = Hasher::new(digest.algorithm());
            let mut buffer = vec![0; 256 * 1024];
            loop {
                let length = file
                    .read(&mut buffer)
                    .await
                    .map_err(StoreError::io("read", self.path(digest)))?;
                if length == 0 {
                    break;
                }
                hasher.update(&buffer[..length]);
            }
            let actual = hasher.finish();
            if actual == *digest {
                Ok(())
            } else {
                Err(StoreError::Corrupted {
                    expected: digest.clone(),
                    actual,
                })
            }
        })
    }

    /// Forgets a blob whose bytes no longer have its digest, so that the next push finds it
    /// missing and sends it again. Returns whether it was forgotten; a sound blob stays.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be read or moved.
    pub fn forget_corrupted<'a>(&'a self, digest: &'a Digest) -> StoreFuture<'a, bool> {
        Box::pin(async move {
            match self.verify(digest).await {
                Err(StoreError::Corrupted { .. }) => {}
                Ok(()) | Err(StoreError::NoBlob(_)) => return Ok(false),
                Err(error) => return Err(error),
            }
            tracing::error!(blob.digest = %digest, "a blob rotted; it must be pushed again");
            let path = self.path(digest);
            let grave = self
                .0
                .root
                .join("trash")
                .join(format!("rotten-{}", digest.hex()));
            match tokio::fs::rename(&path, &grave).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if let Some(index) = self.index_if_any().await? {
                        index.remove(digest).await?;
                    }
                }
                Err(error) => return Err(StoreError::io("move away", path)(error)),
            }
            // Who saw it here before must look again.
            self.0.epoch.fetch_add(1, Ordering::AcqRel);
            Ok(true)
        })
    }
}

fn too_large(digest: &Digest, size: u64, limit: u64) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge {
            digest: digest.clone(),
            size,
            limit,
        });
    }
    Ok(())
}

fn read_loose(path: &Path, digest: &Digest, limit: u64) -> Result<Option<Bytes>, StoreError> {
    let file = match StdFile::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    let size = file
        .metadata()
        .map_err(StoreError::io("look at", path))?
        .len();
    too_large(digest, size, limit)?;
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(size)
        .read_to_end(&mut bytes)
        .map_err(StoreError::io("read", path))?;
    pack::check(digest, &bytes)?;
    Ok(Some(bytes.into()))
}

/// A file without a name, which ends with its last handle.
fn unnamed(folder: &Path) -> std::io::Result<StdFile> {
    let path = folder.join(format!(
        "{}.copy",
        super::writer::NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    let file = StdFile::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}
