//! Counters that workers add to: one shard per worker, so that no two cores write one cache line.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::counters::{ReleaseCounters, RouteCounters, Totals};
use super::histogram::AtomicHistogram;

/// How a request ended, for its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered with this status.
    Answered(u16),
    /// The client left before the end.
    Cancelled,
    /// The replica broke off after the head had gone out.
    Truncated(u16),
}

/// One worker's share of a release's counters.
#[derive(Debug)]
pub(crate) struct ReleaseShard {
    classes: [AtomicU64; 5],
    cancelled: AtomicU64,
    truncated: AtomicU64,
    pub(crate) upstream_errors: AtomicU64,
    pub(crate) retries: AtomicU64,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    durations: AtomicHistogram,
}

fn class_of(status: u16) -> usize {
    usize::from(status / 100).clamp(1, 5) - 1
}

impl ReleaseShard {
    pub(crate) fn new() -> Self {
        Self {
            classes: Default::default(),
            cancelled: AtomicU64::new(0),
            truncated: AtomicU64::new(0),
            upstream_errors: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            durations: AtomicHistogram::new(),
        }
    }

    /// Counts a finished request. An upgraded connection has no meaningful duration.
    pub(crate) fn finish(
        &self,
        outcome: Outcome,
        bytes_in: u64,
        bytes_out: u64,
        duration: Option<Duration>,
    ) {
        match outcome {
            Outcome::Answered(status) => {
                self.classes[class_of(status)].fetch_add(1, Ordering::Relaxed)
            }
            Outcome::Cancelled => self.cancelled.fetch_add(1, Ordering::Relaxed),
            Outcome::Truncated(status) => {
                self.truncated.fetch_add(1, Ordering::Relaxed);
                self.classes[class_of(status)].fetch_add(1, Ordering::Relaxed)
            }
        };
        self.passed(bytes_in, bytes_out);
        if let (Some(duration), Outcome::Answered(_) | Outcome::Truncated(_)) = (duration, outcome)
        {
            self.durations.record(duration);
        }
    }

    /// Counts bytes alone.
    pub(crate) fn passed(&self, bytes_in: u64, bytes_out: u64) {
        if bytes_in > 0 {
            self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        }
        if bytes_out > 0 {
            self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
        }
    }

    pub(crate) fn add_to(&self, row: &mut ReleaseCounters) {
        for (class, count) in row.classes.iter_mut().zip(&self.classes) {
            *class += count.load(Ordering::Relaxed);
        }
        row.cancelled += self.cancelled.load(Ordering::Relaxed);
        row.truncated += self.truncated.load(Ordering::Relaxed);
        row.upstream_errors += self.upstream_errors.load(Ordering::Relaxed);
        row.retries += self.retries.load(Ordering::Relaxed);
        row.bytes_in += self.bytes_in.load(Ordering::Relaxed);
        row.bytes_out += self.bytes_out.load(Ordering::Relaxed);
        self.durations.add_to(&mut row.durations);
    }
}

/// One worker's share of what the gateway answered itself for a route.
#[derive(Debug, Default)]
pub(crate) struct RouteShard {
    classes: [AtomicU64; 5],
    pub(crate) held: AtomicU64,
}

impl RouteShard {
    pub(crate) fn count(&self, status: u16) {
        self.classes[class_of(status)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_to(&self, row: &mut RouteCounters) {
        for (class, count) in row.classes.iter_mut().zip(&self.classes) {
            *class += count.load(Ordering::Relaxed);
        }
        row.held += self.held.load(Ordering::Relaxed);
    }
}

/// One worker's share of the totals.
#[derive(Debug, Default)]
pub(crate) struct WorkerTotals {
    pub(crate) accepted: AtomicU64,
    pub(crate) unrouted: AtomicU64,
    pub(crate) overloaded: AtomicU64,
    pub(crate) malformed: AtomicU64,
}

impl WorkerTotals {
    pub(crate) fn add_to(&self, totals: &mut Totals) {
        totals.accepted += self.accepted.load(Ordering::Relaxed);
        totals.unrouted += self.unrouted.load(Ordering::Relaxed);
        totals.overloaded += self.overloaded.load(Ordering::Relaxed);
        totals.malformed += self.malformed.load(Ordering::Relaxed);
    }
}
