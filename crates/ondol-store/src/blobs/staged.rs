//! Blobs that arrive over several requests, and over restarts.
//!
//! What was appended stays in `staged/` under a name that its owner chose, until it becomes a blob
//! or is discarded; opening the store never removes it. Only the last step syncs: a machine that
//! loses power may lose the end of a staged file, its owner then sees the shorter length, and the
//! digest decides at the end. A staged file is never readable as a blob.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ondol_types::{Algorithm, Digest, Timestamp};

use super::clock::{from_system, to_system};
use super::{Blob, Blobs, Hasher, blocking, writer};
use crate::error::StoreError;

/// The longest name of a staged file.
const MAX_NAME: usize = 200;
/// Slices that one system call takes.
const MAX_SLICES: usize = 64;

/// What lies in `staged/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedEntry {
    /// Its name.
    pub name: String,
    /// Bytes so far.
    pub size: u64,
    /// When bytes last came.
    pub touched: Timestamp,
}

/// A blob that is still arriving. Dropping it keeps the bytes; [`Blobs::discard_staged`] removes
/// them. Its methods block: call them where that is allowed.
pub struct StagedBlob {
    blobs: Blobs,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    algorithm: Algorithm,
    size: u64,
}

impl StagedBlob {
    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// A second handle for reading what has arrived.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn reader(&self) -> Result<File, StoreError> {
        File::open(&self.path).map_err(StoreError::io("open", &self.path))
    }

    /// Appends bytes and hashes them. On failure the file is cut back to what it was.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when the disk is full.
    pub fn append(&mut self, chunks: &[Bytes]) -> Result<u64, StoreError> {
        if let Err(error) = write_all(&mut self.file, chunks) {
            let _ = self.file.set_len(self.size);
            let _ = self.file.seek(SeekFrom::Start(self.size));
            return Err(StoreError::io("write", &self.path)(error));
        }
        for chunk in chunks {
            self.hasher.update(chunk);
            self.size += chunk.len() as u64;
        }
        Ok(self.size)
    }

    /// Dates the staged file with the present, as the moment when bytes last came.
    pub fn touch(&self) {
        let now = to_system(self.blobs.0.clock.now());
        // A file that cannot be dated is only removed a little early.
        let _ = self.file.set_modified(now);
    }

    /// Hashes, dates and syncs: everything before the blob can get its name.
    fn settle(mut self, expected: &Digest) -> Result<Settled, StoreError> {
        if expected.algorithm() != self.algorithm {
            (self.hasher, self.size) = rehash(&mut self.file, &self.path, expected.algorithm())?;
        }
        let actual = self.hasher.finish();
        if actual != *expected {
            drop(self.file);
            let _ = std::fs::remove_file(&self.path);
            return Err(StoreError::Corrupted {
                expected: expected.clone(),
                actual,
            });
        }
        self.file
            .set_modified(to_system(self.blobs.0.clock.now()))
            .map_err(StoreError::io("date", &self.path))?;
        self.file
            .sync_all()
            .map_err(StoreError::io("sync", &self.path))?;
        Ok(Settled {
            blobs: self.blobs,
            path: self.path,
            size: self.size,
        })
    }

    /// Makes the bytes a blob, durable and visible under `expected`.
    ///
    /// # Errors
    /// [`StoreError::Corrupted`] when they have another digest, and the staged file is gone then;
    /// [`StoreError::Io`], and the staged file stays.
    pub async fn finish(self, expected: &Digest) -> Result<Blob, StoreError> {
        let (root, digest) = (self.blobs.0.root.clone(), expected.clone());
        let settled = blocking(&root, {
            let digest = digest.clone();
            move || self.settle(&digest)
        })
        .await?;
        writer::publish(&settled.blobs, settled.path, &digest).await?;
        Ok(Blob {
            digest,
            size: settled.size,
        })
    }
}

struct Settled {
    blobs: Blobs,
    path: PathBuf,
    size: u64,
}

fn write_all(file: &mut File, chunks: &[Bytes]) -> std::io::Result<()> {
    for group in chunks.chunks(MAX_SLICES) {
        let mut slices: Vec<IoSlice<'_>> = group.iter().map(|chunk| IoSlice::new(chunk)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Reads a file from its beginning and leaves it at its end.
fn rehash(file: &mut File, path: &Path, algorithm: Algorithm) -> Result<(Hasher, u64), StoreError> {
    let mut hasher = Hasher::new(algorithm);
    file.seek(SeekFrom::Start(0))
        .map_err(StoreError::io("read", path))?;
    let (mut buffer, mut size) = (vec![0; 256 * 1024], 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                hasher.update(&buffer[..length]);
                size += length as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::io("read", path)(error)),
        }
    }
    Ok((hasher, size))
}

