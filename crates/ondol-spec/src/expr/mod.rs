//! The expressions of `accept` and `check`: CEL over numbers.
//!
//! CEL's own parser reads the text; what it read is then narrowed, when the file is loaded, to a
//! typed tree of numbers, comparisons and logic. So an expression that loads cannot have a wrong
//! type later, its cost is linear in its length, and every number in it is a double (`x >= 1`
//! compares doubles). Evaluation refuses, rather than guesses, when a name has no value or when
//! a value is not a number: a gate must never open by accident.

mod eval;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use eval::{Comparison, Refusal, Verdict};

/// The most characters that an expression may have.
pub const MAX_CHARS: usize = 1_000;
/// The deepest that parts of an expression may be nested.
pub const MAX_DEPTH: u16 = 16;

/// Names that `release.check` knows, for the canary and, behind `current.`, for the release
/// that it is to replace.
pub const CHECK_NAMES: &[&str] = &["error_rate", "p50", "p95", "p99", "requests", "rps"];

/// Why a text is not an expression that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExprError {
    /// Too long.
    #[error("the expression has {0} characters; at most {MAX_CHARS} are allowed")]
    TooLong(usize),
    /// Not CEL.
    #[error("the expression is not valid CEL at character {character}: {message}")]
    Syntax {
        /// Where, counted from 1 over the whole text.
        character: usize,
        /// What the parser says.
        message: String,
    },
    /// CEL, but more than a gate may use.
    #[error(
        "{0} cannot be used here: an expression has names, numbers, `+ - * /`, comparisons, `&& || !`, `a ? b : c` and `has(name)`"
    )]
    Unsupported(String),
    /// A part has the wrong type.
    #[error("`{part}` is {found}, where {expected} is needed")]
    Type {
        /// The part, as CEL.
        part: String,
        /// What it is.
        found: &'static str,
        /// What is needed.
        expected: &'static str,
    },
    /// The host gave no thread to read it with.
    #[error("the expression cannot be read now, because the system refuses another thread")]
    Unavailable,
    /// A name that will never have a value.
    #[error("`{name}` is not known here; known are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// What there is instead.
        known: String,
        /// The nearest of them.
        nearest: Option<String>,
    },
}

/// A number on its way to be compared.
#[derive(Clone, Debug, PartialEq)]
enum Number {
    Literal(f64),
    Name(String),
    Negative(Box<Number>),
    Arithmetic(char, Box<Number>, Box<Number>),
    Choice(Box<Test>, Box<Number>, Box<Number>),
}

/// Something that is true or false.
#[derive(Clone, Debug, PartialEq)]
enum Test {
    Literal(bool),
    Has(String),
    Not(Box<Test>),
    And(Box<Test>, Box<Test>),
    Or(Box<Test>, Box<Test>),
    Compare(Operator, Box<Number>, Box<Number>),
    Same(bool, Box<Test>, Box<Test>),
    Choice(Box<Test>, Box<Test>, Box<Test>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
}

impl Operator {
    const fn symbol(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        }
    }
}

/// The values that an expression is evaluated over. A dot in a name makes a group:
/// `champion.accuracy`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(BTreeMap<String, f64>);

impl Values {
    /// No values.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one value. Characters that a CEL name cannot have are replaced by `_`, so that a
    /// metric `f1-score` is written `f1_score`.
    pub fn set(&mut self, name: &str, value: f64) {
        self.0.insert(cel_name(name), value);
    }

    /// The same values and one more; see [`Values::set`].
    #[must_use]
    pub fn with(mut self, name: &str, value: f64) -> Self {
        self.set(name, value);
        self
    }

    /// Adds values as a group: `group.name`.
    pub fn set_group<'a>(&mut self, group: &str, values: impl IntoIterator<Item = (&'a str, f64)>) {
        for (name, value) in values {
            self.set(&format!("{group}.{name}"), value);
        }
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }
}

impl<'a> FromIterator<(&'a str, f64)> for Values {
    fn from_iter<T: IntoIterator<Item = (&'a str, f64)>>(items: T) -> Self {
        let mut values = Self::new();
        for (name, value) in items {
            values.set(name, value);
        }
        values
    }
}

fn cel_name(name: &str) -> String {
    let mut text: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' || c == '.' {
                c
            } else {
                '_'
            }
        })
        .collect();
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        text.insert(0, '_');
    }
    text
}

/// A checked expression that yields true or false. Cheap enough to keep; equal when its text is.
#[derive(Clone)]
pub struct Expression {
    text: Box<str>,
    root: std::sync::Arc<Test>,
}

impl Expression {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is too long, is not CEL, uses more of CEL than a gate may, or does not yield true
    /// or false.
    pub fn parse(text: &str) -> Result<Self, ExprError> {
        let root = read::read(text)?;
        Ok(Self {
            text: text.trim().into(),
            root: std::sync::Arc::new(root),
        })
    }

    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Every name that the expression uses, with its group: `champion.accuracy`.
    pub fn names(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        test_names(&self.root, &mut names, &mut BTreeSet::new());
        names
    }

