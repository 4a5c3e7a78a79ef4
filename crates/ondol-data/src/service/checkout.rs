//! Getting a version out: into a folder here, or as a stream to somewhere else.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use ondol_auth::Ctx;
use ondol_types::{DatasetName, ProjectName, RelPath};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::DataService;
use crate::chunk::ChunkRef;
use crate::content::{self, Located, blocking, read_chunks, whole};
use crate::error::{DataError, DataResult};
use crate::model::{FileEntry, FileInfo, Version};
use crate::tree::{StoredFile, Tree};
use crate::wire::Frame;

/// Bytes that are read and written together.
const TOGETHER_BYTES: u64 = 8 * 1024 * 1024;
/// Frames are gathered into parts of about this size.
const PART_BYTES: usize = 256 * 1024;

/// Bytes on their way to a client.
pub type FileStream = ReceiverStream<DataResult<Bytes>>;

impl DataService {
    /// Writes a version into the folder `dest`, which must not exist or be empty. It appears
    /// whole or not at all, and every chunk is hashed on the way. Its files are those of the
    /// version, so a dataset pushed from one file is a folder with this file.
    ///
    /// # Errors
    /// As [`DataService::version`]; [`DataError::Chunk`] names the file whose bytes are bad;
    /// [`DataError::Path`] when `dest` is in use.
    pub async fn materialise(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
        dest: &Path,
    ) -> DataResult<Version> {
        let version = self.version(ctx, project, dataset, which).await?;
        let commit = self.commit_of(&version).await?;
        let target = dest.to_owned();
        let partial = blocking(move || prepare(&target)).await??;
        let written = self.write_tree(commit.root()?, &partial).await;
        self.deps.crash.reached("data.checkout.written");
        let target = dest.to_owned();
        blocking(move || {
            let placed = written.and_then(|()| place(&partial, &target));
            if placed.is_err() {
                let _ = fs::remove_dir_all(&partial);
            }
            placed
        })
        .await??;
        Ok(version)
    }

    async fn write_tree(&self, root: crate::Key, folder: &Path) -> DataResult<()> {
        let blobs = &self.deps.blobs;
        let mut tree = Tree::open(blobs, root, None).await?;
        let mut made = BTreeSet::new();
        while let Some(files) = tree.next().await? {
            let mut together: Vec<Located> = Vec::new();
            let mut bytes = 0;
            for file in files {
                let located = Located::of(blobs, file).await?;
                if located.file.size > content::SMALL_BYTES {
                    self.write_large(folder, &mut made, &located).await?;
                    continue;
                }
                bytes += located.file.size;
                together.push(located);
                if bytes >= TOGETHER_BYTES {
                    made = self
                        .write_small(folder, made, std::mem::take(&mut together))
                        .await?;
                    bytes = 0;
                }
            }
            made = self.write_small(folder, made, together).await?;
        }
        Ok(())
    }

    async fn write_small(
        &self,
        folder: &Path,
        mut made: BTreeSet<PathBuf>,
        files: Vec<Located>,
    ) -> DataResult<BTreeSet<PathBuf>> {
        if files.is_empty() {
            return Ok(made);
        }
        let contents = whole(&self.deps.blobs, &files).await?;
        let folder = folder.to_owned();
        blocking(move || {
            for (located, bytes) in files.iter().zip(contents) {
                let (mut file, path) = create(&folder, &located.file, &mut made)?;
                file.write_all(&bytes)
                    .map_err(DataError::io("write", path))?;
            }
            Ok(made)
        })
        .await?
    }

    async fn write_large(
        &self,
        folder: &Path,
        made: &mut BTreeSet<PathBuf>,
        located: &Located,
    ) -> DataResult<()> {
        let (mut file, path) = create(folder, &located.file, made)?;
        for batch in located.chunks.chunks(64) {
            let read = read_chunks(&self.deps.blobs, located.file.path.as_str(), batch).await?;
            let target = path.clone();
            file = blocking(move || {
                for bytes in read {
                    file.write_all(&bytes)
                        .map_err(DataError::io("write", &target))?;
                }
                Ok::<_, DataError>(file)
            })
            .await??;
        }
        Ok(())
    }

    /// The content of one file of a version.
    ///
    /// # Errors
    /// As [`DataService::version`], and [`DataError::NoFile`].
    pub async fn file(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
        path: &RelPath,
    ) -> DataResult<(FileInfo, FileStream)> {
        let version = self.version(ctx, project, dataset, which).await?;
        let commit = self.commit_of(&version).await?;
        let file = Tree::find(&self.deps.blobs, commit.root()?, path)
            .await?
            .ok_or_else(|| DataError::NoFile {
                dataset: dataset.to_string(),
                number: version.number,
                path: path.clone(),
            })?;
        let located = Located::of(&self.deps.blobs, file).await?;
        let info = FileInfo {
            path: located.file.path.clone(),
            size: located.file.size,
            executable: located.file.executable,
        };
        let name = located.file.path.as_str().to_owned();
        let parts = content::stream(self.deps.blobs.clone(), name, located.chunks);
        Ok((info, ReceiverStream::new(parts)))
    }

