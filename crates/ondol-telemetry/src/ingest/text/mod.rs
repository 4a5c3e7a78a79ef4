//! The text formats that targets answer in: Prometheus 0.0.4 and OpenMetrics 1.0.
//!
//! [`Lines`] reads one line after the other and leaves the text of a series as it stands, because
//! a scraper sees the same text every time and looks it up. [`series_labels`] reads that text.
//! [`collect`] makes a batch of an exposition.
//!
//! Names may be any UTF-8 text in quotes: `{"http.requests", "status.code"="200"} 1`.

mod collect;
mod series;

use std::borrow::Cow;

pub use collect::{Collected, Options, Resolve, collect, read};
pub use series::series_labels;

use super::IngestError;
use crate::series::{Labels, MetricKind};

/// Bytes of a line at most.
pub const MAX_LINE: usize = 256 << 10;
/// Characters of the labels of an exemplar at most; one with more is left out.
const MAX_EXEMPLAR: usize = 128;

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that a `Content-Type` names; text when it names none.
    #[must_use]
    pub fn of_content_type(value: &str) -> Self {
        let kind = value.split(';').next().unwrap_or("").trim();
        if kind.eq_ignore_ascii_case("application/openmetrics-text") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }
}

/// A line that says something.
#[derive(Clone, Debug, PartialEq)]
pub enum Line<'a> {
    /// `# TYPE`
    Type(Cow<'a, str>, MetricKind),
    /// `# HELP`
    Help(Cow<'a, str>, Cow<'a, str>),
    /// `# UNIT`
    Unit(Cow<'a, str>, &'a str),
    /// A sample.
    Sample(Sample<'a>),
}

/// A sample as it stands in its line.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<'a> {
    /// Name and labels, unread.
    pub series: &'a str,
    /// The value.
    pub value: f64,
    /// The time in milliseconds, when the line says one.
    pub time: Option<i64>,
    /// The exemplar of the line.
    pub exemplar: Option<ExemplarText>,
}

/// An exemplar as it stands in a line.
#[derive(Clone, Debug, PartialEq)]
pub struct ExemplarText {
    /// Its labels.
    pub labels: Labels,
    /// What was observed.
    pub value: f64,
    /// The time in milliseconds, when the line says one.
    pub time: Option<i64>,
}

/// Reads an exposition line by line. After an error there is nothing more.
pub struct Lines<'a> {
    rest: &'a str,
    format: Format,
    line: usize,
    /// `# EOF` was read, or an error.
    ended: bool,
}

impl<'a> Lines<'a> {
    /// The lines of a text.
    #[must_use]
    pub fn new(text: &'a str, format: Format) -> Self {
        Self {
            rest: text,
            format,
            line: 0,
            ended: false,
        }
    }

    /// The number of the line that was read last, counted from 1.
    #[must_use]
    pub fn number(&self) -> usize {
        self.line
    }

    fn step(&mut self) -> Result<Option<Line<'a>>, String> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if self.rest.is_empty() {
                self.ended = true;
                return match self.format {
                    Format::Prometheus => Ok(None),
                    Format::OpenMetrics => Err("data does not end with # EOF".to_owned()),
                };
            }
            self.line += 1;
            let (line, rest) = self.rest.split_once('\n').unwrap_or((self.rest, ""));
            self.rest = rest;
            if line.len() > MAX_LINE {
                return Err(format!("it has more than {MAX_LINE} bytes"));
            }
            let found = match self.format {
                Format::Prometheus => prometheus_line(line.strip_suffix('\r').unwrap_or(line))?,
                Format::OpenMetrics if line == "# EOF" => {
                    self.ended = true;
                    if !self.rest.is_empty() {
                        return Err("unexpected data after # EOF".to_owned());
                    }
                    return Ok(None);
                }
                Format::OpenMetrics => Some(open_metrics_line(line)?),
            };
            if found.is_some() {
                return Ok(found);
            }
        }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Result<Line<'a>, IngestError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step() {
            Ok(found) => found.map(Ok),
            Err(reason) => {
                self.ended = true;
                Some(Err(IngestError::Line {
                    line: self.line,
                    reason,
                }))
            }
        }
    }
}

fn is_blank(character: char) -> bool {
    character == ' ' || character == '\t'
}

