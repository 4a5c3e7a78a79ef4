//! `.env` and `env_file`: one variable per line, with quotes, comments and variables.

use std::collections::BTreeMap;

use super::interpolate::{Variables, Wrong};
use crate::error::{Fault, SpecError};
use crate::node::Origin;

/// The most variables of one file.
const MAX_LINES: usize = 2_000;

/// Reads a file. Variables in its values are looked up among `variables`, then among the lines
/// before. A name without `=` takes its value from `variables`, and is left out when it has none.
pub(super) fn parse(
    file: &str,
    text: &str,
    variables: &Variables<'_>,
) -> Result<BTreeMap<String, String>, SpecError> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    let mut cursor = Cursor::new(text.strip_prefix('\u{feff}').unwrap_or(text));
    while let Some((line, content)) = cursor.begin() {
        let at = |column: usize| Origin::File {
            file: file.into(),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
        };
        let wrong = |message: String, hint: Option<String>| {
            SpecError::Syntax(Fault {
                message,
                origin: at(1),
                path: String::new(),
                hint,
            })
        };
        let name_end = content.find('=').unwrap_or(content.len());
        let name = content[..name_end].trim();
        let name = name.strip_prefix("export ").unwrap_or(name).trim();
        let good = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_.-[]".contains(&byte))
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if !good {
            let shown: String = name.chars().take(40).collect();
            let message = format!("`{shown}` is not the name of a variable");
            return Err(wrong(
                message,
                Some("write one `NAME=value` per line".to_owned()),
            ));
        }
        if found.len() >= MAX_LINES {
            return Err(SpecError::TooLarge(Fault {
                message: format!("the file has more than {MAX_LINES} variables"),
                origin: at(1),
                path: String::new(),
                hint: None,
            }));
        }
        let name = name.to_owned();
        if name_end == content.len() {
            cursor.next_line();
            if let Some(value) = variables.get(&name) {
                found.insert(name, value);
            }
            continue;
        }
        let raw = cursor
            .value(name_end + 1)
            .map_err(|message| wrong(message, Some("close the quote".to_owned())))?;
        let value = match raw {
            Raw::Literal(text) => text,
            Raw::Replaced(text) => variables
                .replace_with(&text, &at(name_end + 2), &|name| {
                    variables.get(name).or_else(|| found.get(name).cloned())
                })
                .map_err(|Wrong { message, .. }| {
                    let hint = "write `$$` for a dollar sign, or put the value in single quotes";
                    wrong(format!("`{name}`: {message}"), Some(hint.to_owned()))
                })?,
        };
        found.insert(name, value);
    }
    Ok(found)
}

/// Reads a file in the `raw` format: everything behind `=` is the value.
pub(super) fn parse_raw(text: &str, variables: &Variables<'_>) -> BTreeMap<String, String> {
    text.lines()
        .map(str::trim_start)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .take(MAX_LINES)
        .filter_map(|line| match line.split_once('=') {
            Some((name, value)) => Some((name.trim().to_owned(), value.to_owned())),
            None => variables
                .get(line.trim())
                .map(|value| (line.trim().to_owned(), value)),
        })
        .collect()
}

enum Raw {
    /// As it is.
    Literal(String),
    /// Its variables are still to be replaced.
    Replaced(String),
}

