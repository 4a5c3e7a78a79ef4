//! A crash and a failure at every step that changes the disk.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ondol_telemetry::series::Labels;
use ondol_telemetry::tsdb::{Steps, Tsdb, TsdbConfig};

use super::{NOW, everything, going, labels, open_with};

/// What happens at the chosen step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// The process ends: everything in memory is gone.
    Crash,
    /// The disk is full, this once.
    Full,
    /// The disk is full from then on.
    StaysFull,
}

struct At {
    step: usize,
    what: What,
    seen: AtomicUsize,
}

impl Steps for At {
    fn before(&self, step: &'static str) -> io::Result<()> {
        let at = self.seen.fetch_add(1, Ordering::SeqCst);
        match self.what {
            // Without a word: the hook of panics is for tests that fail.
            What::Crash if at >= self.step => std::panic::resume_unwind(Box::new(step)),
            What::Full if at == self.step => Err(io::ErrorKind::StorageFull.into()),
            What::StaysFull if at >= self.step => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}

type Acknowledged = BTreeMap<Labels, BTreeMap<i64, u64>>;

fn config() -> TsdbConfig {
    TsdbConfig {
        out_of_order: 60_000,
        ..TsdbConfig::default()
    }
}

/// Appends, flushes and merges; notes what was acknowledged.
fn work(tsdb: &Tsdb, round: i64, acknowledged: &mut Acknowledged) -> usize {
    let mut failed = 0;
    for batch in 0..6i64 {
        let mut given = Vec::new();
        let mut appender = tsdb.appender();
        for number in 0..5 {
            let labels = labels(number);
            // Several windows, so that a flush writes several blocks.
            let hour = 3_600_000;
            let time = NOW - (3 - round) * 6 * hour + batch * hour + number as i64;
            let value = (round * 100 + batch * 10) as f64 + number as f64;
            let series = appender.series_of(&labels).unwrap();
            appender.float(series, time, 0, value);
            given.push((labels, time, value.to_bits()));
        }
        match appender.commit() {
            Ok(committed) => {
                assert_eq!(committed.refused, 0);
                for (labels, time, bits) in given {
                    acknowledged.entry(labels).or_default().insert(time, bits);
                }
            }
            Err(error) => {
                failed += 1;
                assert!(
                    error.is_disk_full() || error.to_string().contains("sync"),
                    "{error}"
                );
            }
        }
        if batch % 2 == 1 {
            failed += usize::from(tsdb.flush_now().is_err());
        }
    }
    failed + usize::from(tsdb.maintain().is_err())
}

/// Everything acknowledged is there, and nothing that was never given.
fn check(tsdb: &Tsdb, acknowledged: &Acknowledged, context: &str) {
    let found = everything(tsdb);
    for (labels, samples) in acknowledged {
        let stored: BTreeMap<i64, u64> = found.get(labels).into_iter().flatten().copied().collect();
        for (time, bits) in samples {
            assert_eq!(
                stored.get(time),
                Some(bits),
                "{context}: {labels} at {time}"
            );
        }
    }
    assert!(tsdb.stats(1).damage.is_empty(), "{context}");
}

fn at_every_step(what: What) {
    let mut step = 0;
    loop {
        let directory = tempfile::tempdir().unwrap();
        let mut acknowledged = Acknowledged::new();
        // A first life that goes well, so that there is something to lose.
        let store = open_with(directory.path(), config(), going()).unwrap();
        assert_eq!(work(&store, 0, &mut acknowledged), 0);
        drop(store);
        let steps = Arc::new(At {
            step,
            what,
            seen: AtomicUsize::new(0),
        });
        let context = format!("{what:?} at step {step}");
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let Ok(store) = open_with(directory.path(), config(), steps.clone()) else {
                return;
            };
            work(&store, 1, &mut acknowledged);
            // What was acknowledged can be read without a restart too.
            check(&store, &acknowledged, &context);
        }));
        if let Err(ended) = outcome {
            // A check that failed is no crash.
            assert!(
                ended.is::<&'static str>() && what == What::Crash,
                "{context}"
            );
        }
        let store = open_with(directory.path(), config(), going()).unwrap();
        check(&store, &acknowledged, &context);
        assert_eq!(work(&store, 2, &mut acknowledged), 0, "{context}");
        check(&store, &acknowledged, &context);
        drop(store);
        let store = open_with(directory.path(), config(), going()).unwrap();
        check(&store, &acknowledged, &context);
        let reached = steps.seen.load(Ordering::SeqCst);
        if reached <= step {
            assert!(step > 20, "only {step} steps");
            break;
        }
        step += 1;
    }
}

#[test]
fn a_crash_at_every_step_loses_nothing_acknowledged() {
    at_every_step(What::Crash);
}

#[test]
fn a_failure_at_every_step_loses_nothing_acknowledged() {
    at_every_step(What::Full);
}

#[test]
fn a_disk_that_stays_full_loses_nothing_acknowledged() {
    at_every_step(What::StaysFull);
}
