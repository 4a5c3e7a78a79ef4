//! The tables in a folder: which files there are, and all of them as one table.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::{Cell, Sink, Table, TableLimits, csv, jsonl, load, parquet};
use crate::error::{MlError, MlResult};

/// Formats by the ending of the file name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Csv,
    Tsv,
    JsonLines,
    Parquet,
}

impl Format {
    fn of(name: &str) -> Option<Self> {
        let (_, ending) = name.rsplit_once('.')?;
        match ending.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

/// A file that holds a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its name below the folder, for messages.
    pub name: String,
    /// Its size in bytes.
    pub bytes: u64,
    format: Format,
}

/// Most files that one folder may hold.
const MAX_FILES: usize = 100_000;

/// The tables below a folder (or the one file that `root` is), in order of their names. Symbolic
/// links and hidden files are left out.
///
/// # Errors
/// When there is none, or they are too large together.
pub fn find_tables(root: &Path, limits: &TableLimits) -> MlResult<Vec<TableFile>> {
    let mut found = Vec::new();
    let kind = fs::symlink_metadata(root).map_err(|source| MlError::io("reading", root, source))?;
    if kind.is_file() {
        let name = root
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        found.extend(Format::of(&name).map(|format| TableFile {
            path: root.to_owned(),
            name,
            bytes: kind.len(),
            format,
        }));
    }
    let mut folders = if kind.is_dir() {
        vec![(root.to_owned(), String::new(), 0)]
    } else {
        Vec::new()
    };
    let mut entries = 0;
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in
            fs::read_dir(&folder).map_err(|source| MlError::io("listing", &folder, source))?
        {
            let entry = entry.map_err(|source| MlError::io("listing", &folder, source))?;
            entries += 1;
            if entries > MAX_FILES {
                let (actual, limit) = (entries as u64, MAX_FILES as u64);
                return Err(MlError::TooLarge {
                    what: "the number of files in the data".to_owned(),
                    actual,
                    limit,
                });
            }
            let path = entry.path();
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if file_name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{file_name}");
            let meta = fs::symlink_metadata(&path)
                .map_err(|source| MlError::io("reading", &path, source))?;
            if meta.is_dir() && depth < 32 {
                folders.push((path, format!("{name}/"), depth + 1));
            } else if meta.is_file()
                && let Some(format) = Format::of(&file_name)
            {
                found.push(TableFile {
                    path,
                    name,
                    bytes: meta.len(),
                    format,
                });
            }
        }
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    if found.is_empty() {
        return Err(MlError::Table {
            place: "the data".to_owned(),
            what: "has no table: no .csv, .tsv, .jsonl, .ndjson or .parquet file".to_owned(),
            code: "ml.table.none",
            hint: "push a file of one of these kinds, or train with train.run",
        });
    }
    let bytes: u64 = found.iter().map(|file| file.bytes).sum();
    if bytes > limits.bytes {
        return Err(MlError::TooLarge {
            what: "the data in bytes".to_owned(),
            actual: bytes,
            limit: limits.bytes,
        });
    }
    Ok(found)
}

/// Refuses a file whose columns are not those of the first; JSON Lines may leave keys out.
struct SameColumns<'a> {
    inner: &'a mut dyn Sink,
    seen: BTreeSet<String>,
}

impl Sink for SameColumns<'_> {
    fn column(&mut self, name: &str) -> MlResult<usize> {
        if !self.seen.contains(name) {
            self.seen.insert(name.to_owned());
        }
        self.inner.column(name)
    }

    fn cell(&mut self, column: usize, cell: Cell<'_>) -> MlResult<()> {
        self.inner.cell(column, cell)
    }

    fn end_row(&mut self) -> MlResult<()> {
        self.inner.end_row()
    }

    fn limits(&self) -> &TableLimits {
        self.inner.limits()
    }
}

fn list(names: &BTreeSet<String>) -> String {
    names
        .iter()
        .take(5)
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Reads the files as one table, row after row.
///
/// # Errors
/// When a file is malformed, or its columns are not those of the first file.
pub fn read_tables(files: &[TableFile], limits: &TableLimits) -> MlResult<Table> {
    load(limits, |sink| {
        let mut first: Option<BTreeSet<String>> = None;
        for file in files {
            let mut checked = SameColumns {
                inner: sink,
                seen: BTreeSet::new(),
            };
            let input = File::open(&file.path)
                .map_err(|source| MlError::io("reading", &file.path, source))?;
            match file.format {
                Format::Csv => csv::read(&file.name, input, csv::Delimiter::Detect, &mut checked)?,
                Format::Tsv => {
                    csv::read(&file.name, input, csv::Delimiter::Byte(b'\t'), &mut checked)?
                }
                Format::JsonLines => jsonl::read(&file.name, input, &mut checked)?,
                Format::Parquet => parquet::read(&file.name, input, &mut checked)?,
            }
            let seen = checked.seen;
            match &first {
                None => first = Some(seen),
                Some(expected) if *expected == seen || file.format == Format::JsonLines => {}
                Some(expected) => {
                    let lacking: BTreeSet<String> = expected.difference(&seen).cloned().collect();
                    let extra: BTreeSet<String> = seen.difference(expected).cloned().collect();
                    let what = match (lacking.is_empty(), extra.is_empty()) {
                        (false, true) => format!("lacks the columns {}", list(&lacking)),
                        (true, false) => {
                            format!("has columns that the first file lacks: {}", list(&extra))
                        }
                        _ => format!("lacks {} and has {} instead", list(&lacking), list(&extra)),
                    };
                    return Err(MlError::Table {
                        place: file.name.clone(),
                        what,
                        code: "ml.table.columns-differ",
                        hint: "all tables of a dataset have the same columns",
                    });
                }
            }
        }
        Ok(())
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
