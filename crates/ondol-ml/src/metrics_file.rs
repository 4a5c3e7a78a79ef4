//! Metrics that a training command leaves in a file.
//!
//! A command of `train.run` gets these variables in its environment:
//!
//! | variable | what it is |
//! |---|---|
//! | `ONDOL_DATA_DIR` | folder with the files of the dataset version, to read from |
//! | `ONDOL_OUTPUT_DIR` | empty folder; every file in it when the command ends is the model |
//! | `ONDOL_METRICS_FILE` | where to write the metrics; without it, `metrics.json` in the output folder is read |
//! | `MLFLOW_TRACKING_URI` | the tracking address, for programs that log to MLflow |
//!
//! The file is a JSON object of numbers (`{"accuracy": 0.96, "val": {"loss": 0.1}}`; keys of
//! nested objects are joined by a dot) or lines of `name=value`. `NaN` and `Infinity` are read
//! as such, also bare in JSON as Python writes them, and make the gate refuse.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use crate::error::{MlError, MlResult};
use crate::gate::Metrics;

/// Largest metrics file in bytes.
pub const MAX_BYTES: u64 = 1 << 20;
/// Most metrics.
pub const MAX_METRICS: usize = 1_000;
/// Longest name of a metric.
pub const MAX_NAME: usize = 250;

/// The environment variables of a training command, in the order of the table above.
pub const DATA_DIR: &str = "ONDOL_DATA_DIR";
/// See [`DATA_DIR`].
pub const OUTPUT_DIR: &str = "ONDOL_OUTPUT_DIR";
/// See [`DATA_DIR`].
pub const METRICS_FILE: &str = "ONDOL_METRICS_FILE";
/// See [`DATA_DIR`].
pub const TRACKING_URI: &str = "MLFLOW_TRACKING_URI";

fn bad(what: impl Into<String>) -> MlError {
    MlError::MetricsFile(what.into())
}

