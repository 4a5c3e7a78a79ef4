//! What the HTTP API of Prometheus asks a store for, over head and blocks.

use std::sync::Arc;
use std::time::Duration;

use ondol_telemetry::series::{
    Buckets, CounterReset, Exemplar, Hints, Histogram, Labels, Matcher, Metadata, MetricKind,
    Operation, Samples, SeriesSource,
};
use ondol_telemetry::tsdb::{Tsdb, TsdbConfig};
use ondol_types::Clock;

use super::{NOW, clock, everything, going, labels, open, open_with};

fn three_in_a_block_and_one_in_the_head(store: &Tsdb) {
    for number in 0..4 {
        let mut appender = store.appender();
        let series = appender.series_of(&labels(number)).unwrap();
        appender.float(series, NOW - 1000 + number as i64, 0, number as f64);
        appender.commit().unwrap();
        if number == 2 {
            store.flush_now().unwrap();
        }
    }
}

#[test]
fn names_values_and_series_are_listed_with_limits() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    three_in_a_block_and_one_in_the_head(&store);
    let all = (i64::MIN, i64::MAX);
    let (names, cut) = store.label_names(&[], all.0, all.1, 10).unwrap();
    assert_eq!(
        (names, cut),
        (
            vec!["__name__".into(), "instance".into(), "job".into()],
            false
        )
    );
    let (values, cut) = store
        .label_values("instance", &[], all.0, all.1, 3)
        .unwrap();
    assert_eq!(
        (values, cut),
        (
            vec!["host-0".into(), "host-1".into(), "host-2".into()],
            true
        )
    );
    let odd = vec![Matcher::equal("job", "job-1")];
    let (values, _) = store
        .label_values("instance", std::slice::from_ref(&odd), all.0, all.1, 10)
        .unwrap();
    assert_eq!(values, ["host-1", "host-3"]);
    let (series, cut) = store.series(&[odd], all.0, all.1, 10).unwrap();
    assert_eq!((series, cut), (vec![labels(3), labels(1)], false));
    let (series, _) = store
        .series(
            &[vec![Matcher::new("job", Operation::Regex, ".+").unwrap()]],
            NOW - 999,
            NOW - 998,
            10,
        )
        .unwrap();
    assert_eq!(series, [labels(1), labels(2)]);
    let stats = store.stats(2);
    // Series stay in the head after a flush, for as long as they are not idle.
    assert_eq!((stats.series, stats.blocks, stats.head_samples), (4, 1, 1));
    assert_eq!(stats.top_metrics[0], ("metric_0".to_owned(), 2));
    assert_eq!(stats.top_labels[0], ("instance".to_owned(), 4));
    assert_eq!(stats.newest, Some(NOW - 997));
}

#[test]
fn a_histogram_that_goes_on_is_known_not_to_have_restarted() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let series_of = Labels::from_pairs([("__name__", "latency")]);
    let histogram = |count: f64| {
        Arc::new(Histogram {
            count,
            sum: count * 2.0,
            positive: Buckets::from_pairs([(0, count)]),
            ..Histogram::default()
        })
    };
    let mut appender = store.appender();
    let series = appender.series_of(&series_of).unwrap();
    for (at, count) in [1.0, 5.0, 7.0, 2.0, 3.0].into_iter().enumerate() {
        appender.histogram(series, NOW + at as i64 * 1000, 0, histogram(count));
    }
    assert_eq!(appender.commit().unwrap().histograms, 5);
    let hints = |store: &Tsdb| {
        let mut samples = Samples::default();
        let mut set = store
            .select(
                &[Matcher::equal("__name__", "latency")],
                0,
                i64::MAX,
                &Hints::default(),
            )
            .unwrap();
        assert_eq!(set.next(&mut samples).unwrap(), Some(series_of.clone()));
        assert!(set.next(&mut samples).unwrap().is_none());
        let counts: Vec<f64> = samples
            .histograms
            .values
            .iter()
            .map(|one| one.count)
            .collect();
        assert_eq!(counts, [1.0, 5.0, 7.0, 2.0, 3.0]);
        samples
            .histograms
            .values
            .iter()
            .map(|one| one.counter_reset)
            .collect::<Vec<_>>()
    };
    let expected = [
        CounterReset::Unknown,
        CounterReset::NotReset,
        CounterReset::NotReset,
        CounterReset::Unknown,
        CounterReset::NotReset,
    ];
    assert_eq!(hints(&store), expected);
    store.flush_now().unwrap();
    assert_eq!(hints(&store), expected);
    drop(store);
    assert_eq!(hints(&open(directory.path())), expected);
}

