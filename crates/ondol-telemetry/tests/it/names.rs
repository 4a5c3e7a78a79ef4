//! When the name of a metric goes: at the function that changes the metric, or at the end.

use ondol_telemetry::promql::{Cancel, Config, Engine, Value};
use ondol_telemetry::series::Labels;

use crate::promqltest::store::{Memory, Sample};

fn labels_of(delayed: bool, query: &str) -> Vec<String> {
    let mut memory = Memory::default();
    for (name, job) in [("a_total", "x"), ("b_total", "y")] {
        let labels = Labels::from_pairs([("__name__", name), ("job", job)]);
        for minute in 0..10 {
            memory.append(&labels, minute * 60_000, 0, Sample::Float(minute as f64));
        }
    }
    let engine = Engine::new(Config {
        delayed_name_removal: delayed,
        ..Config::default()
    });
    let answer = engine
        .instant(&memory, query, 540_000, &Cancel::default())
        .unwrap();
    let Value::Vector(samples) = answer.value else {
        panic!("a vector");
    };
    samples
        .into_iter()
        .map(|sample| sample.labels.to_string())
        .collect()
}

#[test]
fn a_function_drops_the_name_at_once_unless_that_is_delayed() {
    let renamed = r#"label_replace(rate({job=~".+"}[5m]), "was", "$1", "__name__", "(.+)_total")"#;
    assert_eq!(labels_of(false, renamed), [r#"{job="x"}"#, r#"{job="y"}"#]);
    assert_eq!(
        labels_of(true, renamed),
        [r#"{job="x", was="a"}"#, r#"{job="y", was="b"}"#]
    );
    assert_eq!(
        labels_of(false, r#"sum by (__name__) (rate({job=~".+"}[5m]))"#),
        ["{}"]
    );
    for delayed in [false, true] {
        assert_eq!(
            labels_of(delayed, r#"last_over_time(a_total[5m]) > 1"#),
            [r#"{__name__="a_total", job="x"}"#]
        );
        assert_eq!(labels_of(delayed, "a_total * 2"), [r#"{job="x"}"#]);
        assert_eq!(labels_of(delayed, "a_total > bool 2"), [r#"{job="x"}"#]);
        assert_eq!(
            labels_of(delayed, "a_total > bool on (job) a_total"),
            [r#"{job="x"}"#]
        );
    }
}