fn prometheus_line(line: &str) -> Result<Option<Line<'_>>, String> {
    let line = line.trim_matches(is_blank);
    if line.is_empty() {
        return Ok(None);
    }
    if let Some(comment) = line.strip_prefix('#') {
        let comment = comment.trim_start_matches(is_blank);
        // A comment without one of the words is for people.
        let word = comment.split(is_blank).next().unwrap_or("");
        let rest = comment[word.len()..].trim_start_matches(is_blank);
        return match word {
            "TYPE" | "HELP" => about(word, rest).map(Some),
            _ => Ok(None),
        };
    }
    sample_line(line, Format::Prometheus).map(|sample| Some(Line::Sample(sample)))
}

fn open_metrics_line(line: &str) -> Result<Line<'_>, String> {
    if line.is_empty() {
        return Err("an empty line".to_owned());
    }
    if line.starts_with('#') {
        for word in ["TYPE", "HELP", "UNIT"] {
            let rest = line
                .strip_prefix("# ")
                .and_then(|rest| rest.strip_prefix(word))
                .and_then(|rest| rest.strip_prefix(' '));
            if let Some(rest) = rest {
                return about(word, rest);
            }
        }
        return Err("expected # TYPE, # HELP, # UNIT or # EOF".to_owned());
    }
    sample_line(line, Format::OpenMetrics).map(Line::Sample)
}

/// What `# TYPE`, `# HELP` and `# UNIT` say.
fn about<'a>(word: &str, rest: &'a str) -> Result<Line<'a>, String> {
    let (name, rest) = metric_name(rest)?;
    let text = rest.strip_prefix(is_blank).unwrap_or(rest);
    match word {
        "TYPE" => {
            let kind = text.trim_matches(is_blank);
            MetricKind::from_name(kind)
                .map(|kind| Line::Type(name, kind))
                .ok_or_else(|| format!("invalid metric type {kind:?}"))
        }
        "UNIT" => {
            if !text.is_empty() && !name.ends_with(&format!("_{text}")) && name != text {
                return Err(format!("unit {text:?} is not a suffix of metric {name:?}"));
            }
            Ok(Line::Unit(name, text))
        }
        _ => Ok(Line::Help(name, series::unescaped(text))),
    }
}

/// A name, in quotes or up to the next blank, and what follows it.
fn metric_name(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    if text.starts_with('"') {
        let end = series::quoted_end(text).ok_or("a quote is not closed")?;
        let name = series::unescaped(&text[1..end - 1]);
        return Ok((name, &text[end..]));
    }
    let end = text.find(is_blank).unwrap_or(text.len());
    if !crate::series::valid_metric_name(&text[..end]) {
        return Err(format!("invalid metric name {:?}", &text[..end]));
    }
    Ok((Cow::Borrowed(&text[..end]), &text[end..]))
}

/// The next word and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(is_blank);
    let end = text.find(is_blank).unwrap_or(text.len());
    (&text[..end], &text[end..])
}

fn number(text: &str) -> Result<f64, String> {
    // What Rust reads and the formats do not know.
    if text.eq_ignore_ascii_case("infinity") || text.is_empty() {
        return Err(format!("expected a number, got {text:?}"));
    }
    text.parse()
        .map_err(|_| format!("expected a number, got {text:?}"))
}

/// A time: milliseconds in text 0.0.4, seconds in OpenMetrics.
fn time(text: &str, format: Format) -> Result<i64, String> {
    let refuse = || format!("invalid timestamp {text:?}");
    match format {
        Format::Prometheus => text.parse().map_err(|_| refuse()),
        Format::OpenMetrics => {
            let milliseconds = number(text)? * 1000.0;
            if milliseconds.is_finite() && milliseconds.abs() < 9e15 {
                Ok(milliseconds.round() as i64)
            } else {
                Err(refuse())
            }
        }
    }
}

fn sample_line(line: &str, format: Format) -> Result<Sample<'_>, String> {
    let end = series::series_end(line)?;
    let series = line[..end].trim_end_matches(is_blank);
    let rest = &line[end..];
    if !rest.starts_with(is_blank) && !series.ends_with('}') {
        return Err("a value is missing".to_owned());
    }
    let (text, mut rest) = word(rest);
    let value = number(text)?;
    let mut at = None;
    let (next, after) = word(rest);
    if !next.is_empty() && next != "#" {
        at = Some(time(next, format)?);
        rest = after;
    }
    let tail = rest.trim_matches(is_blank);
    let exemplar = match tail.strip_prefix('#') {
        _ if tail.is_empty() => None,
        Some(text) if format == Format::OpenMetrics => exemplar(text.trim_start_matches(is_blank))?,
        _ => return Err(format!("unexpected text after the sample: {tail:?}")),
    };
    Ok(Sample {
        series,
        value,
        time: at,
        exemplar,
    })
}

