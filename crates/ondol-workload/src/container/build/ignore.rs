//! `.dockerignore`: which files of a context an engine never sees.
//!
//! The rules are Docker's. Lines are cleaned as paths; `*` and `?` stay within a name, `**` stands
//! for any number of folders, `[…]` is a class; a pattern that matches a folder takes everything
//! below it; of all lines that match, the last one decides, and one that begins with `!` brings
//! back. No pattern is run by a matcher that can take more than linear time.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

/// More lines than this are a mistake.
const MAX_PATTERNS: usize = 10_000;

/// A line that is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadPattern {
    /// Its number, from one.
    pub(super) line: usize,
    /// What is wrong with it.
    pub(super) problem: String,
}

/// The patterns of one file, in its order.
#[derive(Debug, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    brings_back: bool,
    text: String,
    matcher: Matcher,
}

#[derive(Debug)]
enum Matcher {
    Exact,
    /// The text up to its `**`.
    Prefix(String),
    /// The text after its `**`.
    Suffix(String),
    Regex(Regex),
}

impl Ignore {
    pub(super) fn parse(text: &str) -> Result<Self, BadPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let bad = |problem: &str| BadPattern {
                line: index + 1,
                problem: problem.to_owned(),
            };
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (brings_back, pattern) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if pattern.is_empty() {
                if brings_back {
                    return Err(bad("`!` alone brings nothing back"));
                }
                continue;
            }
            let text = clean(pattern);
            let matcher = Matcher::of(&text).map_err(|problem| bad(&problem))?;
            rules.push(Rule {
                brings_back,
                text,
                matcher,
            });
            if rules.len() > MAX_PATTERNS {
                return Err(bad(&format!("there are more than {MAX_PATTERNS} patterns")));
            }
        }
        Ok(Self { rules })
    }

    /// What the rules say of the root: nothing.
    pub(super) fn root(&self) -> Standing {
        Standing(vec![false; self.rules.len()])
    }

    /// Whether a path below the context's root is left out, and how it stands for what is below it.
    pub(super) fn judge(&self, path: &str, above: &Standing) -> (bool, Standing) {
        let mut left_out = false;
        let mut matched = Vec::with_capacity(self.rules.len());
        for (rule, above) in self.rules.iter().zip(&above.0) {
            let hit = *above || rule.matches(path);
            matched.push(hit);
            if hit {
                left_out = !rule.brings_back;
            }
        }
        (left_out, Standing(matched))
    }

    /// Whether anything below a folder that is left out may be brought back.
    pub(super) fn may_bring_back_below(&self, folder: &str) -> bool {
        self.rules
            .iter()
            .filter(|rule| rule.brings_back)
            .any(|rule| rule.may_match_below(folder))
    }
}

/// Which rules have matched a folder or one above it.
#[derive(Clone, Debug)]
pub(super) struct Standing(Vec<bool>);

impl Rule {
    fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Exact => path == self.text,
            Matcher::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Matcher::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/') == Some(path)
            }
            Matcher::Regex(regex) => regex.is_match(path),
        }
    }

    /// Only as exact as it takes to skip folders: a name with anything special in it fits all.
    fn may_match_below(&self, folder: &str) -> bool {
        let mut wanted = self.text.split('/');
        for name in folder.split('/') {
            match wanted.next() {
                // It matches a folder above, and so everything below.
                None => return true,
                Some(part) if part.contains(['*', '?', '[', '\\']) => return true,
                Some(part) if part != name => return false,
                Some(_) => {}
            }
        }
        true
    }
}

/// The path without `.`, `..` and doubled slashes, and without the slash in front.
fn clean(pattern: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            // Nothing is above the root of a pattern that begins there.
            ".." if pattern.starts_with('/') && parts.is_empty() => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    if parts.is_empty() {
        ".".to_owned()
    } else {
        parts.join("/")
    }
}

