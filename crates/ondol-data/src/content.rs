//! The bytes of stored files: small ones whole, large ones as a stream, every chunk hashed on
//! the way.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Buf, Bytes, BytesMut};
use ondol_store::blobs::Blobs;
use ondol_types::Digest;
use tokio::sync::mpsc;

use crate::chunk::{ChunkRef, MAX_CHUNK_BYTES};
use crate::error::{DataError, DataResult};
use crate::table::{self, Format, Rows, Source};
use crate::tree::{StoredFile, chunks_of};

/// Files up to this size are read whole.
pub(crate) const SMALL_BYTES: u64 = 4 * 1024 * 1024;
/// Chunks of a stream that are read at once.
const AHEAD: usize = 16;

/// A file with its chunks at hand.
#[derive(Clone, Debug)]
pub(crate) struct Located {
    pub(crate) file: StoredFile,
    pub(crate) chunks: Vec<ChunkRef>,
}

impl Located {
    pub(crate) async fn of(blobs: &Blobs, file: StoredFile) -> DataResult<Self> {
        let chunks = chunks_of(blobs, &file.content, None).await?;
        Ok(Self { file, chunks })
    }
}

/// Reads chunks in order, and says in which file a bad one lies.
pub(crate) async fn read_chunks(
    blobs: &Blobs,
    file: &str,
    chunks: &[ChunkRef],
) -> DataResult<Vec<Bytes>> {
    let digests: Vec<Digest> = chunks.iter().map(|chunk| chunk.key.digest()).collect();
    blobs
        .read_many(&digests, MAX_CHUNK_BYTES as u64)
        .await
        .map_err(|error| DataError::in_file(error, file))
}

/// The whole content of several small files, read together.
pub(crate) async fn whole(blobs: &Blobs, files: &[Located]) -> DataResult<Vec<Bytes>> {
    let digests: Vec<Digest> = files
        .iter()
        .flat_map(|located| &located.chunks)
        .map(|chunk| chunk.key.digest())
        .collect();
    let read = match blobs.read_many(&digests, MAX_CHUNK_BYTES as u64).await {
        Ok(read) => read,
        Err(error) => {
            // Finds out which file the bad chunk belongs to.
            for located in files {
                read_chunks(blobs, located.file.path.as_str(), &located.chunks).await?;
            }
            return Err(error.into());
        }
    };
    let mut read = read.into_iter();
    Ok(files
        .iter()
        .map(|located| match located.chunks.as_slice() {
            [_] => read.next().unwrap_or_default(),
            chunks => {
                let mut all = BytesMut::with_capacity(located.file.size as usize);
                for bytes in read.by_ref().take(chunks.len()) {
                    all.extend_from_slice(&bytes);
                }
                all.freeze()
            }
        })
        .collect())
}

/// The content of a file as a stream of a few chunks at a time.
pub(crate) fn stream(
    blobs: Blobs,
    file: String,
    chunks: Vec<ChunkRef>,
) -> mpsc::Receiver<DataResult<Bytes>> {
    let (send, receive) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        for batch in chunks.chunks(AHEAD) {
            match read_chunks(&blobs, &file, batch).await {
                Ok(read) => {
                    for bytes in read {
                        if send.send(Ok(bytes)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => {
                    let _ = send.send(Err(error)).await;
                    return;
                }
            }
        }
    });
    receive
}

/// A stream as a blocking reader; the error that ended it waits in `failed`.
struct ChannelReader {
    receive: mpsc::Receiver<DataResult<Bytes>>,
    now: Bytes,
    failed: Arc<Mutex<Option<DataError>>>,
}

impl Read for ChannelReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.now.is_empty() {
            match self.receive.blocking_recv() {
                None => return Ok(0),
                Some(Ok(bytes)) => self.now = bytes,
                Some(Err(error)) => {
                    let text = error.to_string();
                    *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    return Err(io::Error::other(text));
                }
            }
        }
        let count = buffer.len().min(self.now.len());
        buffer[..count].copy_from_slice(&self.now[..count]);
        self.now.advance(count);
        Ok(count)
    }
}

/// Runs file or table work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> DataResult<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| DataError::io("work on", PathBuf::from("data"))(io::Error::other(error)))
}

/// Gives every row of a stored table to `rows` and returns it.
pub(crate) async fn each_row<R: Rows + Send + 'static>(
    blobs: &Blobs,
    scratch: &Path,
    located: &Located,
    format: Format,
    mut rows: R,
) -> DataResult<R> {
    let path = located.file.path.clone();
    let failed = Arc::new(Mutex::new(None));
    let small = located.file.size <= SMALL_BYTES;
    let mut content = None;
    if small {
        content = whole(blobs, std::slice::from_ref(located)).await?.pop();
    }
    let (blobs, chunks, scratch) = (blobs.clone(), located.chunks.clone(), scratch.to_owned());
    let receive = (!small).then(|| stream(blobs, path.as_str().to_owned(), chunks));
    let failure = failed.clone();
    let outcome = blocking(move || {
        let source = match (content, receive) {
            (Some(bytes), _) => Source::Bytes(bytes),
            (None, None) => Source::Bytes(Bytes::new()),
            (None, Some(receive)) => {
                let mut reader = ChannelReader {
                    receive,
                    now: Bytes::new(),
                    failed: failure,
                };
                if format == Format::Parquet {
                    let mut spool = || -> io::Result<std::fs::File> {
                        let mut file = tempfile::tempfile_in(&scratch)?;
                        io::copy(&mut reader, &mut file)?;
                        file.flush()?;
                        file.seek(SeekFrom::Start(0))?;
                        Ok(file)
                    };
                    Source::File(spool().map_err(DataError::io("spool into", &scratch))?)
                } else {
                    Source::Stream(Box::new(reader))
                }
            }
        };
        Ok::<_, DataError>(table::read(format, source, &mut rows).map(|()| rows))
    })
    .await?;
    let stopped = failed.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(error) = stopped {
        return Err(error);
    }
    outcome?.map_err(|fault| DataError::Table {
        file: path,
        fault: Box::new(fault),
    })
}
