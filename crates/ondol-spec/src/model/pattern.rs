//! Patterns over file and branch names.

use std::fmt;
use std::str::FromStr;

use super::text::{TextError, checked_text, text_form};

checked_text!(
    /// A pattern over `/`-separated names: `*` and `?` stay within one component, `**` crosses them.
    Pattern,
    "a pattern such as `src/**/*.py`, without `..` and not absolute",
    |text| !text.is_empty()
        && text.len() <= 512
        && !text.starts_with('/')
        && !text.contains(['\0', '\\'])
        && !text.split('/').any(|part| part == "..")
        && text.matches('*').count() <= 16
);

impl Pattern {
    /// Whether `path` matches. Patterns are anchored at the root, and one that matches a folder
    /// matches everything below it.
    pub fn matches(&self, path: &str) -> bool {
        let pattern: Vec<&str> = self.0.trim_end_matches('/').split('/').collect();
        let path: Vec<&str> = path.split('/').collect();
        components_match(&pattern, &path)
    }

    /// Whether something below the folder `path` could match. May be true where nothing does.
    pub fn may_match_below(&self, path: &str) -> bool {
        let pattern = self.0.trim_end_matches('/').split('/');
        for (want, name) in pattern.zip(path.split('/')) {
            if want == "**" {
                return true;
            }
            if !name_matches(want.as_bytes(), name.as_bytes()) {
                return false;
            }
        }
        true
    }
}

/// Greedy matching with one point of return for `**`: linear in the product of both lengths.
fn components_match(pattern: &[&str], path: &[&str]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    loop {
        if p == pattern.len() {
            // Everything below a matched folder matches as well.
            return true;
        }
        if pattern[p] == "**" {
            back = Some((p + 1, t));
            p += 1;
        } else if t < path.len() && name_matches(pattern[p].as_bytes(), path[t].as_bytes()) {
            p += 1;
            t += 1;
        } else if let Some((after, from)) = back.filter(|(_, from)| *from < path.len()) {
            back = Some((after, from + 1));
            p = after;
            t = from + 1;
        } else {
            return false;
        }
    }
}

fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while t < name.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            back = Some((p + 1, t));
            p += 1;
        } else if p < pattern.len() && (pattern[p] == b'?' || pattern[p] == name[t]) {
            p += 1;
            t += 1;
        } else if let Some((after, from)) = back {
            back = Some((after, from + 1));
            p = after;
            t = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}