impl Matcher {
    fn of(pattern: &str) -> Result<Self, String> {
        #[derive(PartialEq, Eq)]
        enum Form {
            Exact,
            Prefix,
            Suffix,
            Regex,
        }
        let mut form = Form::Exact;
        let mut regex = String::from("(?s)^");
        let mut characters = pattern.chars().peekable();
        let mut first = true;
        while let Some(character) = characters.next() {
            match character {
                '*' if characters.peek() == Some(&'*') => {
                    characters.next();
                    if characters.peek() == Some(&'/') {
                        characters.next();
                    }
                    if characters.peek().is_none() {
                        if form == Form::Exact {
                            form = Form::Prefix;
                        } else {
                            regex.push_str(".*");
                            form = Form::Regex;
                        }
                    } else {
                        regex.push_str("(.*/)?");
                        form = Form::Regex;
                    }
                    if first {
                        form = Form::Suffix;
                    }
                }
                '*' => {
                    regex.push_str("[^/]*");
                    form = Form::Regex;
                }
                '?' => {
                    regex.push_str("[^/]");
                    form = Form::Regex;
                }
                '[' => {
                    class(&mut characters, &mut regex)?;
                    form = Form::Regex;
                }
                '\\' => {
                    let next = characters
                        .next()
                        .ok_or("there is nothing after the last `\\`")?;
                    regex.push_str(&regex::escape(next.encode_utf8(&mut [0; 4])));
                    form = Form::Regex;
                }
                other => regex.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
            }
            first = false;
        }
        Ok(match form {
            Form::Exact => Self::Exact,
            Form::Prefix => Self::Prefix(pattern.strip_suffix("**").unwrap_or(pattern).into()),
            Form::Suffix => Self::Suffix(pattern[2..].into()),
            Form::Regex => {
                regex.push('$');
                Self::Regex(Regex::new(&regex).map_err(|error| error.to_string())?)
            }
        })
    }
}

/// A class such as `[a-z]` or `[^0-9]`, behind its `[`.
fn class(characters: &mut Peekable<Chars<'_>>, regex: &mut String) -> Result<(), String> {
    regex.push('[');
    if characters.next_if_eq(&'^').is_some() {
        regex.push('^');
    }
    let mut members = 0;
    while members == 0 || characters.next_if_eq(&']').is_none() {
        member(characters, regex)?;
        if characters.next_if_eq(&'-').is_some() {
            regex.push('-');
            member(characters, regex)?;
        }
        members += 1;
    }
    regex.push(']');
    Ok(())
}

fn member(characters: &mut Peekable<Chars<'_>>, regex: &mut String) -> Result<(), String> {
    const UNFINISHED: &str = "a `[` has no `]`";
    let character = match characters.next().ok_or(UNFINISHED)? {
        '\\' => characters.next().ok_or(UNFINISHED)?,
        plain @ ('-' | ']') => return Err(format!("`{plain}` cannot stand here in a class")),
        plain => plain,
    };
    // Whatever it is, it means itself.
    let _ = write!(regex, "\\x{{{:x}}}", u32::from(character));
    Ok(())
}

