//! Requests as exporters write them.

use super::*;
use crate::ingest::wire::Writer;

const SECOND: u64 = 1_000_000_000;

fn attribute(writer: &mut Writer, number: u32, key: &str, value: &str) {
    writer.message(number, |pair| {
        pair.bytes(1, key.as_bytes());
        pair.message(2, |any| any.bytes(1, value.as_bytes()));
    });
}

fn request(metric: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut request = Writer::default();
    request.message(1, |resource_metrics| {
        resource_metrics.message(1, |resource| {
            attribute(resource, 1, "service.name", "shop");
            attribute(resource, 1, "service.instance.id", "i-1");
            attribute(resource, 1, "host.name", "box");
        });
        resource_metrics.message(2, |scope| scope.message(2, metric));
    });
    request.0
}

fn sum(temporality: u64, start: u64, time: u64, value: f64) -> Vec<u8> {
    request(|metric| {
        metric.bytes(1, b"http.requests");
        metric.bytes(2, b"Requests.");
        metric.message(7, |sum| {
            sum.message(1, |point| {
                attribute(point, 7, "http.route", "/a");
                point.fixed(2, start * SECOND);
                point.fixed(3, time * SECOND);
                point.double(4, value);
            });
            sum.unsigned(2, temporality);
            sum.unsigned(3, 1);
        });
    })
}

fn read(bytes: &[u8], deltas: &Deltas) -> (Decoded, Staged) {
    decode(bytes, &Config::default(), deltas).unwrap()
}

#[test]
fn a_sum_becomes_a_counter_with_its_target() {
    let bytes = sum(2, 1, 10, 5.0);
    assert!(!has_deltas(&bytes).unwrap());
    let (found, _) = read(&bytes, &Deltas::default());
    let series: Vec<String> = found.batch.series.iter().map(ToString::to_string).collect();
    assert_eq!(
        series,
        [
            r#"{__name__="http_requests_total", http_route="/a", instance="i-1", job="shop"}"#,
            r#"{__name__="target_info", host_name="box", instance="i-1", job="shop"}"#,
        ]
    );
    assert_eq!(found.batch.floats[0].start, 1000);
    assert_eq!(found.batch.floats[1].time, 10_000);
    assert_eq!(found.batch.metadata[0].1.kind, MetricKind::Counter);
}

#[test]
fn deltas_add_up_and_keep_their_start() {
    let mut deltas = Deltas::default();
    let first = sum(1, 1, 10, 5.0);
    assert!(has_deltas(&first).unwrap());
    let (found, staged) = read(&first, &deltas);
    assert_eq!(found.batch.floats[0].value, 5.0);
    deltas.commit(staged);
    let (found, staged) = read(&sum(1, 10, 20, 2.0), &deltas);
    assert_eq!(found.batch.floats[0].value, 7.0);
    assert_eq!(found.batch.floats[0].start, 1000);
    deltas.commit(staged);
    let (found, _) = read(&first, &deltas);
    assert!(found.batch.floats.is_empty());
    assert_eq!(found.refused.refused[&Refusal::TooOld].0, 1);
}

#[test]
fn explicit_bounds_become_classic_buckets() {
    let bytes = request(|metric| {
        metric.bytes(1, b"rpc.duration");
        metric.bytes(3, b"s");
        metric.message(9, |histogram| {
            histogram.message(1, |point| {
                point.fixed(3, 10 * SECOND);
                point.fixed(4, 6);
                point.double(5, 9.5);
                point.packed_fixed(6, &[1, 2, 3]);
                point.packed_fixed(7, &[0.5f64.to_bits(), 1f64.to_bits()]);
                point.message(8, |exemplar| {
                    exemplar.fixed(2, 9 * SECOND);
                    exemplar.double(3, 0.7);
                    exemplar.bytes(5, &[0xab; 16]);
                });
            });
            histogram.unsigned(2, 2);
        });
    });
    let (found, _) = read(&bytes, &Deltas::default());
    let shown: Vec<(String, f64)> = found
        .batch
        .floats
        .iter()
        .map(|float| {
            let labels = &found.batch.series[float.series as usize];
            (
                format!("{}{}", labels.metric_name(), labels.get("le")),
                float.value,
            )
        })
        .collect();
    let expected = [
        ("rpc_duration_seconds_sum", 9.5),
        ("rpc_duration_seconds_count", 6.0),
        ("rpc_duration_seconds_bucket0.5", 1.0),
        ("rpc_duration_seconds_bucket1", 3.0),
        ("rpc_duration_seconds_bucket+Inf", 6.0),
        ("target_info", 1.0),
    ];
    assert_eq!(
        shown,
        expected.map(|(name, value)| (name.to_owned(), value))
    );
    let (series, exemplar) = &found.batch.exemplars[0];
    assert_eq!(found.batch.series[*series as usize].get("le"), "1");
    assert_eq!(exemplar.labels.get("trace_id"), "ab".repeat(16));
}

