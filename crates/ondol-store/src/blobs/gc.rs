//! Online mark and sweep.
//!
//! Every owner marks what it refers to; what is neither marked nor lately touched loses its
//! address, and then its bytes. No step loses anything in a crash: an address that is gone from
//! the index while its pack stands is garbage, a pack that stands without a row is adopted, and
//! the trash is emptied by the next collection.
//!
//! Why a blob that somebody just stored or found can never be swept: both date it with the
//! present, the cutoff lies before the present by the grace period and before every open upload,
//! and the date is read again in the very step that removes the address. A commit that is slower
//! than the grace period takes a [`super::Hold`] and looks again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use ondol_types::{Digest, ErrorKind, Problem, Timestamp};

use super::index::{ALGORITHMS, PackUse};
use super::pack::{self, OpenPack};
use super::{Blobs, GATE, GRANULE, blocking, clock};
use crate::error::StoreError;

/// Blobs examined per step of the sweep; writers go on between two steps.
const STEP: u32 = 512;
/// How long one step waits for writers before the sweep leaves it to the next collection.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pack with less than this share of reachable bytes is rewritten.
const REWRITE_BELOW: f64 = 0.5;
const BITS_PER_BLOB: u64 = 16;
const PROBES: u64 = 8;
const MAX_BITS: u64 = 1 << 31;

/// Somebody whose rows refer to blobs.
#[async_trait]
pub trait BlobOwner: Send + Sync + 'static {
    /// Its name, for messages.
    fn name(&self) -> &'static str;

    /// Adds every blob that its rows refer to, directly or through other blobs.
    ///
    /// # Errors
    /// Any problem ends the collection before it removed anything.
    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem>;

    /// When its oldest upload in progress began. Nothing stored or found since then is
    /// collected, so an open upload pins what it sent and what it was told is here.
    ///
    /// # Errors
    /// Any problem ends the collection before it removed anything.
    async fn pinned_since(&self) -> Result<Option<Timestamp>, Problem> {
        Ok(None)
    }
}

/// The set of blobs that somebody owns.
///
/// It is a Bloom filter with a salt of its own per collection: two bytes per blob instead of
/// forty, and where it errs it keeps garbage until the next collection, never the reverse.
pub struct Marks {
    words: Vec<u64>,
    mask: u64,
    salt: u64,
    added: u64,
}

impl Marks {
    fn for_blobs(count: u64, salt: u64) -> Self {
        let bits = (count.saturating_mul(BITS_PER_BLOB))
            .clamp(1 << 16, MAX_BITS)
            .next_power_of_two();
        Self {
            words: vec![0; (bits / 64) as usize],
            mask: bits - 1,
            salt,
            added: 0,
        }
    }

    fn bits(&self, digest: &Digest) -> impl Iterator<Item = u64> + use<> {
        let hash = digest.to_bytes();
        let lane = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&hash[at..at + 8]);
            u64::from_le_bytes(word)
        };
        // The digest is already uniform; the salt is mixed in so that one collection's errors
        // are not the next one's.
        let first = (lane(0) ^ self.salt).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let step = lane(8) | 1;
        let mask = self.mask;
        (0..PROBES).map(move |probe| (first.wrapping_add(probe.wrapping_mul(step)) >> 7) & mask)
    }

    /// Marks a blob as owned.
    pub fn add(&mut self, digest: &Digest) {
        for bit in self.bits(digest) {
            self.words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        self.added += 1;
    }

    fn contains(&self, digest: &Digest) -> bool {
        self.bits(digest)
            .all(|bit| self.words[(bit / 64) as usize] & (1 << (bit % 64)) != 0)
    }
}

/// What a collection did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Marks that the owners made; a blob with two owners counts twice.
    pub marked: u64,
    /// Old blobs that were looked at.
    pub seen: u64,
    /// Blobs that lost their address.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Bytes given back to the file system.
    pub freed_bytes: u64,
    /// Packs that were rewritten or removed.
    pub packs: u64,
}

