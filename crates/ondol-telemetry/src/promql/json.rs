//! Results as Prometheus' HTTP API writes them, without the envelope around `data`.
//!
//! Numbers are texts, so that `NaN` and infinities have a form; times are seconds with up to
//! three decimals. Text is appended to a buffer directly: a result of many series would be
//! several times as large as a tree of JSON values.

use std::fmt::Write as _;

use super::float::format_plain;
use super::value::{Answer, Number, Series, Value, VectorSample};
use crate::series::{Histogram, Labels};

/// Appends `{"resultType":…,"result":…}`.
pub fn write_data(answer: &Answer, out: &mut String) {
    let mut writer = DataWriter::default();
    while writer.write_more(answer, out) {}
    out.push('}');
}

/// Writes an answer piece by piece, so that a large one is never whole in memory as text.
#[derive(Debug, Default)]
pub struct DataWriter {
    begun: bool,
    next: usize,
}

impl DataWriter {
    /// Appends the next piece: what stands before the result, then one series at a time. Results
    /// in `false` when the result is complete; the object is still open then, for what else
    /// belongs into it.
    pub fn write_more(&mut self, answer: &Answer, out: &mut String) -> bool {
        if !self.begun {
            self.begun = true;
            out.push_str("{\"resultType\":\"");
            out.push_str(answer.value.type_name());
            out.push_str("\",\"result\":");
            match &answer.value {
                Value::Scalar { time, value } => write_pair(*time, &format_plain(*value), out),
                Value::String { time, value } => write_pair(*time, value, out),
                Value::Vector(_) | Value::Matrix(_) => {
                    out.push('[');
                    return true;
                }
            }
            return false;
        }
        let at = self.next;
        self.next += 1;
        let separate = |out: &mut String| {
            if at > 0 {
                out.push(',');
            }
        };
        match &answer.value {
            Value::Vector(samples) if at < samples.len() => {
                separate(out);
                write_sample(&samples[at], out);
                true
            }
            Value::Matrix(series) if at < series.len() => {
                separate(out);
                write_series(&series[at], out);
                true
            }
            Value::Vector(_) | Value::Matrix(_) => {
                out.push(']');
                false
            }
            Value::Scalar { .. } | Value::String { .. } => false,
        }
    }
}

fn write_sample(sample: &VectorSample, out: &mut String) {
    out.push_str("{\"metric\":");
    write_labels(&sample.labels, out);
    match &sample.value {
        Number::Float(value) => {
            out.push_str(",\"value\":");
            write_pair(sample.time, &format_plain(*value), out);
        }
        Number::Histogram(histogram) => {
            out.push_str(",\"histogram\":");
            write_histogram_pair(sample.time, histogram, out);
        }
    }
    out.push('}');
}

fn write_series(series: &Series, out: &mut String) {
    out.push_str("{\"metric\":");
    write_labels(&series.labels, out);
    let floats: Vec<(i64, f64)> = series
        .points
        .iter()
        .filter_map(|(time, value)| match value {
            Number::Float(value) => Some((*time, *value)),
            Number::Histogram(_) => None,
        })
        .collect();
    if !floats.is_empty() {
        out.push_str(",\"values\":");
        list(&floats, out, |(time, value), out| {
            write_pair(*time, &format_plain(*value), out);
        });
    }
    if floats.len() < series.points.len() {
        let histograms: Vec<(i64, &Histogram)> = series
            .points
            .iter()
            .filter_map(|(time, value)| match value {
                Number::Histogram(histogram) => Some((*time, histogram.as_ref())),
                Number::Float(_) => None,
            })
            .collect();
        out.push_str(",\"histograms\":");
        list(&histograms, out, |(time, histogram), out| {
            write_histogram_pair(*time, histogram, out);
        });
    }
    out.push('}');
}

/// Appends `,"warnings":[…]` and `,"infos":[…]`, each only when there are any.
pub fn write_annotations(answer: &Answer, query: &str, out: &mut String) {
    for (name, texts) in [
        ("warnings", answer.annotations.warnings(query)),
        ("infos", answer.annotations.infos(query)),
    ] {
        if texts.is_empty() {
            continue;
        }
        let _ = write!(out, ",\"{name}\":");
        list(&texts, out, |text, out| write_text(text, out));
    }
}

