//! Parameters of a request: from its query, and from its body when that is a form.
//!
//! Times are Unix seconds or RFC 3339, durations seconds or `1h30m`. Texts of errors are those of
//! Prometheus, because clients show them.

use axum::extract::Request;
use http::{Method, header};
use http_body_util::{BodyExt, Limited};

use super::answer::ApiError;
use crate::promql::{ParseLimits, parse_duration, parse_selector};
use crate::series::Matcher;

/// Largest form and longest query of an address, in bytes.
const MAX_FORM: usize = 1 << 20;
/// Most parameters.
const MAX_PARAMS: usize = 2_000;
/// Times beyond this, in milliseconds, could overflow when durations are added.
const TIME_CEILING: i64 = 9_000_000_000_000_000;

/// Named values; those of the body stand before those of the address.
pub(super) struct Params(Vec<(String, String)>);

fn percent_decoded(text: &str, plus_is_space: bool) -> String {
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
            (b'+', _, _) if plus_is_space => {
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

/// A piece of a path with its percent signs resolved.
pub(super) fn decoded_path(path: &str) -> String {
    percent_decoded(path, false)
}

impl Params {
    pub(super) async fn read(request: Request) -> Result<Self, ApiError> {
        let mut found = Vec::new();
        let query = request.uri().query().unwrap_or("").to_owned();
        let form = request.method() == Method::POST
            && request
                .headers()
                .get(header::CONTENT_TYPE)
                .and_then(|value| value.to_str().ok())
                .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if form {
            let body = Limited::new(request.into_body(), MAX_FORM)
                .collect()
                .await
                .map_err(|error| ApiError::bad_data(format!("cannot read the form: {error}")))?
                .to_bytes();
            Self::add(&String::from_utf8_lossy(&body), &mut found)?;
        }
        Self::add(&query, &mut found)?;
        Ok(Self(found))
    }

    fn add(text: &str, into: &mut Vec<(String, String)>) -> Result<(), ApiError> {
        if text.len() > MAX_FORM || text.matches('&').count() + into.len() > MAX_PARAMS {
            return Err(ApiError::bad_data("there are too many parameters"));
        }
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            into.push((percent_decoded(name, true), percent_decoded(value, true)));
        }
        Ok(())
    }

    /// The first value, or the empty text.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map_or("", |(_, value)| value)
    }

    /// Every value.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// A time in milliseconds, `None` when it is absent.
    pub(super) fn time(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        parse_time(text).map(Some).ok_or_else(|| {
            ApiError::parameter(name, format!("cannot parse {text:?} to a valid timestamp"))
        })
    }

    /// A time that has to be there.
    pub(super) fn required_time(&self, name: &str) -> Result<i64, ApiError> {
        self.time(name)?
            .ok_or_else(|| ApiError::parameter(name, "cannot parse \"\" to a valid timestamp"))
    }

    /// A duration in milliseconds, `None` when it is absent.
    pub(super) fn duration(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        parse_length(text).map(Some).ok_or_else(|| {
            ApiError::parameter(name, format!("cannot parse {text:?} to a valid duration"))
        })
    }

    /// How many results are wanted at most; 0 and absent mean no limit.
    pub(super) fn limit(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        let limit: i64 = text.parse().map_err(|_| {
            ApiError::parameter(name, format!("cannot parse {text:?} to an integer"))
        })?;
        let limit = usize::try_from(limit)
            .map_err(|_| ApiError::parameter(name, "limit must be non-negative"))?;
        Ok((limit > 0).then_some(limit))
    }

    /// The sets of matchers of `match[]`.
    pub(super) fn matchers(&self, limits: ParseLimits) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let mut sets = Vec::new();
        for text in self.all("match[]") {
            let set = parse_selector(text, limits)
                .map_err(|error| ApiError::parameter("match[]", error))?;
            sets.push(set);
        }
        Ok(sets)
    }
}

/// A time in milliseconds.
fn parse_time(text: &str) -> Option<i64> {
    if let Some(seconds) = plain_number(text) {
        let milliseconds = (seconds * 1000.0).round();
        return (milliseconds.abs() <= TIME_CEILING as f64).then_some(milliseconds as i64);
    }
    match text {
        // The ends of time as clients of Prometheus write them.
        "-292273086-05-16T16:47:06Z" => return Some(-TIME_CEILING),
        "292277025-08-18T07:12:54.999999999Z" => return Some(TIME_CEILING),
        _ => {}
    }
    let moment: jiff::Timestamp = text.parse().ok()?;
    Some(moment.as_millisecond())
}

/// A duration in milliseconds.
fn parse_length(text: &str) -> Option<i64> {
    let milliseconds = match plain_number(text) {
        Some(seconds) => {
            let milliseconds = seconds * 1000.0;
            if milliseconds.abs() > TIME_CEILING as f64 {
                return None;
            }
            // What is shorter than a millisecond must not become nothing unnoticed.
            milliseconds.round() as i64
        }
        None => parse_duration(text)?,
    };
    (milliseconds.abs() <= TIME_CEILING).then_some(milliseconds)
}

/// A finite number; words such as `inf` are none.
fn plain_number(text: &str) -> Option<f64> {
    let plain = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    if !plain {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_durations_have_both_forms() {
        assert_eq!(parse_time("1600000000.123"), Some(1_600_000_000_123));
        assert_eq!(
            parse_time("2020-09-13T12:26:40.5Z"),
            Some(1_600_000_000_500)
        );
        assert_eq!(
            parse_time("2020-09-13T14:26:40+02:00"),
            Some(1_600_000_000_000)
        );
        assert_eq!(parse_time("-1.5e3"), Some(-1_500_000));
        for wrong in ["", "inf", "NaN", "now", "1e300", "2020-09-13"] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
        assert_eq!(parse_length("15"), Some(15_000));
        assert_eq!(parse_length("0.25"), Some(250));
        assert_eq!(parse_length("1h30m"), Some(5_400_000));
        assert_eq!(parse_length("90x"), None);
    }

    #[test]
    fn parameters_are_decoded() {
        let mut found = Vec::new();
        Params::add("query=sum%28x%29+%2B+1&match[]=a&match%5B%5D=b", &mut found).unwrap();
        let params = Params(found);
        assert_eq!(params.get("query"), "sum(x) + 1");
        assert_eq!(params.all("match[]").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(params.get("time"), "");
    }

    #[test]
    fn a_limit_is_a_count() {
        let params = |text: &str| Params(vec![("limit".to_owned(), text.to_owned())]);
        assert_eq!(params("0").limit("limit").unwrap(), None);
        assert_eq!(params("7").limit("limit").unwrap(), Some(7));
        assert!(params("-1").limit("limit").is_err());
        assert!(params("x").limit("limit").is_err());
    }
}