impl Blobs {
    /// Collects blobs that no owner marks, that nobody stored or found within `grace`, and that
    /// no open upload pins. `owners` must be all of them: what a missing owner refers to is lost.
    /// Runs beside readers and writers.
    ///
    /// # Errors
    /// A [`Problem`] of an owner, before anything was removed; or of the store. Repeating is
    /// always safe.
    pub async fn gc(
        &self,
        owners: &[Arc<dyn BlobOwner>],
        grace: Duration,
    ) -> Result<GcReport, Problem> {
        let Ok(_one) = self.0.collecting.try_lock() else {
            return Err(Problem::new(
                ErrorKind::Conflict,
                "store.gc.running",
                "a collection is running already",
            ));
        };
        self.empty_trash().await?;
        let mut cutoff = self.0.clock.now().minus(grace);
        for owner in owners {
            if let Some(pinned) = owner.pinned_since().await? {
                cutoff = cutoff.min(pinned);
            }
        }
        let cutoff = cutoff.minus(GRANULE + GRANULE);
        let packed = match self.index_if_any().await? {
            Some(index) => index.count().await?,
            None => 0,
        };
        let shards = self.loose_shards().await?;
        let loose: u64 = shards.iter().map(|(_, files)| files).sum();
        let mut marks = Marks::for_blobs(packed + loose, rand::random());
        for owner in owners {
            owner.mark(&mut marks).await?;
        }
        self.0.crash.reached("store.gc.marked");
        let mut report = GcReport {
            marked: marks.added,
            ..GcReport::default()
        };
        for (shard, _) in &shards {
            let files = self.loose_files(shard).await?;
            self.sweep_loose(&files, &marks, cutoff, &mut report)
                .await?;
        }
        self.sweep_packed(&marks, cutoff, &mut report).await?;
        self.0.crash.reached("store.gc.swept");
        self.shrink_packs(&mut report).await?;
        self.0.crash.reached("store.gc.shrunk");
        report.freed_bytes += self.empty_trash().await?;
        Ok(report)
    }

