//! Writing a blob: hash while writing, sync, rename.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use ondol_types::{Algorithm, Digest};
use sha2::Digest as _;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::clock::to_system;
use super::{Blob, Blobs};
use crate::db::StoreFuture;
use crate::error::StoreError;

/// A hash in progress.
pub enum Hasher {
    /// BLAKE3.
    Blake3(Box<blake3::Hasher>),
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// SHA-512.
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hash of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Blake3 => Self::Blake3(Box::default()),
            Algorithm::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        match self {
            Self::Blake3(hasher) => {
                Digest::from_bytes(Algorithm::Blake3, hasher.finalize().as_bytes())
            }
            Self::Sha256(hasher) => Digest::from_bytes(Algorithm::Sha256, &hasher.finalize()),
            Self::Sha512(hasher) => Digest::from_bytes(Algorithm::Sha512, &hasher.finalize()),
        }
    }

    /// The digest of bytes that are at hand.
    pub fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Self::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Names temporary files.
pub(super) static NEXT: AtomicU64 = AtomicU64::new(0);

/// A blob being written. Dropping it before [`BlobWriter::finish`] leaves nothing behind.
pub struct BlobWriter {
    blobs: Blobs,
    temporary: PathBuf,
    file: Option<File>,
    hasher: Option<Hasher>,
    size: u64,
}

impl BlobWriter {
    pub(super) fn begin(blobs: Blobs, algorithm: Algorithm) -> StoreFuture<'static, Self> {
        Box::pin(async move {
            let temporary = blobs
                .0
                .root
                .join("incoming")
                .join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
            let file = File::create(&temporary)
                .await
                .map_err(StoreError::io("create", &temporary))?;
            Ok(Self {
                blobs,
                temporary,
                file: Some(file),
                hasher: Some(Hasher::new(algorithm)),
                size: 0,
            })
        })
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when the disk is full.
    pub fn write<'a>(&'a mut self, bytes: &'a [u8]) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            if let (Some(file), Some(hasher)) = (&mut self.file, &mut self.hasher) {
                file.write_all(bytes)
                    .await
                    .map_err(StoreError::io("write", &self.temporary))?;
                hasher.update(bytes);
                self.size += bytes.len() as u64;
            }
            Ok(())
        })
    }

    /// Makes the blob durable and visible under its digest.
    ///
    /// # Errors
    /// [`StoreError::Corrupted`] when `expected` is given and differs; [`StoreError::Io`].
    pub fn finish(mut self, expected: Option<&Digest>) -> StoreFuture<'_, Blob> {
        Box::pin(async move {
            let (Some(mut file), Some(hasher)) = (self.file.take(), self.hasher.take()) else {
                return Err(StoreError::io("finish", &self.temporary)(
                    std::io::ErrorKind::BrokenPipe.into(),
                ));
            };
            let digest = hasher.finish();
            if let Some(expected) = expected
                && *expected != digest
            {
                return Err(StoreError::Corrupted {
                    expected: expected.clone(),
                    actual: digest,
                });
            }
            file.flush()
                .await
                .map_err(StoreError::io("write", &self.temporary))?;
            let file = file.into_std().await;
            file.set_modified(to_system(self.blobs.0.clock.now()))
                .map_err(StoreError::io("date", &self.temporary))?;
            let file = File::from_std(file);
            file.sync_all()
                .await
                .map_err(StoreError::io("sync", &self.temporary))?;
            drop(file);
            publish(&self.blobs, self.temporary.clone(), &digest).await?;
            Ok(Blob {
                digest,
                size: self.size,
            })
        })
    }
}

/// Gives a file that is synced and dated the name of its digest.
pub(super) async fn publish(
    blobs: &Blobs,
    from: PathBuf,
    digest: &Digest,
) -> Result<(), StoreError> {
    // The sweep looks at a file's date before it takes the file away; in between, no other file
    // may get the name.
    let hold = blobs.hold().await;
    let target = blobs.path(digest);
    let crash = blobs.0.crash.clone();
    super::blocking(&blobs.0.root, move || {
        let folder = target.parent().unwrap_or(&target).to_owned();
        std::fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
        std::fs::rename(&from, &target).map_err(StoreError::io("rename into", &target))?;
        crash.reached("store.blob.renamed");
        std::fs::File::open(&folder)
            .and_then(|directory| directory.sync_all())
            .map_err(StoreError::io("sync", &folder))?;
        drop(hold);
        Ok(())
    })
    .await
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        // After a rename there is nothing under the temporary name, and that is fine.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