/// Fuzz target: patterns up to a NUL, and then paths of a line each. What is skipped with its folder
/// is left out by itself too.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (patterns, paths) = text.split_once('\0').unwrap_or((&text, "a/b/c"));
    let Ok(ignore) = Ignore::parse(patterns) else {
        return;
    };
    for path in paths.lines().take(100) {
        let mut standing = ignore.root();
        let mut skipped = false;
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            let (left_out, below) = ignore.judge(&path[..end], &standing);
            assert!(left_out || !skipped, "{patterns:?} brings {path:?} back");
            skipped |= left_out && !ignore.may_bring_back_below(&path[..end]);
            standing = below;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn left_out(ignore: &Ignore, path: &str) -> bool {
        let mut standing = ignore.root();
        let mut verdict = false;
        for (end, _) in path.match_indices('/').chain([(path.len(), "")]) {
            (verdict, standing) = ignore.judge(&path[..end], &standing);
        }
        verdict
    }

    #[test]
    fn the_documented_cases_hold() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "# comment\n*/temp*",
                &["a/temporary.txt", "a/temp/x"],
                &["temp", "a/b/temp"],
            ),
            ("*/*/temp*", &["a/b/temp"], &["a/temp"]),
            ("temp?", &["tempa", "temp1/x"], &["temp", "temp12"]),
            ("**/*.go", &["a.go", "a/b/c.go"], &["a.goo"]),
            ("*.md\n!README.md", &["x.md"], &["README.md", "docs/x.md"]),
            (
                "*.md\n!README*.md\nREADME-secret.md",
                &["x.md", "README-secret.md"],
                &["README.md"],
            ),
            (
                "*.md\nREADME-secret.md\n!README*.md",
                &["x.md"],
                &["README-secret.md", "README.md"],
            ),
            (
                "/foo/bar/",
                &["foo/bar", "foo/bar/x"],
                &["foo/barn", "x/foo/bar"],
            ),
            ("./a/../b//c", &["b/c"], &["a", "b"]),
            ("a/**", &["a/b", "a/b/c"], &["a", "ab"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b/z"], &["a/xb", "ab"]),
            ("**/foo", &["foo", "x/foo", "x/foo/y"], &["xfoo"]),
            ("**", &["a", "a/b"], &[]),
            (
                "*\n!keep/**/x",
                &["keep/y", "other"],
                &["keep/a/x", "keep/x"],
            ),
            ("[a-c]x\n[^a-z]y", &["ax", "1y"], &["dx", "ay"]),
            ("a\\*b", &["a*b"], &["axb"]),
            ("  spaced  ", &["spaced"], &[" spaced"]),
            ("a.b+c", &["a.b+c"], &["axb+c", "a.bbc"]),
            ("\u{feff}bom", &["bom"], &[]),
            ("dir\n! dir/keep", &["dir", "dir/x"], &["dir/keep"]),
        ];
        for (text, out, kept) in cases {
            let ignore = Ignore::parse(text).unwrap();
            for path in *out {
                assert!(left_out(&ignore, path), "{text:?} leaves out {path}");
            }
            for path in *kept {
                assert!(!left_out(&ignore, path), "{text:?} keeps {path}");
            }
        }
    }

    #[test]
    fn what_is_no_pattern_is_named_by_its_line() {
        for (text, line) in [
            ("a\n!", 2),
            ("[a", 1),
            ("[]", 1),
            ("x\n\n[z-", 3),
            ("a\\", 1),
        ] {
            assert_eq!(Ignore::parse(text).unwrap_err().line, line, "{text}");
        }
    }

    /// A pattern by its parts, matched by trying everything.
    fn fits(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"**", [])), rest) => rest.is_some(),
            (Some((&"**", rest)), _) => (0..=path.len()).any(|skip| fits(rest, &path[skip..])),
            (Some((part, rest)), Some((name, below))) => {
                let (part, name): (Vec<char>, Vec<char>) =
                    (part.chars().collect(), name.chars().collect());
                name_fits(&part, &name) && fits(rest, below)
            }
            _ => false,
        }
    }

    fn name_fits(part: &[char], name: &[char]) -> bool {
        match part.split_first() {
            None => name.is_empty(),
            Some((&'*', rest)) => (0..=name.len()).any(|skip| name_fits(rest, &name[skip..])),
            Some((&'?', rest)) => !name.is_empty() && name_fits(rest, &name[1..]),
            Some((letter, rest)) => name.first() == Some(letter) && name_fits(rest, &name[1..]),
        }
    }

    fn by_model(lines: &[(bool, Vec<&str>)], path: &str) -> bool {
        let names: Vec<&str> = path.split('/').collect();
        let mut left_out = false;
        for (brings_back, pattern) in lines {
            if (1..=names.len()).any(|length| fits(pattern, &names[..length])) {
                left_out = !brings_back;
            }
        }
        left_out
    }

    proptest! {
        #[test]
        fn it_decides_as_the_model_does(
            lines in prop::collection::vec(
                (
                    any::<bool>(),
                    prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "*", "a*", "?", "*b", "**"]), 1..4),
                ),
                0..5,
            ),
            path in prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "abb", "c"]), 1..5),
        ) {
            let text: String = lines
                .iter()
                .map(|(brings_back, parts)| format!("{}{}\n", if *brings_back { "!" } else { "" }, parts.join("/")))
                .collect();
            let ignore = Ignore::parse(&text).unwrap();
            let path = path.join("/");
            prop_assert_eq!(left_out(&ignore, &path), by_model(&lines, &path), "{:?}", text);
            // Skipping folders loses nothing that is brought back.
            for (end, _) in path.match_indices('/') {
                if left_out(&ignore, &path[..end]) && !ignore.may_bring_back_below(&path[..end]) {
                    prop_assert!(left_out(&ignore, &path));
                }
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}", path in "[a-c/]{1,9}") {
            if let Ok(ignore) = Ignore::parse(&text) {
                let _ = left_out(&ignore, &path);
            }
        }
    }
}
