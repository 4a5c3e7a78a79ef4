//! Content-addressed bytes: one store for everything that outlives a request, apart from git's
//! own objects and telemetry blocks.
//!
//! A blob's address is its digest. A large one is a file of its own: written under a temporary
//! name while it is hashed, synced, and renamed into place, so a name that exists holds all of
//! its bytes. Small ones share [packs](PackWriter), so that ten thousand of them cost a few
//! syncs. Bytes are visible to users only through an owner's row (a manifest, a dataset version,
//! a model), never by digest alone.
//!
//! [`Blobs::gc`] collects what no [`BlobOwner`] marks. It runs beside writers: storing or finding
//! a blob dates it with the present, only blobs older than a grace period and than every open
//! upload are candidates, and [`Blobs::hold`] keeps the sweep away while an owner's row is
//! committed. What is swept leaves its address first and is deleted afterwards.

mod clock;
mod gc;
mod index;
mod pack;
mod read;
mod staged;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ondol_types::{Algorithm, Clock, CrashPoints, Digest, NoCrash, Timestamp};
use tokio::fs;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use crate::db::StoreFuture;
use crate::error::StoreError;
pub use gc::{BlobOwner, GcReport, Marks};
pub use pack::{PACKED_MAX_BYTES, PackWriter, Packed};
pub use read::BlobReader;
pub use staged::{StagedBlob, StagedEntry};
pub use writer::{BlobWriter, Hasher};

use clock::FileClock;
use index::Index;

/// A blob that was dated within this long is not dated again, so that finding the same blobs
/// over and over does not write. The collection keeps this distance from its cutoff.
const GRANULE: Duration = Duration::from_secs(60);

/// Permits of the gate between writers (one each) and the sweep (all of them).
const GATE: u32 = 1 << 20;

/// A stored blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

struct Inner {
    root: PathBuf,
    clock: Arc<dyn Clock>,
    crash: Arc<dyn CrashPoints>,
    index: OnceCell<Index>,
    packed: AtomicBool,
    gate: Arc<Semaphore>,
    epoch: AtomicU64,
    collecting: tokio::sync::Mutex<()>,
}

/// The blob store. Cheap to clone.
#[derive(Clone)]
pub struct Blobs(Arc<Inner>);

impl fmt::Debug for Blobs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Blobs").field(&self.0.root).finish()
    }
}

/// Keeps the sweep away until it is dropped. See [`Blobs::hold`].
#[derive(Debug)]
pub struct Hold {
    epoch: u64,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Hold {
    /// [`Blobs::epoch`] when this hold was taken.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    root: &Path,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(StoreError::io("work in", root)(std::io::Error::other(
            error,
        ))),
    }
}

