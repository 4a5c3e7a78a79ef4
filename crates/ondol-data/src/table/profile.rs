//! Schema and statistics of a table, in one pass and bounded memory.

use ondol_types::RelPath;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sketch::{Distinct, Frequent, Quantiles, hash};
use super::{Cell, Format, Place, Rows, is_date, is_timestamp, parse_boolean};
use crate::error::TableFault;

/// Frequent values shown per column.
const TOP: usize = 10;
/// Columns that are profiled; those beyond are listed with their kind alone.
const PROFILED: usize = 1_000;
/// The shares of the rows whose quantiles are kept, in twentieths.
const TWENTIETHS: usize = 20;

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnKind {
    /// Nothing but missing values.
    Empty,
    /// `true` and `false`.
    Boolean,
    /// Whole numbers.
    Integer,
    /// Numbers.
    Number,
    /// Dates.
    Date,
    /// Dates with time.
    Timestamp,
    /// Anything else.
    Text,
}

/// A value with how often it comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FrequentValue {
    /// The value, cut to 200 characters.
    pub value: String,
    /// How often it comes.
    pub count: u64,
}

/// What is known of one column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ColumnProfile {
    /// Its name.
    pub name: String,
    /// What its values are.
    pub kind: ColumnKind,
    /// Rows without a value.
    pub missing: u64,
    /// How many distinct values.
    pub distinct: u64,
    /// Whether `distinct` is exact; otherwise it is within a few percent.
    pub distinct_exact: bool,
    /// The smallest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// The mean of the numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// The standard deviation of the numbers (of the population).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub std: Option<f64>,
    /// The numbers below which 0 %, 5 %, … 100 % of the rows lie: 21 of them.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub quantiles: Vec<f64>,
    /// The most frequent values, most frequent first.
    pub top: Vec<FrequentValue>,
    /// Whether the counts of `top` are exact; otherwise they are lower bounds.
    pub top_exact: bool,
}

/// What is known of one table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TableProfile {
    /// The file it lies in.
    pub path: RelPath,
    /// What the file is written in.
    pub format: Format,
    /// How many rows it has.
    pub rows: u64,
    /// Its columns in order.
    pub columns: Vec<ColumnProfile>,
}

/// What a column may still be.
#[derive(Clone, Copy)]
struct Kinds {
    boolean: bool,
    integer: bool,
    number: bool,
    date: bool,
    timestamp: bool,
}

impl Kinds {
    fn only(kind: ColumnKind) -> Self {
        Self {
            boolean: kind == ColumnKind::Boolean,
            integer: kind == ColumnKind::Integer,
            number: matches!(kind, ColumnKind::Integer | ColumnKind::Number),
            date: kind == ColumnKind::Date,
            timestamp: kind == ColumnKind::Timestamp,
        }
    }

    fn and(&mut self, other: Self) {
        self.boolean &= other.boolean;
        self.integer &= other.integer;
        self.number &= other.number;
        self.date &= other.date;
        self.timestamp &= other.timestamp;
    }

    fn kind(self) -> ColumnKind {
        if self.boolean {
            ColumnKind::Boolean
        } else if self.integer {
            ColumnKind::Integer
        } else if self.number {
            ColumnKind::Number
        } else if self.date {
            ColumnKind::Date
        } else if self.timestamp {
            ColumnKind::Timestamp
        } else {
            ColumnKind::Text
        }
    }
}

struct Column {
    name: String,
    kinds: Kinds,
    present: u64,
    numbers: u64,
    mean: f64,
    squares: f64,
    min: f64,
    max: f64,
    sketches: Option<(Distinct, Quantiles, Frequent)>,
}

impl Column {
    fn new(name: &str, profiled: bool) -> Self {
        Self {
            name: name.to_owned(),
            kinds: Kinds {
                boolean: true,
                integer: true,
                number: true,
                date: true,
                timestamp: true,
            },
            present: 0,
            numbers: 0,
            mean: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            sketches: profiled.then(|| (Distinct::new(), Quantiles::new(), Frequent::new())),
        }
    }

