//! Datasets, secrets and volumes.

use std::collections::BTreeSet;

use super::{Checked, Checker};
use crate::model::{Column, ColumnType, Scalar, Spec};

/// The most datasets, secrets and volumes of one project, each.
const MAX_NAMES: usize = 200;

pub(in crate::check) fn data(spec: &Spec, checker: &Checker<'_>) -> Checked {
    for (name, dataset) in &spec.data {
        let at = ["data", name.as_str(), "schema"];
        if dataset.schema.len() > 10_000 {
            checker.fail(&at, "at most 10000 columns can have rules", None)?;
        }
        for (column, rules) in &dataset.schema {
            column_rules(checker, &[&at[..], &[column]].concat(), rules)?;
        }
    }
    Ok(())
}

fn column_rules(checker: &Checker<'_>, at: &[&str], rules: &Column) -> Checked {
    let with = |key| [at, &[key]].concat();
    let numeric = matches!(
        rules.kind,
        None | Some(ColumnType::Number | ColumnType::Integer)
    );
    for (key, bound) in [("min", rules.min), ("max", rules.max)] {
        if bound.is_some() && !numeric {
            checker.fail(
                &with(key),
                "only numbers have bounds",
                Some("set `type: number`, or remove the bound"),
            )?;
        }
        if bound.is_some_and(f64::is_nan) {
            checker.fail(&with(key), "must be a number", None)?;
        }
    }
    if let (Some(min), Some(max)) = (rules.min, rules.max)
        && min > max
    {
        checker.fail(
            &with("max"),
            format!("max ({max}) is less than min ({min})"),
            None,
        )?;
    }
    for (index, value) in rules.one_of.iter().enumerate() {
        let fits = match (rules.kind, value) {
            (None, _)
            | (Some(ColumnType::Text), Scalar::Text(_))
            | (Some(ColumnType::Boolean), Scalar::Boolean(_)) => true,
            (Some(ColumnType::Number), Scalar::Number(number)) => !number.is_nan(),
            (Some(ColumnType::Integer), Scalar::Number(number)) => number.fract() == 0.0,
            (Some(ColumnType::Date | ColumnType::Timestamp), Scalar::Text(_)) => true,
            _ => false,
        };
        if !fits {
            let index = index.to_string();
            let at = [at, &["in", &index]].concat();
            checker.fail(
                &at,
                "the value has not the column's type",
                Some("put text in quotes, and numbers not"),
            )?;
        }
    }
    if let Some(pattern) = &rules.pattern {
        let compiled = regex::RegexBuilder::new(pattern)
            .size_limit(1 << 20)
            .build();
        if let Err(error) = compiled {
            let text = error.to_string();
            let reason = text
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned();
            checker.fail(
                &with("pattern"),
                format!("not a regular expression: {reason}"),
                None,
            )?;
        }
    }
    Ok(())
}

/// Secrets come once, and volumes do not lie in each other.
pub(in crate::check) fn names(spec: &Spec, checker: &Checker<'_>) -> Checked {
    let counts = [
        ("data", spec.data.len()),
        ("secrets", spec.secrets.len()),
        ("volumes", spec.volumes.len()),
    ];
    for (key, count) in counts {
        if count > MAX_NAMES {
            checker.fail(
                &[key],
                format!("there are {count}; at most {MAX_NAMES} are allowed"),
                None,
            )?;
        }
    }
    let mut seen = BTreeSet::new();
    for (index, secret) in spec.secrets.iter().enumerate() {
        let name = &secret.name;
        if !seen.insert(name) {
            checker.fail(
                &["secrets", &index.to_string()],
                format!("`{name}` is here twice"),
                None,
            )?;
        }
        let file = spec
            .secrets
            .iter()
            .find(|other| other.name != *name && other.variable() == name.as_str());
        if let Some(file) = file {
            let message = format!(
                "the variable `{name}` has the path of the file of secret `{}`",
                file.name
            );
            checker.fail(
                &["secrets", &index.to_string()],
                message,
                Some("rename one of the two"),
            )?;
        }
    }
    for (name, folder) in &spec.volumes {
        if folder.inside().is_some() && folder.first() == Some(".git") {
            checker.fail(
                &["volumes", name.as_str()],
                "`.git` is not a place for a volume",
                None,
            )?;
        }
        let clash = spec
            .volumes
            .iter()
            .find(|(other, other_folder)| *other != name && other_folder.overlaps(folder));
        if let Some((other, _)) = clash {
            let message = format!("`{folder}` and the volume `{other}` lie in each other");
            checker.fail(
                &["volumes", name.as_str()],
                message,
                Some("give each volume a folder of its own"),
            )?;
        }
    }
    Ok(())
}
