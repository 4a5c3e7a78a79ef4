//! The rules of `ondol.yaml` against the rows of a version.
//!
//! A finding names the file, the row, its line, the column, the value and the rule. All of them
//! are counted, the first are listed. What changed in the schema since the version before is
//! noted beside them.

use std::collections::{BTreeMap, HashSet};

use ondol_spec::model::{Column, ColumnType, Dataset, Scalar};
use ondol_types::{Digest, RelPath};
use regex::Regex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::{DataError, DataResult, TableFault};
use crate::table::{Cell, Place, Rows, TableProfile, is_date, is_timestamp, parse_boolean};

/// Findings that are listed.
pub const MAX_FINDINGS: usize = 100;
/// Values that are remembered to find one that comes twice.
const MAX_UNIQUE: usize = 5_000_000;
const SHOWN: usize = 120;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// The version breaks a rule and is refused.
    Error,
    /// Worth knowing; refuses nothing.
    Note,
}

/// One place where a version breaks a rule, or a change of its schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// In which file; absent when it concerns the whole version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<RelPath>,
    /// Data row from 1, not counting the header.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// Line of the file from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Which column.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The value, cut to 120 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Which rule, such as `min` or `in`.
    pub rule: String,
    /// The whole of it for people, in one line.
    pub message: String,
}

/// The verdict on a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidationReport {
    /// Which version.
    pub version: Digest,
    /// Its number.
    pub number: i64,
    /// Whether no rule is broken.
    pub passed: bool,
    /// Tables looked at.
    pub tables: u64,
    /// Rows looked at.
    pub rows: u64,
    /// How many times a rule is broken.
    pub errors: u64,
    /// The first findings, errors before notes.
    pub findings: Vec<Finding>,
}

impl ValidationReport {
    /// The verdict in one line.
    pub fn summary(&self) -> String {
        let first = self
            .findings
            .iter()
            .find(|finding| finding.severity == Severity::Error);
        match first {
            None => format!("{} rows keep every rule", self.rows),
            Some(first) if self.errors > 1 => {
                format!("{} (and {} more)", first.message, self.errors - 1)
            }
            Some(first) => first.message.clone(),
        }
    }
}

/// Findings, counted without a bound and kept with one.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) errors: u64,
    listed: Vec<Finding>,
    notes: Vec<Finding>,
}

impl Findings {
    pub(crate) fn add(&mut self, finding: Finding) {
        let list = match finding.severity {
            Severity::Error => {
                self.errors += 1;
                &mut self.listed
            }
            Severity::Note => &mut self.notes,
        };
        if list.len() < MAX_FINDINGS {
            list.push(finding);
        }
    }

    pub(crate) fn into_list(mut self) -> Vec<Finding> {
        self.listed.append(&mut self.notes);
        self.listed
    }
}

