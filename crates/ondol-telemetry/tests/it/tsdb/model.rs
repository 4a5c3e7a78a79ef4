//! The store against a map: any appends, flushes, merges and restarts leave the same samples.

use std::collections::BTreeMap;

use ondol_telemetry::series::{Labels, Matcher, Operation};
use ondol_telemetry::tsdb::{Tsdb, TsdbConfig};
use proptest::prelude::*;

use super::{NOW, everything, going, labels, open_with, selected};

#[derive(Clone, Debug)]
enum Act {
    /// Series, time before now, value; committed together.
    Append(Vec<(usize, i64, f64)>),
    Flush,
    Maintain,
    Restart,
}

const WINDOW: i64 = 2 * 60 * 60 * 1000;

fn act() -> impl Strategy<Value = Act> {
    let value = prop_oneof![
        (0i32..10_000).prop_map(|whole| f64::from(whole) / 100.0),
        any::<f64>(),
        Just(f64::from_bits(0x7ff0_0000_0000_0002)),
    ];
    let time = prop_oneof![0i64..600_000, 0i64..5 * WINDOW];
    prop_oneof![
        6 => prop::collection::vec((0usize..12, time, value), 1..60).prop_map(Act::Append),
        2 => Just(Act::Flush),
        2 => Just(Act::Maintain),
        1 => Just(Act::Restart),
    ]
}

#[derive(Default)]
struct Model {
    series: BTreeMap<Labels, BTreeMap<i64, u64>>,
}

impl Model {
    fn check(&self, tsdb: &Tsdb) {
        let found = everything(tsdb);
        let expected: BTreeMap<Labels, Vec<(i64, u64)>> = self
            .series
            .iter()
            .map(|(labels, samples)| {
                (
                    labels.clone(),
                    samples.iter().map(|(t, v)| (*t, *v)).collect(),
                )
            })
            .collect();
        assert_eq!(found, expected);
    }
}

fn run(acts: Vec<Act>) {
    let directory = tempfile::tempdir().unwrap();
    let config = TsdbConfig {
        // Everything is accepted, so that the model needs no rules of its own.
        out_of_order: 10 * WINDOW,
        ..TsdbConfig::default()
    };
    let mut tsdb = Some(open_with(directory.path(), config.clone(), going()).unwrap());
    let mut model = Model::default();
    for act in acts {
        let store = tsdb.as_ref().unwrap();
        match act {
            Act::Append(samples) => {
                let mut appender = store.appender();
                let mut given = 0;
                for (number, ago, value) in samples {
                    let labels = labels(number);
                    let time = NOW - ago;
                    let known = model.series.entry(labels.clone()).or_default();
                    // What was written first counts; a second value for a time may be refused or
                    // be passed over, so that none is given.
                    let bits = *known.entry(time).or_insert(value.to_bits());
                    let series = appender.series_of(&labels).unwrap();
                    appender.float(series, time, 0, f64::from_bits(bits));
                    given += 1;
                }
                let committed = appender.commit().unwrap();
                assert_eq!((committed.stored, committed.refused), (given, 0));
            }
            Act::Flush => {
                store.flush_now().unwrap();
            }
            Act::Maintain => {
                store.maintain().unwrap();
            }
            Act::Restart => {
                drop(tsdb.take());
                tsdb = Some(open_with(directory.path(), config.clone(), going()).unwrap());
            }
        }
    }
    let store = tsdb.as_ref().unwrap();
    model.check(store);
    for (name, operation, value) in [
        ("job", Operation::Equal, "job-1"),
        ("job", Operation::NotEqual, "job-1"),
        ("instance", Operation::Regex, "host-1.*|host-2"),
        ("instance", Operation::NotRegex, "host-(1|3|7)"),
        ("absent", Operation::Equal, ""),
    ] {
        let matcher = Matcher::new(name, operation, value).unwrap();
        let found: Vec<Labels> = selected(store, std::slice::from_ref(&matcher))
            .into_keys()
            .collect();
        let expected: Vec<Labels> = model
            .series
            .keys()
            .filter(|labels| matcher.matches_labels(labels))
            .cloned()
            .collect();
        assert_eq!(found, expected, "{matcher}");
    }
    assert!(store.stats(3).damage.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_course_of_events_leaves_the_samples(acts in prop::collection::vec(act(), 1..25)) {
        run(acts);
    }
}
