//! The notation of series: `name{label="value"} 1+2x3 _x4 stale {{schema:0 sum:1 count:1}}`.

use ondol_telemetry::promql::{ParseLimits, ast::Expr, parse};
use ondol_telemetry::series::{
    Buckets, CounterReset, Histogram, Labels, STALE_NAN, Span, histogram::Sum,
};

use super::store::Sample;

/// A value of the notation; `None` where a sample is left out. The flag says whether the hint
/// of a histogram was written down.
#[derive(Clone)]
pub(crate) struct Slot {
    pub(crate) sample: Option<Sample>,
    pub(crate) hint: bool,
}

/// A duration such as `1m30s`, with `0` for none, in milliseconds.
pub(crate) fn duration(text: &str) -> Result<i64, String> {
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let milliseconds = if body == "0" {
        0
    } else {
        match parse(body, ParseLimits::default()) {
            Ok(Expr::Number {
                value,
                duration: true,
                ..
            }) => (value * 1000.0).round() as i64,
            _ => return Err(format!("{text:?} is no duration")),
        }
    };
    Ok(if negative {
        -milliseconds
    } else {
        milliseconds
    })
}

/// The series before the values, and the rest of the line.
pub(crate) fn series(line: &str) -> Result<(Labels, &str), String> {
    let line = line.trim();
    let mut end = line
        .find(|c: char| c.is_whitespace() || c == '{')
        .unwrap_or(line.len());
    let name = &line[..end];
    let mut pairs: Vec<(String, String)> = Vec::new();
    if !name.is_empty() {
        pairs.push(("__name__".to_owned(), name.to_owned()));
    }
    let after = line[end..].trim_start();
    if after.starts_with('{') && !after.starts_with("{{") {
        let open = end + line[end..].find('{').unwrap_or(0);
        let mut quote: Option<char> = None;
        let mut escaped = false;
        let mut close = None;
        for (at, character) in line[open..].char_indices() {
            match quote {
                Some(_) if escaped => escaped = false,
                Some(_) if character == '\\' => escaped = true,
                Some(open) if character == open => quote = None,
                Some(_) => {}
                None if matches!(character, '"' | '\'' | '`') => quote = Some(character),
                None if character == '}' => {
                    close = Some(open + at);
                    break;
                }
                None => {}
            }
        }
        let close = close.ok_or("braces are not closed")?;
        let inside = &line[open + 1..close];
        if !inside.trim().is_empty() {
            // A matcher that is not empty makes any list of labels a selector.
            let selector = format!("{{{inside}, __test__=\"x\"}}");
            let selector = selector.replace(",,", ",").replace(", ,", ",");
            let matchers =
                ondol_telemetry::promql::parse_selector(&selector, ParseLimits::default())
                    .map_err(|error| format!("{selector}: {error}"))?;
            pairs.extend(
                matchers
                    .iter()
                    .filter(|matcher| matcher.name.as_ref() != "__test__")
                    .map(|matcher| (matcher.name.to_string(), matcher.value.to_string())),
            );
        }
        end = close + 1;
    }
    Ok((Labels::from_pairs(pairs), line[end..].trim()))
}

/// The values of a series.
pub(crate) fn values(text: &str) -> Result<Vec<Slot>, String> {
    let mut slots = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        rest = if rest.starts_with("{{") {
            histograms(rest, &mut slots)?
        } else {
            floats(rest, &mut slots)?
        }
        .trim_start();
    }
    Ok(slots)
}

fn slot(sample: Option<Sample>) -> Slot {
    Slot {
        sample,
        hint: false,
    }
}

fn times(text: &str) -> Result<(usize, &str), String> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let count = text[..end]
        .parse()
        .map_err(|_| format!("{text:?} has no count"))?;
    Ok((count, &text[end..]))
}

fn floats<'t>(text: &'t str, slots: &mut Vec<Slot>) -> Result<&'t str, String> {
    if let Some(rest) = text.strip_prefix('_') {
        let (count, rest) = match rest.strip_prefix('x') {
            Some(rest) => times(rest)?,
            None => (1, rest),
        };
        slots.extend(vec![slot(None); count]);
        return Ok(rest);
    }
    if let Some(rest) = text.strip_prefix("stale") {
        slots.push(slot(Some(Sample::Float(f64::from_bits(STALE_NAN)))));
        return Ok(rest);
    }
    let (mut value, mut rest) = number(text)?;
    let mut step = 0.0;
    if rest.starts_with(['+', '-']) {
        let sign = if rest.starts_with('-') { -1.0 } else { 1.0 };
        let (size, after) = number(&rest[1..])?;
        step = sign * size;
        rest = after;
    }
    let mut count = 0;
    if let Some(after) = rest.strip_prefix('x') {
        (count, rest) = times(after)?;
    }
    if !rest.is_empty() && !rest.starts_with(char::is_whitespace) {
        return Err(format!("{text:?} is no value"));
    }
    for _ in 0..=count {
        slots.push(slot(Some(Sample::Float(value))));
        value += step;
    }
    Ok(rest)
}

