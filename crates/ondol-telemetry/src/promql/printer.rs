//! Writes a syntax tree as a query that reads as the same tree, on one line or on many.

use std::fmt::{self, Display};

use super::ast::{At, Cardinality, Duration, Expr, Extension, Matching, VectorSelector};
use super::float::format_float;
use super::lexer::format_duration;
use crate::series::{METRIC_NAME, Operation, Quoted, valid_label_name};

/// A name in a list of labels, quoted when it has to be.
struct Name<'a>(&'a str);

impl Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if valid_label_name(self.0) {
            f.write_str(self.0)
        } else {
            Quoted(self.0).fmt(f)
        }
    }
}

fn names(f: &mut fmt::Formatter<'_>, list: &[String]) -> fmt::Result {
    f.write_str("(")?;
    for (at, name) in list.iter().enumerate() {
        if at > 0 {
            f.write_str(", ")?;
        }
        Name(name).fmt(f)?;
    }
    f.write_str(")")
}

/// Seconds as a duration where that is exact, and as a number otherwise.
fn seconds(f: &mut fmt::Formatter<'_>, value: f64, units: bool) -> fmt::Result {
    let milliseconds = value * 1000.0;
    if units && milliseconds.fract() == 0.0 && milliseconds.abs() < 9e15 {
        return f.write_str(&format_duration(milliseconds as i64));
    }
    f.write_str(&format_float(value))
}

impl Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds(value, units) => seconds(f, *value, *units),
            Self::Step => f.write_str("step()"),
            Self::Range => f.write_str("range()"),
            Self::Negated(inner) => write!(f, "-{inner}"),
            Self::Binary(op, left, right) => write!(f, "{left} {} {right}", op.as_str()),
            Self::Min(first, second) => write!(f, "min_of({first}, {second})"),
            Self::Max(first, second) => write!(f, "max_of({first}, {second})"),
            Self::Paren(inner) => write!(f, "({inner})"),
        }
    }
}

fn modifiers(
    f: &mut fmt::Formatter<'_>,
    extension: Extension,
    at: Option<At>,
    offset: Option<&Duration>,
) -> fmt::Result {
    match extension {
        Extension::None => {}
        Extension::Anchored => f.write_str(" anchored")?,
        Extension::Smoothed => f.write_str(" smoothed")?,
    }
    match at {
        None => {}
        Some(At::Time(milliseconds)) => {
            let sign = if milliseconds < 0 { "-" } else { "" };
            let milliseconds = milliseconds.unsigned_abs();
            write!(
                f,
                " @ {sign}{}.{:03}",
                milliseconds / 1000,
                milliseconds % 1000
            )?;
        }
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
    }
    if let Some(offset) = offset {
        write!(f, " offset {offset}")?;
    }
    Ok(())
}

impl VectorSelector {
    fn series(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut quoted_name = false;
        if let Some(name) = &self.name {
            f.write_str(name)?;
        }
        let mut shown = 0;
        for matcher in &self.matchers {
            let names = matcher.name.as_ref() == METRIC_NAME
                && matcher.operation == Operation::Equal
                && self.name.as_deref() == Some(matcher.value.as_ref());
            if names && !quoted_name {
                quoted_name = true;
                continue;
            }
            f.write_str(if shown == 0 { "{" } else { ", " })?;
            write!(f, "{matcher}")?;
            shown += 1;
        }
        if shown > 0 {
            f.write_str("}")?;
        }
        Ok(())
    }
}

impl Display for VectorSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.series(f)?;
        modifiers(f, self.extension, self.at, self.offset.as_ref())
    }
}

struct MatchingWords<'a>(&'a Matching);

impl Display for MatchingWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let matching = self.0;
        let grouped = match matching.cardinality {
            Cardinality::ManyToOne => Some("group_left"),
            Cardinality::OneToMany => Some("group_right"),
            Cardinality::OneToOne | Cardinality::ManyToMany => None,
        };
        if matching.on || !matching.labels.is_empty() || grouped.is_some() {
            f.write_str(if matching.on { " on " } else { " ignoring " })?;
            names(f, &matching.labels)?;
        }
        if let Some(word) = grouped {
            write!(f, " {word} ")?;
            names(f, &matching.include)?;
        }
        match (matching.fill_left, matching.fill_right) {
            (None, None) => Ok(()),
            (Some(left), Some(right)) if left.to_bits() == right.to_bits() => {
                write!(f, " fill ({})", format_float(left))
            }
            (left, right) => {
                if let Some(left) = left {
                    write!(f, " fill_left ({})", format_float(left))?;
                }
                if let Some(right) = right {
                    write!(f, " fill_right ({})", format_float(right))?;
                }
                Ok(())
            }
        }
    }
}