struct Cursor<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            rest: text,
            line: 1,
        }
    }

    /// The next line that says something, with its number; it is not consumed.
    fn begin(&mut self) -> Option<(usize, &'a str)> {
        loop {
            if self.rest.is_empty() {
                return None;
            }
            let content = self.rest.lines().next().unwrap_or_default();
            let said = content.trim();
            if !said.is_empty() && !said.starts_with('#') {
                return Some((self.line, content));
            }
            self.next_line();
        }
    }

    fn next_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        self.line += 1;
    }

    /// The value that begins at a byte of this line; consumes its lines.
    fn value(&mut self, from: usize) -> Result<Raw, String> {
        let line = self.rest.lines().next().unwrap_or_default();
        let start = line[from..].trim_start();
        let Some(quote) = start.chars().next().filter(|c| "'\"".contains(*c)) else {
            let value = match start.starts_with('#') {
                true => "",
                false => start
                    .find(" #")
                    .or_else(|| start.find("\t#"))
                    .map_or(start, |comment| &start[..comment]),
            };
            let value = value.trim_end().to_owned();
            self.next_line();
            return Ok(Raw::Replaced(value));
        };
        // A quoted value may go on over lines.
        let skipped = line.len() - start.len();
        let body = &self.rest[skipped + 1..];
        let mut out = String::new();
        let mut characters = body.char_indices();
        while let Some((at, c)) = characters.next() {
            if c == quote {
                let lines = body[..at].matches('\n').count();
                let behind = body[at + 1..].lines().next().unwrap_or_default().trim();
                if !behind.is_empty() && !behind.starts_with('#') {
                    return Err("there is text behind the closing quote".to_owned());
                }
                for _ in 0..=lines {
                    self.next_line();
                }
                return Ok(match quote {
                    '"' => Raw::Replaced(out),
                    _ => Raw::Literal(out),
                });
            }
            if c != '\\' {
                out.push(c);
                continue;
            }
            match characters.next().map(|(_, c)| c) {
                Some('\'') if quote == '\'' => out.push('\''),
                Some(escaped) if quote == '"' => match escaped {
                    'n' => out.push('\n'),
                    'r' => out.push('\r'),
                    't' => out.push('\t'),
                    '"' | '\\' => out.push(escaped),
                    '$' => out.push_str("$$"),
                    other => out.extend(['\\', other]),
                },
                Some(other) => out.extend(['\\', other]),
                None => out.push('\\'),
            }
        }
        Err("a quote is not closed".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, String>, String> {
        let secrets = BTreeSet::new();
        let mut variables = Variables::new(&secrets);
        variables.weaker([("OUT".to_owned(), "outside".to_owned())].into());
        parse(".env", text, &variables).map_err(|error| error.to_string())
    }

    #[test]
    fn quotes_comments_and_escapes() {
        for (line, expected) in [
            ("V=VAL", "VAL"),
            ("V=\"VAL\"", "VAL"),
            ("V='VAL'", "VAL"),
            ("V=VAL # comment", "VAL"),
            ("V=VAL# not a comment", "VAL# not a comment"),
            ("V=\"VAL # not\" # comment", "VAL # not"),
            ("V='$OUT ${OUT}'", "$OUT ${OUT}"),
            ("V='Let\\'s go!'", "Let's go!"),
            ("V=\"{\\\"a\\\": \\\"b\\\"}\"", "{\"a\": \"b\"}"),
            ("V=\"a\\tb\"", "a\tb"),
            ("V='a\\tb'", "a\\tb"),
            ("V=a\\tb", "a\\tb"),
            ("V=", ""),
            ("V=  # nothing", ""),
            ("  export V = x ", "x"),
            ("V=$OUT/${NO:-d}", "outside/d"),
            ("A=1\nV=\"${A}2\"", "12"),
            ("V=\"two\nlines\"\nB=1", "two\nlines"),
            ("V=\"\\$OUT\"", "$OUT"),
            ("# a\n\n V=x\r\n", "x"),
            ("V=a=b", "a=b"),
            ("V=first\nV=second", "second"),
        ] {
            assert_eq!(
                read(line).map(|found| found["V"].clone()).as_deref(),
                Ok(expected),
                "{line}"
            );
        }
        assert_eq!(
            read("OUT\nNONE\n").unwrap(),
            [("OUT".to_owned(), "outside".to_owned())].into()
        );
    }

    #[test]
    fn mistakes_have_lines() {
        for (text, message) in [
            (
                "A=1\nB C\n",
                ".env:2:1: `B C` is not the name of a variable",
            ),
            ("A='x\n", ".env:1:1: a quote is not closed"),
            (
                "A=\"x\ny\" z\n",
                ".env:1:1: there is text behind the closing quote",
            ),
            (
                "A=\"x\n\"\n\nB=$(date)\n",
                ".env:4:1: `B`: `$(date)` is not a variable",
            ),
        ] {
            assert_eq!(read(text).unwrap_err(), message);
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in "[A-C=\"'#$\\\\ \n\u{e4}{}]{0,80}") {
            let _ = read(&text);
        }

        #[test]
        fn single_quotes_keep_text(text in "[ -&(-\\[\\]-~\n]{0,40}") {
            prop_assert_eq!(read(&format!("V='{text}'\n")).map(|found| found["V"].clone()), Ok(text));
        }
    }
}
