//! Every query ends: at a ceiling whose offender is named, at its deadline, at its cancellation.

use std::time::Duration;

use ondol_telemetry::promql::{Cancel, Config, Engine, QueryError, QueryErrorKind};
use ondol_telemetry::series::{
    Hints, Labels, Matcher, Samples, SeriesSet, SeriesSource, SourceError,
};

/// A store with as many series as it is told, each with a sample per second.
struct Many {
    series: usize,
    seconds: i64,
}

struct Rest {
    left: usize,
    start: i64,
    end: i64,
}

impl SeriesSet for Rest {
    fn next(&mut self, samples: &mut Samples) -> Result<Option<Labels>, SourceError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        for second in self.start / 1000 + 1..=self.end / 1000 {
            samples.push_float(second * 1000, (second % 100) as f64);
        }
        Ok(Some(Labels::from_pairs([
            ("__name__", "many_total".to_owned()),
            ("series", self.left.to_string()),
        ])))
    }
}

impl SeriesSource for Many {
    fn select<'a>(
        &'a self,
        matchers: &[Matcher],
        start: i64,
        end: i64,
        _: &Hints,
    ) -> Result<Box<dyn SeriesSet + 'a>, SourceError> {
        if matchers.iter().any(|matcher| matcher.matches("broken")) {
            return Err(SourceError::Failed("the store is away".to_owned()));
        }
        Ok(Box::new(Rest {
            left: self.series,
            start: start.max(0),
            end: end.min(self.seconds * 1000),
        }))
    }
}

fn engine(change: impl Fn(&mut Config)) -> Engine {
    let mut config = Config {
        max_samples: 10_000,
        max_series: 50,
        ..Config::default()
    };
    change(&mut config);
    Engine::new(config)
}

fn instant(engine: &Engine, source: &Many, query: &str) -> Result<usize, QueryError> {
    engine
        .instant(source, query, 3_600_000, &Cancel::default())
        .map(|answer| answer.peak_samples)
}

const STORE: Many = Many {
    series: 20,
    seconds: 3600,
};

#[test]
fn too_many_samples_name_the_selector() {
    let error = instant(&engine(|_| {}), &STORE, "sum(rate(many_total[1d]))").unwrap();
    assert!(error <= 10_000);
    let tight = engine(|config| config.max_samples = 1000);
    let error = instant(&tight, &STORE, "1 + sum(rate(many_total[1h]))").unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("selector many_total")
            && text.contains("1000")
            && text.contains("max_samples"),
        "{text}"
    );
    assert_eq!(error.query_kind(), QueryErrorKind::Execution);
}

#[test]
fn an_aggregation_streams_its_series() {
    // Twenty series of 3600 samples pass through a limit of 10 000.
    let peak = instant(&engine(|_| {}), &STORE, "sum by (x) (rate(many_total[1h]))").unwrap();
    assert!(peak < 2 * 3600, "{peak}");
}

#[test]
fn too_many_series_name_the_selector() {
    let many = Many {
        series: 51,
        seconds: 10,
    };
    let error = instant(&engine(|_| {}), &many, "count(many_total)").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("many_total needs more than 50 series")
    );
}

#[test]
fn too_many_steps_are_refused_and_subqueries_are_counted() {
    let engine = engine(|_| {});
    let error = engine
        .range(&STORE, "up", 0, 315_360_000_000, 1000, &Cancel::default())
        .unwrap_err();
    assert_eq!(error.query_kind(), QueryErrorKind::BadData);
    assert!(error.to_string().contains("11000 points"));
    let error = instant(&engine, &STORE, "max_over_time(vector(1)[10y:1s])").unwrap_err();
    assert!(error.to_string().contains("subquery vector(1)[10y:1s]"));
    let error = instant(&engine, &STORE, "max_over_time(many_total[1h:1s])").unwrap_err();
    assert!(error.to_string().contains("max_samples"), "{error}");
}