    /// A whole version as [`Frame`]s: each file, then its chunks in order, then the end. An
    /// error after the first part cuts the stream off, which the receiver notices by the missing
    /// end.
    ///
    /// # Errors
    /// As [`DataService::version`].
    pub async fn export(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
    ) -> DataResult<(Version, FileStream)> {
        let version = self.version(ctx, project, dataset, which).await?;
        let commit = self.commit_of(&version).await?;
        let root = commit.root()?;
        let (send, receive) = mpsc::channel(8);
        let service = self.clone();
        tokio::spawn(async move {
            let mut out = Frames::new(send);
            if let Err(error) = service.send_tree(root, &mut out).await {
                tracing::warn!(error = %error, "a checkout was cut off");
                let _ = out.send.send(Err(error)).await;
            }
        });
        Ok((version, ReceiverStream::new(receive)))
    }

    async fn send_tree(&self, root: crate::Key, out: &mut Frames) -> DataResult<()> {
        let blobs = &self.deps.blobs;
        let mut tree = Tree::open(blobs, root, None).await?;
        while let Some(files) = tree.next().await? {
            let mut together: Vec<Located> = Vec::new();
            let mut bytes = 0;
            for file in files {
                let located = Located::of(blobs, file).await?;
                bytes += located.file.size;
                together.push(located);
                if bytes >= TOGETHER_BYTES {
                    bytes = 0;
                    self.send_files(std::mem::take(&mut together), out).await?;
                }
            }
            self.send_files(together, out).await?;
        }
        out.end().await
    }

    async fn send_files(&self, files: Vec<Located>, out: &mut Frames) -> DataResult<()> {
        for located in files {
            let name = located.file.path.as_str().to_owned();
            out.add(&Frame::File(FileEntry {
                path: located.file.path,
                executable: located.file.executable,
                size: located.file.size,
                chunks: located.chunks.clone(),
            }))
            .await?;
            for batch in located.chunks.chunks(32) {
                let read = read_chunks(&self.deps.blobs, &name, batch).await?;
                for (ChunkRef { key, .. }, bytes) in batch.iter().zip(read) {
                    out.add(&Frame::Chunk { key: *key, bytes }).await?;
                }
            }
        }
        Ok(())
    }
}

/// Frames gathered into parts.
struct Frames {
    send: mpsc::Sender<DataResult<Bytes>>,
    buffer: Vec<u8>,
    frames: u64,
}

impl Frames {
    fn new(send: mpsc::Sender<DataResult<Bytes>>) -> Self {
        Self {
            send,
            buffer: Vec::new(),
            frames: 0,
        }
    }

    async fn add(&mut self, frame: &Frame) -> DataResult<()> {
        frame.encode(&mut self.buffer);
        self.frames += 1;
        if self.buffer.len() >= PART_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&mut self) -> DataResult<()> {
        let part = Bytes::from(std::mem::take(&mut self.buffer));
        self.send
            .send(Ok(part))
            .await
            .map_err(|_| DataError::Wire("the client left".to_owned()))
    }

    async fn end(&mut self) -> DataResult<()> {
        let frames = self.frames;
        self.add(&Frame::End { frames }).await?;
        self.flush().await
    }
}

/// Looks at the destination and makes the folder beside it that becomes it.
fn prepare(dest: &Path) -> DataResult<PathBuf> {
    let refuse = |problem: &str| DataError::Path {
        path: dest.to_owned(),
        problem: problem.to_owned(),
        hint: "choose a folder that does not exist yet",
    };
    let name = dest
        .file_name()
        .ok_or_else(|| refuse("is not a folder name"))?;
    match fs::read_dir(dest) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                return Err(refuse("is not empty"));
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(_) => return Err(refuse("is not a folder")),
    }
    let parent = dest.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    partial.push(".partial");
    let partial = parent.join(partial);
    // Left by a run that was cut off: the folder is made anew.
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(DataError::io("remove", partial)(error));
        }
        _ => {}
    }
    fs::create_dir(&partial).map_err(DataError::io("create", &partial))?;
    Ok(partial)
}

fn place(partial: &Path, dest: &Path) -> DataResult<()> {
    // A rename replaces an empty folder.
    fs::rename(partial, dest).map_err(DataError::io("rename into", dest))
}

fn create(
    folder: &Path,
    file: &StoredFile,
    made: &mut BTreeSet<PathBuf>,
) -> DataResult<(File, PathBuf)> {
    let path = file.path.below(folder);
    if let Some(parent) = path.parent()
        && parent != folder
        && !made.contains(parent)
    {
        fs::create_dir_all(parent).map_err(DataError::io("create", parent))?;
        made.insert(parent.to_owned());
    }
    let mode = if file.executable { 0o755 } else { 0o644 };
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .map_err(DataError::io("create", &path))?;
    Ok((created, path))
}
