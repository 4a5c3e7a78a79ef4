//! The text of a series: `name{label="value"}`, `{"name", "label"="value"}`.

use std::borrow::Cow;

use super::super::{MAX_LABEL_BYTES, MAX_LABELS};
use super::is_blank;
use crate::series::{Labels, LabelsBuilder, METRIC_NAME, valid_label_name, valid_metric_name};

/// Where the text of a series ends: behind its braces, or at the blank behind its name.
pub(super) fn series_end(line: &str) -> Result<usize, String> {
    let bytes = line.as_bytes();
    let name = bytes
        .iter()
        .position(|byte| matches!(byte, b'{' | b' ' | b'\t'))
        .unwrap_or(bytes.len());
    let open = name
        + bytes[name..]
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t'))
            .count();
    if bytes.get(open) != Some(&b'{') {
        return Ok(name);
    }
    let mut quoted = false;
    let mut at = open + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            b'}' if !quoted => return Ok(at + 1),
            _ => {}
        }
        at += 1;
    }
    Err("the braces are not closed".to_owned())
}

/// Where a text in quotes ends, the closing quote included.
pub(super) fn quoted_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 1,
            b'"' => return Some(at + 1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// A text with `\\`, `\"` and `\n` resolved. A backslash before anything else is a backslash.
pub(super) fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains('\\') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('n') => out.push('\n'),
            Some('\\') => out.push('\\'),
            Some('"') => out.push('"'),
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    Cow::Owned(out)
}

/// Name and labels of a series.
///
/// # Errors
/// What is wrong with the text.
pub fn series_labels(text: &str) -> Result<Labels, String> {
    let open = text.find('{').unwrap_or(text.len());
    let name = text[..open].trim_end_matches(is_blank);
    let mut builder = LabelsBuilder::default();
    if !name.is_empty() {
        if !valid_metric_name(name) {
            return Err(format!("invalid metric name {name:?}"));
        }
        builder.set(METRIC_NAME, name);
    }
    braces(&text[open..], &mut builder, true)?;
    if builder.get(METRIC_NAME).is_empty() {
        return Err("a sample has no name".to_owned());
    }
    Ok(builder.build())
}

/// The labels of an exemplar.
pub(super) fn exemplar_labels(text: &str) -> Result<Labels, String> {
    let mut builder = LabelsBuilder::default();
    braces(text, &mut builder, false)?;
    Ok(builder.build())
}

/// Reads `{…}` into the builder. A name alone in quotes is that of the metric.
fn braces(text: &str, builder: &mut LabelsBuilder, named: bool) -> Result<(), String> {
    let Some(inner) = text.strip_prefix('{') else {
        return Ok(());
    };
    let mut rest = inner
        .strip_suffix('}')
        .ok_or("the braces are not closed")?
        .trim_matches(is_blank);
    let mut names: Vec<Cow<'_, str>> = Vec::new();
    while !rest.is_empty() {
        let (name, quoted, after) = label_name(rest)?;
        let after = after.trim_start_matches(is_blank);
        rest = match after.strip_prefix('=') {
            Some(after) => {
                let (value, after) = label_value(after.trim_start_matches(is_blank))?;
                if name.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES {
                    return Err(format!("a label has more than {MAX_LABEL_BYTES} bytes"));
                }
                if names.len() >= MAX_LABELS {
                    return Err(format!("a series has more than {MAX_LABELS} labels"));
                }
                if names.contains(&name) || (name == METRIC_NAME && named) {
                    return Err(format!("the label {name:?} stands there twice"));
                }
                builder.set(&name, &value);
                names.push(name);
                after
            }
            None if quoted && named && builder.get(METRIC_NAME).is_empty() => {
                if name.is_empty() {
                    return Err("a metric has an empty name".to_owned());
                }
                builder.set(METRIC_NAME, &name);
                after
            }
            None => return Err(format!("the label {name:?} has no value")),
        };
        rest = rest.trim_start_matches(is_blank);
        if rest.is_empty() {
            break;
        }
        rest = rest
            .strip_prefix(',')
            .ok_or_else(|| "expected a comma between labels".to_owned())?
            .trim_start_matches(is_blank);
    }
    Ok(())
}

/// A name of a label, whether it is in quotes, and what follows it.
fn label_name(text: &str) -> Result<(Cow<'_, str>, bool, &str), String> {
    if text.starts_with('"') {
        let end = quoted_end(text).ok_or("a quote is not closed")?;
        return Ok((unescaped(&text[1..end - 1]), true, &text[end..]));
    }
    let end = text
        .bytes()
        .position(|byte| byte != b'_' && !byte.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    let name = &text[..end];
    if !valid_label_name(name) {
        return Err(format!("invalid label name {name:?}"));
    }
    Ok((Cow::Borrowed(name), false, &text[end..]))
}

fn label_value(text: &str) -> Result<(Cow<'_, str>, &str), String> {
    if !text.starts_with('"') {
        return Err("the value of a label needs quotes".to_owned());
    }
    let end = quoted_end(text).ok_or("a quote is not closed")?;
    Ok((unescaped(&text[1..end - 1]), &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_series_is_read() {
        for (text, shown) in [
            ("up", r#"{__name__="up"}"#),
            ("up{}", r#"{__name__="up"}"#),
            (r#"up {a="b",}"#, r#"{__name__="up", a="b"}"#),
            (r#"up{a="x\\y\"z\n"}"#, r#"{__name__="up", a="x\\y\"z\n"}"#),
            (
                r#"{"http.requests", "l.a"="b"}"#,
                r#"{__name__="http.requests", "l.a"="b"}"#,
            ),
            (r#"up{empty=""}"#, r#"{__name__="up"}"#),
        ] {
            assert_eq!(series_labels(text).unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_series_is_refused() {
        for text in [
            "",
            "{}",
            "1up",
            r#"up{a="b" c="d"}"#,
            r#"up{a="b",a="c"}"#,
            r#"up{a=b}"#,
            r#"up{"a"}"#,
            r#"up{__name__="other"}"#,
            r#"up{a}"#,
            r#"{"a", "b"}"#,
            r#"up{a="b"#,
        ] {
            assert!(series_labels(text).is_err(), "{text}");
        }
    }
}
