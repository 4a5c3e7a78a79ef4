//! Cuts a query into tokens.
//!
//! Never panics, whatever the text is, and never makes more tokens than the text has bytes.

use super::ast::Range;
use super::error::ParseError;

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    /// A name or a word of the language.
    Ident,
    /// A number.
    Number(f64),
    /// A duration, in milliseconds.
    Duration(i64),
    /// A text: its value, and how it is shown when it is no valid UTF-8.
    Text(String, Option<String>),
    /// Anything else that is written with signs.
    Sign(&'static str),
    /// The end of the query.
    End,
}

/// A token and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) range: Range,
}

/// Signs, longer ones before their beginnings.
const SIGNS: [&str; 27] = [
    "==", "=~", "!=", "!~", "<=", ">=", "</", ">/", "=", "<", ">", "+", "-", "*", "/", "%", "^",
    "(", ")", "{", "}", "[", "]", ",", "@", ":", ";",
];

pub(super) fn tokens(query: &str) -> Result<Vec<Token>, ParseError> {
    let mut lexer = Lexer {
        query,
        at: 0,
        brackets: 0,
    };
    let mut tokens = Vec::new();
    loop {
        let token = lexer.next()?;
        let end = token.kind == Kind::End;
        tokens.push(token);
        if end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    query: &'a str,
    at: usize,
    /// Inside square brackets a colon stands alone; elsewhere it belongs to names.
    brackets: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        &self.query[self.at..]
    }

    fn token(&self, start: usize, kind: Kind) -> Token {
        Token {
            kind,
            range: Range {
                start,
                end: self.at,
            },
        }
    }

    fn error(&self, start: usize, message: impl Into<String>) -> ParseError {
        ParseError::new(
            self.query,
            Range {
                start,
                end: self.at.max(start),
            },
            message,
        )
    }

    fn next(&mut self) -> Result<Token, ParseError> {
        loop {
            let query = self.query;
            let rest = &query[self.at..];
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with('#') {
                break;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
        let start = self.at;
        let Some(first) = self.rest().chars().next() else {
            return Ok(self.token(start, Kind::End));
        };
        let second = self.rest().as_bytes().get(1).copied();
        if first.is_ascii_digit() || (first == '.' && second.is_some_and(|b| b.is_ascii_digit())) {
            return self.number(start);
        }
        if first.is_ascii_alphabetic() || first == '_' || (first == ':' && self.brackets == 0) {
            let colon = self.brackets == 0;
            let length = self
                .rest()
                .bytes()
                .take_while(|byte| {
                    byte.is_ascii_alphanumeric() || *byte == b'_' || (colon && *byte == b':')
                })
                .count();
            self.at += length;
            let word = &self.query[start..self.at];
            let kind = if word.eq_ignore_ascii_case("inf") {
                Kind::Number(f64::INFINITY)
            } else if word.eq_ignore_ascii_case("nan") {
                Kind::Number(f64::NAN)
            } else {
                Kind::Ident
            };
            return Ok(self.token(start, kind));
        }
        match first {
            '"' | '\'' => return self.quoted(start, first as u8),
            '`' => {
                let body = &self.rest()[1..];
                let Some(length) = body.find('`') else {
                    self.at = self.query.len();
                    return Err(self.error(start, "unterminated raw string"));
                };
                let value = body[..length].to_owned();
                self.at += length + 2;
                return Ok(self.token(start, Kind::Text(value, None)));
            }
            _ => {}
        }
        let rest = self.rest();
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(*sign)) {
            self.at += sign.len();
            match *sign {
                "[" => self.brackets += 1,
                "]" => self.brackets = self.brackets.saturating_sub(1),
                _ => {}
            }
            return Ok(self.token(start, Kind::Sign(sign)));
        }
        self.at += first.len_utf8();
        Err(self.error(start, format!("unexpected character: {first:?}")))
    }

    /// A number such as `1`, `.5`, `1e3`, `0x1f`, `1_000`, or a duration such as `1h30m`.
    fn number(&mut self, start: usize) -> Result<Token, ParseError> {
        let bytes = self.query.as_bytes();
        let digits = |mut at: usize, test: fn(&u8) -> bool| {
            while bytes
                .get(at)
                .is_some_and(|byte| test(byte) || *byte == b'_')
            {
                at += 1;
            }
            at
        };
        let bad = |lexer: &mut Self, at: usize| {
            let mut end = at;
            while bytes
                .get(end)
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'.')
            {
                end += 1;
            }
            lexer.at = end;
            Err(lexer.error(
                start,
                format!(
                    "bad number or duration syntax: {:?}",
                    &lexer.query[start..end]
                ),
            ))
        };
        if bytes[start] == b'0' && bytes.get(start + 1).is_some_and(|b| b"xX".contains(b)) {
            let end = digits(start + 2, u8::is_ascii_hexdigit);
            let text: String = self.query[start + 2..end].replace('_', "");
            let followed = bytes.get(end).is_some_and(u8::is_ascii_alphanumeric);
            return match u64::from_str_radix(&text, 16) {
                Ok(value) if !followed => {
                    self.at = end;
                    Ok(self.token(start, Kind::Number(value as f64)))
                }
                _ => bad(self, end),
            };
        }
        let mut end = digits(start, u8::is_ascii_digit);
        if bytes.get(end).is_some_and(u8::is_ascii_alphabetic)
            && !(bytes[end].eq_ignore_ascii_case(&b'e') && exponent_follows(bytes, end))
        {
            let stop = digits(end, u8::is_ascii_alphanumeric);
            let Some(milliseconds) = duration(&self.query[start..stop]) else {
                return bad(self, stop);
            };
            self.at = stop;
            return Ok(self.token(start, Kind::Duration(milliseconds)));
        }
        if bytes.get(end) == Some(&b'.') {
            end = digits(end + 1, u8::is_ascii_digit);
        }
        if bytes
            .get(end)
            .is_some_and(|b| b.eq_ignore_ascii_case(&b'e'))
            && exponent_follows(bytes, end)
        {
            end += 1;
            if matches!(bytes.get(end), Some(b'+' | b'-')) {
                end += 1;
            }
            end = digits(end, u8::is_ascii_digit);
        }
        if bytes
            .get(end)
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        {
            return bad(self, end);
        }
        let text = self.query[start..end].replace('_', "");
        // A whole number with a leading zero is octal, as Go reads it.
        let octal = text.len() > 1
            && text.starts_with('0')
            && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let value = if octal {
            u64::from_str_radix(&text, 8).ok().map(|value| value as f64)
        } else {
            text.parse::<f64>().ok()
        };
        match value {
            Some(value) => {
                self.at = end;
                Ok(self.token(start, Kind::Number(value)))
            }
            None => bad(self, end),
        }
    }

    fn quoted(&mut self, start: usize, quote: u8) -> Result<Token, ParseError> {
        let bytes = self.query.as_bytes();
        let mut value: Vec<u8> = Vec::new();
        let mut at = start + 1;
        loop {
            match bytes.get(at) {
                None | Some(b'\n') => {
                    self.at = at;
                    return Err(self.error(start, "unterminated quoted string"));
                }
                Some(byte) if *byte == quote => break,
                Some(b'\\') => {
                    let Some((decoded, length)) = escape(&bytes[at..], quote) else {
                        self.at = at;
                        return Err(self.error(at, "unknown escape sequence"));
                    };
                    value.extend_from_slice(&decoded);
                    at += length;
                }
                Some(byte) => {
                    value.push(*byte);
                    at += 1;
                }
            }
        }
        self.at = at + 1;
        let kind = match String::from_utf8(value) {
            Ok(text) => Kind::Text(text, None),
            Err(error) => {
                let shown = show_bytes(error.as_bytes());
                Kind::Text(
                    String::from_utf8_lossy(error.as_bytes()).into_owned(),
                    Some(shown),
                )
            }
        };
        Ok(self.token(start, kind))
    }
}

