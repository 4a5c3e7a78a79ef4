//! The test files over the store of series: what holds in memory holds in the head, in blocks,
//! and after a restart.

use std::sync::Arc;

use ondol_telemetry::promql::{Config, Engine};
use ondol_telemetry::series::{Labels, SeriesSource};
use ondol_telemetry::tsdb::{Going, Tsdb, TsdbConfig};
use ondol_types::{ManualClock, NoCrash, Timestamp};

use super::script;
use super::store::{Loaded, Memory, Sample};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    /// Samples stay in the head.
    Nothing,
    /// The store is opened again; every other time, samples went into blocks before, and blocks
    /// were merged.
    Restart,
}

struct Stored {
    directory: tempfile::TempDir,
    tsdb: Option<Tsdb>,
    pending: Vec<(Labels, i64, i64, Sample)>,
    after: After,
    loads: usize,
}

fn open(directory: &tempfile::TempDir) -> Tsdb {
    let config = TsdbConfig {
        retention: None,
        out_of_order: 0,
        ..TsdbConfig::default()
    };
    let clock = ManualClock::at(Timestamp::from_micros(i64::MAX / 2));
    let steps = Arc::new(Going(Arc::new(NoCrash)));
    Tsdb::open(directory.path(), config, Arc::new(clock), steps).unwrap()
}

impl Stored {
    fn new(after: After) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            tsdb: Some(open(&directory)),
            directory,
            pending: Vec::new(),
            after,
            loads: 0,
        }
    }
}

impl Loaded for Stored {
    fn clear(&mut self) {
        self.tsdb = None;
        self.directory = tempfile::tempdir().unwrap();
        self.tsdb = Some(open(&self.directory));
    }

    fn append(&mut self, labels: &Labels, time: i64, start: i64, sample: Sample) {
        self.pending.push((labels.clone(), time, start, sample));
    }

    fn loaded(&mut self) {
        let tsdb = self.tsdb.as_ref().unwrap();
        let mut appender = tsdb.appender();
        for (labels, time, start, sample) in self.pending.drain(..) {
            let series = appender.series_of(&labels).unwrap();
            match sample {
                Sample::Float(value) => appender.float(series, time, start, value),
                Sample::Histogram(value) => {
                    appender.histogram(series, time, start, Arc::new(value));
                }
            }
        }
        appender.commit().unwrap();
        self.loads += 1;
        if self.after == After::Restart {
            if self.loads.is_multiple_of(2) {
                tsdb.flush_now().unwrap();
                tsdb.maintain().unwrap();
            }
            self.tsdb = None;
            self.tsdb = Some(open(&self.directory));
        }
    }

    fn source(&self) -> &dyn SeriesSource {
        self.tsdb.as_ref().unwrap()
    }
}

fn what_holds_in_memory_holds(after: After) {
    let Some(files) = super::files() else {
        return;
    };
    let engine = Engine::new(Config {
        delayed_name_removal: true,
        ..Config::default()
    });
    let mut stored = Stored::new(after);
    let mut differing = Vec::new();
    let mut held = 0;
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let expected = script::run(&text, &engine, &mut Memory::default());
        let outcomes = script::run(&text, &engine, &mut stored);
        assert_eq!(expected.len(), outcomes.len());
        for (memory, store) in expected.into_iter().zip(outcomes) {
            held += usize::from(store.result.is_ok());
            if memory.result.is_ok()
                && let Err(reason) = store.result
            {
                let name = file.file_stem().unwrap().to_string_lossy().into_owned();
                differing.push(format!("{name}:{} {}: {reason}", store.line, store.query));
            }
        }
    }
    assert!(
        differing.is_empty(),
        "{after:?}: {held} held, {} did not:\n{}",
        differing.len(),
        differing.join("\n")
    );
}

#[test]
fn in_the_head() {
    what_holds_in_memory_holds(After::Nothing);
}

#[test]
fn in_blocks_and_after_a_restart() {
    what_holds_in_memory_holds(After::Restart);
}
