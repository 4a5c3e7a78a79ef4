//! Parquet by its record interface: flat columns of numbers, truth values and texts.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use super::{Cell, Sink};
use crate::error::{MlError, MlResult};

/// Runs a step of the library, which panics at some files that contradict themselves.
fn guarded<T>(step: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, ParquetError> {
    catch_unwind(AssertUnwindSafe(step))
        .unwrap_or_else(|_| Err(ParquetError::General("it contradicts itself".to_owned())))
}

/// Reads every row of the file into `sink`.
pub(super) fn read(file: &str, input: File, sink: &mut dyn Sink) -> MlResult<()> {
    let error = |place: String, what: String, code, hint| MlError::Table {
        place,
        what,
        code,
        hint,
    };
    let malformed = |place: String, reason: ParquetError| {
        error(
            place,
            format!("is not readable Parquet: {reason}"),
            "ml.table.malformed",
            "write the file again",
        )
    };
    let reader = guarded(|| SerializedFileReader::new(input))
        .map_err(|reason| malformed(file.to_owned(), reason))?;
    let metadata = reader.metadata().file_metadata();
    let limits = *sink.limits();
    let declared = usize::try_from(metadata.num_rows()).unwrap_or(0);
    if declared > limits.rows {
        return Err(MlError::TooLarge {
            what: format!("the number of rows of {file}"),
            actual: declared as u64,
            limit: limits.rows as u64,
        });
    }
    let fields = metadata.schema_descr().root_schema().get_fields().to_vec();
    if fields.is_empty() || declared == 0 {
        return Err(error(
            file.to_owned(),
            "has no rows".to_owned(),
            "ml.table.empty",
            "add rows",
        ));
    }
    let names: Vec<String> = fields.iter().map(|field| field.name().to_owned()).collect();
    super::refuse_duplicates(file, &names)?;
    let places = names
        .iter()
        .map(|name| sink.column(name))
        .collect::<MlResult<Vec<_>>>()?;
    let mut all = guarded(|| reader.get_row_iter(None))
        .map_err(|reason| malformed(file.to_owned(), reason))?;
    let mut number = 0;
    loop {
        number += 1;
        let row = guarded(|| all.next().transpose())
            .map_err(|reason| malformed(format!("{file}, row {number}"), reason))?;
        let Some(row) = row else { break };
        for (column, (name, field)) in row.get_column_iter().enumerate() {
            let text;
            let cell = match field {
                Field::Null => Cell::Missing,
                Field::Bool(truth) => Cell::Bool(*truth),
                Field::Byte(n) => Cell::Number(f64::from(*n)),
                Field::Short(n) => Cell::Number(f64::from(*n)),
                Field::Int(n) => Cell::Number(f64::from(*n)),
                Field::Long(n) => Cell::Number(*n as f64),
                Field::UByte(n) => Cell::Number(f64::from(*n)),
                Field::UShort(n) => Cell::Number(f64::from(*n)),
                Field::UInt(n) => Cell::Number(f64::from(*n)),
                Field::ULong(n) => Cell::Number(*n as f64),
                Field::Float16(n) => Cell::Number(f64::from(f32::from(*n))),
                Field::Float(n) => Cell::Number(f64::from(*n)),
                Field::Double(n) => Cell::Number(*n),
                Field::Date(days) => Cell::Number(f64::from(*days)),
                Field::TimeMillis(n) => Cell::Number(f64::from(*n)),
                Field::TimeMicros(n) | Field::TimestampMillis(n) | Field::TimestampMicros(n) => {
                    Cell::Number(*n as f64)
                }
                Field::Decimal(_) => {
                    text = guarded(|| Ok(field.to_string()))
                        .map_err(|reason| malformed(format!("{file}, row {number}"), reason))?;
                    super::parse_number(&text).map_or(Cell::Missing, Cell::Number)
                }
                Field::Str(value) => Cell::Text(value),
                Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
                    Ok(value) => Cell::Text(value),
                    Err(_) => {
                        let place = format!("{file}, row {number}, column `{name}`");
                        let what = "is binary, not text".to_owned();
                        return Err(error(
                            place,
                            what,
                            "ml.table.encoding",
                            "leave binary columns out",
                        ));
                    }
                },
                other => {
                    let place = format!("{file}, row {number}, column `{name}`");
                    let what = format!("is a nested or unsupported value ({other})")
                        .chars()
                        .take(200)
                        .collect();
                    return Err(error(
                        place,
                        what,
                        "ml.table.nested",
                        "flatten the value into columns of its own",
                    ));
                }
            };
            let cell = match cell {
                Cell::Number(value) if value.is_nan() => Cell::Missing,
                cell => cell,
            };
            sink.cell(places[column], cell)?;
        }
        sink.end_row()?;
    }
    Ok(())
}