#[test]
fn a_deadline_and_a_cancellation_end_a_query() {
    let timed = engine(|config| config.timeout = Duration::ZERO);
    let error = instant(&timed, &STORE, "sum(many_total)").unwrap_err();
    assert_eq!(error.query_kind(), QueryErrorKind::Timeout);
    let cancel = Cancel::default();
    cancel.cancel();
    let error = engine(|_| {})
        .instant(&STORE, "sum(many_total)", 0, &cancel)
        .unwrap_err();
    assert_eq!(error.query_kind(), QueryErrorKind::Canceled);
}

#[test]
fn a_store_that_fails_is_not_the_fault_of_the_query() {
    let error = instant(
        &engine(|_| {}),
        &STORE,
        "broken{x=\"broken\"} or {y=\"broken\"}",
    );
    assert_eq!(error.unwrap_err().query_kind(), QueryErrorKind::Internal);
}

#[test]
fn wrong_parameters_are_bad_data() {
    let engine = engine(|_| {});
    let cancel = Cancel::default();
    for (query, start, end, step) in [
        ("up", 10, 0, 1),
        ("up", 0, 10, 0),
        ("up[5m]", 0, 10, 1),
        ("\"text\"", 0, 10, 1),
        ("up(", 0, 10, 1),
        ("up", i64::MIN, i64::MAX, 1),
    ] {
        let error = engine
            .range(&STORE, query, start, end, step, &cancel)
            .unwrap_err();
        assert_eq!(error.query_kind(), QueryErrorKind::BadData, "{query}");
    }
}

#[test]
fn long_stretches_result_in_what_short_ones_do() {
    // The same stretches, folded anew at single times and slid along in a range.
    let engine = engine(|config| config.max_samples = 1_000_000);
    let cancel = Cancel::default();
    for function in [
        "sum_over_time(many_total[10m])",
        "avg_over_time(many_total[10m])",
        "min_over_time(many_total[10m])",
        "max_over_time(many_total[10m])",
        "stddev_over_time(many_total[10m])",
        "quantile_over_time(0.9, many_total[10m])",
        "rate(many_total[10m])",
        "resets(many_total[10m])",
        "changes(many_total[10m])",
    ] {
        let range = engine
            .range(&STORE, function, 600_000, 3_600_000, 7000, &cancel)
            .unwrap();
        let ondol_telemetry::promql::Value::Matrix(series) = range.value else {
            panic!("a matrix");
        };
        for series in series.iter().take(2) {
            for (time, value) in series.points.iter().step_by(40) {
                let single = engine.instant(&STORE, function, *time, &cancel).unwrap();
                let ondol_telemetry::promql::Value::Vector(samples) = single.value else {
                    panic!("a vector");
                };
                let ondol_telemetry::promql::Number::Float(slid) = value else {
                    panic!("a number");
                };
                let anew = samples
                    .iter()
                    .find(|sample| sample.labels == series.labels)
                    .map(|sample| sample.value.clone());
                let Some(ondol_telemetry::promql::Number::Float(anew)) = anew else {
                    panic!("a number");
                };
                assert!(
                    (slid - anew).abs() <= 1e-9 * anew.abs().max(1.0),
                    "{function}"
                );
            }
        }
    }
}

#[test]
fn the_deepest_query_that_is_read_is_also_evaluated() {
    let engine = engine(|_| {});
    let depth = engine.config().parse.depth - 3;
    for (open, close) in [
        ("(", ")"),
        ("-(", ")"),
        ("abs(", ")"),
        ("sum(", ")"),
        ("1 + (", ")"),
        ("vector(1) + (", ")"),
        ("max_over_time((", ")[1m:30s])"),
    ] {
        let times = match open {
            "(" | "abs(" | "sum(" => depth,
            "max_over_time((" => 8,
            _ => depth / 2,
        };
        let query = open.repeat(times) + "vector(1)" + &close.repeat(times);
        let outcome = engine.instant(&STORE, &query, 3_600_000, &Cancel::default());
        assert!(outcome.is_ok(), "{open}: {:?}", outcome.err());
    }
}
