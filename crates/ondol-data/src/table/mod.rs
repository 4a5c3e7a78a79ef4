//! Tables in files: CSV, JSON Lines and Parquet, read a row at a time.
//!
//! A reader gives every row to a [`Rows`] and holds no more than one of them. What is not a table
//! (ragged, not UTF-8, empty, a column twice) is refused with its row and column; which rows are
//! *good* is a question for [`crate::validate`].

mod cell;
mod csv;
mod jsonl;
mod pages;
mod parquet;
mod profile;
mod sketch;

use std::io::Read;

use ondol_types::RelPath;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use cell::Cell;
pub(crate) use cell::{is_date, is_timestamp, parse_boolean};
pub use profile::{ColumnKind, ColumnProfile, FrequentValue, Profiler, TableProfile};

use crate::error::TableFault;

/// The most columns of a table.
pub const MAX_COLUMNS: usize = 10_000;
/// The most bytes of one row.
pub const MAX_ROW_BYTES: u64 = 16 * 1024 * 1024;

/// What a file with a table is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Comma-separated values with a header; semicolons and tabs are recognised.
    Csv,
    /// Tab-separated values with a header.
    Tsv,
    /// One JSON object per line.
    Jsonl,
    /// Apache Parquet.
    Parquet,
}

impl Format {
    /// The format that a file's name promises; other files are not looked into.
    pub fn of(path: &RelPath) -> Option<Self> {
        let (_, extension) = path.file_name().rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::Jsonl),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// Where a row stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Data row from 1, not counting the header.
    pub row: u64,
    /// Line from 1, where lines exist.
    pub line: Option<u64>,
}

/// Takes the rows of a table.
pub trait Rows {
    /// Tells the columns: once before the first row, and again with more at the end of the list
    /// when a row brought new ones, as JSON Lines may.
    ///
    /// # Errors
    /// A fault ends the reading.
    fn columns(&mut self, names: &[String]) -> Result<(), TableFault>;

    /// Takes one row with a cell for every column told so far. Returns whether to go on.
    ///
    /// # Errors
    /// A fault ends the reading.
    fn row(&mut self, place: Place, cells: &[Cell<'_>]) -> Result<bool, TableFault>;
}

/// Bytes of a table: a stream, or for Parquet something that can be read anywhere.
pub(crate) enum Source {
    Stream(Box<dyn Read + Send>),
    Bytes(bytes::Bytes),
    File(std::fs::File),
}

/// Reads a table through.
pub(crate) fn read(format: Format, source: Source, rows: &mut dyn Rows) -> Result<(), TableFault> {
    let stream: Box<dyn Read + Send> = match (format, source) {
        (Format::Parquet, Source::Bytes(bytes)) => return parquet::read(bytes, rows),
        (Format::Parquet, Source::File(file)) => return parquet::read(file, rows),
        (Format::Parquet, Source::Stream(mut stream)) => {
            let mut bytes = Vec::new();
            stream
                .read_to_end(&mut bytes)
                .map_err(|error| unreadable(&error))?;
            return parquet::read(bytes::Bytes::from(bytes), rows);
        }
        (_, Source::Stream(stream)) => stream,
        (_, Source::Bytes(bytes)) => Box::new(std::io::Cursor::new(bytes)),
        (_, Source::File(file)) => Box::new(file),
    };
    match format {
        Format::Tsv => csv::read(stream, Some(b'\t'), rows),
        Format::Jsonl => jsonl::read(stream, rows),
        Format::Csv | Format::Parquet => csv::read(stream, None, rows),
    }
}

fn unreadable(error: &std::io::Error) -> TableFault {
    TableFault {
        row: None,
        line: None,
        column: None,
        problem: format!("it cannot be read: {error}"),
        code: "data.table.unreadable",
        hint: "push the file again",
    }
}

fn empty(problem: &str) -> TableFault {
    TableFault {
        row: None,
        line: None,
        column: None,
        problem: problem.to_owned(),
        code: "data.table.empty",
        hint: "a table needs at least one row; leave the file out, or give it another extension",
    }
}

/// Refuses a column name that stands twice, and too many columns.
fn check_columns(names: &[String]) -> Result<(), TableFault> {
    let fault = |column: Option<String>, problem: String, code, hint| TableFault {
        row: None,
        line: Some(1),
        column,
        problem,
        code,
        hint,
    };
    if names.len() > MAX_COLUMNS {
        return Err(fault(
            None,
            format!("it has {} columns, more than {MAX_COLUMNS}", names.len()),
            "data.table.columns",
            "keep the values of a wide table in rows",
        ));
    }
    let mut seen = std::collections::HashMap::new();
    for (at, name) in names.iter().enumerate() {
        if let Some(first) = seen.insert(name.as_str(), at) {
            return Err(fault(
                Some(name.clone()),
                format!(
                    "the name stands twice in the header, as column {} and column {}",
                    first + 1,
                    at + 1
                ),
                "data.table.duplicate-column",
                "rename or remove one of the two columns",
            ));
        }
    }
    Ok(())
}

/// The first byte chooses the format. A table has in every row a cell for each column, rows are
/// counted without a gap, and reading it twice says the same.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    struct Checked {
        profile: Profiler,
        columns: usize,
        rows: u64,
    }
    impl Rows for Checked {
        fn columns(&mut self, names: &[String]) -> Result<(), TableFault> {
            assert!(names.len() > self.columns || self.rows == 0);
            assert!(names.len() <= MAX_COLUMNS);
            self.columns = names.len();
            self.profile.columns(names)
        }

        fn row(&mut self, place: Place, cells: &[Cell<'_>]) -> Result<bool, TableFault> {
            assert_eq!(cells.len(), self.columns);
            assert_eq!(place.row, self.rows + 1);
            self.rows = place.row;
            self.profile.row(place, cells)?;
            Ok(self.rows < 10_000)
        }
    }
    // The hook of `cargo fuzz` ends the process before a caught panic is caught.
    #[cfg(fuzzing)]
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let format = match choice % 4 {
        0 => Format::Csv,
        1 => Format::Tsv,
        2 => Format::Jsonl,
        _ => Format::Parquet,
    };
    let path: RelPath = "t".parse().expect("it is a path");
    let run = |source: Source| {
        let mut rows = Checked {
            profile: Profiler::new(true),
            columns: 0,
            rows: 0,
        };
        let outcome = read(format, source, &mut rows);
        let profile = serde_json::to_string(&rows.profile.finish(path.clone(), format));
        (
            outcome.map_err(|fault| fault.problem),
            profile.expect("a profile can be written"),
        )
    };
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    let whole = run(Source::Bytes(bytes.clone()));
    let stream = run(Source::Stream(Box::new(std::io::Cursor::new(bytes))));
    assert_eq!(whole, stream);
}

#[cfg(test)]
mod tests;
