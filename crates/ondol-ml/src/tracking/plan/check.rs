//! Limits and forms of what is logged, as the protocol's reference server has them.

use crate::tracking::error::{Code, TrackingError, TrackingResult};
use crate::tracking::model::{Metric, Pair};

/// Most metrics in one batch.
pub(crate) const MAX_METRICS: usize = 1_000;
/// Most parameters and most tags in one batch.
pub(crate) const MAX_PAIRS: usize = 100;
/// Most of all together in one batch.
pub(crate) const MAX_ENTITIES: usize = 1_000;
/// Most datasets of one call.
pub(crate) const MAX_DATASETS: usize = 1_000;
/// Longest name of a metric, parameter or tag, in characters.
pub(crate) const MAX_KEY: usize = 250;
/// Longest value of a parameter; what is longer is cut.
pub(crate) const MAX_PARAM: usize = 6_000;
/// Longest value of a tag of a run; what is longer is cut.
pub(crate) const MAX_TAG: usize = 8_000;
/// Longest value of a tag of an experiment.
pub(crate) const MAX_EXPERIMENT_TAG: usize = 20_000;
/// Longest value of a tag of a registered model or version.
pub(crate) const MAX_MODEL_TAG: usize = 100_000;
/// Longest name of an experiment.
pub(crate) const MAX_EXPERIMENT: usize = 500;
/// Longest alias.
pub(crate) const MAX_ALIAS: usize = 255;

const BAD_CHARACTERS: &str = "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).";

/// Whether a name, read as a path, would be another one.
fn is_path_like(name: &str) -> bool {
    name.starts_with('/')
        || (name.is_empty() || name == "." || name.starts_with(".."))
        || name.contains("//")
        || name.ends_with('/')
        || name.split('/').any(|part| part == "." || part == "..")
}

/// The name of a metric, parameter or tag.
pub(crate) fn key(what: &str, name: &str) -> TrackingResult<()> {
    let fits = |c: char| c.is_alphanumeric() || "_/.-: ".contains(c);
    if !name.chars().all(fits) {
        return Err(TrackingError::invalid(format!(
            "Invalid value \"{}\" for parameter '{what}' supplied: {BAD_CHARACTERS}",
            shortened(name)
        )));
    }
    if is_path_like(name) {
        return Err(TrackingError::invalid(format!(
            "Invalid value \"{}\" for parameter '{what}' supplied: Names may be treated as files in certain cases, and must not resolve to other names when treated as such.",
            shortened(name)
        )));
    }
    length(what, name, MAX_KEY)
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

/// Refuses a text with more characters than `limit`.
pub(crate) fn length(what: &str, text: &str, limit: usize) -> TrackingResult<()> {
    if text.len() > limit && text.chars().count() > limit {
        return Err(TrackingError::invalid(format!(
            "'{what}' exceeds the maximum length of {limit} characters"
        )));
    }
    Ok(())
}

/// Cuts a text to `limit` characters.
pub(crate) fn cut(text: String, limit: usize) -> String {
    if text.len() <= limit {
        return text;
    }
    match text.char_indices().nth(limit) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

/// A parameter, its value cut.
pub(crate) fn param(pair: Pair) -> TrackingResult<Pair> {
    key("key", &pair.key)?;
    Ok(Pair {
        value: cut(pair.value, MAX_PARAM),
        ..pair
    })
}

/// A tag of a run, its value cut.
pub(crate) fn tag(pair: Pair) -> TrackingResult<Pair> {
    key("key", &pair.key)?;
    Ok(Pair {
        value: cut(pair.value, MAX_TAG),
        ..pair
    })
}

/// A metric; infinities become the greatest numbers there are.
pub(crate) fn metric(mut metric: Metric) -> TrackingResult<Metric> {
    key("name", &metric.key)?;
    if metric.timestamp < 0 {
        return Err(TrackingError::invalid(format!(
            "Invalid value {} for parameter 'timestamp' supplied: metric '{}' (value={}). Timestamp must be a nonnegative long (64-bit integer)",
            metric.timestamp, metric.key, metric.value
        )));
    }
    if metric.value.is_infinite() {
        metric.value = f64::MAX.copysign(metric.value);
    }
    Ok(metric)
}

/// The limits of one batch.
pub(crate) fn batch(metrics: usize, params: usize, tags: usize) -> TrackingResult<()> {
    for (what, count, limit) in [
        ("metrics", metrics, MAX_METRICS),
        ("params", params, MAX_PAIRS),
        ("tags", tags, MAX_PAIRS),
        (
            "metrics, params, and tags",
            metrics + params + tags,
            MAX_ENTITIES,
        ),
    ] {
        if count > limit {
            return Err(TrackingError::invalid(format!(
                "A batch logging request can contain at most {limit} {what}. Got {count} {what}. Please split up {what} across multiple requests and try again."
            )));
        }
    }
    Ok(())
}

/// The name of an experiment.
pub(crate) fn experiment_name(name: &str) -> TrackingResult<()> {
    if name.trim().is_empty() {
        return Err(TrackingError::invalid(format!(
            "Invalid experiment name: '{name}'. It must not be empty."
        )));
    }
    if name.contains('\0') {
        return Err(TrackingError::invalid(
            "Invalid experiment name: it has a zero character",
        ));
    }
    length("name", name, MAX_EXPERIMENT)
}

/// The name of a registered or logged model.
pub(crate) fn model_name(name: &str) -> TrackingResult<()> {
    if name.trim().is_empty() {
        return Err(TrackingError::invalid(
            "Registered model name cannot be empty.",
        ));
    }
    if name.contains(['/', ':', '\0']) {
        return Err(TrackingError::invalid(format!(
            "Invalid model name: '{}'. Model name must be a non-empty string and cannot contain forward slashes or colons",
            shortened(name)
        )));
    }
    length("name", name, MAX_KEY)
}

/// An alias of a version.
pub(crate) fn alias(alias: &str) -> TrackingResult<()> {
    let fits = |c: char| c.is_alphanumeric() || "_-".contains(c);
    let number = alias
        .strip_prefix(['v', 'V'])
        .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| c.is_ascii_digit()));
    let reserved = alias.eq_ignore_ascii_case("latest") || number;
    if alias.is_empty() || !alias.chars().all(fits) || reserved {
        return Err(TrackingError::invalid(format!(
            "Invalid alias name: '{}'. It holds letters, digits, underscores and dashes; `latest` and `v` with a number are reserved",
            shortened(alias)
        )));
    }
    length("alias", alias, MAX_ALIAS)
}