impl Blobs {
    /// Opens or makes the store in `root`, dated by the file system's clock.
    ///
    /// # Errors
    /// [`StoreError::Io`] when its folders cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let clock = Arc::new(FileClock(root.join("incoming")));
        Self::open_with(root, clock, Arc::new(NoCrash))
    }

    /// Opens or makes the store in `root`, dated by `clock`.
    ///
    /// # Errors
    /// [`StoreError::Io`] when its folders cannot be made.
    pub fn open_with(
        root: &Path,
        clock: Arc<dyn Clock>,
        crash: Arc<dyn CrashPoints>,
    ) -> Result<Self, StoreError> {
        for algorithm in index::ALGORITHMS {
            let folder = root.join(algorithm.name());
            std::fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
        }
        let incoming = root.join("incoming");
        // What a crash left half-written belongs to nobody.
        let _ = std::fs::remove_dir_all(&incoming);
        for folder in ["packs", "trash", "staged"]
            .map(|name| root.join(name))
            .into_iter()
            .chain([incoming])
        {
            std::fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
        }
        let packed = root.join("index.db").exists() || !pack::list(&root.join("packs"))?.is_empty();
        Ok(Self(Arc::new(Inner {
            root: root.to_owned(),
            clock,
            crash,
            index: OnceCell::new(),
            packed: AtomicBool::new(packed),
            gate: Arc::new(Semaphore::new(GATE as usize)),
            epoch: AtomicU64::new(0),
            collecting: tokio::sync::Mutex::new(()),
        })))
    }

    /// Where a blob stands or would stand as a file of its own.
    fn path(&self, digest: &Digest) -> PathBuf {
        self.0
            .root
            .join(digest.algorithm().name())
            .join(&digest.hex()[..2])
            .join(digest.hex())
    }

    async fn index(&self) -> Result<&Index, StoreError> {
        self.0
            .index
            .get_or_try_init(|| async {
                let index = Index::open(&self.0.root, self.0.clock.clone()).await?;
                self.0.packed.store(true, Ordering::Relaxed);
                Ok(index)
            })
            .await
    }

    /// The index when anything was ever packed here; asking does not make one.
    async fn index_if_any(&self) -> Result<Option<&Index>, StoreError> {
        if self.0.packed.load(Ordering::Relaxed) {
            self.index().await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Keeps the sweep away until the hold is dropped: take it, look that every blob is (still)
    /// here with [`Blobs::touch_many`], commit the owner's row, drop it. Keep it for less than a
    /// second. Storing blobs while holding is fine.
    pub async fn hold(&self) -> Hold {
        let permit = self.0.gate.clone().acquire_owned().await.ok();
        Hold {
            epoch: self.epoch(),
            _permit: permit,
        }
    }

    /// A number that grows whenever blobs are about to be removed: equal numbers mean that
    /// nothing was removed in between.
    pub fn epoch(&self) -> u64 {
        self.0.epoch.load(Ordering::Acquire)
    }

    /// Begins to write a blob whose digest is computed on the way.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the temporary file cannot be made.
    pub async fn writer(&self, algorithm: Algorithm) -> Result<BlobWriter, StoreError> {
        BlobWriter::begin(self.clone(), algorithm).await
    }

    /// Stores bytes that are at hand, as a file of their own.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when the disk is full; nothing is left behind.
    pub fn put(&self, algorithm: Algorithm, bytes: Bytes) -> StoreFuture<'_, Blob> {
        Box::pin(async move {
            let mut writer = self.writer(algorithm).await?;
            writer.write(&bytes).await?;
            writer.finish(None).await
        })
    }

    /// Begins to write many small blobs together.
    pub fn pack_writer(&self) -> PackWriter {
        PackWriter::new(self.clone())
    }

    /// Stores many blobs, small ones in packs. Those that are here already are dated with the
    /// present.
    ///
    /// # Errors
    /// [`StoreError::Corrupted`] when bytes do not have the digest given for them, and
    /// [`StoreError::Io`], also when the disk is full. Some of the others may have been stored.
    pub fn put_many(&self, blobs: Vec<(Digest, Bytes)>) -> StoreFuture<'_, Packed> {
        Box::pin(async move {
            let mut writer = self.pack_writer();
            for (digest, bytes) in blobs {
                writer.add(digest, bytes).await?;
            }
            writer.finish().await
        })
    }

    /// Gives a written pack its name and records it.
    fn seal(&self, pack: pack::OpenPack) -> StoreFuture<'_, ()> {
        Box::pin(async move {
            let index = self.index().await?;
            let _hold = self.hold().await;
            let id = index.next_pack();
            let folder = self.0.root.join("packs");
            let pack = blocking(&self.0.root, {
                let folder = folder.clone();
                move || pack.publish(&folder, id).map(|()| pack)
            })
            .await?;
            self.0.crash.reached("store.pack.published");
            let recorded = index.add_pack(id, pack.size(), pack.records()).await;
            if recorded.as_ref().is_err_and(StoreError::is_disk_full) {
                // Gives the space back at once; otherwise the next start adopts the pack.
                let _ = std::fs::remove_file(pack::path(&folder, id));
            }
            recorded
        })
    }

    /// Which of these blobs are here.
    ///
    /// # Errors
    /// [`StoreError`] when the index or the file system does not answer.
    pub async fn contains_many(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.present(digests, None).await
    }

    /// Which of these blobs are here; those that are count as used now, so that a collection
    /// that is under way leaves them alone.
    ///
    /// # Errors
    /// [`StoreError`] when the index or the file system does not answer.
    pub async fn touch_many(&self, digests: &[Digest]) -> Result<Vec<bool>, StoreError> {
        self.present(digests, Some(self.0.clock.now())).await
    }

    fn present<'a>(
        &'a self,
        digests: &'a [Digest],
        touch: Option<Timestamp>,
    ) -> StoreFuture<'a, Vec<bool>> {
        Box::pin(async move {
            let mut here = vec![false; digests.len()];
            if let Some(index) = self.index_if_any().await? {
                let mut found = index.locate(digests).await?;
                if let Some(now) = touch {
                    let fresh = now.minus(GRANULE);
                    let stale: Vec<Digest> = found
                        .iter()
                        .filter(|(_, location)| location.touched < fresh)
                        .map(|(digest, _)| digest.clone())
                        .collect();
                    for digest in &stale {
                        found.remove(digest);
                    }
                    let still: std::collections::HashSet<Digest> =
                        index.touch(&stale).await?.into_iter().collect();
                    for (at, digest) in digests.iter().enumerate() {
                        here[at] = still.contains(digest);
                    }
                }
                for (at, digest) in digests.iter().enumerate() {
                    here[at] |= found.contains_key(digest);
                }
            }
            let others: Vec<(usize, PathBuf)> = (0..digests.len())
                .filter(|&at| !here[at])
                .map(|at| (at, self.path(&digests[at])))
                .collect();
            if others.is_empty() {
                return Ok(here);
            }
            let _hold = self.hold().await;
            let loose = blocking(&self.0.root, move || {
                let mut loose = Vec::new();
                for (at, path) in others {
                    if loose_present(&path, touch)? {
                        loose.push(at);
                    }
                }
                Ok(loose)
            })
            .await?;
            for at in loose {
                here[at] = true;
            }
            Ok(here)
        })
    }

    /// The length of a blob in bytes, if it is here.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file system does not answer.
    pub fn size<'a>(&'a self, digest: &'a Digest) -> StoreFuture<'a, Option<u64>> {
        Box::pin(async move {
            let path = self.path(digest);
            match fs::metadata(&path).await {
                Ok(metadata) => Ok(Some(metadata.len())),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Ok(self.locate(digest).await?.map(|location| location.size))
                }
                Err(error) => Err(StoreError::io("look at", path)(error)),
            }
        })
    }

    fn locate<'a>(&'a self, digest: &'a Digest) -> StoreFuture<'a, Option<index::Location>> {
        Box::pin(async move {
            match self.index_if_any().await? {
                Some(index) => Ok(index
                    .locate(std::slice::from_ref(digest))
                    .await?
                    .remove(digest)),
                None => Ok(None),
            }
        })
    }
}

/// Whether a file is there; dates it when `touch` is given and it is not dated lately.
fn loose_present(path: &Path, touch: Option<Timestamp>) -> Result<bool, StoreError> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StoreError::io("look at", path)(error)),
    };
    let Some(now) = touch else {
        return Ok(true);
    };
    let dated = metadata.modified().map(clock::from_system);
    if dated.is_ok_and(|dated| dated >= now.minus(GRANULE)) {
        return Ok(true);
    }
    match std::fs::File::open(path).and_then(|file| file.set_modified(clock::to_system(now))) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::io("date", path)(error)),
    }
}

#[cfg(test)]
mod tests;