    /// Takes the gate for one step of the sweep. Writers are never kept waiting for it: it
    /// enters when none is inside.
    async fn sweeping(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        let began = std::time::Instant::now();
        while began.elapsed() < PATIENCE {
            if let Ok(permit) = self.0.gate.try_acquire_many(GATE) {
                self.0.epoch.fetch_add(1, Ordering::AcqRel);
                return Some(permit);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        None
    }

    /// The folders of loose blobs with the number of files in each.
    async fn loose_shards(&self) -> Result<Vec<(PathBuf, u64)>, StoreError> {
        let root = self.0.root.clone();
        blocking(&self.0.root, move || {
            let mut shards = Vec::new();
            for algorithm in ALGORITHMS {
                for shard in paths_in(&root.join(algorithm.name()))? {
                    let files = std::fs::read_dir(&shard)
                        .map_err(StoreError::io("list", &shard))?
                        .count();
                    shards.push((shard, files as u64));
                }
            }
            Ok(shards)
        })
        .await
    }

    async fn loose_files(&self, shard: &Path) -> Result<Vec<PathBuf>, StoreError> {
        let shard = shard.to_owned();
        blocking(&self.0.root, move || paths_in(&shard)).await
    }

    async fn sweep_loose(
        &self,
        files: &[PathBuf],
        marks: &Marks,
        cutoff: Timestamp,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        let garbage: Vec<PathBuf> = files
            .iter()
            .filter(|path| {
                report.seen += 1;
                loose_digest(path).is_some_and(|digest| !marks.contains(&digest))
            })
            .cloned()
            .collect();
        for step in garbage.chunks(STEP as usize) {
            let Some(_gate) = self.sweeping().await else {
                tracing::info!("writers were busy; the rest is left to the next collection");
                return Ok(());
            };
            let (step, trash) = (step.to_vec(), self.0.root.join("trash"));
            let (count, bytes) = blocking(&self.0.root, move || {
                let (mut count, mut bytes) = (0, 0);
                for path in step {
                    let Ok(metadata) = std::fs::metadata(&path) else {
                        continue;
                    };
                    let dated = metadata.modified().map(clock::from_system);
                    if !dated.is_ok_and(|dated| dated < cutoff) {
                        continue;
                    }
                    let grave = trash.join(path.file_name().unwrap_or_default());
                    std::fs::rename(&path, &grave).map_err(StoreError::io("move away", &path))?;
                    count += 1;
                    bytes += metadata.len();
                }
                Ok((count, bytes))
            })
            .await?;
            report.removed += count;
            report.removed_bytes += bytes;
        }
        Ok(())
    }

    async fn sweep_packed(
        &self,
        marks: &Marks,
        cutoff: Timestamp,
        report: &mut GcReport,
    ) -> Result<(), StoreError> {
        let Some(index) = self.index_if_any().await? else {
            return Ok(());
        };
        let mut after: Option<Digest> = None;
        loop {
            let old = index
                .untouched_after(after.as_ref(), cutoff, STEP * 4)
                .await?;
            let Some(last) = old.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            report.seen += old.len() as u64;
            let garbage: Vec<Digest> = old
                .into_iter()
                .filter(|digest| !marks.contains(digest))
                .collect();
            if garbage.is_empty() {
                continue;
            }
            let Some(_gate) = self.sweeping().await else {
                tracing::info!("writers were busy; the rest is left to the next collection");
                return Ok(());
            };
            let (count, bytes) = index.remove_untouched(&garbage, cutoff).await?;
            report.removed += count;
            report.removed_bytes += bytes;
        }
    }

    /// Removes packs that nobody reaches into, and rewrites those that are mostly garbage.
    async fn shrink_packs(&self, report: &mut GcReport) -> Result<(), StoreError> {
        let Some(index) = self.index_if_any().await? else {
            return Ok(());
        };
        let folder = self.0.root.join("packs");
        for pack in index.packs().await? {
            if pack.live as f64 >= pack.size as f64 * REWRITE_BELOW {
                continue;
            }
            let old = pack::path(&folder, pack.id);
            let mut copied = None;
            if pack.live > 0 {
                let Some(copy) = self.copy_live(pack, &old).await? else {
                    continue;
                };
                let id = index.next_pack();
                let (copy, folder) = (copy, folder.clone());
                let copy = blocking(&self.0.root, move || {
                    copy.publish(&folder, id).map(|()| copy)
                })
                .await?;
                self.0.crash.reached("store.gc.copied");
                copied = Some((id, copy));
            }
            let new = copied.as_ref().map(|(id, copy)| (*id, copy.size()));
            let records = copied.as_ref().map_or(&[][..], |(_, copy)| copy.records());
            {
                // A pack is sealed under the gate, so none can gain a blob in between.
                let Some(_gate) = self.sweeping().await else {
                    if let Some((id, _)) = copied {
                        let _ = std::fs::remove_file(pack::path(&folder, id));
                    }
                    return Ok(());
                };
                index.move_pack(pack.id, new, records).await?;
            }
            self.0.crash.reached("store.gc.moved");
            let grave = self.0.root.join("trash").join(format!("{}.pack", pack.id));
            tokio::fs::rename(&old, &grave)
                .await
                .map_err(StoreError::io("move away", &old))?;
            report.packs += 1;
        }
        Ok(())
    }

    /// A new pack with the reachable records of an old one; `None` when one of them rotted, so
    /// that the evidence stays for `verify`.
    async fn copy_live(
        &self,
        PackUse {
            id, live: bytes, ..
        }: PackUse,
        old: &Path,
    ) -> Result<Option<OpenPack>, StoreError> {
        let index = self.index().await?;
        let path = old.to_owned();
        let scanned = blocking(&self.0.root, move || pack::scan(&path)).await?;
        if let Some(problem) = scanned.problem {
            tracing::error!(blobs.pack = id, error = %problem, "a damaged pack is not rewritten");
            return Ok(None);
        }
        let digests: Vec<Digest> = scanned
            .records
            .iter()
            .map(|record| record.digest.clone())
            .collect();
        let places = index.locate(&digests).await?;
        let live: Vec<pack::Record> = scanned
            .records
            .into_iter()
            .filter(|record| {
                places
                    .get(&record.digest)
                    .is_some_and(|place| place.pack == id && place.position == record.position)
            })
            .collect();
        if live.iter().map(|record| record.size).sum::<u64>() != bytes {
            tracing::error!(
                blobs.pack = id,
                "a pack with rotten records is not rewritten"
            );
            return Ok(None);
        }
        let (blobs, path) = (self.clone(), old.to_owned());
        blocking(&self.0.root, move || {
            let file = std::fs::File::open(&path).map_err(StoreError::io("open", &path))?;
            let mut copy = OpenPack::create(&blobs)?;
            for record in &live {
                let bytes =
                    pack::read_at(&file, &path, &record.digest, record.position, record.size)?;
                copy.append(&[(record.digest.clone(), bytes)])?;
            }
            Ok(Some(copy))
        })
        .await
    }

    async fn empty_trash(&self) -> Result<u64, StoreError> {
        let trash = self.0.root.join("trash");
        blocking(&self.0.root, move || {
            let mut freed = 0;
            for entry in std::fs::read_dir(&trash).map_err(StoreError::io("list", &trash))? {
                let path = entry.map_err(StoreError::io("list", &trash))?.path();
                let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                std::fs::remove_file(&path).map_err(StoreError::io("delete", &path))?;
                freed += size;
            }
            Ok(freed)
        })
        .await
    }
}

fn paths_in(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    std::fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(StoreError::io("list", folder))
}

/// The digest that a loose blob's path stands for.
fn loose_digest(path: &Path) -> Option<Digest> {
    let hex = path.file_name()?.to_str()?;
    let algorithm = path.parent()?.parent()?.file_name()?.to_str()?;
    format!("{algorithm}:{hex}").parse().ok()
}