fn exponential(temporality: u64, scale: i64, time: u64) -> Vec<u8> {
    request(|metric| {
        metric.bytes(1, b"size");
        metric.message(10, |histogram| {
            histogram.message(1, |point| {
                point.fixed(3, time * SECOND);
                point.fixed(4, 7);
                point.double(5, 20.0);
                point.zigzag(6, scale);
                point.fixed(7, 1);
                point.message(8, |side| {
                    side.zigzag(1, -1);
                    side.packed(2, &[1, 2, 3]);
                });
            });
            histogram.unsigned(2, temporality);
        });
    })
}

#[test]
fn exponential_histograms_are_native() {
    let (found, _) = read(&exponential(2, 0, 10), &Deltas::default());
    let histogram = &found.batch.histograms[0].value;
    assert_eq!(histogram.schema, 0);
    assert_eq!(
        histogram.positive.iter().collect::<Vec<_>>(),
        [(0, 1.0), (1, 2.0), (2, 3.0)]
    );
    // Finer than the finest schema: two steps coarser.
    let (found, _) = read(&exponential(2, 10, 10), &Deltas::default());
    let histogram = &found.batch.histograms[0].value;
    assert_eq!(histogram.schema, 8);
    assert_eq!(
        histogram.positive.iter().collect::<Vec<_>>(),
        [(0, 1.0), (1, 5.0)]
    );
    let (found, _) = read(&exponential(2, -5, 10), &Deltas::default());
    assert!(found.batch.histograms.is_empty() && !found.refused.refused.is_empty());
}

#[test]
fn exponential_deltas_add_up() {
    let mut deltas = Deltas::default();
    let (_, staged) = read(&exponential(1, 0, 10), &deltas);
    deltas.commit(staged);
    let (found, _) = read(&exponential(1, 0, 20), &deltas);
    let histogram = &found.batch.histograms[0].value;
    assert_eq!((histogram.count, histogram.zero_count), (14.0, 2.0));
    assert_eq!(histogram.positive.counts(), [2.0, 4.0, 6.0]);
}

#[test]
fn labels_that_become_the_same_share_their_values() {
    let bytes = request(|metric| {
        metric.bytes(1, b"g");
        metric.message(5, |gauge| {
            gauge.message(1, |point| {
                attribute(point, 7, "a.b", "1");
                attribute(point, 7, "a_b", "2");
                point.fixed(3, SECOND);
                point.fixed(6, (-3i64) as u64);
            });
        });
    });
    let (found, _) = read(&bytes, &Deltas::default());
    assert_eq!(found.batch.series[0].get("a_b"), "1;2");
    assert_eq!(found.batch.floats[0].value, -3.0);
}

#[test]
fn what_has_no_temporality_or_no_value_is_told_apart() {
    let (found, _) = read(&sum(0, 1, 10, 5.0), &Deltas::default());
    assert!(found.batch.floats.is_empty() && found.refused.refused.len() == 1);
    let bytes = request(|metric| {
        metric.bytes(1, b"g");
        metric.message(5, |gauge| {
            gauge.message(1, |point| {
                point.fixed(3, SECOND);
                point.unsigned(8, 1);
            });
        });
    });
    let (found, _) = read(&bytes, &Deltas::default());
    assert_eq!(found.batch.floats[0].value.to_bits(), STALE_NAN);
}
