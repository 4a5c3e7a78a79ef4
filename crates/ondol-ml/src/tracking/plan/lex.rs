//! The words of a filter: identifiers, quoted texts, numbers, comparators, lists.

use crate::tracking::error::{TrackingError, TrackingResult};

/// Longest filter in bytes, and most words in one.
const MAX_FILTER: usize = 64 << 10;
const MAX_TOKENS: usize = 4_096;

/// One word.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// A name, perhaps dotted. Its last part may have been quoted, so it is kept apart: the
    /// entity in front of the first dot, if there was one, and the rest.
    Name(Option<String>, String),
    /// A quoted text.
    Text(String),
    /// A number, as written.
    Number(String),
    /// `=`, `!=`, `<`, `<=`, `>`, `>=`.
    Compare(&'static str),
    /// A word that is not a name: `AND`, `IN`, …, in capitals.
    Keyword(&'static str),
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `,`.
    Comma,
}

const KEYWORDS: [&str; 8] = ["AND", "OR", "IN", "NOT", "IS", "NULL", "LIKE", "ILIKE"];
const COMPARATORS: [&str; 6] = ["!=", "<=", ">=", "=", "<", ">"];

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn is_inner(c: char) -> bool {
    c.is_alphanumeric() || "_.-/:@".contains(c)
}

/// A quoted text at the start of `rest`: its content and length. A doubled quote is one quote.
fn quoted(rest: &str) -> TrackingResult<(String, usize)> {
    let quote = rest.chars().next().unwrap_or('\'');
    let mut content = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            content.push(c);
            continue;
        }
        if chars.peek().is_some_and(|(_, next)| *next == quote) {
            chars.next();
            content.push(quote);
            continue;
        }
        return Ok((content, at + c.len_utf8()));
    }
    Err(TrackingError::invalid(format!(
        "Invalid filter: a {quote} is not closed"
    )))
}

fn number(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let mut at = usize::from(matches!(bytes.first(), Some(b'-' | b'+')));
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    at = digits(at);
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'-' | b'+')));
        let end = digits(at + 1 + sign);
        if end > at + 1 + sign {
            at = end;
        }
    }
    at
}

/// A name at the start of `rest`, with its length: `key`, `entity.key`, `entity."any key"`,
/// `` entity.`any key` ``, `` `any key` ``.
fn name(rest: &str) -> TrackingResult<(Token, usize)> {
    let first = rest.chars().next().unwrap_or(' ');
    let (head, mut at) = if first == '`' || first == '"' {
        quoted(rest)?
    } else {
        let end = rest
            .char_indices()
            .find(|(_, c)| !is_inner(*c))
            .map_or(rest.len(), |(at, _)| at);
        (rest[..end].to_owned(), end)
    };
    let bare = first != '`' && first != '"';
    if bare && let Some((entity, key)) = head.split_once('.') {
        if key.is_empty() && rest[at..].starts_with(['`', '"', '\'']) {
            let (key, length) = quoted(&rest[at..])?;
            return Ok((Token::Name(Some(entity.to_owned()), key), at + length));
        }
        return Ok((Token::Name(Some(entity.to_owned()), key.to_owned()), at));
    }
    if !bare && rest[at..].starts_with('.') {
        at += 1;
        let (key, length) = if rest[at..].starts_with(['`', '"', '\'']) {
            quoted(&rest[at..])?
        } else {
            let end = rest[at..]
                .char_indices()
                .find(|(_, c)| !is_inner(*c))
                .map_or(rest.len() - at, |(end, _)| end);
            (rest[at..at + end].to_owned(), end)
        };
        return Ok((Token::Name(Some(head), key), at + length));
    }
    Ok((Token::Name(None, head), at))
}

/// Takes a filter apart.
pub(super) fn lex(filter: &str) -> TrackingResult<Vec<Token>> {
    if filter.len() > MAX_FILTER {
        return Err(TrackingError::invalid(format!(
            "Invalid filter: it has {} bytes, more than the {MAX_FILTER} allowed",
            filter.len()
        )));
    }
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    while let Some(c) = filter[at..].chars().next() {
        let rest = &filter[at..];
        if tokens.len() >= MAX_TOKENS {
            return Err(TrackingError::invalid(
                "Invalid filter: it has too many words",
            ));
        }
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        if let Some(found) = COMPARATORS.iter().find(|word| rest.starts_with(**word)) {
            tokens.push(Token::Compare(found));
            at += found.len();
            continue;
        }
        let single = match c {
            '(' => Some(Token::Open),
            ')' => Some(Token::Close),
            ',' => Some(Token::Comma),
            _ => None,
        };
        if let Some(token) = single {
            tokens.push(token);
            at += 1;
            continue;
        }
        // Behind a comparator, or within a list, quotes hold a value and not a name.
        let value = matches!(
            tokens.last(),
            Some(Token::Compare(_) | Token::Open | Token::Comma | Token::Keyword("LIKE" | "ILIKE"))
        );
        if c == '\'' || (c == '"' && value) {
            let (text, length) = quoted(rest)?;
            tokens.push(Token::Text(text));
            at += length;
            continue;
        }
        if c.is_ascii_digit() || ((c == '-' || c == '+' || c == '.') && value) {
            let length = number(rest);
            let text = &rest[..length];
            if text.parse::<f64>().is_err() {
                return Err(TrackingError::invalid(format!(
                    "Invalid clause(s) in filter string: '{}'",
                    rest.chars().take(40).collect::<String>()
                )));
            }
            tokens.push(Token::Number(text.to_owned()));
            at += length;
            continue;
        }
        if is_start(c) || c == '`' || c == '"' {
            let (token, length) = name(rest)?;
            let keyword = match &token {
                Token::Name(None, word) if c != '`' && c != '"' => KEYWORDS
                    .iter()
                    .find(|known| known.eq_ignore_ascii_case(word)),
                _ => None,
            };
            tokens.push(keyword.map_or(token, |word| Token::Keyword(word)));
            at += length.max(1);
            continue;
        }
        return Err(TrackingError::invalid(format!(
            "Invalid clause(s) in filter string: '{}'",
            rest.chars().take(40).collect::<String>()
        )));
    }
    Ok(tokens)
}
