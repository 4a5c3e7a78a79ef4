//! Arguments of a request, from its query or its JSON body, read as leniently as the protocol's
//! own server does: numbers may be texts, one value may stand for a list of one.

use axum::body::Body;
use axum::extract::Request;
use http::Method;
use http_body_util::{BodyExt, Limited};
use serde_json::{Map, Value};

use crate::tracking::error::{Code, TrackingError, TrackingResult};
use crate::tracking::model::{Metric, Pair, ViewType};

/// Largest body in bytes: a dataset's profile may have 16 MB.
const MAX_BODY: usize = 32 << 20;
/// Largest batch in bytes.
const MAX_BATCH: usize = 1_000_000;
/// Longest query in bytes, and most values in it.
const MAX_QUERY: usize = 64 << 10;
const MAX_VALUES: usize = 2_000;

/// Named values.
pub(super) struct Args(Map<String, Value>);

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |at: usize| bytes.get(at).and_then(|&byte| (byte as char).to_digit(16));
        match (bytes[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (b'+', _, _) => {
                out.push(b' ');
                at += 1;
            }
            (byte, _, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A path whose percent signs are resolved; a plus is a plus there.
pub(super) fn decoded_path(path: &str) -> String {
    percent_decoded(&path.replace('+', "%2B"))
}

fn from_query(query: &str) -> TrackingResult<Map<String, Value>> {
    if query.len() > MAX_QUERY || query.matches('&').count() > MAX_VALUES {
        return Err(TrackingError::invalid("the query is too long"));
    }
    let mut found: Map<String, Value> = Map::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (percent_decoded(name), Value::String(percent_decoded(value)));
        match found.get_mut(&name) {
            None => {
                found.insert(name, value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Ok(found)
}

fn wrong(key: &str, value: &Value, what: &str) -> TrackingError {
    let shown: String = value.to_string().chars().take(100).collect();
    TrackingError::invalid(format!(
        "Invalid value {shown} for parameter '{key}' supplied: it must be {what}"
    ))
}

/// A text without zero characters, which no database keeps.
fn clean(key: &str, text: &str) -> TrackingResult<String> {
    if text.contains('\0') {
        return Err(TrackingError::invalid(format!(
            "Invalid value for parameter '{key}' supplied: it has a zero character"
        )));
    }
    Ok(text.to_owned())
}

impl Args {
    /// Reads the arguments of a request.
    pub(super) async fn read(request: Request<Body>, batch: bool) -> TrackingResult<Self> {
        let (parts, body) = request.into_parts();
        if parts.method == Method::GET || parts.method == Method::HEAD {
            return Ok(Self(from_query(parts.uri.query().unwrap_or(""))?));
        }
        let limit = if batch { MAX_BATCH } else { MAX_BODY };
        let bytes = match Limited::new(body, limit).collect().await {
            Ok(collected) => collected.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                let message = format!(
                    "Batched logging API requests must be at most {MAX_BATCH} bytes; others at most {MAX_BODY}"
                );
                let code = if batch {
                    Code::InvalidParameterValue
                } else {
                    Code::RequestTooLarge
                };
                return Err(TrackingError::refused(code, message));
            }
            Err(error) => return Err(TrackingError::Body(error.to_string())),
        };
        if bytes.is_empty() {
            return Ok(Self(from_query(parts.uri.query().unwrap_or(""))?));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(found)) => Ok(Self(found)),
            // Some clients send the object as a JSON text.
            Ok(Value::String(text)) => match serde_json::from_str(&text) {
                Ok(Value::Object(found)) => Ok(Self(found)),
                _ => Err(TrackingError::invalid(
                    "Malformed request body: it is no JSON object",
                )),
            },
            _ => Err(TrackingError::invalid(
                "Malformed request body: it is no JSON object",
            )),
        }
    }

    /// From an object within the arguments.
    fn of(value: &Value, key: &str) -> TrackingResult<Self> {
        match value {
            Value::Object(found) => Ok(Self(found.clone())),
            other => Err(wrong(key, other, "an object")),
        }
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// A text, if it is there.
    pub(super) fn text(&self, key: &str) -> TrackingResult<Option<String>> {
        match self.value(key) {
            None => Ok(None),
            Some(Value::String(text)) => clean(key, text).map(Some),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            // A parameter that stands in the query twice; clients send `run_id` and `run_uuid`.
            Some(Value::Array(values)) => match values.last() {
                Some(Value::String(text)) => clean(key, text).map(Some),
                _ => Err(wrong(key, &Value::Array(values.clone()), "a text")),
            },
            Some(other) => Err(wrong(key, other, "a text")),
        }
    }

    /// A text that must be there and not be empty.
    pub(super) fn required(&self, key: &str) -> TrackingResult<String> {
        self.text(key)?
            .filter(|text| !text.is_empty())
            .ok_or_else(|| {
                TrackingError::invalid(format!(
                    "Missing value for required parameter '{key}'. See the API docs for more information about request parameters."
                ))
            })
    }

    /// The run that is meant.
    pub(super) fn run_id(&self) -> TrackingResult<String> {
        match self.text("run_id")?.filter(|id| !id.is_empty()) {
            Some(id) => Ok(id),
            None => match self.text("run_uuid")?.filter(|id| !id.is_empty()) {
                Some(id) => Ok(id),
                None => self.required("run_id"),
            },
        }
    }

    /// A whole number, if it is there.
    pub(super) fn integer(&self, key: &str) -> TrackingResult<Option<i64>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::Number(number) => number.as_i64().or_else(|| {
                number
                    .as_f64()
                    .filter(|number| number.fract() == 0.0 && number.abs() < 9e15)
                    .map(|number| number as i64)
            }),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .map(Some)
            .ok_or_else(|| wrong(key, value, "a whole number"))
    }

    /// A number, if it is there; `NaN` and `Infinity` are texts.
    fn number(&self, key: &str) -> TrackingResult<Option<f64>> {
        let Some(value) = self.value(key) else {
            return Ok(None);
        };
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .map(Some)
            .ok_or_else(|| wrong(key, value, "a number"))
    }

    /// A flag; absent is no.
    pub(super) fn flag(&self, key: &str) -> TrackingResult<bool> {
        match self.value(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) => Ok(text.eq_ignore_ascii_case("true")),
            Some(other) => Err(wrong(key, other, "true or false")),
        }
    }

    fn list(&self, key: &str) -> Vec<&Value> {
        match self.value(key) {
            None => Vec::new(),
            Some(Value::Array(values)) => values.iter().collect(),
            Some(value) => vec![value],
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self, key: &str) -> TrackingResult<Vec<String>> {
        self.list(key)
            .into_iter()
            .map(|value| match value {
                Value::String(text) => clean(key, text),
                Value::Number(number) => Ok(number.to_string()),
                other => Err(wrong(key, other, "a text")),
            })
            .collect()
    }

    /// A list of objects.
    pub(super) fn objects(&self, key: &str) -> TrackingResult<Vec<Self>> {
        self.list(key)
            .into_iter()
            .map(|value| Self::of(value, key))
            .collect()
    }

    /// An object, if it is there.
    pub(super) fn object(&self, key: &str) -> TrackingResult<Option<Self>> {
        self.value(key)
            .map(|value| Self::of(value, key))
            .transpose()
    }

    /// A list of keys with values.
    pub(super) fn pairs(&self, key: &str) -> TrackingResult<Vec<Pair>> {
        self.objects(key)?.iter().map(Self::pair).collect()
    }

    /// `key` and `value` of these arguments.
    pub(super) fn pair(&self) -> TrackingResult<Pair> {
        Ok(Pair {
            key: self.required("key")?,
            value: self.text("value")?.unwrap_or_default(),
        })
    }

    /// A metric out of these arguments.
    pub(super) fn metric(&self) -> TrackingResult<Metric> {
        let missing = |key: &str| {
            TrackingError::invalid(format!(
                "Missing value for required parameter '{key}'. See the API docs for more information about request parameters."
            ))
        };
        let filled =
            |key: &str| Ok::<_, TrackingError>(self.text(key)?.filter(|text| !text.is_empty()));
        Ok(Metric {
            key: self.required("key")?,
            value: self.number("value")?.ok_or_else(|| missing("value"))?,
            timestamp: self
                .integer("timestamp")?
                .ok_or_else(|| missing("timestamp"))?,
            step: self.integer("step")?.unwrap_or(0),
            model_id: filled("model_id")?,
            dataset_name: filled("dataset_name")?,
            dataset_digest: filled("dataset_digest")?,
            run_id: None,
        })
    }

    /// How many things a page may have.
    pub(super) fn limit(&self, default: i64, most: i64) -> TrackingResult<i64> {
        let limit = self.integer("max_results")?.unwrap_or(default);
        if (1..=most).contains(&limit) {
            return Ok(limit);
        }
        Err(TrackingError::invalid(format!(
            "Invalid value {limit} for parameter 'max_results' supplied: it must be a positive integer of at most {most}"
        )))
    }

    /// Which stages are shown.
    pub(super) fn view(&self, key: &str) -> TrackingResult<ViewType> {
        Ok(match self.text(key)?.as_deref() {
            None | Some("" | "ACTIVE_ONLY" | "1") => ViewType::ActiveOnly,
            Some("DELETED_ONLY" | "2") => ViewType::DeletedOnly,
            Some("ALL" | "3") => ViewType::All,
            Some(other) => {
                return Err(TrackingError::invalid(format!(
                    "Invalid value \"{other}\" for parameter '{key}' supplied: it is no view type"
                )));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn args(value: Value) -> Args {
        Args::of(&value, "").unwrap()
    }

    #[test]
    fn numbers_may_be_texts() {
        let args = args(
            json!({ "a": "12", "b": 12, "c": 1.5, "d": "NaN", "e": "x", "f": null, "g": 3.0 }),
        );
        assert_eq!(args.integer("a").unwrap(), Some(12));
        assert_eq!(args.integer("b").unwrap(), Some(12));
        assert_eq!(args.integer("g").unwrap(), Some(3));
        assert!(args.integer("c").is_err());
        assert_eq!(args.number("c").unwrap(), Some(1.5));
        assert!(args.number("d").unwrap().unwrap().is_nan());
        assert!(args.number("e").is_err());
        assert_eq!(args.integer("f").unwrap(), None);
    }

    #[test]
    fn queries_repeat_names_for_lists() {
        let args = Args(from_query("run_ids=a&run_ids=b%20c&one=x+y&run_id=1&run_id=1").unwrap());
        assert_eq!(args.texts("run_ids").unwrap(), ["a", "b c"]);
        assert_eq!(args.texts("one").unwrap(), ["x y"]);
        assert_eq!(args.run_id().unwrap(), "1");
    }

    #[test]
    fn zero_characters_are_refused() {
        assert!(args(json!({ "a": "x\0" })).text("a").is_err());
    }

    #[test]
    fn paths_keep_their_plus() {
        assert_eq!(decoded_path("a+b%20c%2Fd"), "a+b c/d");
    }
}