fn exponent_follows(bytes: &[u8], at: usize) -> bool {
    match bytes.get(at + 1) {
        Some(b'+' | b'-') => bytes.get(at + 2).is_some_and(u8::is_ascii_digit),
        Some(byte) => byte.is_ascii_digit(),
        None => false,
    }
}

/// The bytes an escape stands for, and how long it is.
fn escape(bytes: &[u8], quote: u8) -> Option<(Vec<u8>, usize)> {
    let number = |from: usize, length: usize, radix: u32| {
        let digits = std::str::from_utf8(bytes.get(from..from + length)?).ok()?;
        u32::from_str_radix(digits, radix).ok()
    };
    let simple = |byte: u8| Some((vec![byte], 2));
    match *bytes.get(1)? {
        b'a' => simple(7),
        b'b' => simple(8),
        b'f' => simple(12),
        b'n' => simple(b'\n'),
        b'r' => simple(b'\r'),
        b't' => simple(b'\t'),
        b'v' => simple(11),
        b'\\' => simple(b'\\'),
        other if other == quote => simple(quote),
        b'x' => Some((vec![u8::try_from(number(2, 2, 16)?).ok()?], 4)),
        b'0'..=b'7' => Some((vec![u8::try_from(number(1, 3, 8)?).ok()?], 4)),
        b'u' => char::from_u32(number(2, 4, 16)?).map(|c| (c.to_string().into_bytes(), 6)),
        b'U' => char::from_u32(number(2, 8, 16)?).map(|c| (c.to_string().into_bytes(), 10)),
        _ => None,
    }
}

fn show_bytes(bytes: &[u8]) -> String {
    let mut shown = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        shown.push_str(chunk.valid());
        for byte in chunk.invalid() {
            shown.push_str(&format!("\\x{byte:02x}"));
        }
    }
    shown.push('"');
    shown
}

const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// A duration such as `1h30m`, in milliseconds: larger units first, each at most once.
pub(crate) fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total: i64 = 0;
    let mut allowed = 0;
    if text.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = &rest[..letters];
        let at = UNITS.iter().position(|(name, _)| *name == unit)?;
        if at < allowed {
            return None;
        }
        allowed = at + 1;
        total = total.checked_add(number.checked_mul(UNITS[at].1)?)?;
        rest = &rest[letters..];
    }
    Some(total)
}

/// A duration in milliseconds as [`duration`] reads it.
pub(crate) fn format_duration(milliseconds: i64) -> String {
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    let mut rest = milliseconds.unsigned_abs();
    if milliseconds < 0 {
        text.push('-');
    }
    for (name, length) in UNITS {
        let length = length as u64;
        // Years and weeks are used only where nothing is left over, because they read badly
        // beside smaller units.
        if matches!(name, "y" | "w") && !rest.is_multiple_of(length) {
            continue;
        }
        if rest >= length {
            text.push_str(&format!("{}{name}", rest / length));
            rest %= length;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        assert_eq!(duration("1h30m"), Some(5_400_000));
        assert_eq!(duration("1m1ms"), Some(60_001));
        assert_eq!(duration("30m1h"), None);
        assert_eq!(duration("1m1m"), None);
        assert_eq!(duration("5"), None);
        assert_eq!(duration("999999999999y"), None);
        for milliseconds in [0, 1, 1000, 60_001, 86_400_000, 7 * 86_400_000, 90_061_001] {
            assert_eq!(duration(&format_duration(milliseconds)), Some(milliseconds));
        }
    }
}
