//! CSV: RFC 4180 with a header, in UTF-8 with or without a byte order mark.

use std::io::{Cursor, Read};

use super::{Cell, Sink, refuse_duplicates};
use crate::error::{MlError, MlResult};

/// What stands between cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delimiter {
    /// A comma; or a semicolon or tab when the header has that and no comma.
    Detect,
    /// This byte.
    Byte(u8),
}

fn error(place: String, what: String, code: &'static str, hint: &'static str) -> MlError {
    MlError::Table {
        place,
        what,
        code,
        hint,
    }
}

/// Reads every row of `input` into `sink`.
pub(crate) fn read(
    file: &str,
    mut input: impl Read,
    delimiter: Delimiter,
    sink: &mut dyn Sink,
) -> MlResult<()> {
    let unreadable =
        |source: std::io::Error| MlError::io("reading", std::path::Path::new(file), source);
    let mut head = vec![0u8; 65_536];
    let mut filled = 0;
    while filled < head.len() {
        match input.read(&mut head[filled..]).map_err(unreadable)? {
            0 => break,
            count => filled += count,
        }
    }
    head.truncate(filled);
    if head.starts_with(&[0xFF, 0xFE]) || head.starts_with(&[0xFE, 0xFF]) {
        return Err(error(
            file.to_owned(),
            "is UTF-16, not UTF-8".to_owned(),
            "ml.table.encoding",
            "save the file as UTF-8",
        ));
    }
    if head.starts_with(&[0xEF, 0xBB, 0xBF]) {
        head.drain(..3);
    }
    let delimiter = match delimiter {
        Delimiter::Byte(byte) => byte,
        Delimiter::Detect => {
            let header = head.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let has = |byte: u8| header.contains(&byte);
            if has(b',') {
                b','
            } else if has(b';') {
                b';'
            } else if has(b'\t') {
                b'\t'
            } else {
                b','
            }
        }
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(Cursor::new(head).chain(input));
    let mut record = csv::ByteRecord::new();
    let broken = |source: csv::Error, row: u64| match source.into_kind() {
        csv::ErrorKind::Io(source) => unreadable(source),
        other => error(
            format!("{file}, row {row}"),
            format!("{other:?}"),
            "ml.table.malformed",
            "",
        ),
    };
    if !reader
        .read_byte_record(&mut record)
        .map_err(|source| broken(source, 0))?
    {
        let what = "is empty: it has no header".to_owned();
        return Err(error(
            file.to_owned(),
            what,
            "ml.table.empty",
            "the first line names the columns",
        ));
    }
    let limits = *sink.limits();
    if record.len() > limits.columns {
        return Err(MlError::TooLarge {
            what: format!("the number of columns of {file}"),
            actual: record.len() as u64,
            limit: limits.columns as u64,
        });
    }
    let mut names = Vec::with_capacity(record.len());
    for (index, cell) in record.iter().enumerate() {
        let name = std::str::from_utf8(cell).map_err(|_| {
            let what = format!("the name of column {} is not UTF-8", index + 1);
            error(
                file.to_owned(),
                what,
                "ml.table.encoding",
                "save the file as UTF-8",
            )
        })?;
        let name = name.trim();
        if name.chars().count() > 200 {
            let what = format!(
                "the name of column {} has more than 200 characters: is the header missing?",
                index + 1
            );
            return Err(error(
                file.to_owned(),
                what,
                "ml.table.header",
                "the first line names the columns",
            ));
        }
        // The index column that pandas writes has no name; this is how pandas reads it back.
        names.push(if name.is_empty() {
            format!("Unnamed: {index}")
        } else {
            name.to_owned()
        });
    }
    refuse_duplicates(file, &names)?;
    let places = names
        .iter()
        .map(|name| sink.column(name))
        .collect::<MlResult<Vec<_>>>()?;
    let mut row = 0u64;
    while reader
        .read_byte_record(&mut record)
        .map_err(|source| broken(source, row + 1))?
    {
        row += 1;
        if record.len() != names.len() {
            let line = record.position().map_or(0, csv::Position::line);
            let place = format!("{file}, row {row} (line {line})");
            let (cells, header) = (record.len(), names.len());
            let what = if cells < header {
                format!(
                    "has {cells} cells but the header has {header}: column `{}` has no value",
                    names[cells]
                )
            } else {
                format!(
                    "has {cells} cells but the header has {header}: the last column is `{}`",
                    names[header - 1]
                )
            };
            return Err(error(
                place,
                what,
                "ml.table.ragged",
                "quote cells that contain the delimiter",
            ));
        }
        for (index, cell) in record.iter().enumerate() {
            let text = std::str::from_utf8(cell).map_err(|reason| {
                let place = format!("{file}, row {row}, column `{}`", names[index]);
                let byte = cell.get(reason.valid_up_to()).copied().unwrap_or_default();
                let what = format!("is not UTF-8 (byte 0x{byte:02X})");
                error(place, what, "ml.table.encoding", "save the file as UTF-8")
            })?;
            sink.cell(places[index], Cell::Untyped(text))?;
        }
        sink.end_row()?;
    }
    if row == 0 {
        let what = "has a header but no rows".to_owned();
        return Err(error(
            file.to_owned(),
            what,
            "ml.table.empty",
            "add rows below the header",
        ));
    }
    Ok(())
}
