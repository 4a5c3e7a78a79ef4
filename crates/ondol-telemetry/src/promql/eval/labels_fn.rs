//! Functions on labels: `label_replace`, `label_join`, `sort_by_label`.

use std::cmp::Ordering;

use super::super::ast::Expr;
use super::super::error::QueryError;
use super::{Column, Evaluator, Grid, Result, merge, text};
use crate::series::{LabelsBuilder, METRIC_NAME};

/// A label name that was given as a text.
fn label_name(expr: &Expr, role: &str, function: &str) -> Result<String> {
    let name = text(expr);
    let invalid = matches!(
        expr.unparenthesized(),
        Expr::String {
            invalid: Some(_),
            ..
        }
    );
    if invalid || name.is_empty() {
        return Err(QueryError::Execution(format!(
            "invalid {role} label name in {function}(): {name}"
        )));
    }
    Ok(name.to_owned())
}

impl Evaluator<'_> {
    pub(super) fn label_replace(&mut self, args: &[Expr], grid: Grid) -> Result<Vec<Column>> {
        let [vector, target, replacement, source, pattern] = args else {
            return Ok(Vec::new());
        };
        let regex = crate::series::anchored(text(pattern)).map_err(|_| {
            QueryError::Execution(format!(
                "invalid regular expression in label_replace(): {}",
                text(pattern)
            ))
        })?;
        let target = label_name(target, "destination", "label_replace")?;
        let (replacement, source) = (text(replacement), text(source));
        let mut columns = self.vector(vector, grid)?;
        for column in &mut columns {
            let value = column.labels.get(source).to_owned();
            let Some(captures) = regex.captures(&value) else {
                continue;
            };
            let mut expanded = String::new();
            captures.expand(replacement, &mut expanded);
            relabel(column, &target, &expanded);
        }
        merge(columns)
    }

    pub(super) fn label_join(&mut self, args: &[Expr], grid: Grid) -> Result<Vec<Column>> {
        let [vector, target, separator, sources @ ..] = args else {
            return Ok(Vec::new());
        };
        let sources = sources
            .iter()
            .map(|source| label_name(source, "source", "label_join"))
            .collect::<Result<Vec<String>>>()?;
        let target = label_name(target, "destination", "label_join")?;
        let separator = text(separator);
        let mut columns = self.vector(vector, grid)?;
        for column in &mut columns {
            let values: Vec<&str> = sources
                .iter()
                .map(|source| column.labels.get(source))
                .collect();
            let joined = values.join(separator);
            relabel(column, &target, &joined);
        }
        merge(columns)
    }
}

fn relabel(column: &mut Column, target: &str, value: &str) {
    let mut builder = LabelsBuilder::from_labels(&column.labels);
    builder.set(target, value);
    column.labels = builder.build();
    if target == METRIC_NAME {
        // A name that was set is no longer the one that was to be dropped.
        column.drop_name = false;
    }
}

/// Sorts by these labels as people order them, and then by all labels.
pub(super) fn sort_by_labels(columns: &mut [Column], labels: &[&str], descending: bool) {
    columns.sort_by(|a, b| {
        let order = labels
            .iter()
            .map(|label| natural(a.labels.get(label), b.labels.get(label)))
            .find(|order| order.is_ne())
            .unwrap_or_else(|| a.labels.cmp(&b.labels));
        if descending { order.reverse() } else { order }
    });
}

/// Compares runs of digits by their value and everything else by its bytes.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (chunks(a), chunks(b));
    loop {
        match (left.next(), right.next()) {
            (None, None) => return a.cmp(b),
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(left), Some(right)) => {
                let numbers = (left.parse::<u64>(), right.parse::<u64>());
                let order = match numbers {
                    (Ok(left), Ok(right)) => left.cmp(&right),
                    _ => left.cmp(right),
                };
                if order.is_ne() {
                    return order;
                }
            }
        }
    }
}

/// Runs of digits and runs of other characters, in turn.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let digits = rest.bytes().next()?.is_ascii_digit();
        let end = rest
            .char_indices()
            .find(|(_, character)| character.is_ascii_digit() != digits)
            .map_or(rest.len(), |(at, _)| at);
        let (chunk, after) = rest.split_at(end);
        rest = after;
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_compared_by_value() {
        assert_eq!(natural("cpu2", "cpu10"), Ordering::Less);
        assert_eq!(natural("1.11.3", "1.2.3"), Ordering::Greater);
        assert_eq!(natural("4m5", "4m600"), Ordering::Less);
        assert_eq!(natural("a", "a"), Ordering::Equal);
        assert_eq!(natural("", "a"), Ordering::Less);
    }
}
