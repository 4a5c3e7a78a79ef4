//! The receiving end of a checkout.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::chunk::ChunkRef;
use crate::error::{DataError, DataResult};
use crate::key::Key;
use crate::wire::{Decoder, Frame};

/// Writes the files of a checkout as their bytes arrive, each chunk checked. The folder gets its
/// name when everything is there; dropping the receiver before leaves nothing.
pub struct Receiver {
    dest: PathBuf,
    partial: tempfile::TempDir,
    decoder: Decoder,
    open: Option<Open>,
    files: u64,
    bytes: u64,
}

struct Open {
    file: File,
    path: PathBuf,
    chunks: std::vec::IntoIter<ChunkRef>,
}

impl Receiver {
    /// A receiver that writes to the folder `dest`, which must not exist or be empty.
    ///
    /// # Errors
    /// [`DataError::Path`] when it is in use.
    pub fn new(dest: &Path) -> DataResult<Self> {
        let used = match fs::read_dir(dest) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) => error.kind() != std::io::ErrorKind::NotFound,
        };
        if used {
            return Err(DataError::Path {
                path: dest.to_owned(),
                problem: "is not an empty folder".to_owned(),
                hint: "choose a folder that does not exist yet",
            });
        }
        let parent = match dest.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
        let partial = tempfile::Builder::new()
            .prefix(".ondol-checkout-")
            .tempdir_in(parent)
            .map_err(DataError::io("create a folder in", parent))?;
        Ok(Self {
            dest: dest.to_owned(),
            partial,
            decoder: Decoder::new(),
            open: None,
            files: 0,
            bytes: 0,
        })
    }

    /// Takes bytes as they arrive. Blocks on the disk.
    ///
    /// # Errors
    /// [`DataError::Wire`] when they are not a checkout, and errors of the disk.
    pub fn feed(&mut self, bytes: &[u8]) -> DataResult<()> {
        self.decoder.feed(bytes);
        while let Some(frame) = self.decoder.next()? {
            match frame {
                Frame::File(entry) => {
                    self.close()?;
                    let path = entry.path.below(self.partial.path());
                    if let Some(parent) = path.parent() {
                        fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
                    }
                    let file = OpenOptions::new()
                        .write(true)
                        .create_new(true)
                        .mode(if entry.executable { 0o755 } else { 0o644 })
                        .open(&path)
                        .map_err(DataError::io("create", &path))?;
                    self.files += 1;
                    self.open = Some(Open {
                        file,
                        path,
                        chunks: entry.chunks.into_iter(),
                    });
                }
                Frame::Chunk { key, bytes } => {
                    let Some(open) = &mut self.open else {
                        return Err(DataError::Wire("a chunk belongs to no file".to_owned()));
                    };
                    let expected = open.chunks.next();
                    if expected.is_none_or(|chunk| chunk.key != key) || Key::of(&bytes) != key {
                        return Err(DataError::Wire(format!(
                            "a chunk of {} is not the one announced",
                            open.path.display()
                        )));
                    }
                    open.file
                        .write_all(&bytes)
                        .map_err(DataError::io("write", &open.path))?;
                    self.bytes += bytes.len() as u64;
                }
                Frame::End { .. } => self.close()?,
                Frame::Head(_) => {
                    return Err(DataError::Wire("a checkout has no head".to_owned()));
                }
            }
        }
        Ok(())
    }

    fn close(&mut self) -> DataResult<()> {
        match self.open.take() {
            Some(open) if open.chunks.len() > 0 => Err(DataError::Wire(format!(
                "{} lacks {} chunks",
                open.path.display(),
                open.chunks.len()
            ))),
            _ => Ok(()),
        }
    }

    /// Gives the folder its name; returns how many files and bytes it has.
    ///
    /// # Errors
    /// [`DataError::Wire`] when the checkout was cut off.
    pub fn finish(self) -> DataResult<(u64, u64)> {
        self.decoder.finish()?;
        use std::os::unix::fs::PermissionsExt;
        let partial = self.partial.keep();
        // A temporary folder is private; a checkout is an ordinary folder.
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))
            .and_then(|()| fs::rename(&partial, &self.dest))
            .map_err(|error| {
                let _ = fs::remove_dir_all(&partial);
                DataError::io("rename into", &self.dest)(error)
            })?;
        Ok((self.files, self.bytes))
    }
}
