//! Cut, ask, send, commit.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use ondol_types::{Digest, Problem};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Transport;
use super::walk::{LocalFile, walk};
use crate::chunk::{ChunkRef, cut};
use crate::error::{DataError, DataResult};
use crate::key::Key;
use crate::model::{CommitHead, FileEntry, Pushed};
use crate::wire::{self, Frame};

/// Bytes of one bundle, if the server takes that many.
const BUNDLE_BYTES: u64 = 16 * 1024 * 1024;
/// Bundles on their way at once.
const IN_FLIGHT: usize = 2;
/// Digests asked for at once.
const QUESTION: usize = 32_768;

/// What a push does and how.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// What changed, in the author's words.
    pub message: String,
    /// Whether to replace a version that was pushed in between.
    pub force: bool,
    /// The version that the author works from, when that is not simply the newest.
    pub parent: Option<Digest>,
    /// Threads that cut and hash.
    pub threads: usize,
    /// The most files.
    pub max_files: usize,
}

impl Default for PushOptions {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            message: String::new(),
            force: false,
            parent: None,
            threads,
            max_files: 250_000,
        }
    }
}

/// How far a push is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Files were found.
    Found {
        /// How many.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Bytes were cut and hashed.
    Hashed {
        /// How many more.
        bytes: u64,
    },
    /// The server said what it needs.
    Missing {
        /// How many chunks.
        chunks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// Bytes were sent and stored.
    Sent {
        /// How many more.
        bytes: u64,
    },
}

/// Is told how far a push is, also from other threads.
pub type ProgressFn = Arc<dyn Fn(Progress) + Send + Sync>;

/// Pushes a file or a folder.
///
/// # Errors
/// [`DataError`] as a [`Problem`] for what is wrong with the path, and the problems of the
/// service.
pub async fn push(
    transport: &dyn Transport,
    path: &Path,
    options: &PushOptions,
    progress: ProgressFn,
) -> Result<Pushed, Problem> {
    let (path, max_files) = (path.to_owned(), options.max_files);
    let files = Arc::new(run(move || walk(&path, max_files)).await??);
    progress(Progress::Found {
        files: files.len() as u64,
        bytes: files.iter().map(|file| file.size).sum(),
    });
    let session = transport.begin().await?;
    let (found, threads, report) = (files.clone(), options.threads, progress.clone());
    let entries = run(move || hash(&found, threads, &*report)).await??;

    let mut seen = HashSet::new();
    let keys: Vec<Key> = entries
        .iter()
        .flat_map(|file| &file.chunks)
        .map(|chunk| chunk.key)
        .filter(|key| seen.insert(*key))
        .collect();
    let mut missing: HashSet<Key> = HashSet::new();
    for question in keys.chunks(QUESTION) {
        missing.extend(transport.missing(session.id, question).await?);
    }
    let bytes = missing_bytes(&entries, &missing);
    progress(Progress::Missing {
        chunks: missing.len() as u64,
        bytes,
    });
    if !missing.is_empty() {
        let bundle = BUNDLE_BYTES.min(session.max_request_bytes / 2);
        let (send, receive) = mpsc::channel(1);
        let plan = entries.clone();
        let producer = tokio::task::spawn_blocking(move || {
            let outcome = bundles(&files, &plan, missing, bundle, &send);
            if let Err(error) = outcome {
                let _ = send.blocking_send(Err(error));
            }
        });
        let sent = ReceiverStream::new(receive)
            .map(async |bundle: DataResult<(Bytes, u64)>| {
                let (body, bytes) = bundle?;
                transport.upload(session.id, body).await?;
                progress(Progress::Sent { bytes });
                Ok::<_, Problem>(())
            })
            .buffer_unordered(IN_FLIGHT)
            .try_for_each(|()| async { Ok(()) })
            .await;
        producer
            .await
            .map_err(|error| Problem::internal("reading the files failed", error))?;
        sent?;
    }
    let head = CommitHead {
        message: options.message.clone(),
        parent: options.parent.clone().or(session.head),
        force: options.force,
    };
    let manifest = wire::encode_commit(&head, &entries);
    transport.commit(session.id, manifest).await
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Problem::internal("reading the files failed", error))
}

