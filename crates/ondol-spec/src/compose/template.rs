//! Text in which secrets are named and never spelled out.
//!
//! A variable that is a secret of the project becomes a mark on the way through YAML, merging and
//! word splitting, and a named part at the end. Nothing in this crate ever has its value, so neither
//! an explanation nor an error nor a stored model can tell it.

use ondol_types::SecretName;
use serde::{Deserialize, Serialize};

/// Begins the name of a secret within text that is still on its way. Private-use characters, which
/// a file itself may not have.
const OPEN: char = '\u{F0000}';
/// Ends it.
const CLOSE: char = '\u{F0001}';

/// Text that may name secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Template {
    /// Its parts, in order; no two texts follow each other, and none is empty.
    pub parts: Vec<Part>,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Text as it is.
    Text(String),
    /// The value of a secret, put in when a replica starts.
    Secret(SecretName),
}

impl Template {
    /// Text without secrets.
    pub fn plain(text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            parts: if text.is_empty() {
                Vec::new()
            } else {
                vec![Part::Text(text)]
            },
        }
    }

    /// The text, when it names no secret.
    pub fn as_plain(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The secrets that it names.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretName> {
        self.parts.iter().filter_map(|part| match part {
            Part::Secret(name) => Some(name),
            Part::Text(_) => None,
        })
    }

    /// The text with every secret replaced by what `value` says; `None` when it does not know one.
    pub fn render<'v>(&self, value: impl Fn(&SecretName) -> Option<&'v str>) -> Option<String> {
        self.parts.iter().try_fold(String::new(), |mut out, part| {
            out.push_str(match part {
                Part::Text(text) => text,
                Part::Secret(name) => value(name)?,
            });
            Some(out)
        })
    }

    /// From text with marks.
    pub(super) fn from_marked(text: &str) -> Self {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(OPEN) {
            let (before, after) = rest.split_at(at);
            let after = &after[OPEN.len_utf8()..];
            let (name, behind) = after.split_once(CLOSE).unwrap_or((after, ""));
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            if let Ok(name) = name.parse() {
                parts.push(Part::Secret(name));
            }
            rest = behind;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Self { parts }
    }
}

impl std::fmt::Display for Template {
    /// For people: a secret is shown as `${NAME}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Secret(name) => write!(f, "${{{name}}}"),
        })
    }
}

/// The mark that stands for a secret.
pub(super) fn mark(name: &SecretName) -> String {
    format!("{OPEN}{name}{CLOSE}")
}

/// The first secret that is marked in a text.
pub(super) fn marked(text: &str) -> Option<&str> {
    let (_, after) = text.split_once(OPEN)?;
    Some(after.split_once(CLOSE).map_or(after, |(name, _)| name))
}

/// Whether a text of a file has the characters of a mark.
pub(super) fn is_forged(text: &str) -> bool {
    text.contains([OPEN, CLOSE])
}
