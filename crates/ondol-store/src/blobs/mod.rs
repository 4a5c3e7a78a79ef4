//! Content-addressed bytes: one store for everything that outlives a request, apart from git's
//! own objects and telemetry blocks.
//!
//! A blob's address is its digest. It is written under a temporary name while it is hashed,
//! synced, and renamed into place, so a name that exists holds all of its bytes. Bytes are
//! visible to users only through an owner's row (a manifest, a dataset version, a model), never
//! by digest alone.

mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ondol_types::{Algorithm, Digest};
use tokio::fs;
use tokio::io::AsyncReadExt;

use crate::error::StoreError;
pub use writer::{BlobWriter, Hasher};

/// A stored blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
}

/// The blob store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Blobs {
    root: Arc<Path>,
}

impl Blobs {
    /// Opens or makes the store in `root`.
    ///
    /// # Errors
    /// [`StoreError::Io`] when its folders cannot be made.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        for algorithm in [Algorithm::Blake3, Algorithm::Sha256, Algorithm::Sha512] {
            let folder = root.join(algorithm.name());
            std::fs::create_dir_all(&folder).map_err(StoreError::io("create", &folder))?;
        }
        let incoming = root.join("incoming");
        // What a crash left half-written belongs to nobody.
        let _ = std::fs::remove_dir_all(&incoming);
        std::fs::create_dir_all(&incoming).map_err(StoreError::io("create", &incoming))?;
        Ok(Self { root: root.into() })
    }

    /// Where a blob stands or would stand.
    fn path(&self, digest: &Digest) -> PathBuf {
        self.root
            .join(digest.algorithm().name())
            .join(&digest.hex()[..2])
            .join(digest.hex())
    }

    /// Begins to write a blob whose digest is computed on the way.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the temporary file cannot be made.
    pub async fn writer(&self, algorithm: Algorithm) -> Result<BlobWriter, StoreError> {
        BlobWriter::begin(self.clone(), algorithm).await
    }

    /// Stores bytes that are at hand.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when the disk is full; nothing is left behind.
    pub async fn put(&self, algorithm: Algorithm, bytes: Bytes) -> Result<Blob, StoreError> {
        let mut writer = self.writer(algorithm).await?;
        writer.write(&bytes).await?;
        writer.finish(None).await
    }

    /// The length of a blob in bytes, if it is here.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file system does not answer.
    pub async fn size(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let path = self.path(digest);
        match fs::metadata(&path).await {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::io("look at", path)(error)),
        }
    }

    /// Opens a blob for reading, with its length. The bytes are not hashed on the way: use
    /// [`Blobs::read`] or [`Blobs::verify`] where that matters.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it is not here.
    pub async fn open_file(&self, digest: &Digest) -> Result<(fs::File, u64), StoreError> {
        let path = self.path(digest);
        let file = match fs::File::open(&path).await {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::NoBlob(digest.clone()));
            }
            Err(error) => return Err(StoreError::io("open", path)(error)),
        };
        let size = file
            .metadata()
            .await
            .map_err(StoreError::io("look at", path))?
            .len();
        Ok((file, size))
    }

    /// Reads a whole blob of at most `limit` bytes and checks its digest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::TooLarge`], and [`StoreError::Corrupted`] when the
    /// bytes no longer match their address.
    pub async fn read(&self, digest: &Digest, limit: u64) -> Result<Bytes, StoreError> {
        let (mut file, size) = self.open_file(digest).await?;
        if size > limit {
            return Err(StoreError::TooLarge {
                digest: digest.clone(),
                size,
                limit,
            });
        }
        let mut bytes = Vec::with_capacity(size as usize);
        file.read_to_end(&mut bytes)
            .await
            .map_err(StoreError::io("read", self.path(digest)))?;
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let actual = hasher.finish();
        if actual != *digest {
            return Err(StoreError::Corrupted {
                expected: digest.clone(),
                actual,
            });
        }
        Ok(bytes.into())
    }

    /// Reads a blob through and checks that it still has its digest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] and [`StoreError::Corrupted`].
    pub async fn verify(&self, digest: &Digest) -> Result<(), StoreError> {
        let (mut file, _) = self.open_file(digest).await?;
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
    }
}