    /// Names that the expression itself asks for with `has()`: they may have no value.
    pub fn optional_names(&self) -> BTreeSet<&str> {
        let mut asked = BTreeSet::new();
        test_names(&self.root, &mut BTreeSet::new(), &mut asked);
        asked
    }

    /// Checks that every name is one that `release.check` can have.
    ///
    /// # Errors
    /// [`ExprError::Unknown`] for the first that is not.
    pub fn check_canary_names(&self) -> Result<(), ExprError> {
        for name in self.names().into_iter().chain(self.optional_names()) {
            let bare = name.strip_prefix("current.").unwrap_or(name);
            if !CHECK_NAMES.contains(&bare) {
                let nearest =
                    crate::nearest::nearest(bare, CHECK_NAMES.iter().copied()).map(str::to_owned);
                let known = format!(
                    "{} of the canary, and the same of the serving release as `current.…`",
                    CHECK_NAMES.join(", ")
                );
                return Err(ExprError::Unknown {
                    name: name.to_owned(),
                    known,
                    nearest,
                });
            }
        }
        Ok(())
    }

    /// Checks that every name is a metric or `champion.<metric>`. Which metrics there are is
    /// known only after training.
    ///
    /// # Errors
    /// [`ExprError::Unknown`] for the first that is neither.
    pub fn check_gate_names(&self) -> Result<(), ExprError> {
        for name in self.names().into_iter().chain(self.optional_names()) {
            let sound = match name.split_once('.') {
                None => name != "champion",
                Some((group, metric)) => group == "champion" && !metric.contains('.'),
            };
            if !sound {
                let known =
                    "metrics of the candidate, and those of the champion as `champion.<metric>`"
                        .to_owned();
                let nearest = name
                    .split_once('.')
                    .map(|(_, metric)| format!("champion.{metric}"));
                return Err(ExprError::Unknown {
                    name: name.to_owned(),
                    known,
                    nearest,
                });
            }
        }
        Ok(())
    }

    /// Decides.
    ///
    /// # Errors
    /// [`Refusal`] when a name has no value (unless the expression asks for it with `has()`), a
    /// value is NaN, or a number is divided by zero.
    pub fn evaluate(&self, values: &Values) -> Result<Verdict, Refusal> {
        eval::evaluate(self, values)
    }
}

fn number_names<'a>(
    number: &'a Number,
    names: &mut BTreeSet<&'a str>,
    asked: &mut BTreeSet<&'a str>,
) {
    match number {
        Number::Literal(_) => {}
        Number::Name(name) => {
            names.insert(name);
        }
        Number::Negative(inner) => number_names(inner, names, asked),
        Number::Arithmetic(_, left, right) => {
            number_names(left, names, asked);
            number_names(right, names, asked);
        }
        Number::Choice(test, left, right) => {
            test_names(test, names, asked);
            number_names(left, names, asked);
            number_names(right, names, asked);
        }
    }
}

fn test_names<'a>(test: &'a Test, names: &mut BTreeSet<&'a str>, asked: &mut BTreeSet<&'a str>) {
    match test {
        Test::Literal(_) => {}
        Test::Has(name) => {
            asked.insert(name);
        }
        Test::Not(inner) => test_names(inner, names, asked),
        Test::And(left, right) | Test::Or(left, right) | Test::Same(_, left, right) => {
            test_names(left, names, asked);
            test_names(right, names, asked);
        }
        Test::Compare(_, left, right) => {
            number_names(left, names, asked);
            number_names(right, names, asked);
        }
        Test::Choice(test, left, right) => {
            test_names(test, names, asked);
            test_names(left, names, asked);
            test_names(right, names, asked);
        }
    }
}

impl FromStr for Expression {
    type Err = ExprError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

crate::model::text_form!(Expression, "a CEL expression that yields true or false");

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => f.write_str(&eval::shown(*value)),
            Self::Name(name) => f.write_str(name),
            Self::Negative(inner) => write!(f, "-{}", Inner(inner)),
            Self::Arithmetic(operator, left, right) => {
                write!(f, "{} {operator} {}", Inner(left), Inner(right))
            }
            Self::Choice(test, left, right) => {
                write!(f, "{test} ? {} : {}", Inner(left), Inner(right))
            }
        }
    }
}

/// A number inside another: in parentheses when it has parts.
struct Inner<'a>(&'a Number);

impl fmt::Display for Inner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Number::Literal(_) | Number::Name(_) | Number::Negative(_) => write!(f, "{}", self.0),
            _ => write!(f, "({})", self.0),
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(value) => write!(f, "{value}"),
            Self::Has(name) => write!(f, "has({name})"),
            Self::Not(inner) => write!(f, "!({inner})"),
            Self::And(left, right) => write!(f, "({left} && {right})"),
            Self::Or(left, right) => write!(f, "({left} || {right})"),
            Self::Compare(operator, left, right) => {
                write!(f, "{left} {} {right}", operator.symbol())
            }
            Self::Same(equal, left, right) => {
                write!(f, "({left}) {} ({right})", if *equal { "==" } else { "!=" })
            }
            Self::Choice(test, left, right) => write!(f, "({test} ? {left} : {right})"),
        }
    }
}

#[cfg(test)]
mod tests;
