//! Ceilings name who is over them, and bad times and labels are refused one by one.

use ondol_telemetry::tsdb::{Reason, TsdbConfig, TsdbError};
use ondol_types::{Classified, ErrorKind};

use super::{NOW, everything, going, open, open_with};

#[test]
fn a_flood_of_label_sets_is_refused_and_named_while_the_others_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let config = TsdbConfig {
        max_series: 200,
        max_series_per_metric: 150,
        ..TsdbConfig::default()
    };
    let store = open_with(directory.path(), config, going()).unwrap();
    let mut appender = store.appender();
    let up = appender
        .series(&[("__name__", "up"), ("job", "calm")])
        .unwrap();
    let mut refused = 0;
    let mut last = None;
    for user in 0..5000 {
        let user = user.to_string();
        let labels = [
            ("__name__", "requests_total"),
            ("job", "shop"),
            ("user", user.as_str()),
        ];
        match appender.series(&labels) {
            Ok(series) => appender.float(series, NOW, 0, 1.0),
            Err(error) => {
                refused += 1;
                last = Some(error);
            }
        }
    }
    appender.float(up, NOW, 0, 1.0);
    let committed = appender.commit().unwrap();
    assert_eq!((committed.stored, refused), (151, 4850));
    let error = last.unwrap();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    let text = error.to_string();
    assert!(
        text.contains("150")
            && text.contains("metric requests_total with 150")
            && text.contains("job shop"),
        "{text}"
    );
    // The ceiling of the store is reached by other metrics.
    let mut appender = store.appender();
    let mut made = 0;
    for number in 0..100 {
        let name = format!("other_{number}");
        match appender.series(&[("__name__", name.as_str())]) {
            Ok(_) => made += 1,
            Err(TsdbError::TooManySeries { limit, scope, .. }) => {
                assert_eq!((limit, scope), (200, "of the store"));
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(made, 49);
    // A known series is not refused at the ceiling.
    appender
        .series(&[("__name__", "up"), ("job", "calm")])
        .unwrap();
}

#[test]
fn labels_over_a_ceiling_name_the_series_and_the_label() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut appender = store.appender();
    let long = "x".repeat(5000);
    let names: Vec<String> = (0..70).map(|number| format!("l{number:02}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
    for (labels, what) in [
        (vec![("__name__", "up"), ("path", long.as_str())], "4096"),
        (vec![("__name__", "up"), (long.as_str(), "v")], "512"),
        (vec![("__name__", "up"), ("b", "1"), ("a", "1")], "twice"),
        (vec![("__name__", "up"), ("a", "")], "empty"),
        (vec![], "no labels"),
        (many, "70 labels"),
    ] {
        let error = appender.series(&labels).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn times_that_cannot_be_are_refused_one_by_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut appender = store.appender();
    let series = appender.series(&[("__name__", "up")]).unwrap();
    appender.float(series, NOW, 0, 1.0);
    appender.float(series, NOW, 0, 1.0);
    appender.float(series, NOW, 0, 2.0);
    appender.float(series, NOW + 3_600_000, 0, 3.0);
    appender.float(series, NOW - 3_600_000, 0, 3.0);
    appender.float(series, i64::MIN, 0, 3.0);
    appender.float(series, i64::MAX, 0, 3.0);
    appender.float(series, NOW - 60_000, 0, 4.0);
    let committed = appender.commit().unwrap();
    let reasons: Vec<Reason> = committed
        .refusals
        .iter()
        .map(|refusal| refusal.reason)
        .collect();
    assert_eq!(
        reasons,
        [
            Reason::Duplicate,
            Reason::TooNew,
            Reason::TooOld,
            Reason::TooOld,
            Reason::TooNew
        ]
    );
    assert_eq!(
        (committed.stored, committed.late, committed.refused),
        (3, 1, 5)
    );
    assert_eq!(committed.refusals[0].metric, "up");
    assert_eq!(
        everything(&store).into_values().next().unwrap(),
        [(NOW - 60_000, 4f64.to_bits()), (NOW, 1f64.to_bits())]
    );
}
