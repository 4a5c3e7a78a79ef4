//! JSON Lines: one object per line. Columns are the keys, in the order of their first coming.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};

use serde_json::{Map, Value};

use super::{Cell, MAX_COLUMNS, MAX_ROW_BYTES, Place, Rows, empty, unreadable};
use crate::error::TableFault;

pub(super) fn read(input: impl Read, rows: &mut dyn Rows) -> Result<(), TableFault> {
    let mut input = BufReader::with_capacity(256 * 1024, input);
    let mut names: Vec<String> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut buffer = Vec::new();
    let (mut row, mut line) = (0u64, 0u64);
    loop {
        buffer.clear();
        let count = (&mut input)
            .take(MAX_ROW_BYTES + 1)
            .read_until(b'\n', &mut buffer)
            .map_err(|error| unreadable(&error))?;
        if count == 0 {
            break;
        }
        line += 1;
        if line == 1 && buffer.starts_with(&[0xef, 0xbb, 0xbf]) {
            buffer.drain(..3);
        }
        if buffer.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        row += 1;
        let place = Place {
            row,
            line: Some(line),
        };
        let fault = |problem: String, code, hint| TableFault {
            row: Some(row),
            line: Some(line),
            column: None,
            problem,
            code,
            hint,
        };
        if count as u64 > MAX_ROW_BYTES {
            return Err(fault(
                format!("the line has more than {MAX_ROW_BYTES} bytes"),
                "data.table.row-size",
                "split the object, or give the file another extension",
            ));
        }
        let text = std::str::from_utf8(&buffer).map_err(|_| {
            fault(
                "its bytes are not UTF-8".to_owned(),
                "data.table.encoding",
                "save the file as UTF-8",
            )
        })?;
        let object: Map<String, Value> = serde_json::from_str(text).map_err(|error| {
            fault(
                format!("it is not a JSON object: {error}"),
                "data.table.malformed",
                "write one JSON object per line",
            )
        })?;
        let known = names.len();
        for name in object.keys() {
            if !places.contains_key(name) {
                places.insert(name.clone(), names.len());
                names.push(name.clone());
            }
        }
        if names.len() > MAX_COLUMNS {
            return Err(fault(
                format!("it brings the keys to more than {MAX_COLUMNS}"),
                "data.table.columns",
                "use the same keys in every line",
            ));
        }
        if names.len() > known || row == 1 {
            rows.columns(&names)?;
        }
        // Values that are lists or objects are kept as their text.
        let nested: HashMap<&str, String> = object
            .iter()
            .filter(|(_, value)| value.is_array() || value.is_object())
            .map(|(name, value)| (name.as_str(), value.to_string()))
            .collect();
        let mut cells = vec![Cell::Missing; names.len()];
        for (name, value) in &object {
            let Some(&at) = places.get(name) else {
                continue;
            };
            cells[at] = match value {
                Value::Null => Cell::Missing,
                Value::Bool(value) => Cell::Boolean(*value),
                Value::Number(number) => match number.as_i64() {
                    Some(whole) => Cell::Integer(whole),
                    None => Cell::Number(number.as_f64().unwrap_or(f64::NAN)),
                },
                Value::String(text) => Cell::Text(text),
                _ => nested
                    .get(name.as_str())
                    .map_or(Cell::Missing, |text| Cell::Text(text)),
            };
        }
        if !rows.row(place, &cells)? {
            return Ok(());
        }
    }
    if row == 0 {
        return Err(empty("it is empty"));
    }
    Ok(())
}
