//! What has to be done now and then: the head becomes blocks, blocks are merged and deleted, idle
//! series leave.
//!
//! One does it at a time. Each step leaves the store whole, whatever fails: a block that could
//! not be written changes nothing, and is tried again the next time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, TryLockError};
use std::time::Duration;

use super::Tsdb;
use super::block::{self, Block, merge, plan};
use super::chunk::Chunk;
use super::config::WINDOW;
use super::error::TsdbError;
use super::head::Frozen;
use super::wal::record::FrameWriter;

/// Merges of one round.
const MERGES: usize = 32;
/// Annexes of one frame of the log.
const FRAME_ANNEXES: usize = 200;

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Samples that went from the head into blocks.
    pub flushed: u64,
    /// Blocks that were merged into fewer.
    pub merged: usize,
    /// Blocks that were deleted for their age or size.
    pub deleted: usize,
    /// Series that left the head.
    pub left: usize,
}

impl Tsdb {
    /// Does what is due: call it every few seconds from a thread that may block.
    ///
    /// # Errors
    /// The disk failed; nothing is lost, and the next round tries again.
    pub fn maintain(&self) -> Result<Maintained, TsdbError> {
        let _alone = self
            .maintenance
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *self.wanted.0.lock().unwrap_or_else(PoisonError::into_inner) = false;
        let now = self.clock.now().as_millis();
        let mut done = Maintained::default();
        let outcome = self.due(now, &mut done);
        // Space is made even, and above all, when a block could not be written.
        done.deleted = self.delete(now)?;
        outcome?;
        done.left = self.head.expire(now.saturating_sub(self.config.idle));
        Ok(done)
    }

    fn due(&self, now: i64, done: &mut Maintained) -> Result<(), TsdbError> {
        let oldest = self.head.oldest();
        let passed = oldest != i64::MAX
            && plan::window(oldest, WINDOW)
                .saturating_add(WINDOW)
                .saturating_add(self.config.out_of_order)
                <= now
            // Old samples that keep coming must not make a block each round.
            && (self.head.newest() >= plan::window(oldest, WINDOW).saturating_add(WINDOW)
                || self.head.newest().saturating_add(WINDOW) < now);
        if passed || self.is_full(1) {
            done.flushed = self.flush()?;
        }
        for _ in 0..MERGES {
            let merged = self.merge(now)?;
            if merged == 0 {
                break;
            }
            done.merged += merged;
        }
        Ok(())
    }

    /// Waits until there is something to do before its time, at most this long.
    pub fn wait(&self, most: Duration) {
        let (wanted, signal) = &self.wanted;
        let guard = wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = signal.wait_timeout_while(guard, most, |wanted| !*wanted);
    }

    /// Ends what [`Self::wait`] waits for.
    pub fn wake(&self) {
        let (wanted, signal) = &self.wanted;
        *wanted.lock().unwrap_or_else(PoisonError::into_inner) = true;
        signal.notify_all();
    }

    /// Writes the head to blocks now, whether it is due or not. Answers how many samples.
    ///
    /// # Errors
    /// The disk failed; the head is as it was.
    pub fn flush_now(&self) -> Result<u64, TsdbError> {
        let _alone = self
            .maintenance
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.flush()
    }

    fn is_full(&self, times: u64) -> bool {
        self.head.fresh() >= self.config.flush_samples.saturating_mul(times)
            || self.wal.length() >= self.config.flush_bytes.saturating_mul(times)
    }