/// `{labels} value [time]`; nothing when its labels are too long.
fn exemplar(text: &str) -> Result<Option<ExemplarText>, String> {
    if !text.starts_with('{') {
        return Err("expected the labels of an exemplar".to_owned());
    }
    let end = series::series_end(text)?;
    let labels = series::exemplar_labels(&text[..end])?;
    let (value, rest) = word(&text[end..]);
    let value = number(value)?;
    let (at, rest) = word(rest);
    let at = match at {
        "" => None,
        at => Some(time(at, Format::OpenMetrics)?),
    };
    if !rest.trim_matches(is_blank).is_empty() {
        return Err(format!("unexpected text after the exemplar: {rest:?}"));
    }
    let characters: usize = labels
        .iter()
        .map(|label| label.name.chars().count() + label.value.chars().count())
        .sum();
    Ok((characters <= MAX_EXEMPLAR).then_some(ExemplarText {
        labels,
        value,
        time: at,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str, format: Format) -> Result<Vec<Line<'_>>, IngestError> {
        Lines::new(text, format).collect()
    }

    #[test]
    fn text_is_read_with_its_liberties() {
        let text = "# HELP up Up\\n or \\\\ down\n# TYPE up gauge\n\n# a comment\n  up{job=\"a b\"}  1  1600000000000 \nplain NaN\r\nspaced { a = \"}\" , } +Inf\n";
        let found = lines(text, Format::Prometheus).unwrap();
        assert_eq!(found.len(), 5);
        assert_eq!(found[0], Line::Help("up".into(), "Up\n or \\ down".into()));
        assert_eq!(found[1], Line::Type("up".into(), MetricKind::Gauge));
        let Line::Sample(sample) = &found[2] else {
            panic!("a sample");
        };
        assert_eq!((sample.series, sample.value), ("up{job=\"a b\"}", 1.0));
        assert_eq!(sample.time, Some(1_600_000_000_000));
        let Line::Sample(sample) = &found[4] else {
            panic!("a sample");
        };
        assert_eq!(sample.series, "spaced { a = \"}\" , }");
        assert_eq!(sample.value, f64::INFINITY);
    }

    #[test]
    fn open_metrics_has_exemplars_units_and_an_end() {
        let text = "# TYPE latency_seconds histogram\n# UNIT latency_seconds seconds\nlatency_seconds_bucket{le=\"0.5\"} 3 1.5 # {trace_id=\"ab\"} 0.4 1.25\n# EOF\n";
        let found = lines(text, Format::OpenMetrics).unwrap();
        let Line::Sample(sample) = &found[2] else {
            panic!("a sample");
        };
        assert_eq!(sample.time, Some(1500));
        let exemplar = sample.exemplar.as_ref().unwrap();
        assert_eq!(exemplar.labels.get("trace_id"), "ab");
        assert_eq!((exemplar.value, exemplar.time), (0.4, Some(1250)));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, format) in [
            ("a 1\n", 1, Format::OpenMetrics),
            ("a 1\n# EOF\nb 2\n", 2, Format::OpenMetrics),
            ("a 1\n\n# EOF\n", 2, Format::OpenMetrics),
            ("# TYPE a_x unit\n# EOF\n", 1, Format::OpenMetrics),
            ("# UNIT a seconds\n# EOF\n", 1, Format::OpenMetrics),
            ("a 1\nb\n", 2, Format::Prometheus),
            ("a 1\nb x\n", 2, Format::Prometheus),
            ("a{b=\"c} 1\n", 1, Format::Prometheus),
            ("a 1 2 3\n", 1, Format::Prometheus),
            ("a 1 # {} 1\n", 1, Format::Prometheus),
            ("a{b=\"c\"}\n", 1, Format::Prometheus),
        ] {
            match lines(text, format) {
                Err(IngestError::Line { line: at, .. }) => assert_eq!(at, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn an_exemplar_that_is_too_long_is_left_out() {
        let long = "x".repeat(130);
        let text = format!("a_total 1 # {{trace_id=\"{long}\"}} 1\n# EOF\n");
        let found = lines(&text, Format::OpenMetrics).unwrap();
        assert!(matches!(&found[0], Line::Sample(sample) if sample.exemplar.is_none()));
    }
}
