//! The write-ahead log: a sample is acknowledged when its frame is synced.
//!
//! The log is a file per generation. A generation begins when the head is frozen for a flush, and
//! is deleted when the block of that flush is published, so that what is replayed is what no
//! block has. Each generation stands alone: it describes every series it has samples of.
//!
//! Commits are grouped: whoever syncs does it for all that wrote before. What a failed write left
//! is overwritten by the next; a sync that failed ends the file, and its samples are not
//! acknowledged. This module never decides what a sample means.

pub(crate) mod record;
mod replay;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(crate) use replay::replay;

use super::disk::Disk;
use super::error::TsdbError;

/// The name of a generation's file.
fn name(generation: u32) -> String {
    format!("{generation:08x}.log")
}

fn parse(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
}

struct Writing {
    file: Arc<File>,
    generation: u32,
    /// Bytes of the file that are whole frames.
    length: u64,
    /// Bytes written since the start, over all generations.
    written: u64,
    /// A sync of the file failed: nothing more is written to it.
    broken: bool,
}

#[derive(Default)]
struct Synced {
    /// Up to where what was written is durable.
    durable: u64,
    /// From where to where it may never become so.
    lost: Option<(u64, u64)>,
}

pub(crate) struct Wal {
    disk: Disk,
    /// Locked before `writing`.
    synced: Mutex<Synced>,
    writing: Mutex<Writing>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The log while it is written to.
pub(crate) struct Turn<'a>(MutexGuard<'a, Writing>, &'a Disk);

impl Turn<'_> {
    /// The generation that the next write goes to.
    pub(crate) fn generation(&mut self) -> Result<u32, TsdbError> {
        let writing = &mut *self.0;
        if writing.broken {
            begin(self.1, writing)
                .map_err(|error| TsdbError::disk("create", &self.1.root, error))?;
        }
        Ok(writing.generation)
    }

    /// Writes whole frames and says what to wait for.
    pub(crate) fn write(&mut self, frames: &[u8]) -> Result<u64, TsdbError> {
        let writing = &mut *self.0;
        let written = self
            .1
            .steps
            .before("telemetry.tsdb.wal.write")
            .and_then(|()| writing.file.write_all_at(frames, writing.length));
        if let Err(error) = written {
            // A frame that is there in part is cut when it is read; here it only takes room.
            let _ = writing.file.set_len(writing.length);
            return Err(TsdbError::disk(
                "write",
                self.1.path(&name(writing.generation)),
                error,
            ));
        }
        writing.length += frames.len() as u64;
        writing.written += frames.len() as u64;
        Ok(writing.written)
    }
}

impl Wal {
    /// Begins a generation after all others.
    pub(crate) fn open(disk: Disk, generation: u32) -> Result<Self, TsdbError> {
        let file = disk
            .create(&name(generation), "telemetry.tsdb.wal.create")
            .map_err(|error| TsdbError::disk("create", disk.path(&name(generation)), error))?;
        Ok(Self {
            disk,
            synced: Mutex::new(Synced::default()),
            writing: Mutex::new(Writing {
                file: Arc::new(file),
                generation,
                length: 0,
                written: 0,
                broken: false,
            }),
        })
    }

    pub(crate) fn turn(&self) -> Turn<'_> {
        Turn(lock(&self.writing), &self.disk)
    }

    /// Bytes of the generation that is written.
    pub(crate) fn length(&self) -> u64 {
        lock(&self.writing).length
    }

    /// Waits until all that was written up to there is durable.
    pub(crate) fn sync(&self, upto: u64) -> Result<(), TsdbError> {
        let mut synced = lock(&self.synced);
        if let Some((from, to)) = synced.lost
            && upto > from
            && upto <= to
        {
            let error = io::Error::other("an earlier sync of the same file failed");
            return Err(TsdbError::disk("sync", &self.disk.root, error));
        }
        if synced.durable >= upto {
            return Ok(());
        }
        let (file, written, generation) = {
            let writing = lock(&self.writing);
            (
                Arc::clone(&writing.file),
                writing.written,
                writing.generation,
            )
        };
        let done = self
            .disk
            .steps
            .before("telemetry.tsdb.wal.sync")
            .and_then(|()| file.sync_data());
        match done {
            Ok(()) => {
                synced.durable = written;
                Ok(())
            }
            Err(error) => {
                give_up(&mut synced, &mut lock(&self.writing));
                Err(TsdbError::disk(
                    "sync",
                    self.disk.path(&name(generation)),
                    error,
                ))
            }
        }
    }

    /// Begins a new generation, with all before it durable, and answers the one before.
    pub(crate) fn cut(&self) -> Result<u32, TsdbError> {
        let mut synced = lock(&self.synced);
        let mut writing = lock(&self.writing);
        let ended = writing.generation;
        self.disk
            .steps
            .before("telemetry.tsdb.wal.sync")
            .and_then(|()| writing.file.sync_data())
            .inspect_err(|_| give_up(&mut synced, &mut writing))
            .and_then(|()| begin(&self.disk, &mut writing))
            .map_err(|error| TsdbError::disk("cut", self.disk.path(&name(ended)), error))?;
        synced.durable = writing.written;
        Ok(ended)
    }

    /// Deletes the generations up to this one: blocks have what was in them.
    pub(crate) fn truncate(&self, upto: u32) -> Result<(), TsdbError> {
        delete_upto(&self.disk, upto)
    }

    /// Bytes of all generations.
    pub(crate) fn size(&self) -> u64 {
        let Ok(entries) = fs::read_dir(&self.disk.root) else {
            return 0;
        };
        entries
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }
}

/// After a sync that failed: the system may have dropped the pages, so that nothing more is
/// trusted to the file, and nobody who waits for it is answered well.
fn give_up(synced: &mut Synced, writing: &mut Writing) {
    let from = synced.lost.map_or(synced.durable, |(from, _)| from);
    synced.lost = Some((from, writing.written));
    synced.durable = writing.written;
    writing.broken = true;
}

fn begin(disk: &Disk, writing: &mut Writing) -> io::Result<()> {
    let generation = writing.generation + 1;
    let file = disk.create(&name(generation), "telemetry.tsdb.wal.create")?;
    writing.file = Arc::new(file);
    writing.generation = generation;
    writing.length = 0;
    writing.broken = false;
    Ok(())
}

/// Deletes the generations up to this one, the oldest first.
pub(crate) fn delete_upto(disk: &Disk, upto: u32) -> Result<(), TsdbError> {
    let names = disk
        .names()
        .map_err(|error| TsdbError::disk("list", &disk.root, error))?;
    for old in names {
        if parse(&old).is_some_and(|generation| generation <= upto) {
            disk.delete(&old, "telemetry.tsdb.wal.delete")
                .map_err(|error| TsdbError::disk("delete", disk.path(&old), error))?;
        }
    }
    Ok(())
}