    fn add(&mut self, cell: &Cell<'_>) {
        if cell.is_missing() {
            return;
        }
        self.present += 1;
        let mut number = cell.number();
        match cell {
            Cell::Boolean(_) => self.kinds.and(Kinds::only(ColumnKind::Boolean)),
            Cell::Integer(_) => self.kinds.and(Kinds::only(ColumnKind::Integer)),
            Cell::Number(_) => self.kinds.and(Kinds::only(ColumnKind::Number)),
            Cell::Date(_) => self.kinds.and(Kinds::only(ColumnKind::Date)),
            Cell::Timestamp(_) => self.kinds.and(Kinds::only(ColumnKind::Timestamp)),
            Cell::Raw(text) => {
                let text = text.trim();
                number = number.filter(|_| self.kinds.number);
                self.kinds.boolean &= parse_boolean(text).is_some();
                self.kinds.number &= number.is_some();
                self.kinds.integer &= self.kinds.number && text.parse::<i64>().is_ok();
                self.kinds.date = self.kinds.date && is_date(text);
                self.kinds.timestamp = self.kinds.timestamp && is_timestamp(text);
            }
            Cell::Text(_) | Cell::Missing => self.kinds.and(Kinds::only(ColumnKind::Text)),
        }
        if let Some(number) = number.filter(|number| number.is_finite()) {
            self.numbers += 1;
            let delta = number - self.mean;
            self.mean += delta / self.numbers as f64;
            self.squares += delta * (number - self.mean);
            self.min = self.min.min(number);
            self.max = self.max.max(number);
        }
        if let Some((distinct, quantiles, frequent)) = &mut self.sketches {
            let text = cell.shown();
            distinct.add(hash(&text));
            frequent.add(&text);
            if let Some(number) = number.filter(|number| number.is_finite()) {
                quantiles.add(number);
            }
        }
    }

    fn finish(self, rows: u64) -> ColumnProfile {
        let kind = if self.present == 0 {
            ColumnKind::Empty
        } else {
            self.kinds.kind()
        };
        let numeric = matches!(kind, ColumnKind::Integer | ColumnKind::Number) && self.numbers > 0;
        let shares: Vec<f64> = (0..=TWENTIETHS)
            .map(|n| n as f64 / TWENTIETHS as f64)
            .collect();
        let (mut distinct, mut quantiles, mut top) = ((0, false), Vec::new(), (Vec::new(), false));
        if let Some((values, numbers, frequent)) = &self.sketches {
            distinct = values.count();
            top = frequent.top(TOP);
            if numeric {
                quantiles = numbers.at(&shares);
            }
        }
        ColumnProfile {
            name: self.name,
            kind,
            missing: rows - self.present,
            distinct: distinct.0,
            distinct_exact: distinct.1,
            min: numeric.then_some(self.min),
            max: numeric.then_some(self.max),
            mean: numeric.then_some(self.mean),
            std: numeric.then(|| (self.squares / self.numbers as f64).sqrt()),
            quantiles,
            top: top.0,
            top_exact: top.1,
        }
    }
}

/// Takes the rows of a table and knows its profile in the end.
pub struct Profiler {
    rows: u64,
    detailed: bool,
    columns: Vec<Column>,
}

impl Profiler {
    /// A profiler of a table. Without details it still finds kinds, ranges and rows, for one
    /// table among very many.
    pub fn new(detailed: bool) -> Self {
        Self {
            rows: 0,
            detailed,
            columns: Vec::new(),
        }
    }

    /// What was found.
    pub fn finish(self, path: RelPath, format: Format) -> TableProfile {
        let rows = self.rows;
        TableProfile {
            path,
            format,
            rows,
            columns: self
                .columns
                .into_iter()
                .map(|column| column.finish(rows))
                .collect(),
        }
    }
}

impl Rows for Profiler {
    fn columns(&mut self, names: &[String]) -> Result<(), TableFault> {
        for name in &names[self.columns.len()..] {
            let profiled = self.detailed && self.columns.len() < PROFILED;
            self.columns.push(Column::new(name, profiled));
        }
        Ok(())
    }

    fn row(&mut self, _: Place, cells: &[Cell<'_>]) -> Result<bool, TableFault> {
        self.rows += 1;
        for (column, cell) in self.columns.iter_mut().zip(cells) {
            column.add(cell);
        }
        Ok(true)
    }
}