/// A path below an artifact folder: relative, without `..`, empty parts or control characters.
pub(crate) fn artifact_path(path: &str) -> TrackingResult<()> {
    let bad = path.len() > 1_024
        || path.chars().any(char::is_control)
        || path.contains('\\')
        || path
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..");
    if bad {
        return Err(TrackingError::refused(
            Code::InvalidParameterValue,
            "Invalid path",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_the_reference_does() {
        for good in [
            "a",
            "a/b",
            "val loss",
            "a.b-c_d:e",
            "한글",
            "..a".trim_start_matches('.'),
            "a..b",
        ] {
            assert!(key("key", good).is_ok(), "{good}");
        }
        for bad in [
            "", "a%b", "a\nb", "/a", "a/", "a//b", "../a", "a/../b", "./a", ".", "a=b",
        ] {
            assert!(key("key", bad).is_err(), "{bad}");
        }
        assert!(key("key", &"k".repeat(251)).is_err());
        assert!(key("key", &"한".repeat(250)).is_ok());
    }

    #[test]
    fn long_values_are_cut_by_characters() {
        assert_eq!(cut("한글입니다".to_owned(), 2), "한글");
        assert_eq!(cut("ab".to_owned(), 2), "ab");
    }

    #[test]
    fn infinities_are_clamped() {
        let at = |value| Metric {
            key: "a".to_owned(),
            value,
            timestamp: 0,
            step: 0,
            model_id: None,
            dataset_name: None,
            dataset_digest: None,
            run_id: None,
        };
        assert_eq!(metric(at(f64::INFINITY)).unwrap().value, f64::MAX);
        assert_eq!(metric(at(f64::NEG_INFINITY)).unwrap().value, f64::MIN);
        assert!(metric(at(f64::NAN)).unwrap().value.is_nan());
    }

    #[test]
    fn paths_stay_inside() {
        assert!(artifact_path("a/b.txt").is_ok());
        for bad in ["", "/a", "a//b", "../a", "a/..", "a\\b", "a\0"] {
            assert!(artifact_path(bad).is_err(), "{bad}");
        }
    }
}