#[test]
fn exemplars_and_metadata_outlive_flushes_and_restarts() {
    let directory = tempfile::tempdir().unwrap();
    let config = TsdbConfig {
        max_exemplars: 3,
        ..TsdbConfig::default()
    };
    let store = open_with(directory.path(), config.clone(), going()).unwrap();
    let metadata = Metadata {
        kind: MetricKind::Counter,
        help: "Requests.".to_owned(),
        unit: String::new(),
    };
    for number in 0..5 {
        let mut appender = store.appender();
        let series = appender.series_of(&labels(0)).unwrap();
        appender.float(series, NOW + number, 0, 1.0);
        let exemplar = Exemplar {
            labels: Labels::from_pairs([("trace_id", number.to_string())]),
            value: 0.5,
            time: NOW + number,
        };
        appender.exemplar(series, exemplar.clone());
        appender.exemplar(series, exemplar);
        appender.metadata("metric_0", metadata.clone());
        assert_eq!(appender.commit().unwrap().exemplars, 1);
    }
    let traces = |store: &Tsdb| -> Vec<String> {
        store
            .exemplars(&[vec![Matcher::equal("job", "job-0")]], NOW, NOW + 100, 10)
            .iter()
            .map(|(_, exemplar)| exemplar.labels.get("trace_id").to_owned())
            .collect()
    };
    assert_eq!(traces(&store), ["4", "3", "2"]);
    store.flush_now().unwrap();
    drop(store);
    let store = open_with(directory.path(), config, going()).unwrap();
    assert_eq!(store.replayed().samples, 0);
    assert_eq!(traces(&store), ["4", "3", "2"]);
    assert_eq!(
        store.metadata(Some("metric_0"), 10),
        [("metric_0".to_owned(), metadata)]
    );
    assert!(
        store
            .exemplars(&[vec![Matcher::equal("job", "other")]], NOW, NOW + 100, 10)
            .is_empty()
    );
}

#[test]
fn idle_series_leave_the_head_old_blocks_the_disk_and_their_references_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let config = TsdbConfig {
        retention: Some(24 * 3_600_000),
        ..TsdbConfig::default()
    };
    let clock = clock();
    let store = Tsdb::open(directory.path(), config, clock.clone(), going()).unwrap();
    let mut appender = store.appender();
    let gone = appender.series_of(&labels(0)).unwrap();
    appender.float(gone, NOW, 0, 1.0);
    appender.commit().unwrap();
    clock.advance(Duration::from_secs(4 * 3600));
    assert_eq!(store.maintain().unwrap().flushed, 1);
    assert_eq!(store.maintain().unwrap().left, 1);
    assert_eq!(store.stats(1).series, 0);
    assert_eq!(everything(&store).len(), 1);
    let mut appender = store.appender();
    let other = appender.series_of(&labels(1)).unwrap();
    appender.float(gone, clock.now().as_millis(), 0, 2.0);
    appender.float(other, clock.now().as_millis(), 0, 3.0);
    let committed = appender.commit().unwrap();
    assert_eq!((committed.stored, committed.refused), (1, 1));
    clock.advance(Duration::from_secs(21 * 3600));
    let done = store.maintain().unwrap();
    assert_eq!((done.flushed, done.deleted), (1, 1));
    assert_eq!(
        everything(&store).into_keys().collect::<Vec<_>>(),
        [labels(1)]
    );
}

#[test]
fn many_appenders_beside_queries_flushes_and_merges_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let config = TsdbConfig {
        flush_samples: 2000,
        ..TsdbConfig::default()
    };
    let store = open_with(directory.path(), config.clone(), going()).unwrap();
    const THREADS: usize = 4;
    const ROUNDS: i64 = 60;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let mut appender = store.appender();
                    for number in 0..20 {
                        let series = appender.series_of(&labels(thread * 20 + number)).unwrap();
                        appender.float(series, NOW - 600_000 + round * 1000, 0, round as f64);
                    }
                    assert_eq!(appender.commit().unwrap().stored, 20);
                    // What was acknowledged is read, wherever it is just now.
                    let mine = Matcher::equal("instance", &format!("host-{}", thread * 20));
                    let found = super::selected(store, &[mine]);
                    let samples = found.values().next().unwrap();
                    assert_eq!(samples.len() as i64, round + 1);
                }
            });
        }
        let store = &store;
        scope.spawn(move || {
            for _ in 0..20 {
                store.maintain().unwrap();
                store.wait(Duration::from_millis(5));
            }
        });
    });
    let total = |store: &Tsdb| everything(store).values().map(Vec::len).sum::<usize>();
    assert_eq!(total(&store), THREADS * 20 * ROUNDS as usize);
    drop(store);
    let store = open_with(directory.path(), config, going()).unwrap();
    assert_eq!(total(&store), THREADS * 20 * ROUNDS as usize);
}
