//! The two passes over a table: [`Profile`] learns the columns, [`Builder`] loads them.

use std::collections::HashMap;

use super::{
    Cell, Column, Sink, Table, TableLimits, TextValues, Values, is_missing, parse_bool,
    parse_number,
};
use crate::error::{MlError, MlResult};

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    numbers: u64,
    bools: u64,
    texts: u64,
}

/// The first pass: names and kinds of columns, and the ceilings.
pub(super) struct Profile {
    limits: TableLimits,
    names: Vec<String>,
    places: HashMap<String, usize>,
    seen: Vec<Seen>,
    rows: usize,
}

impl Profile {
    pub(super) fn new(limits: TableLimits) -> Self {
        Self {
            limits,
            names: Vec::new(),
            places: HashMap::new(),
            seen: Vec::new(),
            rows: 0,
        }
    }
}

fn over(what: &str, actual: usize, limit: usize) -> MlError {
    MlError::TooLarge {
        what: what.to_owned(),
        actual: actual as u64,
        limit: limit as u64,
    }
}

impl Sink for Profile {
    fn column(&mut self, name: &str) -> MlResult<usize> {
        if let Some(&place) = self.places.get(name) {
            return Ok(place);
        }
        if self.names.len() >= self.limits.columns {
            return Err(over(
                "the number of columns",
                self.names.len() + 1,
                self.limits.columns,
            ));
        }
        self.places.insert(name.to_owned(), self.names.len());
        self.names.push(name.to_owned());
        self.seen.push(Seen::default());
        Ok(self.names.len() - 1)
    }

    fn cell(&mut self, column: usize, cell: Cell<'_>) -> MlResult<()> {
        let seen = &mut self.seen[column];
        match cell {
            Cell::Missing => {}
            Cell::Number(_) => seen.numbers += 1,
            Cell::Bool(_) => seen.bools += 1,
            Cell::Text(text) => {
                if text.len() > self.limits.cell_bytes {
                    return Err(over(
                        &format!("a cell of column `{}` in bytes", self.names[column]),
                        text.len(),
                        self.limits.cell_bytes,
                    ));
                }
                seen.texts += 1;
            }
            Cell::Untyped(text) => {
                if text.len() > self.limits.cell_bytes {
                    return Err(over(
                        &format!("a cell of column `{}` in bytes", self.names[column]),
                        text.len(),
                        self.limits.cell_bytes,
                    ));
                }
                let text = text.trim();
                if is_missing(text) {
                } else if seen.texts > 0 {
                    seen.texts += 1;
                } else if parse_number(text).is_some() {
                    seen.numbers += 1;
                } else if parse_bool(text).is_some() {
                    seen.bools += 1;
                } else {
                    seen.texts += 1;
                }
            }
        }
        Ok(())
    }

    fn end_row(&mut self) -> MlResult<()> {
        self.rows += 1;
        if self.rows > self.limits.rows {
            return Err(over("the number of rows", self.rows, self.limits.rows));
        }
        let cells = self.rows.saturating_mul(self.names.len());
        if cells > self.limits.cells {
            return Err(over("the number of cells", cells, self.limits.cells));
        }
        Ok(())
    }

    fn limits(&self) -> &TableLimits {
        &self.limits
    }
}

enum Building {
    Empty,
    Number(Vec<f64>),
    Bool(Vec<Option<bool>>),
    Text {
        values: TextValues,
        places: HashMap<Box<str>, u32>,
    },
}

/// The second pass: the values.
pub(super) struct Builder {
    limits: TableLimits,
    names: Vec<String>,
    places: HashMap<String, usize>,
    columns: Vec<Building>,
    rows: usize,
}

impl Builder {
    pub(super) fn new(profile: Profile) -> Self {
        let columns = profile
            .seen
            .iter()
            .map(|seen| match (seen.numbers, seen.bools, seen.texts) {
                (0, 0, 0) => Building::Empty,
                (_, 0, 0) => Building::Number(Vec::with_capacity(profile.rows)),
                (0, _, 0) => Building::Bool(Vec::with_capacity(profile.rows)),
                _ => Building::Text {
                    values: TextValues {
                        dictionary: Vec::new(),
                        codes: Vec::with_capacity(profile.rows),
                    },
                    places: HashMap::new(),
                },
            })
            .collect();
        Self {
            limits: profile.limits,
            names: profile.names,
            places: profile.places,
            columns,
            rows: 0,
        }
    }

