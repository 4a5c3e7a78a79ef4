//! Names of OpenTelemetry as names of Prometheus.

use crate::series::MetricKind;

/// How names are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Translation {
    /// Letters, digits and underscores alone, with unit and kind at the end.
    #[default]
    UnderscoresWithSuffixes,
    /// Letters, digits and underscores alone.
    Underscores,
    /// Any UTF-8, with unit and kind at the end.
    Utf8WithSuffixes,
    /// As it is.
    None,
}

impl Translation {
    fn escapes(self) -> bool {
        matches!(self, Self::UnderscoresWithSuffixes | Self::Underscores)
    }

    fn has_suffixes(self) -> bool {
        matches!(self, Self::UnderscoresWithSuffixes | Self::Utf8WithSuffixes)
    }

    /// The name of a label.
    pub(super) fn label(self, name: &str) -> String {
        if !self.escapes() {
            return name.to_owned();
        }
        let mut out: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
            .collect();
        if out.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert_str(0, "key_");
        } else if out.starts_with('_') && !out.starts_with("__") {
            out.insert_str(0, "key");
        }
        out
    }

    /// The name of a metric. `gauge` is whether the points are those of a gauge; a sum that is
    /// not monotonic is none.
    pub(super) fn metric(self, name: &str, unit: &str, kind: MetricKind, gauge: bool) -> String {
        if !self.escapes() {
            let mut out = name.to_owned();
            if self.has_suffixes() {
                for suffix in suffixes(unit, kind, gauge) {
                    let end = format!("_{suffix}");
                    // The kind stands last, whatever the name says.
                    if suffix == "total" || suffix == "ratio" {
                        out = out.strip_suffix(&end).unwrap_or(&out).to_owned() + &end;
                    } else if !out.ends_with(&end) && out != suffix {
                        out.push_str(&end);
                    }
                }
            }
            return out;
        }
        let mut tokens: Vec<String> = name
            .split(|c: char| !c.is_ascii_alphanumeric() && c != ':')
            .filter(|token| !token.is_empty())
            .map(str::to_owned)
            .collect();
        if self.has_suffixes() {
            for suffix in suffixes(unit, kind, gauge) {
                if suffix == "total" || suffix == "ratio" {
                    tokens.retain(|token| *token != suffix);
                    tokens.push(suffix);
                } else if !tokens.contains(&suffix) {
                    tokens.push(suffix);
                }
            }
        }
        let mut out = tokens.join("_");
        if out.starts_with(|c: char| c.is_ascii_digit()) {
            out.insert(0, '_');
        }
        out
    }
}

/// What stands behind the name: the unit, what it is per, and the kind.
fn suffixes(unit: &str, kind: MetricKind, gauge: bool) -> Vec<String> {
    let (main, per) = unit_parts(unit);
    let mut found = Vec::new();
    if !main.is_empty() {
        found.push(main);
    }
    if !per.is_empty() {
        found.push("per".to_owned());
        found.push(per);
        // Both words are one suffix.
        let per = found.split_off(found.len() - 2).join("_");
        found.push(per);
    }
    if kind == MetricKind::Counter {
        found.push("total".to_owned());
    }
    if gauge && unit.trim() == "1" {
        found.push("ratio".to_owned());
    }
    found
}

/// The unit in words, as it stands in names: `meters_per_second`.
pub(super) fn unit_words(unit: &str) -> String {
    match unit_parts(unit) {
        (main, per) if per.is_empty() => main,
        (main, per) if main.is_empty() => format!("per_{per}"),
        (main, per) => format!("{main}_per_{per}"),
    }
}

fn unit_parts(unit: &str) -> (String, String) {
    let (main, per) = unit.split_once('/').unwrap_or((unit, ""));
    (word(main, UNITS), word(per, PER_UNITS))
}

/// One unit in a word. What stands in braces is a remark and no unit.
fn word(unit: &str, known: &[(&str, &str)]) -> String {
    let unit = unit.trim();
    if unit.is_empty() || unit.contains(['{', '}']) {
        return String::new();
    }
    let word = known
        .iter()
        .find(|(short, _)| *short == unit)
        .map_or(unit, |(_, word)| word);
    let clean: String = word
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    clean
        .split('_')
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("_")
}

const UNITS: &[(&str, &str)] = &[
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];

const PER_UNITS: &[(&str, &str)] = &[
    ("s", "second"),
    ("m", "minute"),
    ("h", "hour"),
    ("d", "day"),
    ("w", "week"),
    ("mo", "month"),
    ("y", "year"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_metrics_get_unit_and_kind() {
        use MetricKind::{Counter, Gauge, Histogram};
        let name = |name, unit, kind, gauge| {
            Translation::UnderscoresWithSuffixes.metric(name, unit, kind, gauge)
        };
        assert_eq!(
            name("http.server.request.duration", "s", Histogram, false),
            "http_server_request_duration_seconds"
        );
        assert_eq!(name("requests", "1", Counter, false), "requests_total");
        assert_eq!(
            name("requests.total.seen", "", Counter, false),
            "requests_seen_total"
        );
        assert_eq!(
            name("system.io", "By", Counter, false),
            "system_io_bytes_total"
        );
        assert_eq!(
            name("memory.utilization", "1", Gauge, true),
            "memory_utilization_ratio"
        );
        assert_eq!(name("active", "{request}", Gauge, false), "active");
        assert_eq!(name("speed", "m/s", Gauge, true), "speed_meters_per_second");
        assert_eq!(name("rate", "{packet}/s", Gauge, true), "rate_per_second");
        assert_eq!(name("bytes.used", "By", Gauge, true), "bytes_used");
        assert_eq!(name("2xx", "", Gauge, true), "_2xx");
        assert_eq!(name("a..b__c", "", Gauge, true), "a_b_c");
        assert_eq!(name("...", "", Gauge, true), "");
        assert_eq!(
            Translation::Underscores.metric("a.b", "s", Counter, false),
            "a_b"
        );
        assert_eq!(
            Translation::Utf8WithSuffixes.metric("a.b", "s", Counter, false),
            "a.b_seconds_total"
        );
        assert_eq!(Translation::None.metric("a.b", "s", Counter, false), "a.b");
    }

    #[test]
    fn names_of_labels_are_made_valid() {
        let label = |name| Translation::default().label(name);
        assert_eq!(label("http.status_code"), "http_status_code");
        assert_eq!(label("2xx"), "key_2xx");
        assert_eq!(label("_x"), "key_x");
        assert_eq!(label("__x"), "__x");
        assert_eq!(Translation::None.label("a.b"), "a.b");
    }

    #[test]
    fn units_are_words() {
        assert_eq!(unit_words("By/s"), "bytes_per_second");
        assert_eq!(unit_words("1"), "");
        assert_eq!(unit_words("{call}"), "");
        assert_eq!(unit_words("foo.bar"), "foo_bar");
    }
}
