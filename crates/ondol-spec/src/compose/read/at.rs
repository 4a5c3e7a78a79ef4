//! One place in a tree, and how values are read there: what is wrong always has a path, a line and a
//! column.

use std::fmt::Display;
use std::str::FromStr;

use crate::compose::normalize::scalar;
use crate::compose::template::{Template, marked};
use crate::error::{Fault, SpecError};
use crate::model::{ByteSize, Period};
use crate::nearest::nearest;
use crate::node::{Kind, Node, Origin};

/// A value and where it stands.
#[derive(Clone)]
pub(super) struct At<'n> {
    pub(super) node: &'n Node,
    pub(super) path: String,
}

impl<'n> At<'n> {
    pub(super) fn new(node: &'n Node, path: impl Into<String>) -> Self {
        Self {
            node,
            path: path.into(),
        }
    }

    pub(super) fn origin(&self) -> &Origin {
        &self.node.origin
    }

    /// What stands at a key; nothing when it is empty.
    pub(super) fn key(&self, key: &str) -> Option<At<'n>> {
        let node = self.node.child(key)?;
        (node.kind != Kind::Null).then(|| At::new(node, format!("{}.{key}", self.path)))
    }

    fn fault(&self, message: String, hint: Option<String>) -> Fault {
        Fault {
            message,
            origin: self.origin().clone(),
            path: self.path.clone(),
            hint,
        }
    }

    /// The value is not what its place asks for.
    pub(super) fn wrong(&self, what: impl Display) -> SpecError {
        SpecError::Value(self.fault(format!("`{}` {what}", self.path), None))
    }

    pub(super) fn wrong_hint(&self, what: impl Display, hint: impl Into<String>) -> SpecError {
        SpecError::Value(self.fault(format!("`{}` {what}", self.path), Some(hint.into())))
    }

    /// Values that do not go together.
    pub(super) fn conflict(&self, what: impl Display, hint: impl Into<String>) -> SpecError {
        SpecError::Meaning(self.fault(format!("`{}` {what}", self.path), Some(hint.into())))
    }

    /// Something that Ondol does not have.
    pub(super) fn unsupported(&self, what: impl Display, hint: impl Into<String>) -> SpecError {
        SpecError::Unsupported(self.fault(
            format!("`{}`{what} is not supported", self.path),
            Some(hint.into()),
        ))
    }

    fn found(&self) -> String {
        match &self.node.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
            _ => {
                let text = scalar(self.node).unwrap_or_default();
                let text = Template::from_marked(text).to_string();
                format!("`{}`", text.chars().take(60).collect::<String>())
            }
        }
    }

    fn expected(&self, what: &str) -> SpecError {
        self.wrong(format!("must be {what}, found {}", self.found()))
    }

    /// Text, which may name secrets.
    pub(super) fn template(&self) -> Result<Template, SpecError> {
        scalar(self.node)
            .map(Template::from_marked)
            .ok_or_else(|| self.expected("text"))
    }

    /// Text without secrets.
    pub(super) fn text(&self) -> Result<&'n str, SpecError> {
        let text = scalar(self.node).ok_or_else(|| self.expected("text"))?;
        match marked(text) {
            Some(secret) => Err(self.wrong_hint(
                format!("uses `{secret}`, which is a secret"),
                "secrets can be used in `environment`, `command`, `entrypoint`, `healthcheck.test` and `configs.*.content`, and as files by `secrets`",
            )),
            None => Ok(text),
        }
    }

    pub(super) fn string(&self) -> Result<String, SpecError> {
        self.text().map(str::to_owned)
    }

    /// Something that is read from text.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self) -> Result<T, SpecError> {
        self.text()?.parse().map_err(|error| {
            SpecError::Value(self.fault(format!("`{}`: {error}", self.path), None))
        })
    }

    /// `true` or `false`, also as text, as variables make it.
    pub(super) fn boolean(&self) -> Result<bool, SpecError> {
        match &self.node.kind {
            Kind::Bool(value) => Ok(*value),
            Kind::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" | "t" | "1" => Ok(true),
                "false" | "no" | "off" | "n" | "f" | "0" => Ok(false),
                _ => Err(self.expected("`true` or `false`")),
            },
            _ => Err(self.expected("`true` or `false`")),
        }
    }

    /// A whole number.
    pub(super) fn integer(&self) -> Result<i64, SpecError> {
        let text = self.text()?;
        text.trim()
            .parse()
            .map_err(|_| self.expected("a whole number"))
    }

    /// A whole number within bounds.
    pub(super) fn within(&self, low: i64, high: i64) -> Result<i64, SpecError> {
        let number = self.integer()?;
        if (low..=high).contains(&number) {
            Ok(number)
        } else {
            Err(self.expected(&format!("a whole number from {low} to {high}")))
        }
    }

    /// Not negative.
    pub(super) fn number(&self) -> Result<f64, SpecError> {
        let text = self.text()?;
        text.trim()
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite() && *number >= 0.0)
            .ok_or_else(|| self.expected("a number, not negative"))
    }

    /// A length of time.
    pub(super) fn period(&self) -> Result<Period, SpecError> {
        let text = self.text()?;
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && text != "0" {
            return Err(self.wrong_hint(
                format!("must be a duration such as `30s`, found `{text}`"),
                format!("say the unit: `{text}s`"),
            ));
        }
        text.parse()
            .map_err(|_| self.expected("a duration such as `1m30s`"))
    }

    /// Bytes; `k`, `m` and `g` are powers of 1024, as Compose has it.
    pub(super) fn bytes(&self) -> Result<ByteSize, SpecError> {
        let text = self.text()?.trim();
        let lower = text.to_ascii_lowercase();
        let end = lower
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(lower.len());
        let unit: f64 = match lower[end..].trim() {
            "" | "b" => 1.0,
            "k" | "kb" | "kib" => 1024.0,
            "m" | "mb" | "mib" => 1024.0 * 1024.0,
            "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => -1.0,
        };
        let bytes = lower[..end].parse::<f64>().unwrap_or(-1.0) * unit;
        if !(0.0..=(1u64 << 53) as f64).contains(&bytes) || unit < 0.0 {
            return Err(self.expected("a size such as `512m` or `2g`"));
        }
        Ok(ByteSize::from_bytes(bytes.round() as u64))
    }

    /// Permissions of a file, octal.
    pub(super) fn mode(&self) -> Result<u32, SpecError> {
        let text = self.text()?;
        let quoted = matches!(self.node.kind, Kind::Text(_));
        let digits = text.strip_prefix("0o").unwrap_or(text);
        let octal = digits.len() < text.len() || text.starts_with('0') || quoted;
        let mode = u32::from_str_radix(digits, 8)
            .ok()
            .filter(|mode| *mode <= 0o7777);
        match mode {
            Some(mode) if octal => Ok(mode),
            Some(_) => Err(self.wrong_hint(
                format!("must say that it is octal, found `{text}`"),
                format!("write `0{text}`"),
            )),
            None => Err(self.expected("permissions such as `0440`")),
        }
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, SpecError> {
        let text = self.text()?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let quoted: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let what = format!(
            "must be one of {}, found {}",
            quoted.join(", "),
            self.found()
        );
        Err(match nearest(text, words.iter().map(|(word, _)| *word)) {
            Some(near) => self.wrong_hint(what, format!("did you mean `{near}`?")),
            None => self.wrong(what),
        })
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Result<Vec<At<'n>>, SpecError> {
        match &self.node.kind {
            Kind::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| At::new(item, format!("{}.{index}", self.path)))
                .collect()),
            Kind::Null => Ok(Vec::new()),
            _ => Err(self.expected("a list")),
        }
    }

    /// The values of a mapping by key, empty ones too.
    pub(super) fn entries(&self) -> Result<Vec<(&'n str, At<'n>)>, SpecError> {
        match &self.node.kind {
            Kind::Map(entries) => Ok(entries
                .iter()
                .map(|entry| {
                    let at = At::new(&entry.value, format!("{}.{}", self.path, entry.key));
                    (entry.key.as_str(), at)
                })
                .collect()),
            Kind::Null => Ok(Vec::new()),
            _ => Err(self.expected("a mapping")),
        }
    }

    /// Texts of a list.
    pub(super) fn texts<C: FromIterator<String>>(&self) -> Result<C, SpecError> {
        self.items()?.iter().map(At::string).collect()
    }

    /// Texts by name; nothing is an empty text.
    pub(super) fn pairs<C: FromIterator<(String, String)>>(&self) -> Result<C, SpecError> {
        self.entries()?
            .into_iter()
            .map(|(name, at)| {
                let value = match at.node.kind {
                    Kind::Null => String::new(),
                    _ => at.string()?,
                };
                Ok((name.to_owned(), value))
            })
            .collect()
    }
}

/// Reads the value of a key with a function, when there is one.
pub(super) fn maybe<'n, T>(
    at: &At<'n>,
    key: &str,
    read: impl FnOnce(&At<'n>) -> Result<T, SpecError>,
) -> Result<Option<T>, SpecError> {
    at.key(key).map(|at| read(&at)).transpose()
}