pub(crate) fn list<T>(items: &[T], out: &mut String, mut item: impl FnMut(&T, &mut String)) {
    out.push('[');
    for (at, value) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        item(value, out);
    }
    out.push(']');
}

pub(crate) fn write_labels(labels: &Labels, out: &mut String) {
    out.push('{');
    for (at, label) in labels.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(&label.name, out);
        out.push(':');
        write_text(&label.value, out);
    }
    out.push('}');
}

pub(crate) fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if (other as u32) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", other as u32);
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

pub(crate) fn write_time(milliseconds: i64, out: &mut String) {
    if milliseconds < 0 {
        out.push('-');
    }
    let size = milliseconds.unsigned_abs();
    let _ = write!(out, "{}", size / 1000);
    let fraction = size % 1000;
    if fraction > 0 {
        let digits = format!("{fraction:03}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
}

fn write_pair(time: i64, value: &str, out: &mut String) {
    out.push('[');
    write_time(time, out);
    out.push(',');
    write_text(value, out);
    out.push(']');
}

/// A histogram with its buckets as `[boundaries, lower, upper, count]`, where the boundaries say
/// which bounds are inside: 0 the upper, 1 the lower, 2 none, 3 both.
fn write_histogram_pair(time: i64, histogram: &Histogram, out: &mut String) {
    out.push('[');
    write_time(time, out);
    let _ = write!(
        out,
        ",{{\"count\":\"{}\",\"sum\":\"{}\"",
        format_plain(histogram.count),
        format_plain(histogram.sum)
    );
    let buckets: Vec<_> = histogram
        .all_buckets()
        .into_iter()
        .filter(|bucket| bucket.count != 0.0)
        .collect();
    if !buckets.is_empty() {
        out.push_str(",\"buckets\":");
        list(&buckets, out, |bucket, out| {
            let boundaries = match (bucket.lower_inclusive, bucket.upper_inclusive) {
                (false, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
            };
            let _ = write!(
                out,
                "[{boundaries},\"{}\",\"{}\",\"{}\"]",
                format_plain(bucket.lower),
                format_plain(bucket.upper),
                format_plain(bucket.count)
            );
        });
    }
    out.push_str("}]");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::annotations::Annotations;
    use super::*;
    use crate::series::Buckets;

    fn data(value: Value) -> String {
        let answer = Answer {
            value,
            annotations: Annotations::default(),
            peak_samples: 0,
            read_samples: 0,
        };
        let mut out = String::new();
        write_data(&answer, &mut out);
        assert!(
            serde_json::from_str::<serde_json::Value>(&out).is_ok(),
            "{out}"
        );
        out
    }

    #[test]
    fn results_are_written_as_prometheus_writes_them() {
        assert_eq!(
            data(Value::Scalar {
                time: 1_234_500,
                value: f64::NAN
            }),
            r#"{"resultType":"scalar","result":[1234.5,"NaN"]}"#
        );
        let labels = Labels::from_pairs([("__name__", "up"), ("path", "a\"b")]);
        assert_eq!(
            data(Value::Vector(vec![VectorSample {
                labels: labels.clone(),
                time: 1000,
                value: Number::Float(1.0),
            }])),
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","path":"a\"b"},"value":[1,"1"]}]}"#
        );
        let histogram = Histogram {
            count: 3.0,
            sum: 4.5,
            zero_threshold: 0.5,
            zero_count: 1.0,
            positive: Buckets::from_pairs([(1, 2.0)]),
            ..Histogram::default()
        };
        assert_eq!(
            data(Value::Matrix(vec![Series {
                labels,
                points: vec![
                    (1000, Number::Float(0.5)),
                    (2000, Number::Histogram(Arc::new(histogram)))
                ],
            }])),
            concat!(
                r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","path":"a\"b"},"#,
                r#""values":[[1,"0.5"]],"histograms":[[2,{"count":"3","sum":"4.5","#,
                r#""buckets":[[3,"-0.5","0.5","1"],[0,"1","2","2"]]}]]}]}"#
            )
        );
    }
}
