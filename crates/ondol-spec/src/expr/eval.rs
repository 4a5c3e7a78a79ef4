//! Decides an expression and says why.

use std::fmt;

use ondol_types::{Classified, ErrorKind};

use super::{Expression, Number, Operator, Test, Values};

/// What an expression decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether it holds.
    pub passed: bool,
    /// Every comparison that could be made, in the order of the text, also where the outcome was
    /// clear before: a person wants to see all that failed.
    pub comparisons: Vec<Comparison>,
}

/// One comparison with the numbers that were compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The comparison as CEL.
    pub text: String,
    /// Value of the left side.
    pub left: f64,
    /// Value of the right side.
    pub right: f64,
    /// Whether it holds.
    pub passed: bool,
    symbol: &'static str,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.passed { "holds" } else { "fails" };
        write!(
            f,
            "{} {word} ({} {} {})",
            self.text,
            shown(self.left),
            self.symbol,
            shown(self.right)
        )
    }
}

impl fmt::Display for Verdict {
    /// `accuracy >= 0.93 fails (0.91 >= 0.93); accuracy >= champion.accuracy holds (0.91 >= 0.9)`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.comparisons.is_empty() {
            return write!(f, "the expression is {}", self.passed);
        }
        for (index, comparison) in self.comparisons.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{comparison}")?;
        }
        Ok(())
    }
}

/// Why nothing could be decided. A refusal is never a pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A name has no value.
    #[error("`{name}` has no value; there are {available}")]
    Missing {
        /// The name.
        name: String,
        /// What has values.
        available: String,
        /// The nearest of them.
        nearest: Option<String>,
    },
    /// A value is not a number.
    #[error("`{name}` is not a number (NaN)")]
    NotANumber {
        /// The name, or the part of the expression.
        name: String,
    },
    /// A division by zero.
    #[error("`{part}` divides by zero")]
    DivisionByZero {
        /// The division.
        part: String,
    },
}

impl Classified for Refusal {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "spec.expression.missing",
            Self::NotANumber { .. } => "spec.expression.nan",
            Self::DivisionByZero { .. } => "spec.expression.zero",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing {
                nearest: Some(nearest),
                ..
            } => Some(format!("did you mean `{nearest}`?")),
            _ => None,
        }
    }
}

pub(super) fn evaluate(expression: &Expression, values: &Values) -> Result<Verdict, Refusal> {
    let asked = expression.optional_names();
    for name in expression.names() {
        match values.get(name) {
            Some(value) if value.is_nan() => {
                return Err(Refusal::NotANumber {
                    name: name.to_owned(),
                });
            }
            None if !asked.contains(name) => return Err(missing(name, values)),
            _ => {}
        }
    }
    let mut run = Run {
        values,
        comparisons: Vec::new(),
    };
    let passed = run.test(&expression.root)?;
    Ok(Verdict {
        passed,
        comparisons: run.comparisons,
    })
}

fn missing(name: &str, values: &Values) -> Refusal {
    let available: Vec<&str> = values.0.keys().map(String::as_str).take(20).collect();
    let nearest = crate::nearest::nearest(name, available.iter().copied()).map(str::to_owned);
    let available = if available.is_empty() {
        "no values at all".to_owned()
    } else {
        available.join(", ")
    };
    Refusal::Missing {
        name: name.to_owned(),
        available,
        nearest,
    }
}

struct Run<'a> {
    values: &'a Values,
    comparisons: Vec<Comparison>,
}

impl Run<'_> {
    fn number(&mut self, number: &Number) -> Result<f64, Refusal> {
        let value = match number {
            Number::Literal(value) => *value,
            Number::Name(name) => self
                .values
                .get(name)
                .ok_or_else(|| missing(name, self.values))?,
            Number::Negative(inner) => -self.number(inner)?,
            Number::Arithmetic(symbol, left, right) => {
                let (a, b) = (self.number(left)?, self.number(right)?);
                match symbol {
                    '+' => a + b,
                    '-' => a - b,
                    '*' => a * b,
                    _ if b == 0.0 => {
                        return Err(Refusal::DivisionByZero {
                            part: number.to_string(),
                        });
                    }
                    _ => a / b,
                }
            }
            Number::Choice(test, yes, no) => {
                if self.test(test)? {
                    self.number(yes)?
                } else {
                    self.number(no)?
                }
            }
        };
        if value.is_nan() {
            Err(Refusal::NotANumber {
                name: number.to_string(),
            })
        } else {
            Ok(value)
        }
    }

    fn test(&mut self, test: &Test) -> Result<bool, Refusal> {
        Ok(match test {
            Test::Literal(value) => *value,
            Test::Has(name) => self.values.get(name).is_some(),
            Test::Not(inner) => !self.test(inner)?,
            Test::And(left, right) => self.both(left, right, false)?,
            Test::Or(left, right) => self.both(left, right, true)?,
            Test::Compare(operator, left, right) => {
                let (a, b) = (self.number(left)?, self.number(right)?);
                let passed = match operator {
                    Operator::Less => a < b,
                    Operator::LessOrEqual => a <= b,
                    Operator::Greater => a > b,
                    Operator::GreaterOrEqual => a >= b,
                    Operator::Equal => a == b,
                    Operator::NotEqual => a != b,
                };
                self.comparisons.push(Comparison {
                    text: test.to_string(),
                    left: a,
                    right: b,
                    passed,
                    symbol: operator.symbol(),
                });
                passed
            }
            Test::Same(equal, left, right) => (self.test(left)? == self.test(right)?) == *equal,
            Test::Choice(test, yes, no) => {
                if self.test(test)? {
                    self.test(yes)?
                } else {
                    self.test(no)?
                }
            }
        })
    }

    /// Logic that stops at `decisive`. The right side is looked at in any case, for the sake of
    /// the explanation; what goes wrong there counts only when it is needed.
    fn both(&mut self, left: &Test, right: &Test, decisive: bool) -> Result<bool, Refusal> {
        let first = self.test(left)?;
        let kept = self.comparisons.len();
        match self.test(right) {
            Ok(second) => Ok(if first == decisive { decisive } else { second }),
            Err(_) if first == decisive => {
                self.comparisons.truncate(kept);
                Ok(decisive)
            }
            Err(refusal) => Err(refusal),
        }
    }
}

/// A number for people: six significant decimals at most, no trailing zeros.
pub(super) fn shown(value: f64) -> String {
    if value == value.trunc() && value.abs() < 1e15 {
        return format!("{value}");
    }
    if value.abs() < 1e-4 || value.abs() >= 1e15 {
        return format!("{value:e}");
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
