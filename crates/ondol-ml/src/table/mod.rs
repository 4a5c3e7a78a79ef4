//! Tables that models are trained on and asked about.
//!
//! A table is read twice: once to learn its columns and their kinds, once to load it. So no
//! column has to be kept as text until its last row is seen, and a column of a million numbers
//! costs eight bytes per row. Every error names the file, the row and the column. Rows are
//! counted from 1 without the header.

mod builder;
mod csv;
mod files;
mod jsonl;
mod parquet;

use std::collections::HashMap;

pub(crate) use csv::{Delimiter, read as read_csv};
pub use files::{TableFile, find_tables, read_tables};

use crate::error::{MlError, MlResult};

/// Ceilings of a table.
#[derive(Clone, Copy, Debug)]
pub struct TableLimits {
    /// Most rows.
    pub rows: usize,
    /// Most columns.
    pub columns: usize,
    /// Most cells.
    pub cells: usize,
    /// Most bytes of one cell.
    pub cell_bytes: usize,
    /// Most bytes of all files together.
    pub bytes: u64,
}

impl Default for TableLimits {
    fn default() -> Self {
        Self {
            rows: 2_000_000,
            columns: 2_000,
            cells: 40_000_000,
            cell_bytes: 65_536,
            bytes: 2 << 30,
        }
    }
}

/// One value on its way into a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// No value.
    Missing,
    /// A number; never NaN, possibly infinite.
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// Text that is typed as such.
    Text(&'a str),
    /// Text whose type is to be found, as CSV has it.
    Untyped(&'a str),
}

/// The values of one column.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Nothing but missing values.
    Empty,
    /// Numbers, missing as NaN.
    Number(Vec<f64>),
    /// Truth values.
    Bool(Vec<Option<bool>>),
    /// Texts.
    Text(TextValues),
}

/// Texts by their place in a dictionary.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TextValues {
    /// Each text once, in order of first appearance.
    pub dictionary: Vec<Box<str>>,
    /// Per row the place in the dictionary, or [`TextValues::MISSING`].
    pub codes: Vec<u32>,
}

impl TextValues {
    /// The code of a missing value.
    pub const MISSING: u32 = u32::MAX;

    /// The text of a row.
    pub fn get(&self, row: usize) -> Option<&str> {
        self.dictionary
            .get(self.codes[row] as usize)
            .map(AsRef::as_ref)
    }
}

/// A named column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// The name, unique in its table.
    pub name: String,
    /// The values.
    pub values: Values,
}

impl Column {
    /// The value of a row as text, as CSV would have it; none when it is missing.
    pub(crate) fn text(&self, row: usize) -> Option<String> {
        match &self.values {
            Values::Empty => None,
            Values::Number(values) => (!values[row].is_nan()).then(|| values[row].to_string()),
            Values::Bool(values) => values[row].map(|truth| truth.to_string()),
            Values::Text(values) => values.get(row).map(str::to_owned),
        }
    }
}

/// Columns of equal length.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Table {
    /// The columns in the order of the file.
    pub columns: Vec<Column>,
    /// How many rows each has.
    pub rows: usize,
}

impl Table {
    /// The column of that name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The names of the columns in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }
}

/// Where readers put what they read.
pub(crate) trait Sink {
    /// The place of a column, which is made when it is new.
    fn column(&mut self, name: &str) -> MlResult<usize>;
    /// Gives the value of a column in the current row. A column that is not given is missing.
    fn cell(&mut self, column: usize, cell: Cell<'_>) -> MlResult<()>;
    /// Ends the current row.
    fn end_row(&mut self) -> MlResult<()>;
    /// The ceilings that hold.
    fn limits(&self) -> &TableLimits;
}

/// Reads a table with a reader that can be run twice.
pub(crate) fn load(
    limits: &TableLimits,
    mut read: impl FnMut(&mut dyn Sink) -> MlResult<()>,
) -> MlResult<Table> {
    let mut profile = builder::Profile::new(*limits);
    read(&mut profile)?;
    let mut builder = builder::Builder::new(profile);
    read(&mut builder)?;
    Ok(builder.finish())
}

/// What stands for "no value" in text formats: the list that pandas uses.
pub(crate) fn is_missing(text: &str) -> bool {
    matches!(
        text,
        "" | "NA"
            | "N/A"
            | "n/a"
            | "#N/A"
            | "#NA"
            | "<NA>"
            | "NaN"
            | "nan"
            | "-NaN"
            | "-nan"
            | "NULL"
            | "null"
            | "None"
    )
}

/// The number that a text is, if it is one. Not `inf` and `nan`, which are words.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let digits = text.as_bytes().iter().any(u8::is_ascii_digit);
    if !digits {
        return None;
    }
    text.parse::<f64>().ok().filter(|number| !number.is_nan())
}

/// The truth value that a text is, if it is one.
pub(crate) fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

/// Finds a column name that stands twice.
pub(crate) fn refuse_duplicates(file: &str, names: &[String]) -> MlResult<()> {
    let mut seen = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if let Some(first) = seen.insert(name.as_str(), index) {
            return Err(MlError::Table {
                place: file.to_owned(),
                what: format!(
                    "column `{name}` stands twice, at places {} and {}",
                    first + 1,
                    index + 1
                ),
                code: "ml.table.duplicate-column",
                hint: "rename or remove one of the two columns",
            });
        }
    }
    Ok(())
}

/// Reads bytes as a table; `choice` names the format.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(choice: u8, bytes: &[u8], limits: &TableLimits) -> MlResult<Table> {
    load(limits, |sink| match choice % 4 {
        0 => csv::read("t", bytes, Delimiter::Detect, sink),
        1 => csv::read("t", bytes, Delimiter::Byte(b'\t'), sink),
        2 => jsonl::read("t", bytes, sink),
        _ => {
            let file = crate::fuzz::file(bytes)
                .map_err(|source| MlError::io("writing", std::path::Path::new("t"), source))?;
            parquet::read("t", file, sink)
        }
    })
}
