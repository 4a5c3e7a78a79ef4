//! Files that are not what was written: cut, changed, or full of anything.

use std::fs;
use std::path::{Path, PathBuf};

use ondol_telemetry::series::{Matcher, Operation};
use ondol_telemetry::tsdb::{Tsdb, TsdbConfig};

use super::{NOW, everything, going, labels, open, open_with, selected};

fn fill(tsdb: &Tsdb, first: i64, count: i64) {
    for at in first..first + count {
        let mut appender = tsdb.appender();
        for number in 0..4 {
            let series = appender.series_of(&labels(number)).unwrap();
            appender.float(series, NOW - 3_600_000 + at * 1000, 0, at as f64);
        }
        appender.commit().unwrap();
    }
}

fn files(directory: &Path, of: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory.join(of))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn total(tsdb: &Tsdb) -> usize {
    everything(tsdb).values().map(Vec::len).sum()
}

/// Reads every page of every block.
fn read_all(tsdb: &Tsdb) -> usize {
    for name in ["__name__", "instance", "job"] {
        let any = Matcher::new(name, Operation::Regex, ".+").unwrap();
        selected(tsdb, &[any]);
    }
    total(tsdb)
}

#[test]
fn a_torn_end_of_the_log_is_cut_at_any_byte() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 0, 3);
    drop(store);
    let log = files(directory.path(), "log").pop().unwrap();
    let whole = fs::read(&log).unwrap();
    for cut in (0..whole.len()).step_by(7) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("log")).unwrap();
        fs::write(directory.path().join("log/00000001.log"), &whole[..cut]).unwrap();
        let store = open(directory.path());
        assert!(store.stats(1).damage.is_empty(), "cut at {cut}");
        let before = total(&store);
        assert!(before.is_multiple_of(4), "cut at {cut}");
        fill(&store, 10, 1);
        drop(store);
        assert_eq!(total(&open(directory.path())), before + 4, "cut at {cut}");
    }
}

#[test]
fn damage_in_the_middle_of_the_log_is_named_and_the_rest_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 0, 10);
    drop(store);
    let log = files(directory.path(), "log").pop().unwrap();
    let mut bytes = fs::read(&log).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    fs::write(&log, bytes).unwrap();
    let store = open(directory.path());
    let damage = store.stats(1).damage;
    assert_eq!(damage.len(), 1);
    assert!(damage[0].contains("00000001.log"), "{damage:?}");
    assert_eq!(total(&store), 36);
    assert_eq!(files(directory.path(), "quarantine").len(), 1);
}

#[test]
fn a_damaged_block_is_set_aside_and_the_rest_serves() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    fill(&store, 0, 5);
    store.flush_now().unwrap();
    fill(&store, 5, 5);
    store.flush_now().unwrap();
    drop(store);
    let blocks = files(directory.path(), "blocks");
    assert_eq!(blocks.len(), 2);
    let whole = fs::read(&blocks[0]).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        fs::write(&blocks[0], &bytes).unwrap();
        let store = open(directory.path());
        // Found at the start or while reading, never by wrong samples.
        assert_eq!(read_all(&store), 20, "byte {at}");
        let damage = store.stats(1).damage;
        assert_eq!(damage.len(), 1, "byte {at}");
        let name = blocks[0]
            .file_name()
            .unwrap()
            .to_string_lossy()
            .into_owned();
        assert!(damage[0].contains(&name), "{damage:?}");
        assert!(!blocks[0].exists());
        assert_eq!(total(&store), 20);
        store.maintain().unwrap();
    }
    // Cut anywhere.
    for length in (0..whole.len()).step_by(13) {
        fs::write(&blocks[0], &whole[..length]).unwrap();
        let store = open(directory.path());
        assert_eq!(total(&store), 20, "length {length}");
    }
}

#[test]
fn a_damaged_block_does_not_hold_up_merging() {
    let directory = tempfile::tempdir().unwrap();
    let config = TsdbConfig {
        out_of_order: 0,
        ..TsdbConfig::default()
    };
    let store = open_with(directory.path(), config, going()).unwrap();
    for round in 0..5 {
        fill(&store, round * 5, 5);
        store.flush_now().unwrap();
    }
    let blocks = files(directory.path(), "blocks");
    let mut bytes = fs::read(&blocks[1]).unwrap();
    bytes[10] ^= 1;
    fs::write(&blocks[1], bytes).unwrap();
    store.maintain().unwrap();
    assert_eq!(store.stats(1).damage.len(), 1);
    assert_eq!(store.stats(1).blocks, 1);
    assert_eq!(total(&store), 80);
}

#[test]
fn a_second_process_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _store = open(directory.path());
    let refused = open_with(directory.path(), TsdbConfig::default(), going());
    assert!(refused.is_err_and(|error| error.to_string().contains("in use")));
}
