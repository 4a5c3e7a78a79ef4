//! One value of a table.

use std::borrow::Cow;

/// A value as its format has it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// No value.
    Missing,
    /// A truth value.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// A number; may be infinite or NaN.
    Number(f64),
    /// Text that is typed as such.
    Text(&'a str),
    /// A date, `2026-01-31`.
    Date(&'a str),
    /// A moment, RFC 3339.
    Timestamp(&'a str),
    /// Text whose type is to be found, as CSV has it.
    Raw(&'a str),
}

impl Cell<'_> {
    /// Whether there is no value: an empty text of CSV and the words that pandas reads so.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Missing => true,
            Self::Number(number) => number.is_nan(),
            Self::Raw(text) => is_missing(text.trim()),
            _ => false,
        }
    }

    /// The value as people see it.
    pub fn shown(&self) -> Cow<'_, str> {
        match self {
            Self::Missing => Cow::Borrowed(""),
            Self::Boolean(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Integer(number) => Cow::Owned(number.to_string()),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Text(text) | Self::Date(text) | Self::Timestamp(text) | Self::Raw(text) => {
                Cow::Borrowed(text)
            }
        }
    }

    /// The value as a number, if it is one.
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Integer(number) => Some(*number as f64),
            Self::Number(number) => Some(*number).filter(|number| !number.is_nan()),
            Self::Raw(text) => parse_number(text.trim()),
            _ => None,
        }
    }
}

/// What stands for "no value" in text formats: the list that pandas uses.
pub(crate) fn is_missing(text: &str) -> bool {
    matches!(
        text,
        "" | "NA"
            | "N/A"
            | "n/a"
            | "#N/A"
            | "#NA"
            | "<NA>"
            | "NaN"
            | "nan"
            | "-NaN"
            | "-nan"
            | "NULL"
            | "null"
            | "None"
    )
}

/// The number that a text is, if it is one. Not `inf` and `nan`, which are words.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    if !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The truth value that a text is, if it is one.
pub(crate) fn parse_boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Whether a text is a date.
pub(crate) fn is_date(text: &str) -> bool {
    text.len() == 10 && text.as_bytes()[4] == b'-' && text.parse::<jiff::civil::Date>().is_ok()
}

/// Whether a text is a moment: RFC 3339, or the same without an offset or with a space.
pub(crate) fn is_timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() < 16 || bytes[4] != b'-' || !matches!(bytes[10], b'T' | b't' | b' ') {
        return false;
    }
    text.parse::<jiff::Timestamp>().is_ok() || text.parse::<jiff::civil::DateTime>().is_ok()
}