/// A number at the start of a text. `x` never belongs to it.
pub(crate) fn number(text: &str) -> Result<(f64, &str), String> {
    let sign = usize::from(text.starts_with(['+', '-']));
    let body = &text[sign..];
    let negative = text.starts_with('-');
    for (word, value) in [("inf", f64::INFINITY), ("nan", f64::NAN)] {
        if body.len() >= 3 && body.is_char_boundary(3) && body[..3].eq_ignore_ascii_case(word) {
            return Ok((if negative { -value } else { value }, &body[3..]));
        }
    }
    let bytes = body.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        let byte = bytes[end];
        let exponent_sign =
            matches!(byte, b'+' | b'-') && end > 0 && matches!(bytes[end - 1], b'e' | b'E');
        if byte.is_ascii_digit() || byte == b'.' || matches!(byte, b'e' | b'E') || exponent_sign {
            end += 1;
        } else {
            break;
        }
    }
    let value: f64 = body[..end]
        .parse()
        .map_err(|_| format!("{text:?} starts with no number"))?;
    Ok((if negative { -value } else { value }, &body[end..]))
}

fn histograms<'t>(text: &'t str, slots: &mut Vec<Slot>) -> Result<&'t str, String> {
    let (mut current, hint, mut rest) = histogram(text)?;
    let mut step: Option<(bool, Histogram)> = None;
    let mut hints = hint;
    if rest.starts_with("+{{") || rest.starts_with("-{{") {
        let subtract = rest.starts_with('-');
        let (increment, hint, after) = histogram(&rest[1..])?;
        hints |= hint;
        step = Some((subtract, increment));
        rest = after;
    }
    let mut count = 0;
    if let Some(after) = rest.strip_prefix('x') {
        (count, rest) = times(after)?;
    }
    for at in 0..=count {
        if let (true, Some((subtract, increment))) = (at > 0, &step) {
            let mut sum = Sum::from(&current);
            let added = if *subtract {
                sum.subtract(increment)
            } else {
                sum.add(increment)
            };
            added.map_err(|_| "histograms cannot be combined")?;
            current = sum.finish();
        }
        slots.push(Slot {
            sample: Some(Sample::Histogram(current.clone())),
            hint: hints,
        });
    }
    Ok(rest)
}

fn histogram(text: &str) -> Result<(Histogram, bool, &str), String> {
    let end = text.find("}}").ok_or("a histogram is not closed")?;
    let mut body = text[2..end].trim();
    let mut histogram = Histogram::default();
    let mut hint = false;
    let (mut offset, mut negative_offset) = (0, 0);
    let (mut positive, mut negative) = (Vec::new(), Vec::new());
    while !body.is_empty() {
        let colon = body
            .find(':')
            .ok_or_else(|| format!("{body:?} has no value"))?;
        let key = body[..colon].trim();
        let after = body[colon + 1..].trim_start();
        let (value, rest) = if let Some(list) = after.strip_prefix('[') {
            let close = list.find(']').ok_or("a list is not closed")?;
            (&list[..close], &list[close + 1..])
        } else {
            let stop = after.find(char::is_whitespace).unwrap_or(after.len());
            (&after[..stop], &after[stop..])
        };
        let list = || -> Result<Vec<f64>, String> {
            value
                .split_whitespace()
                .map(|item| number(item).map(|pair| pair.0))
                .collect()
        };
        match key {
            "schema" => histogram.schema = value.parse().map_err(|_| "bad schema")?,
            "sum" => histogram.sum = number(value)?.0,
            "count" => histogram.count = number(value)?.0,
            "z_bucket" => histogram.zero_count = number(value)?.0,
            "z_bucket_w" => histogram.zero_threshold = number(value)?.0,
            "offset" => offset = value.parse().map_err(|_| "bad offset")?,
            "n_offset" => negative_offset = value.parse().map_err(|_| "bad offset")?,
            "buckets" => positive = list()?,
            "n_buckets" => negative = list()?,
            "custom_values" => histogram.custom_values = list()?,
            "counter_reset_hint" => {
                hint = true;
                histogram.counter_reset = match value {
                    "gauge" => CounterReset::Gauge,
                    "reset" => CounterReset::Reset,
                    "not_reset" => CounterReset::NotReset,
                    _ => CounterReset::Unknown,
                };
            }
            _ => return Err(format!("a histogram has no {key:?}")),
        }
        body = rest.trim_start();
    }
    let side = |offset: i32, counts: Vec<f64>| {
        if counts.is_empty() {
            return Buckets::default();
        }
        Buckets::new(
            vec![Span {
                offset,
                length: counts.len() as u32,
            }],
            counts,
        )
    };
    histogram.positive = side(offset, positive);
    histogram.negative = side(negative_offset, negative);
    Ok((histogram, hint, &text[end + 2..]))
}

/// Offsets of start times, in milliseconds: `-1m`, `-30s-1mx2`, `_`.
pub(crate) fn starts(text: &str) -> Result<Vec<Option<i64>>, String> {
    let mut offsets = Vec::new();
    for item in text.split_whitespace() {
        if item == "_" {
            offsets.push(None);
            continue;
        }
        if let Some(count) = item.strip_prefix("_x") {
            offsets.extend(vec![None; times(count)?.0]);
            continue;
        }
        let (mut offset, mut rest) = signed(item)?;
        let mut step = 0;
        if rest.starts_with(['+', '-']) {
            (step, rest) = signed(rest)?;
        }
        let count = match rest.strip_prefix('x') {
            Some(count) => times(count)?.0,
            None => 0,
        };
        for _ in 0..=count {
            offsets.push(Some(offset));
            offset += step;
        }
    }
    Ok(offsets)
}

fn signed(text: &str) -> Result<(i64, &str), String> {
    let sign = usize::from(text.starts_with(['+', '-']));
    let body = &text[sign..];
    let end = body
        .find(|c: char| !c.is_ascii_alphanumeric() || c == 'x')
        .unwrap_or(body.len());
    let size = duration(&body[..end])?;
    Ok((
        if text.starts_with('-') { -size } else { size },
        &body[end..],
    ))
}