fn safe(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl Blobs {
    fn staged_path(&self, name: &str) -> Result<PathBuf, StoreError> {
        let path = self.0.root.join("staged").join(name);
        if safe(name) {
            Ok(path)
        } else {
            Err(StoreError::io("name", path)(ErrorKind::InvalidInput.into()))
        }
    }

    /// Begins a staged blob.
    ///
    /// # Errors
    /// [`StoreError::Io`], also when one of this name is there.
    pub async fn stage(&self, name: &str, algorithm: Algorithm) -> Result<StagedBlob, StoreError> {
        let (blobs, path) = (self.clone(), self.staged_path(name)?);
        blocking(&self.0.root, move || {
            let file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
                .map_err(StoreError::io("create", &path))?;
            let staged = StagedBlob {
                blobs,
                path,
                file,
                hasher: Hasher::new(algorithm),
                algorithm,
                size: 0,
            };
            staged.touch();
            Ok(staged)
        })
        .await
    }

    /// Opens a staged blob that a request or an earlier process began, hashing what is there.
    ///
    /// # Errors
    /// [`StoreError::Io`] when it cannot be read.
    pub async fn resume(
        &self,
        name: &str,
        algorithm: Algorithm,
    ) -> Result<Option<StagedBlob>, StoreError> {
        let (blobs, path) = (self.clone(), self.staged_path(name)?);
        blocking(&self.0.root, move || {
            let mut file = match File::options().read(true).write(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(StoreError::io("open", &path)(error)),
            };
            let (hasher, size) = rehash(&mut file, &path, algorithm)?;
            Ok(Some(StagedBlob {
                blobs,
                path,
                file,
                hasher,
                algorithm,
                size,
            }))
        })
        .await
    }

    /// Removes a staged blob; whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn discard_staged(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.staged_path(name)?;
        blocking(&self.0.root, move || match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StoreError::io("delete", &path)(error)),
        })
        .await
    }

    /// Everything that is staged, at most `limit` entries.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub async fn staged(&self, limit: usize) -> Result<Vec<StagedEntry>, StoreError> {
        let folder = self.0.root.join("staged");
        blocking(&self.0.root, move || {
            let mut found = Vec::new();
            for entry in std::fs::read_dir(&folder)
                .map_err(StoreError::io("list", &folder))?
                .take(limit)
            {
                let entry = entry.map_err(StoreError::io("list", &folder))?;
                let Ok(metadata) = entry.metadata() else {
                    // Finished or discarded since it was listed.
                    continue;
                };
                if let (Ok(name), Ok(touched)) =
                    (entry.file_name().into_string(), metadata.modified())
                {
                    found.push(StagedEntry {
                        name,
                        size: metadata.len(),
                        touched: from_system(touched),
                    });
                }
            }
            Ok(found)
        })
        .await
    }

    /// The present as blobs and staged files are dated.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &tempfile::TempDir) -> Blobs {
        Blobs::open(dir.path()).unwrap()
    }

    #[tokio::test]
    async fn bytes_stay_until_they_are_a_blob() {
        let dir = tempfile::tempdir().unwrap();
        let digest = Hasher::digest(Algorithm::Sha512, b"one two");
        let mut staged = open(&dir).stage("a.b", Algorithm::Sha256).await.unwrap();
        assert_eq!(
            staged.append(&[Bytes::new(), Bytes::from("one ")]).unwrap(),
            4
        );
        drop(staged);
        let blobs = open(&dir);
        assert!(blobs.stage("a.b", Algorithm::Sha256).await.is_err());
        let mut staged = blobs
            .resume("a.b", Algorithm::Sha256)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(
            (staged.size(), blobs.staged(9).await.unwrap()[0].size),
            (4, 4)
        );
        staged
            .append(&[Bytes::from("t"), Bytes::from("wo")])
            .unwrap();
        // The digest may be of another algorithm than the one that was begun with.
        assert_eq!(staged.finish(&digest).await.unwrap().size, 7);
        assert_eq!(&blobs.read(&digest, 100).await.unwrap()[..], b"one two");
        assert!(blobs.staged(9).await.unwrap().is_empty());
        assert!(
            blobs
                .resume("a.b", Algorithm::Sha256)
                .await
                .unwrap()
                .is_none()
        );
    }

    #[tokio::test]
    async fn wrong_bytes_and_wrong_names_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = open(&dir);
        let digest = Hasher::digest(Algorithm::Sha256, b"right");
        let mut staged = blobs.stage("x", Algorithm::Sha256).await.unwrap();
        // More slices than one system call takes.
        let many: Vec<Bytes> = (0..300).map(|_| Bytes::from("wrong")).collect();
        assert_eq!(staged.append(&many).unwrap(), 1_500);
        let refused = staged.finish(&digest).await;
        assert!(matches!(refused, Err(StoreError::Corrupted { .. })));
        assert!(!blobs.discard_staged("x").await.unwrap());
        for name in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            ".hidden",
            "a b",
            &"a".repeat(201),
        ] {
            assert!(
                blobs.stage(name, Algorithm::Sha256).await.is_err(),
                "{name}"
            );
        }
    }
}
