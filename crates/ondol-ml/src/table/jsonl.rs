//! JSON Lines: one object per line. Keys become columns; a key that a line lacks is missing.

use std::io::{BufRead, BufReader, Read};

use serde_json::Value;

use super::{Cell, Sink};
use crate::error::{MlError, MlResult};

/// Longest line.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Reads every line of `input` into `sink`.
pub(super) fn read(file: &str, input: impl Read, sink: &mut dyn Sink) -> MlResult<()> {
    let error = |place: String, what: String, code, hint| MlError::Table {
        place,
        what,
        code,
        hint,
    };
    let mut reader = BufReader::new(input);
    let mut line = Vec::new();
    let (mut number, mut row) = (0u64, 0u64);
    loop {
        line.clear();
        let length = (&mut reader)
            .take(MAX_LINE_BYTES + 1)
            .read_until(b'\n', &mut line)
            .map_err(|source| MlError::io("reading", std::path::Path::new(file), source))?;
        if length == 0 {
            break;
        }
        number += 1;
        if length as u64 > MAX_LINE_BYTES {
            return Err(MlError::TooLarge {
                what: format!("line {number} of {file} in bytes"),
                actual: length as u64,
                limit: MAX_LINE_BYTES,
            });
        }
        let start = if number == 1 && line.starts_with(&[0xEF, 0xBB, 0xBF]) {
            3
        } else {
            0
        };
        let text = std::str::from_utf8(&line[start..]).map_err(|_| {
            error(
                format!("{file}, line {number}"),
                "is not UTF-8".to_owned(),
                "ml.table.encoding",
                "save the file as UTF-8",
            )
        })?;
        if text.trim().is_empty() {
            continue;
        }
        row += 1;
        let object: serde_json::Map<String, Value> =
            serde_json::from_str(text).map_err(|reason| {
                let what = format!("is not a JSON object: {reason}");
                error(
                    format!("{file}, row {row} (line {number})"),
                    what,
                    "ml.table.malformed",
                    "write one JSON object per line",
                )
            })?;
        for (name, value) in &object {
            let place = sink.column(name)?;
            let cell = match value {
                Value::Null => Cell::Missing,
                Value::Bool(truth) => Cell::Bool(*truth),
                Value::Number(number) => match number.as_f64() {
                    Some(number) => Cell::Number(number),
                    None => Cell::Missing,
                },
                Value::String(text) => Cell::Text(text),
                Value::Array(_) | Value::Object(_) => {
                    let place = format!("{file}, row {row} (line {number}), column `{name}`");
                    let what =
                        "is a nested value; a table has numbers, texts and truth values".to_owned();
                    return Err(error(
                        place,
                        what,
                        "ml.table.nested",
                        "flatten the value into columns of its own",
                    ));
                }
            };
            sink.cell(place, cell)?;
        }
        sink.end_row()?;
    }
    if row == 0 {
        return Err(error(
            file.to_owned(),
            "is empty".to_owned(),
            "ml.table.empty",
            "write one JSON object per line",
        ));
    }
    Ok(())
}