    /// Called after each commit: asks for maintenance when the head is full, and does it when
    /// nobody has by the time that it is twice full.
    pub(crate) fn relieve(&self) {
        if !self.is_full(1) {
            return;
        }
        self.wake();
        if !self.is_full(2) {
            return;
        }
        let alone = match self.maintenance.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Somebody is at it: beyond three times the ceiling, writers wait for them.
            Err(TryLockError::WouldBlock) if !self.is_full(3) => return,
            Err(TryLockError::WouldBlock) => self
                .maintenance
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        };
        if self.is_full(2)
            && let Err(error) = self.flush()
        {
            tracing::error!(%error, "the head could not be written to a block");
        }
        drop(alone);
    }

    fn flush(&self) -> Result<u64, TsdbError> {
        let ended = self.wal.cut()?;
        let frozen = self.head.freeze();
        let samples = frozen
            .iter()
            .flat_map(|(_, _, chunks)| chunks)
            .map(|chunk| u64::from(chunk.meta.count))
            .sum();
        let mut series: Vec<(u32, Vec<Chunk>)> = Vec::with_capacity(frozen.len());
        let mut marks: Vec<(u32, Frozen)> = Vec::with_capacity(frozen.len());
        for (slot, mark, chunks) in frozen {
            series.push((slot, chunks));
            marks.push((slot, mark));
        }
        self.head
            .index()
            .sort_by_labels(&mut series, |(slot, _)| *slot);
        let span = series.iter().flat_map(|(_, chunks)| chunks).fold(
            None,
            |span: Option<(i64, i64)>, chunk| {
                let (min, max) = span.unwrap_or((i64::MAX, i64::MIN));
                Some((min.min(chunk.meta.min), max.max(chunk.meta.max)))
            },
        );
        // Before a block says that the old log is not needed any more.
        let kept = self.keep_annexes();
        let outcome =
            kept.and_then(|()| span.map_or(Ok(()), |span| self.write_head(&series, span, ended)));
        if let Err(error) = outcome {
            if let Some((min, max)) = span {
                self.head.stored(samples, min, max);
            }
            return Err(error);
        }
        self.head.forget(&marks);
        self.wal.truncate(ended)?;
        Ok(samples)
    }

    fn write_head(
        &self,
        series: &[(u32, Vec<Chunk>)],
        (min, max): (i64, i64),
        ended: u32,
    ) -> Result<(), TsdbError> {
        let width = plan::width_for(min, max, self.config.retention);
        let mut from = plan::window(min, width);
        while from <= max {
            let to = from.saturating_add(width);
            let touched = series.iter().any(|(_, chunks)| {
                chunks
                    .iter()
                    .any(|chunk| chunk.meta.max >= from && chunk.meta.min < to)
            });
            if touched {
                let id = self.next_block.fetch_add(1, Ordering::Relaxed);
                // Only the last block says that the log is not needed any more.
                let flushed = if to > max { ended } else { 0 };
                let labels = |slot| self.head.index().labels(slot);
                let wrote = merge::from_head(&self.disk, id, series, &labels, (from, to), flushed)
                    .inspect_err(|_| block::BlockWriter::abandon(&self.disk, id))?;
                if wrote {
                    self.serve(id, &[])?;
                }
            }
            from = to;
        }
        Ok(())
    }

    /// Opens a block that was published and serves it instead of others.
    fn serve(&self, id: u64, instead: &[u64]) -> Result<(), TsdbError> {
        let path = self.disk.path(&block::name(id));
        let opened = Arc::new(Block::open(path, id, Arc::clone(&self.cache))?);
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let mut served: Vec<Arc<Block>> = blocks
            .iter()
            .filter(|block| !instead.contains(&block.id))
            .cloned()
            .collect();
        if opened.directory.series > 0 {
            served.push(opened);
        }
        served.sort_by_key(|block| block.rank());
        *blocks = Arc::new(served);
        Ok(())
    }

    /// Exemplars and metadata are in the log only: the new generation has to have them before
    /// the old ones are deleted.
    fn keep_annexes(&self) -> Result<(), TsdbError> {
        let mut frames = Vec::new();
        {
            let annexes = self.annexes();
            let exemplars: Vec<_> = annexes.exemplars().cloned().collect();
            for some in exemplars.chunks(FRAME_ANNEXES) {
                let mut frame = FrameWriter::default();
                frame.exemplars(some.iter());
                frame.finish(&mut frames);
            }
            let metadata: Vec<_> = annexes.metadata().iter().collect();
            for some in metadata.chunks(FRAME_ANNEXES) {
                let mut frame = FrameWriter::default();
                frame.metadata(some.iter().copied());
                frame.finish(&mut frames);
            }
        }
        if frames.is_empty() {
            return Ok(());
        }
        let upto = {
            let mut turn = self.wal.turn();
            turn.generation()?;
            turn.write(&frames)?
        };
        self.wal.sync(upto)
    }

    fn merge(&self, now: i64) -> Result<usize, TsdbError> {
        let blocks = self.blocks();
        let summaries: Vec<plan::Summary> = blocks.iter().map(|block| block.summary()).collect();
        let closed = now
            .saturating_sub(self.config.out_of_order)
            .min(self.head.oldest());
        let Some(chosen) = plan::merge(&summaries, closed, self.config.retention) else {
            return Ok(0);
        };
        let sources: Vec<Arc<Block>> = blocks
            .iter()
            .filter(|block| chosen.contains(&block.id))
            .cloned()
            .collect();
        let id = self.next_block.fetch_add(1, Ordering::Relaxed);
        if let Err(failed) = merge::blocks(&self.disk, id, &sources) {
            block::BlockWriter::abandon(&self.disk, id);
            return match failed.source {
                // The next plan does without it.
                Some(source) => {
                    self.set_aside(source, &failed.error);
                    Ok(1)
                }
                None => Err(failed.error),
            };
        }
        self.serve(id, &chosen)?;
        for source in &sources {
            self.remove(source)?;
        }
        Ok(sources.len())
    }

    fn delete(&self, now: i64) -> Result<usize, TsdbError> {
        let blocks = self.blocks();
        let summaries: Vec<plan::Summary> = blocks.iter().map(|block| block.summary()).collect();
        let before = self
            .config
            .retention
            .map(|retention| now.saturating_sub(retention));
        let expired = plan::expired(&summaries, before, self.config.retention_bytes);
        if expired.is_empty() {
            return Ok(0);
        }
        self.stop_serving(&expired);
        for gone in blocks.iter().filter(|block| expired.contains(&block.id)) {
            self.remove(gone)?;
        }
        Ok(expired.len())
    }

    fn stop_serving(&self, gone: &[u64]) {
        let mut blocks = self.blocks.write().unwrap_or_else(PoisonError::into_inner);
        let served = blocks
            .iter()
            .filter(|block| !gone.contains(&block.id))
            .cloned()
            .collect();
        *blocks = Arc::new(served);
    }

    /// Deletes a block that is not served any more. Queries that have it open keep reading it.
    fn remove(&self, block: &Block) -> Result<(), TsdbError> {
        self.cache.forget(block.id);
        self.disk
            .delete(&block::name(block.id), "telemetry.tsdb.block.delete")
            .map_err(|error| TsdbError::disk("delete", &block.path, error))
    }

    /// Sets a damaged block aside: the rest goes on without it.
    pub(crate) fn set_aside(&self, id: u64, error: &TsdbError) {
        if !self.blocks().iter().any(|block| block.id == id) {
            return;
        }
        self.stop_serving(&[id]);
        self.cache.forget(id);
        self.damaged(error.to_string());
        if let Err(error) = self.disk.set_aside(&block::name(id), &self.aside) {
            tracing::error!(%error, block = id, "a damaged block could not be set aside");
        }
    }
}
