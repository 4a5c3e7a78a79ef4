//! Counters across processes.
//!
//! Each gateway writes what it knows to a file of its own, about once a second and when it ends.
//! A living gateway takes over the file of a dead one: it adds the dead one's counts to its base,
//! notes its name as folded in its own file, and only then removes the dead one's. A crash in
//! between counts nothing twice, because whoever reads skips files that another one has folded.

use std::fs;

use serde::{Deserialize, Serialize};

use super::counters::{COUNTERS_FORMAT, Counters};
use crate::error::GatewayError;
use crate::run_dir::RunDir;

const FOLD_LOCK: &str = "gateway-counters.lock";
const KEPT_FOLDED: usize = 32;
const KEPT_RELEASES: usize = 500;
const KEPT_REPLICAS: usize = 1_000;
const KEPT_ROUTES: usize = 20_000;
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What one gateway leaves behind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct CountersFile {
    pub(crate) format: u32,
    pub(crate) instance: String,
    /// Instances whose counts are contained in these.
    pub(crate) folded: Vec<String>,
    pub(crate) counters: Counters,
}

/// The file of one instance.
pub(crate) fn counters_file_name(instance: &str) -> String {
    format!("gateway-counters-{instance}.json")
}

impl CountersFile {
    /// Reads an instance's file. A missing, damaged or newer one counts nothing.
    pub(crate) fn read(run_dir: &RunDir, instance: &str) -> Option<Self> {
        let path = run_dir.join(&counters_file_name(instance));
        if fs::metadata(&path).ok()?.len() > MAX_FILE_BYTES {
            return None;
        }
        let file: Self = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
        (file.format <= COUNTERS_FORMAT && file.instance == instance).then_some(file)
    }
}

/// The counts a gateway inherited from those before it.
#[derive(Debug)]
pub(crate) struct Ledger {
    run_dir: RunDir,
    instance: String,
    folded: Vec<String>,
    base: Counters,
}

impl Ledger {
    pub(crate) fn new(run_dir: RunDir, instance: &str) -> Self {
        Self {
            run_dir,
            instance: instance.to_owned(),
            folded: Vec::new(),
            base: Counters::default(),
        }
    }

    /// Everything: inherited and counted here.
    pub(crate) fn total(&self, live: Counters) -> Counters {
        let mut total = live;
        total.merge(&self.base);
        total
    }

    /// Instances whose counts are part of the base.
    pub(crate) fn folded(&self) -> &[String] {
        &self.folded
    }

    /// Whether other gateways, living or dead, left files.
    pub(crate) fn others(&self) -> Result<Vec<String>, GatewayError> {
        let mut names = self.run_dir.list("gateway-counters-", ".json")?;
        names.retain(|name| *name != self.instance);
        Ok(names)
    }

    /// Writes this instance's file.
    pub(crate) fn write(&self, live: Counters) -> Result<(), GatewayError> {
        let file = CountersFile {
            format: COUNTERS_FORMAT,
            instance: self.instance.clone(),
            folded: self.folded.clone(),
            counters: self.total(live).without_gauges().bounded(
                KEPT_RELEASES,
                KEPT_REPLICAS,
                KEPT_ROUTES,
            ),
        };
        let bytes =
            serde_json::to_vec(&file).map_err(|error| GatewayError::protocol(error.to_string()))?;
        self.run_dir
            .write_atomic(&counters_file_name(&self.instance), &bytes, false)
    }

    /// Takes over the counts of gateways that are gone. `live` is what this one counted itself.
    pub(crate) fn fold_dead(&mut self, live: impl Fn() -> Counters) -> Result<(), GatewayError> {
        if self.others()?.is_empty() {
            return Ok(());
        }
        let _lock = self.run_dir.lock(FOLD_LOCK)?;
        let others = self.others()?;
        let dead: Vec<String> = others
            .iter()
            .filter(|name| !self.run_dir.is_held(&format!("gateway-{name}.lock")))
            .cloned()
            .collect();
        let mut settled: Vec<String> = self.folded.clone();
        for name in &others {
            settled.extend(
                CountersFile::read(&self.run_dir, name)
                    .map(|file| file.folded)
                    .unwrap_or_default(),
            );
        }
        let mut added = false;
        for name in &dead {
            if settled.contains(name) {
                continue;
            }
            if let Some(file) = CountersFile::read(&self.run_dir, name) {
                self.base.merge(&file.counters);
                self.base = std::mem::take(&mut self.base).bounded(
                    KEPT_RELEASES,
                    KEPT_REPLICAS,
                    KEPT_ROUTES,
                );
            }
            self.folded.push(name.clone());
            added = true;
        }
        if added {
            let excess = self.folded.len().saturating_sub(KEPT_FOLDED);
            self.folded.drain(..excess);
            self.write(live())?;
        }
        for name in &dead {
            self.run_dir.remove(&counters_file_name(name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Totals;

    fn counted(unrouted: u64) -> Counters {
        Counters {
            totals: Totals {
                unrouted,
                ..Totals::default()
            },
            ..Counters::default()
        }
    }

    fn unrouted(ledger: &Ledger) -> u64 {
        ledger.total(Counters::default()).totals.unrouted
    }

    #[test]
    fn a_dead_gateways_counts_move_to_the_living_once() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        Ledger::new(run.clone(), "old").write(counted(5)).unwrap();
        let mut new = Ledger::new(run.clone(), "new");
        new.fold_dead(Counters::default).unwrap();
        assert_eq!(unrouted(&new), 5);
        new.fold_dead(Counters::default).unwrap();
        assert_eq!(unrouted(&new), 5);
        assert!(new.others().unwrap().is_empty());
    }

    #[test]
    fn a_living_gateways_file_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        let held = run.create_held("gateway-old.lock").unwrap();
        Ledger::new(run.clone(), "old").write(counted(5)).unwrap();
        let mut new = Ledger::new(run.clone(), "new");
        new.fold_dead(Counters::default).unwrap();
        assert_eq!((unrouted(&new), new.others().unwrap().len()), (0, 1));
        drop(held);
        new.fold_dead(Counters::default).unwrap();
        assert_eq!(unrouted(&new), 5);
    }

    #[test]
    fn a_crash_between_taking_over_and_removing_counts_nothing_twice() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        Ledger::new(run.clone(), "old").write(counted(5)).unwrap();
        let leftover = fs::read(dir.path().join(counters_file_name("old"))).unwrap();
        let mut second = Ledger::new(run.clone(), "second");
        second.fold_dead(Counters::default).unwrap();
        fs::write(dir.path().join(counters_file_name("old")), leftover).unwrap();
        let mut third = Ledger::new(run.clone(), "third");
        third.fold_dead(Counters::default).unwrap();
        assert_eq!(unrouted(&third), 5);
        assert!(third.others().unwrap().is_empty());
    }

    #[test]
    fn a_damaged_file_is_dropped_without_harm() {
        let dir = tempfile::tempdir().unwrap();
        let run = RunDir::open(dir.path()).unwrap();
        fs::write(
            dir.path().join(counters_file_name("old")),
            b"{\"format\":1,",
        )
        .unwrap();
        let mut new = Ledger::new(run, "new");
        new.fold_dead(Counters::default).unwrap();
        assert_eq!(unrouted(&new), 0);
    }
}