/// Reads the metrics that a training left: in the file it was given, or else in `metrics.json`
/// in its output folder.
///
/// # Errors
/// [`MlError::MetricsFile`] when there is neither, and as [`read`].
pub fn find(metrics_file: &Path, output_dir: &Path) -> MlResult<Metrics> {
    for path in [metrics_file, &output_dir.join(crate::auto::METRICS_FILE)] {
        match read(path) {
            Err(MlError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
            outcome => return outcome,
        }
    }
    Err(bad("the training left none"))
}

/// Reads the metrics in a file.
///
/// # Errors
/// [`MlError::MetricsFile`] when it is too large or malformed, [`MlError::Io`] when it cannot be
/// read.
pub fn read(path: &Path) -> MlResult<Metrics> {
    let file = std::fs::File::open(path).map_err(|source| MlError::io("reading", path, source))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| MlError::io("reading", path, source))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(bad(format!("it is larger than {MAX_BYTES} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| bad("it is not UTF-8"))?;
    parse(text)
}

/// Reads metrics from text.
///
/// # Errors
/// [`MlError::MetricsFile`] when it is malformed.
pub fn parse(text: &str) -> MlResult<Metrics> {
    let text = text.trim_start_matches('\u{feff}').trim();
    let mut metrics = Metrics::new();
    if text.starts_with('{') {
        let quoted = quote_words(text);
        let object: serde_json::Map<String, Value> = serde_json::from_str(&quoted)
            .map_err(|error| bad(format!("it is not a JSON object: {error}")))?;
        for (name, value) in &object {
            flatten(name, value, &mut metrics)?;
        }
    } else {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = line.split_once('=').ok_or_else(|| {
                bad(format!(
                    "line {}: expected name=value, got `{}`",
                    index + 1,
                    cut(line)
                ))
            })?;
            let value = number(value.trim()).ok_or_else(|| {
                bad(format!(
                    "line {}: `{}` is not a number",
                    index + 1,
                    cut(value.trim())
                ))
            })?;
            insert(name.trim(), value, &mut metrics)?;
        }
    }
    Ok(metrics)
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}

fn number(text: &str) -> Option<f64> {
    match text {
        "NaN" | "nan" => Some(f64::NAN),
        "Infinity" | "inf" | "+inf" => Some(f64::INFINITY),
        "-Infinity" | "-inf" => Some(f64::NEG_INFINITY),
        other => crate::table::parse_number(other),
    }
}

fn insert(name: &str, value: f64, metrics: &mut BTreeMap<String, f64>) -> MlResult<()> {
    if name.is_empty() || name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
        return Err(bad(format!(
            "`{}` is not the name of a metric: 1 to {MAX_NAME} printable characters",
            cut(name)
        )));
    }
    if metrics.insert(name.to_owned(), value).is_some() {
        return Err(bad(format!("the metric `{}` stands twice", cut(name))));
    }
    if metrics.len() > MAX_METRICS {
        return Err(bad(format!("it has more than {MAX_METRICS} metrics")));
    }
    Ok(())
}

fn flatten(name: &str, value: &Value, metrics: &mut Metrics) -> MlResult<()> {
    match value {
        Value::Number(value) => insert(name, value.as_f64().unwrap_or(f64::NAN), metrics),
        Value::Bool(truth) => insert(name, f64::from(u8::from(*truth)), metrics),
        Value::Null => insert(name, f64::NAN, metrics),
        Value::String(text) => match number(text.trim()) {
            Some(value) => insert(name, value, metrics),
            None => Err(bad(format!(
                "`{}` is `{}`, not a number",
                cut(name),
                cut(text)
            ))),
        },
        Value::Object(object) => object.iter().try_for_each(|(key, value)| {
            let joined = format!("{name}.{key}");
            // A name that is already too long is refused before it can grow with the depth.
            if joined.len() > 4 * MAX_NAME {
                return Err(bad(format!("`{}…` is too long a name", cut(&joined))));
            }
            flatten(&joined, value, metrics)
        }),
        Value::Array(_) => Err(bad(format!("`{}` is a list, not a number", cut(name)))),
    }
}

/// Puts quotes around NaN and the infinities, which Python writes bare, outside of strings.
fn quote_words(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut inside = false;
    while let Some(c) = rest.chars().next() {
        if inside {
            let length = if c == '\\' {
                1 + rest[1..].chars().next().map_or(0, char::len_utf8)
            } else {
                c.len_utf8()
            };
            inside = c != '"';
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        let word = ["NaN", "-Infinity", "Infinity"]
            .into_iter()
            .find(|word| rest.starts_with(word));
        if let Some(word) = word {
            out.push('"');
            out.push_str(word);
            out.push('"');
            rest = &rest[word.len()..];
        } else {
            inside = c == '"';
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        let json = parse("{\"accuracy\": 0.5, \"val\": {\"loss\": 1e-3, \"deep\": {\"er\": 2}}, \"bad\": NaN, \"low\": -Infinity}").unwrap();
        let lines = parse("# made by train.py\naccuracy=0.5\nval.loss = 0.001\nval.deep.er=2\n\nbad=nan\nlow=-inf\n").unwrap();
        assert_eq!(format!("{json:?}"), format!("{lines:?}"));
        assert!(json["bad"].is_nan());
    }

    #[test]
    fn words_within_strings_are_left_alone() {
        let metrics = parse("{\"NaN \\\" Infinity\": 1}").unwrap();
        assert_eq!(metrics.keys().next().unwrap(), "NaN \" Infinity");
    }

    #[test]
    fn the_given_file_comes_before_the_one_in_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let given = folder.path().join("given");
        assert!(
            find(&given, folder.path())
                .unwrap_err()
                .to_string()
                .contains("left none")
        );
        std::fs::write(folder.path().join("metrics.json"), "{\"a\": 1}").unwrap();
        assert_eq!(find(&given, folder.path()).unwrap()["a"], 1.0);
        std::fs::write(&given, "a=2").unwrap();
        assert_eq!(find(&given, folder.path()).unwrap()["a"], 2.0);
    }

    #[test]
    fn errors_say_where() {
        for (text, words) in [
            ("accuracy 0.5", "line 1"),
            ("a=1\nb=x", "line 2: `x` is not a number"),
            ("a=1\na=2", "stands twice"),
            ("{\"a\": [1]}", "`a` is a list"),
            ("{\"a\": \"x\"}", "not a number"),
            ("{\"a\": 1", "not a JSON object"),
            ("=1", "not the name"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_metrics_or_an_error(text in "\\PC{0,80}", tail in "[{}\\\\\"a-zN:,0-9 ]{0,40}") {
            let _ = parse(&text);
            let _ = parse(&format!("{{{tail}"));
        }
    }
}
