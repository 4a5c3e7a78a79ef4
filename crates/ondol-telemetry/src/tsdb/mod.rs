//! The store of series: a log, a head, and blocks.
//!
//! ```text
//! append ──▶ head (open streams) ──▶ log, synced ──▶ acknowledged
//!              │ flush: by samples, bytes, or the end of two hours
//!              ▼
//!            blocks, merged upwards, deleted by age or size
//! ```
//!
//! A sample is acknowledged when it is in a synced frame of the log, and leaves the log when it is
//! in a published block; so a start replays what is in no block, which a ceiling bounds. A query
//! looks at the head first and at the blocks second, and samples move in that direction only: it
//! can meet a sample twice, never miss one.
//!
//! Everything here blocks. It must never run on a thread that drives other tasks.

mod append;
mod block;
mod bytes;
mod chunk;
mod config;
mod disk;
mod error;
mod exemplar;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod head;
mod maintain;
mod postings;
mod query;
mod store;
mod wal;

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use ondol_types::Clock;

pub use append::{Appender, Committed, Reason, Refusal};
pub use config::TsdbConfig;
pub use disk::{Going, Steps};
pub use error::TsdbError;
pub use head::index::SeriesRef;
pub use maintain::Maintained;
pub use query::Stats;
pub use store::TsdbWriter;

use block::{Block, Cache};
use disk::Disk;
use exemplar::Annexes;
use head::{Head, Value};
use wal::Wal;
use wal::record::{Entry, each_series};

/// Damage that is remembered, for whoever asks.
const MOST_DAMAGE: usize = 100;

/// The blocks that are served, those whose samples count more first.
type Blocks = Arc<Vec<Arc<Block>>>;

/// The store of series.
pub struct Tsdb {
    config: TsdbConfig,
    clock: Arc<dyn Clock>,
    disk: Disk,
    aside: PathBuf,
    head: Head,
    wal: Wal,
    cache: Arc<Cache>,
    blocks: RwLock<Blocks>,
    next_block: AtomicU64,
    annexes: Mutex<Annexes>,
    /// Held by whoever flushes, merges or deletes.
    maintenance: Mutex<()>,
    /// Set when there is something to maintain before its time.
    wanted: (Mutex<bool>, Condvar),
    damage: Mutex<Vec<String>>,
    replayed: Replayed,
    _lock: File,
}

/// What was read at the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Replayed {
    /// Samples of the log that are in no block.
    pub samples: u64,
    /// Samples whose series is described in a part of the log that was damaged.
    pub orphans: u64,
    /// Bytes of the log.
    pub bytes: u64,
}

impl Tsdb {
    /// Opens the store in a directory, which is made when it is missing, and replays its log.
    ///
    /// # Errors
    /// Another process has it, or the disk fails. What is damaged is set aside and reported by
    /// [`Tsdb::stats`]; it is no error.
    pub fn open(
        directory: &Path,
        config: TsdbConfig,
        clock: Arc<dyn Clock>,
        steps: Arc<dyn Steps>,
    ) -> Result<Self, TsdbError> {
        let prepare = |error| TsdbError::disk("prepare", directory, error);
        let root = Disk::new(directory.to_owned(), steps).map_err(prepare)?;
        let lock = lock(&root.path("lock"), directory)?;
        let disk = root.below("blocks").map_err(prepare)?;
        let logs = root.below("log").map_err(prepare)?;
        root.sync_names("telemetry.tsdb.open").map_err(prepare)?;
        let aside = root.path("quarantine");
        let cache = Arc::new(Cache::new(config.cache_bytes));
        let opened = block::open(&disk, &cache, &aside)?;
        let head = Head::new();
        let mut annexes = Annexes::new(config.max_exemplars, config.max_metadata);
        let mut replaying = Replaying {
            head: &head,
            annexes: &mut annexes,
            series: HashMap::default(),
            found: Replayed::default(),
        };
        let read = wal::replay(&logs, opened.flushed, &aside, &mut |entry| {
            replaying.take(entry);
        })?;
        let mut replayed = replaying.found;
        replayed.bytes = read.bytes;
        for block in &opened.blocks {
            head.seen(block.directory.max);
        }
        let mut damage = opened.damaged;
        damage.extend(read.damaged);
        for what in &damage {
            tracing::error!(damage = %what, "stored series were damaged and set aside");
        }
        damage.truncate(MOST_DAMAGE);
        let wal = Wal::open(logs, read.newest + 1)?;
        Ok(Self {
            config,
            clock,
            disk,
            aside,
            head,
            wal,
            cache,
            blocks: RwLock::new(Arc::new(opened.blocks)),
            next_block: AtomicU64::new(opened.next),
            annexes: Mutex::new(annexes),
            maintenance: Mutex::new(()),
            wanted: (Mutex::new(false), Condvar::new()),
            damage: Mutex::new(damage),
            replayed,
            _lock: lock,
        })
    }

    /// Collects samples.
    #[must_use]
    pub fn appender(&self) -> Appender<'_> {
        Appender::new(self)
    }

    /// What the start replayed.
    #[must_use]
    pub fn replayed(&self) -> Replayed {
        self.replayed
    }

    fn blocks(&self) -> Blocks {
        Arc::clone(&self.blocks.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn annexes(&self) -> MutexGuard<'_, Annexes> {
        self.annexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn damaged(&self, what: String) {
        tracing::error!(damage = %what, "stored series were damaged and set aside");
        let mut damage = self.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if damage.len() < MOST_DAMAGE {
            damage.push(what);
        }
    }
}

fn lock(path: &Path, directory: &Path) -> Result<File, TsdbError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(|error| TsdbError::disk("open", path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TsdbError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(TsdbError::disk("lock", path, error)),
    }
}

/// Puts what the log says into the head.
struct Replaying<'a> {
    head: &'a Head,
    annexes: &'a mut Annexes,
    series: HashMap<u64, SeriesRef, foldhash::fast::RandomState>,
    found: Replayed,
}

impl Replaying<'_> {
    fn take(&mut self, entry: Entry) {
        // It was read once already, when its frame was judged.
        let _ = each_series(&entry.series, &mut |series, labels| {
            self.series.insert(series, self.head.restore(labels));
        });
        let floats = entry
            .floats
            .iter()
            .map(|one| (one.series, one.time, one.start, Value::Float(one.bits)));
        let histograms = entry.histograms.into_iter().map(|one| {
            let value = Value::Histogram(one.value);
            (one.series, one.time, one.start, value)
        });
        let (mut first, mut last, mut stored) = (i64::MAX, i64::MIN, 0);
        for (series, time, start, value) in floats.chain(histograms) {
            self.found.samples += 1;
            let Some(series) = self.series.get(&series) else {
                self.found.orphans += 1;
                continue;
            };
            let (shard, position) = head::place(series.slot());
            // What was accepted once is not judged again.
            self.head
                .shard(shard)
                .series(position)
                .append(time, start, &value, i64::MAX);
            stored += 1;
            first = first.min(time);
            last = last.max(time);
        }
        if stored > 0 {
            self.head.stored(stored, first, last);
        }
        for (series, exemplar) in &entry.exemplars {
            self.annexes.exemplar(series, exemplar);
        }
        for (metric, metadata) in &entry.metadata {
            self.annexes.describe(metric, metadata);
        }
    }
}
