//! Conditions on a label, and regular expressions with a ceiling on what they cost.

use std::fmt;
use std::sync::Arc;

use regex::{Regex, RegexBuilder};

use super::labels::{Labels, valid_label_name};

/// The most a compiled regular expression may take, in bytes. An expression that explodes is
/// refused when it is compiled; matching is linear in the length of the value.
const REGEX_CEILING: usize = 4 << 20;

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends.
    Regex,
    /// `!~`, anchored at both ends.
    NotRegex,
}

impl Operation {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// A regular expression that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("invalid regular expression {expression:?}: {reason}")]
pub struct MatcherError {
    /// The expression as it was written.
    pub expression: String,
    /// What is wrong with it, on one line.
    pub reason: String,
}

/// One condition on one label. An absent label has the empty value.
#[derive(Clone)]
pub struct Matcher {
    /// The name of the label.
    pub name: Arc<str>,
    /// How it is compared.
    pub operation: Operation,
    /// What it is compared with.
    pub value: Arc<str>,
    regex: Option<Regex>,
    /// The values a regular expression such as `a|b` stands for, when it is a plain list.
    alternatives: Option<Arc<[String]>>,
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.operation == other.operation && self.value == other.value
    }
}

impl Eq for Matcher {}

impl Matcher {
    /// A matcher.
    ///
    /// # Errors
    /// The value is no regular expression and should be one, or it is too large.
    pub fn new(name: &str, operation: Operation, value: &str) -> Result<Self, MatcherError> {
        let (regex, alternatives) = match operation {
            Operation::Equal | Operation::NotEqual => (None, None),
            Operation::Regex | Operation::NotRegex => {
                (Some(anchored(value)?), plain_alternatives(value))
            }
        };
        Ok(Self {
            name: Arc::from(name),
            operation,
            value: Arc::from(value),
            regex,
            alternatives,
        })
    }

    /// A matcher for exactly this value.
    #[must_use]
    pub fn equal(name: &str, value: &str) -> Self {
        Self {
            name: Arc::from(name),
            operation: Operation::Equal,
            value: Arc::from(value),
            regex: None,
            alternatives: None,
        }
    }

    /// Whether a value fulfils the condition.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        let hit = match (&self.alternatives, &self.regex) {
            (Some(alternatives), _) => alternatives.iter().any(|known| known == value),
            (None, Some(regex)) => regex.is_match(value),
            (None, None) => self.value.as_ref() == value,
        };
        match self.operation {
            Operation::Equal | Operation::Regex => hit,
            Operation::NotEqual | Operation::NotRegex => !hit,
        }
    }

    /// Whether the labels fulfil the condition.
    #[must_use]
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.name))
    }

    /// The only values that can fulfil the condition, when they can be listed: an index can look
    /// them up instead of scanning.
    #[must_use]
    pub fn candidates(&self) -> Option<Vec<&str>> {
        match self.operation {
            Operation::Equal => Some(vec![self.value.as_ref()]),
            Operation::Regex => self
                .alternatives
                .as_ref()
                .map(|known| known.iter().map(String::as_str).collect()),
            Operation::NotEqual | Operation::NotRegex => None,
        }
    }
}

/// As it is written in a selector.
impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if valid_label_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            write!(f, "{}", Quoted(&self.name))?;
        }
        write!(f, "{}{}", self.operation.as_str(), Quoted(&self.value))
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text in double quotes, with the escapes that the query language knows.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for character in self.0.chars() {
            match character {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                other if (other as u32) < 0x20 || other as u32 == 0x7f => {
                    write!(f, "\\x{:02x}", other as u32)?;
                }
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}

/// Compiles a regular expression that has to match the whole text, with `.` matching line ends.
pub(crate) fn anchored(expression: &str) -> Result<Regex, MatcherError> {
    let refuse = |reason: String| MatcherError {
        expression: expression.to_owned(),
        reason,
    };
    // The expression is judged alone first, so that `a)(b` cannot close the group around it.
    regex_syntax_check(expression).map_err(refuse)?;
    RegexBuilder::new(&format!("^(?s:{expression})$"))
        .size_limit(REGEX_CEILING)
        .build()
        .map_err(|error| refuse(one_line(&error)))
}

fn regex_syntax_check(expression: &str) -> Result<(), String> {
    RegexBuilder::new(expression)
        .size_limit(REGEX_CEILING)
        .build()
        .map(|_| ())
        .map_err(|error| one_line(&error))
}

fn one_line(error: &regex::Error) -> String {
    error
        .to_string()
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ")
        .to_owned()
}

/// The values of an expression that is only literals between bars, at most a thousand of them.
fn plain_alternatives(expression: &str) -> Option<Arc<[String]>> {
    if expression.is_empty()
        || expression
            .chars()
            .any(|character| ".+*?()[]{}^$\\".contains(character))
    {
        return None;
    }
    let alternatives: Vec<String> = expression.split('|').map(str::to_owned).collect();
    (alternatives.len() <= 1000).then(|| alternatives.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_expression_is_anchored_and_cannot_leave_its_group() {
        let matcher = Matcher::new("job", Operation::Regex, "api.*").unwrap();
        assert!(matcher.matches("api-server"));
        assert!(!matcher.matches("my-api"));
        assert!(Matcher::new("job", Operation::Regex, "a)(b").is_err());
        assert!(Matcher::new("job", Operation::Regex, "((a{1000}){1000}){1000}").is_err());
    }

    #[test]
    fn a_list_of_words_is_looked_up() {
        let matcher = Matcher::new("job", Operation::Regex, "a|b").unwrap();
        assert_eq!(matcher.candidates(), Some(vec!["a", "b"]));
        assert!(matcher.matches("b") && !matcher.matches("c"));
        let not = Matcher::new("job", Operation::NotRegex, "a|b").unwrap();
        assert!(not.matches("") && !not.matches("a"));
    }
}