/// The words before the operands of an aggregation.
fn aggregation_words(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    grouping: &[String],
    without: bool,
) -> fmt::Result {
    f.write_str(name)?;
    if without || !grouping.is_empty() {
        f.write_str(if without { " without " } else { " by " })?;
        names(f, grouping)?;
        f.write_str(" ")?;
    }
    Ok(())
}

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number {
                value, duration, ..
            } => seconds(f, *value, *duration),
            Self::String { value, invalid, .. } => match invalid {
                Some(shown) => f.write_str(shown),
                None => Quoted(value).fmt(f),
            },
            Self::Selector(selector) => selector.fmt(f),
            Self::Matrix {
                selector, window, ..
            } => {
                selector.series(f)?;
                write!(f, "[{window}]")?;
                modifiers(f, selector.extension, selector.at, selector.offset.as_ref())
            }
            Self::Subquery {
                expr,
                window,
                step,
                offset,
                at,
                ..
            } => {
                write!(f, "{expr}[{window}:")?;
                if let Some(step) = step {
                    step.fmt(f)?;
                }
                f.write_str("]")?;
                modifiers(f, Extension::None, *at, offset.as_ref())
            }
            Self::Call { function, args, .. } => {
                write!(f, "{}(", function.name)?;
                for (at, arg) in args.iter().enumerate() {
                    if at > 0 {
                        f.write_str(", ")?;
                    }
                    arg.fmt(f)?;
                }
                f.write_str(")")
            }
            Self::Aggregate {
                op,
                expr,
                param,
                grouping,
                without,
                ..
            } => {
                aggregation_words(f, op.as_str(), grouping, *without)?;
                f.write_str("(")?;
                if let Some(param) = param {
                    write!(f, "{param}, ")?;
                }
                write!(f, "{expr})")
            }
            Self::Unary { negative, expr, .. } => {
                write!(f, "{}{expr}", if *negative { '-' } else { '+' })
            }
            Self::Binary {
                op,
                lhs,
                rhs,
                matching,
                return_bool,
                ..
            } => {
                write!(f, "{lhs} {}", op.as_str())?;
                if *return_bool {
                    f.write_str(" bool")?;
                }
                if let Some(matching) = matching {
                    MatchingWords(matching).fmt(f)?;
                }
                write!(f, " {rhs}")
            }
            Self::Paren { expr, .. } => write!(f, "({expr})"),
        }
    }
}

/// The longest line of a formatted query.
const WIDTH: usize = 100;

/// A query as people like to read it: what does not fit a line is broken, operands indented
/// below their operator.
#[must_use]
pub fn pretty(expr: &Expr) -> String {
    let mut text = String::new();
    write_pretty(expr, 0, &mut text);
    text
}

fn indent(level: usize, text: &mut String) {
    for _ in 0..level {
        text.push_str("  ");
    }
}

fn write_pretty(expr: &Expr, level: usize, text: &mut String) {
    let line = expr.to_string();
    if line.len() + level * 2 <= WIDTH {
        indent(level, text);
        text.push_str(&line);
        return;
    }
    match expr {
        Expr::Binary {
            op,
            lhs,
            rhs,
            matching,
            return_bool,
            ..
        } => {
            write_pretty(lhs, level + 1, text);
            text.push('\n');
            indent(level, text);
            text.push_str(op.as_str());
            if *return_bool {
                text.push_str(" bool");
            }
            if let Some(matching) = matching {
                text.push_str(&MatchingWords(matching).to_string());
            }
            text.push('\n');
            write_pretty(rhs, level + 1, text);
        }
        Expr::Call { function, args, .. } => {
            indent(level, text);
            text.push_str(function.name);
            list(args.iter(), level, text);
        }
        Expr::Aggregate {
            op,
            expr,
            param,
            grouping,
            without,
            ..
        } => {
            struct Words<'a>(&'a str, &'a [String], bool);
            impl Display for Words<'_> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    aggregation_words(f, self.0, self.1, self.2)
                }
            }
            indent(level, text);
            text.push_str(&Words(op.as_str(), grouping, *without).to_string());
            list(
                param.iter().map(AsRef::as_ref).chain([expr.as_ref()]),
                level,
                text,
            );
        }
        Expr::Paren { expr, .. } => {
            indent(level, text);
            list([expr.as_ref()].into_iter(), level, text);
        }
        Expr::Unary { negative, expr, .. } => {
            indent(level, text);
            text.push(if *negative { '-' } else { '+' });
            let mut inner = String::new();
            write_pretty(expr, level, &mut inner);
            text.push_str(inner.trim_start());
        }
        Expr::Subquery { expr: inner, .. } => {
            write_pretty(inner, level, text);
            // What follows the inner expression is the same on one line and on many.
            text.push_str(&line[inner.to_string().len()..]);
        }
        _ => {
            indent(level, text);
            text.push_str(&line);
        }
    }
}

fn list<'a>(items: impl Iterator<Item = &'a Expr>, level: usize, text: &mut String) {
    text.push_str("(\n");
    for (at, item) in items.enumerate() {
        if at > 0 {
            text.push_str(",\n");
        }
        write_pretty(item, level + 1, text);
    }
    text.push('\n');
    indent(level, text);
    text.push(')');
}