/// A finding about a whole file or version.
pub(crate) fn finding(
    severity: Severity,
    file: Option<&RelPath>,
    column: Option<&str>,
    rule: &str,
    problem: &str,
) -> Finding {
    let mut message = String::new();
    if let Some(file) = file {
        message.push_str(&format!("{file}: "));
    }
    if let Some(column) = column {
        message.push_str(&format!("column `{}` ", cut(column)));
    }
    message.push_str(problem);
    Finding {
        severity,
        file: file.cloned(),
        row: None,
        line: None,
        column: column.map(str::to_owned),
        value: None,
        rule: rule.to_owned(),
        message,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// The rules of one column, ready to be asked.
struct Rule {
    name: String,
    column: Column,
    pattern: Option<Regex>,
    allowed: String,
    seen: HashSet<u128>,
    full: bool,
}

/// All rules with what they have seen so far: `unique` holds over all files of a version.
pub(crate) struct Rules {
    rules: Vec<Rule>,
    extra_columns: bool,
}

impl Rules {
    pub(crate) fn new(dataset: &Dataset) -> DataResult<Self> {
        let rules = dataset
            .schema
            .iter()
            .map(|(name, column)| Rule::new(name, column))
            .collect::<DataResult<_>>()?;
        Ok(Self {
            rules,
            extra_columns: dataset.extra_columns,
        })
    }

    /// Columns that a table lacks, or must not have.
    pub(crate) fn check_columns(&self, table: &TableProfile, findings: &mut Findings) {
        let names: HashSet<&str> = table
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        for rule in &self.rules {
            if !names.contains(rule.name.as_str()) {
                findings.add(finding(
                    Severity::Error,
                    Some(&table.path),
                    Some(&rule.name),
                    "exists",
                    "is missing, and the schema has rules for it",
                ));
            }
        }
        if self.extra_columns {
            return;
        }
        let ruled: HashSet<&str> = self.rules.iter().map(|rule| rule.name.as_str()).collect();
        for name in names.difference(&ruled) {
            findings.add(finding(
                Severity::Error,
                Some(&table.path),
                Some(name),
                "extra_columns",
                "is not in the schema, and other columns are not allowed",
            ));
        }
    }
}

impl Rule {
    fn new(name: &str, column: &Column) -> DataResult<Self> {
        let pattern = column
            .pattern
            .as_ref()
            .map(|pattern| {
                regex::RegexBuilder::new(&format!("^(?:{pattern})$"))
                    .size_limit(1 << 20)
                    .build()
            })
            .transpose()
            .map_err(|error| DataError::Rule {
                column: name.to_owned(),
                problem: format!("`pattern` is not a regular expression: {error}"),
            })?;
        let allowed: Vec<String> = column
            .one_of
            .iter()
            .map(|value| match value {
                Scalar::Number(number) => number.to_string(),
                Scalar::Text(text) => text.clone(),
                Scalar::Boolean(value) => value.to_string(),
            })
            .collect();
        Ok(Self {
            name: name.to_owned(),
            column: column.clone(),
            pattern,
            allowed: cut(&allowed.join(", ")),
            seen: HashSet::new(),
            full: false,
        })
    }

    /// The first rule that a value breaks, with the reason.
    fn broken(&mut self, cell: &Cell<'_>) -> Option<(&'static str, String)> {
        if cell.is_missing() {
            return self
                .column
                .required
                .then(|| ("required", "has no value, and one is required".to_owned()));
        }
        let shown = cell.shown();
        let text = shown.trim();
        if let Some(kind) = self.column.kind
            && let Some(wanted) = mistyped(kind, cell, text)
        {
            return Some(("type", format!("is not {wanted}")));
        }
        if self.column.min.is_some() || self.column.max.is_some() {
            let Some(number) = cell.number() else {
                return Some(("type", "is not a number, and has a range".to_owned()));
            };
            if let Some(min) = self.column.min.filter(|min| number < *min) {
                return Some(("min", format!("is less than {min}")));
            }
            if let Some(max) = self.column.max.filter(|max| number > *max) {
                return Some(("max", format!("is more than {max}")));
            }
        }
        if !self.column.one_of.is_empty()
            && !self.column.one_of.iter().any(|value| is(value, cell, text))
        {
            return Some(("in", format!("is none of {}", self.allowed)));
        }
        if let Some(pattern) = &self.pattern
            && !pattern.is_match(&shown)
        {
            return Some((
                "pattern",
                format!("does not match `{}`", cut(pattern.as_str())),
            ));
        }
        if self.column.unique && !self.full {
            let mut hash = [0; 16];
            hash.copy_from_slice(&blake3::hash(shown.as_bytes()).as_bytes()[..16]);
            if !self.seen.insert(u128::from_le_bytes(hash)) {
                return Some(("unique", "comes twice".to_owned()));
            }
            self.full = self.seen.len() >= MAX_UNIQUE;
        }
        None
    }
}

fn mistyped(kind: ColumnType, cell: &Cell<'_>, text: &str) -> Option<&'static str> {
    let whole = |number: f64| number.fract() == 0.0;
    let (right, wanted) = match kind {
        ColumnType::Number => (cell.number().is_some_and(f64::is_finite), "a number"),
        ColumnType::Integer => (cell.number().is_some_and(whole), "a whole number"),
        ColumnType::Text => (matches!(cell, Cell::Raw(_) | Cell::Text(_)), "text"),
        ColumnType::Boolean => (
            match cell {
                Cell::Boolean(_) => true,
                Cell::Raw(_) => parse_boolean(text).is_some(),
                _ => false,
            },
            "`true` or `false`",
        ),
        ColumnType::Date => (
            matches!(cell, Cell::Date(_)) || is_date(text),
            "a date such as 2026-01-31",
        ),
        ColumnType::Timestamp => (
            matches!(cell, Cell::Timestamp(_)) || is_timestamp(text),
            "a time such as 2026-01-31T09:30:00Z",
        ),
    };
    (!right).then_some(wanted)
}

fn is(value: &Scalar, cell: &Cell<'_>, text: &str) -> bool {
    match value {
        Scalar::Number(number) => cell.number() == Some(*number),
        Scalar::Text(wanted) => wanted == text,
        Scalar::Boolean(wanted) => match cell {
            Cell::Boolean(value) => value == wanted,
            _ => parse_boolean(text) == Some(*wanted),
        },
    }
}

/// Asks every rule of every row of one table.
pub(crate) struct Checker {
    file: RelPath,
    rules: Rules,
    findings: Findings,
    /// For each column of the table the rule about it.
    places: Vec<Option<usize>>,
    names: Vec<String>,
    rows: u64,
}

impl Checker {
    pub(crate) fn new(file: RelPath, rules: Rules, findings: Findings) -> Self {
        Self {
            file,
            rules,
            findings,
            places: Vec::new(),
            names: Vec::new(),
            rows: 0,
        }
    }

    pub(crate) fn finish(self) -> (Rules, Findings, u64) {
        (self.rules, self.findings, self.rows)
    }
}

impl Rows for Checker {
    fn columns(&mut self, names: &[String]) -> Result<(), TableFault> {
        let rule = |name: &String| {
            let mut rules = self.rules.rules.iter();
            rules.position(|rule| rule.name == *name)
        };
        self.places = names.iter().map(rule).collect();
        self.names = names.to_vec();
        Ok(())
    }

    fn row(&mut self, place: Place, cells: &[Cell<'_>]) -> Result<bool, TableFault> {
        self.rows += 1;
        for (at, cell) in cells.iter().enumerate() {
            let Some(rule) = self.places.get(at).copied().flatten() else {
                continue;
            };
            let Some((rule, problem)) = self.rules.rules[rule].broken(cell) else {
                continue;
            };
            let value = cut(&cell.shown());
            let column = self.names[at].clone();
            let line = place
                .line
                .map_or(String::new(), |line| format!(" (line {line})"));
            let quoted = if cell.is_missing() {
                "the cell".to_owned()
            } else {
                format!("`{value}`")
            };
            let message = format!(
                "{}, row {}{line}, column `{}`: {quoted} {problem}",
                self.file,
                place.row,
                cut(&column)
            );
            self.findings.add(Finding {
                severity: Severity::Error,
                file: Some(self.file.clone()),
                row: Some(place.row),
                line: place.line,
                column: Some(column),
                value: Some(value),
                rule: rule.to_owned(),
                message,
            });
        }
        Ok(true)
    }
}

/// What changed in the schema of a table since the version before.
pub(crate) fn compare(before: &TableProfile, after: &TableProfile, findings: &mut Findings) {
    let kinds = |table: &TableProfile| -> BTreeMap<String, crate::table::ColumnKind> {
        let columns = table.columns.iter();
        columns
            .map(|column| (column.name.clone(), column.kind))
            .collect()
    };
    let (old, new) = (kinds(before), kinds(after));
    for (name, kind) in &old {
        let problem = match new.get(name) {
            None => "was in the version before and is gone".to_owned(),
            Some(now) if now != kind => {
                let word = |kind| serde_json::to_value(kind).ok();
                let word = |kind| {
                    let value = word(kind);
                    value
                        .as_ref()
                        .and_then(|value| value.as_str())
                        .unwrap_or("?")
                        .to_owned()
                };
                format!(
                    "was {} in the version before and is {} now",
                    word(*kind),
                    word(*now)
                )
            }
            Some(_) => continue,
        };
        findings.add(finding(
            Severity::Note,
            Some(&after.path),
            Some(name),
            "schema",
            &problem,
        ));
    }
    for name in new.keys().filter(|name| !old.contains_key(*name)) {
        findings.add(finding(
            Severity::Note,
            Some(&after.path),
            Some(name),
            "schema",
            "is new since the version before",
        ));
    }
}

#[cfg(test)]
mod tests;