fn missing_bytes(entries: &[FileEntry], missing: &HashSet<Key>) -> u64 {
    let mut seen = HashSet::new();
    entries
        .iter()
        .flat_map(|file| &file.chunks)
        .filter(|chunk| missing.contains(&chunk.key) && seen.insert(chunk.key))
        .map(|chunk| u64::from(chunk.len))
        .sum()
}

/// Cuts and hashes files on several threads.
fn hash(
    files: &[LocalFile],
    threads: usize,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> DataResult<Vec<FileEntry>> {
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<DataError>> = Mutex::new(None);
    let mut entries: Vec<(usize, FileEntry)> = Vec::with_capacity(files.len());
    std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = files.get(at) else {
                    return done;
                };
                match entry(file) {
                    Ok(entry) => {
                        progress(Progress::Hashed { bytes: entry.size });
                        done.push((at, entry));
                    }
                    Err(error) => {
                        next.store(files.len(), Ordering::Relaxed);
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                        return done;
                    }
                }
            }
        };
        let handles: Vec<_> = (0..threads.clamp(1, 64))
            .map(|_| scope.spawn(work))
            .collect();
        for handle in handles {
            entries.extend(handle.join().unwrap_or_default());
        }
    });
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(error) = failed {
        return Err(error);
    }
    entries.sort_unstable_by_key(|(at, _)| *at);
    Ok(entries.into_iter().map(|(_, entry)| entry).collect())
}

fn entry(file: &LocalFile) -> DataResult<FileEntry> {
    let failed = |error| DataError::io("read", &file.local)(error);
    let content = File::open(&file.local).map_err(failed)?;
    let mut chunks: Vec<ChunkRef> = Vec::new();
    cut::<std::io::Error>(content, |chunk, _| {
        chunks.push(chunk);
        Ok(())
    })
    .map_err(failed)?;
    Ok(FileEntry {
        path: file.path.clone(),
        executable: file.executable,
        size: chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
        chunks,
    })
}

/// Reads the missing chunks again and sends them off in bundles.
fn bundles(
    files: &[LocalFile],
    entries: &[FileEntry],
    mut missing: HashSet<Key>,
    limit: u64,
    send: &mpsc::Sender<DataResult<(Bytes, u64)>>,
) -> DataResult<()> {
    let mut bundle = Bundle::default();
    for (file, entry) in files.iter().zip(entries) {
        if !entry
            .chunks
            .iter()
            .any(|chunk| missing.contains(&chunk.key))
        {
            continue;
        }
        let failed = |error| DataError::io("read", &file.local)(error);
        let mut content =
            BufReader::with_capacity(256 * 1024, File::open(&file.local).map_err(failed)?);
        for chunk in &entry.chunks {
            if !missing.remove(&chunk.key) {
                content
                    .seek_relative(i64::from(chunk.len))
                    .map_err(failed)?;
                continue;
            }
            let mut bytes = Vec::with_capacity(chunk.len as usize);
            (&mut content)
                .take(u64::from(chunk.len))
                .read_to_end(&mut bytes)
                .map_err(failed)?;
            if Key::of(&bytes) != chunk.key {
                return Err(DataError::Path {
                    path: file.local.clone(),
                    problem: "changed while it was pushed".to_owned(),
                    hint: "push again once nothing writes to it",
                });
            }
            if bundle.bytes + bytes.len() as u64 > limit && bundle.frames > 0 {
                bundle = bundle.send(send)?;
            }
            bundle.add(chunk.key, bytes);
        }
    }
    if bundle.frames > 0 {
        bundle.send(send)?;
    }
    Ok(())
}

#[derive(Default)]
struct Bundle {
    body: Vec<u8>,
    frames: u64,
    bytes: u64,
}

impl Bundle {
    fn add(&mut self, key: Key, bytes: Vec<u8>) {
        self.bytes += bytes.len() as u64;
        self.frames += 1;
        Frame::Chunk {
            key,
            bytes: bytes.into(),
        }
        .encode(&mut self.body);
    }

    fn send(mut self, send: &mpsc::Sender<DataResult<(Bytes, u64)>>) -> DataResult<Self> {
        Frame::End {
            frames: self.frames,
        }
        .encode(&mut self.body);
        // The receiver leaves only when the push has failed, and says why itself.
        send.blocking_send(Ok((self.body.into(), self.bytes)))
            .map_err(|_| DataError::Wire("the push has ended".to_owned()))?;
        Ok(Self::default())
    }
}