    /// The file changed between the two passes.
    fn moved(&self, column: usize) -> MlError {
        MlError::Table {
            place: format!("row {}, column `{}`", self.rows + 1, self.names[column]),
            what: "the file changed while it was read".to_owned(),
            code: "ml.table.changed",
            hint: "do not write to the data while a model is trained on it",
        }
    }

    pub(super) fn finish(self) -> Table {
        let columns = self
            .names
            .into_iter()
            .zip(self.columns)
            .map(|(name, column)| Column {
                name,
                values: match column {
                    Building::Empty => Values::Empty,
                    Building::Number(values) => Values::Number(values),
                    Building::Bool(values) => Values::Bool(values),
                    Building::Text { values, .. } => Values::Text(values),
                },
            })
            .collect();
        Table {
            columns,
            rows: self.rows,
        }
    }
}

fn intern(values: &mut TextValues, places: &mut HashMap<Box<str>, u32>, text: &str) {
    let code = places.get(text).copied().unwrap_or_else(|| {
        let code = values.dictionary.len() as u32;
        values.dictionary.push(text.into());
        places.insert(text.into(), code);
        code
    });
    values.codes.push(code);
}

impl Sink for Builder {
    fn column(&mut self, name: &str) -> MlResult<usize> {
        self.places
            .get(name)
            .copied()
            .ok_or_else(|| MlError::Table {
                place: format!("column `{name}`"),
                what: "the file changed while it was read".to_owned(),
                code: "ml.table.changed",
                hint: "do not write to the data while a model is trained on it",
            })
    }

    fn cell(&mut self, column: usize, cell: Cell<'_>) -> MlResult<()> {
        let row = self.rows;
        let moved = |builder: &Self| Err(builder.moved(column));
        let cell = match cell {
            Cell::Untyped(text) if is_missing(text.trim()) => Cell::Missing,
            other => other,
        };
        if matches!(cell, Cell::Missing) {
            return Ok(());
        }
        match &mut self.columns[column] {
            Building::Empty => return moved(self),
            Building::Number(values) => {
                let number = match cell {
                    Cell::Number(number) => Some(number),
                    Cell::Untyped(text) => parse_number(text.trim()),
                    _ => None,
                };
                match number {
                    Some(number) if values.len() == row => values.push(number),
                    _ => return moved(self),
                }
            }
            Building::Bool(values) => {
                let truth = match cell {
                    Cell::Bool(truth) => Some(truth),
                    Cell::Untyped(text) => parse_bool(text.trim()),
                    _ => None,
                };
                match truth {
                    Some(truth) if values.len() == row => values.push(Some(truth)),
                    _ => return moved(self),
                }
            }
            Building::Text { values, places } => {
                if values.codes.len() != row {
                    return moved(self);
                }
                match cell {
                    Cell::Text(text) => intern(values, places, text),
                    Cell::Untyped(text) => intern(values, places, text.trim()),
                    Cell::Number(number) => intern(values, places, &number.to_string()),
                    Cell::Bool(truth) => {
                        intern(values, places, if truth { "true" } else { "false" })
                    }
                    Cell::Missing => {}
                }
            }
        }
        Ok(())
    }

    fn end_row(&mut self) -> MlResult<()> {
        self.rows += 1;
        for column in &mut self.columns {
            match column {
                Building::Empty => {}
                Building::Number(values) => values.resize(self.rows, f64::NAN),
                Building::Bool(values) => values.resize(self.rows, None),
                Building::Text { values, .. } => {
                    values.codes.resize(self.rows, TextValues::MISSING)
                }
            }
        }
        Ok(())
    }

    fn limits(&self) -> &TableLimits {
        &self.limits
    }
}
