//! Parquet by its record interface. Nested values are kept as their text.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::Field;

use super::{Cell, Place, Rows, check_columns, empty, pages};
use crate::error::TableFault;

fn malformed(row: Option<u64>, error: &ParquetError) -> TableFault {
    TableFault {
        row,
        line: None,
        column: None,
        problem: format!("it is not readable Parquet: {error}"),
        code: "data.table.malformed",
        hint: "write the file again",
    }
}

/// Runs a step of the library, which panics at some files that contradict themselves.
fn guarded<T>(step: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(step))
        .unwrap_or_else(|_| Err(ParquetError::General("it contradicts itself".to_owned())))
}

/// A file whose bytes can be read at any place, twice: headers first.
pub(super) trait Whole: ChunkReader + 'static {
    fn again(&self) -> std::io::Result<Self>
    where
        Self: Sized;
}

impl Whole for bytes::Bytes {
    fn again(&self) -> std::io::Result<Self> {
        Ok(self.clone())
    }
}

impl Whole for std::fs::File {
    fn again(&self) -> std::io::Result<Self> {
        self.try_clone()
    }
}

pub(super) fn read(input: impl Whole, rows: &mut dyn Rows) -> Result<(), TableFault> {
    if input.len() == 0 {
        return Err(empty("it is empty"));
    }
    let again = input.again().map_err(|error| super::unreadable(&error))?;
    let reader =
        guarded(|| SerializedFileReader::new(again)).map_err(|error| malformed(None, &error))?;
    pages::check(&input, reader.metadata()).map_err(|problem| TableFault {
        row: None,
        line: None,
        column: None,
        problem,
        code: "data.table.unfolds",
        hint: "write the file with smaller pages and values",
    })?;
    let metadata = reader.metadata().file_metadata();
    let names: Vec<String> = metadata
        .schema_descr()
        .root_schema()
        .get_fields()
        .iter()
        .map(|field| field.name().to_owned())
        .collect();
    if metadata.num_rows() <= 0 || names.is_empty() {
        return Err(empty("it has no rows"));
    }
    check_columns(&names).map_err(|fault| TableFault {
        line: None,
        ..fault
    })?;
    rows.columns(&names)?;
    let mut all = guarded(|| reader.get_row_iter(None)).map_err(|error| malformed(None, &error))?;
    let mut number = 0;
    loop {
        number += 1;
        let row =
            guarded(|| all.next().transpose()).map_err(|error| malformed(Some(number), &error))?;
        let Some(row) = row else { break };
        let fields: Vec<&Field> = row.get_column_iter().map(|(_, field)| field).collect();
        let texts: Vec<Option<String>> =
            guarded(|| Ok(fields.iter().map(|field| text(field)).collect()))
                .map_err(|error| malformed(Some(number), &error))?;
        let cells: Vec<Cell<'_>> = fields
            .iter()
            .zip(&texts)
            .map(|(field, text)| cell(field, text.as_deref()))
            .collect();
        let place = Place {
            row: number,
            line: None,
        };
        if !rows.row(place, &cells)? {
            return Ok(());
        }
    }
    Ok(())
}

/// The text of a value whose text is not at hand.
fn text(field: &Field) -> Option<String> {
    match field {
        Field::Date(days) => jiff::civil::date(1970, 1, 1)
            .checked_add(jiff::Span::new().try_days(i64::from(*days)).ok()?)
            .ok()
            .map(|date| date.to_string()),
        Field::TimestampMillis(millis) => jiff::Timestamp::from_millisecond(*millis)
            .ok()
            .map(|moment| moment.to_string()),
        Field::TimestampMicros(micros) => jiff::Timestamp::from_microsecond(*micros)
            .ok()
            .map(|moment| moment.to_string()),
        Field::Bytes(bytes) => Some(String::from_utf8_lossy(bytes.data()).into_owned()),
        Field::Group(_)
        | Field::ListInternal(_)
        | Field::MapInternal(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::Decimal(_) => Some(field.to_string()),
        _ => None,
    }
}

fn cell<'a>(field: &'a Field, text: Option<&'a str>) -> Cell<'a> {
    match field {
        Field::Null => Cell::Missing,
        Field::Bool(value) => Cell::Boolean(*value),
        Field::Byte(n) => Cell::Integer(i64::from(*n)),
        Field::Short(n) => Cell::Integer(i64::from(*n)),
        Field::Int(n) => Cell::Integer(i64::from(*n)),
        Field::Long(n) => Cell::Integer(*n),
        Field::UByte(n) => Cell::Integer(i64::from(*n)),
        Field::UShort(n) => Cell::Integer(i64::from(*n)),
        Field::UInt(n) => Cell::Integer(i64::from(*n)),
        Field::ULong(n) => i64::try_from(*n).map_or(Cell::Number(*n as f64), Cell::Integer),
        Field::Float16(n) => Cell::Number(f64::from(f32::from(*n))),
        Field::Float(n) => Cell::Number(f64::from(*n)),
        Field::Double(n) => Cell::Number(*n),
        Field::Str(value) => Cell::Text(value),
        Field::Date(_) => text.map_or(Cell::Missing, Cell::Date),
        Field::TimestampMillis(_) | Field::TimestampMicros(_) => {
            text.map_or(Cell::Missing, Cell::Timestamp)
        }
        Field::Decimal(_) => text.map_or(Cell::Missing, Cell::Raw),
        _ => text.map_or(Cell::Missing, Cell::Text),
    }
}
