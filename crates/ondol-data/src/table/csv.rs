//! CSV: RFC 4180 with a header, in UTF-8 with or without a byte order mark.

use std::cell::Cell as Count;
use std::io::{self, Cursor, Read};
use std::rc::Rc;

use super::{Cell, MAX_ROW_BYTES, Place, Rows, check_columns, empty, unreadable};
use crate::error::TableFault;

/// Ends a reading in which one row goes on and on, as after a quote that is never closed.
struct Guard<R> {
    inner: R,
    since_row: Rc<Count<u64>>,
    last: u8,
    /// Whether the file has ended, and not with a line break.
    unterminated: Rc<Count<bool>>,
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        match count {
            0 => self.unterminated.set(self.last != b'\n'),
            _ => self.last = buffer[count - 1],
        }
        let since = self.since_row.get() + count as u64;
        self.since_row.set(since);
        if since > MAX_ROW_BYTES + (1 << 20) {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("a row has more than {MAX_ROW_BYTES} bytes; a quote may never be closed"),
            ));
        }
        Ok(count)
    }
}

const UTF8: &str = "save the file as UTF-8";

fn fault(
    place: Option<Place>,
    column: Option<String>,
    problem: String,
    code: &'static str,
    hint: &'static str,
) -> TableFault {
    TableFault {
        row: place.map(|place| place.row),
        line: place.map_or(Some(1), |place| place.line),
        column,
        problem,
        code,
        hint,
    }
}

fn detect(header: &[u8]) -> u8 {
    let line = header
        .split(|&byte| byte == b'\n')
        .next()
        .unwrap_or_default();
    [b',', b';', b'\t']
        .into_iter()
        .find(|delimiter| line.contains(delimiter))
        .unwrap_or(b',')
}

pub(super) fn read(
    mut input: impl Read,
    delimiter: Option<u8>,
    rows: &mut dyn Rows,
) -> Result<(), TableFault> {
    let mut head = Vec::new();
    (&mut input)
        .take(64 * 1024)
        .read_to_end(&mut head)
        .map_err(|error| unreadable(&error))?;
    if head.starts_with(&[0xff, 0xfe]) || head.starts_with(&[0xfe, 0xff]) {
        return Err(fault(
            None,
            None,
            "it is UTF-16, not UTF-8".to_owned(),
            "data.table.encoding",
            UTF8,
        ));
    }
    if head.starts_with(&[0xef, 0xbb, 0xbf]) {
        head.drain(..3);
    }
    let delimiter = delimiter.unwrap_or_else(|| detect(&head));
    let first_break = head.iter().position(|&byte| matches!(byte, b'\r' | b'\n'));
    let carriage_returns = first_break.is_some_and(|at| head[at] == b'\r');
    let since_row = Rc::new(Count::new(0));
    let unterminated = Rc::new(Count::new(false));
    let guarded = Guard {
        inner: Cursor::new(head).chain(input),
        since_row: since_row.clone(),
        last: b'\n',
        unterminated: unterminated.clone(),
    };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(guarded);
    let mut record = csv::ByteRecord::new();
    if !next(&mut reader, &mut record, None)? {
        return Err(empty("it is empty"));
    }
    let names = record
        .iter()
        .enumerate()
        .map(|(at, name)| match std::str::from_utf8(name) {
            Ok(name) => Ok(name.trim().to_owned()),
            Err(_) => Err(fault(
                None,
                None,
                format!("the name of column {} is not UTF-8", at + 1),
                "data.table.encoding",
                UTF8,
            )),
        })
        .collect::<Result<Vec<_>, _>>()?;
    check_columns(&names)?;
    rows.columns(&names)?;
    let mut row = 0;
    loop {
        since_row.set(0);
        let at = Place {
            row: row + 1,
            line: None,
        };
        if !next(&mut reader, &mut record, Some(at))? {
            break;
        }
        row += 1;
        let place = Place {
            row,
            line: Some(first_line(
                &reader,
                &record,
                carriage_returns || unterminated.get(),
            )),
        };
        if record.len() != names.len() {
            return Err(fault(
                Some(place),
                None,
                format!(
                    "it has {} cells, the header has {}",
                    record.len(),
                    names.len()
                ),
                "data.table.ragged",
                "give every row a cell for each column; quote cells that contain the delimiter",
            ));
        }
        let mut cells = Vec::with_capacity(names.len());
        for (bytes, name) in record.iter().zip(&names) {
            match std::str::from_utf8(bytes) {
                Ok(text) => cells.push(Cell::Raw(text)),
                Err(_) => {
                    return Err(fault(
                        Some(place),
                        Some(name.clone()),
                        "its bytes are not UTF-8".to_owned(),
                        "data.table.encoding",
                        UTF8,
                    ));
                }
            }
        }
        if !rows.row(place, &cells)? {
            return Ok(());
        }
    }
    if row == 0 {
        return Err(empty("it has a header and no rows"));
    }
    Ok(())
}

/// The line on which the row just read begins. The reader's own position of a row lies before
/// the empty lines that it skipped, so it is counted back from the end.
fn first_line<R: Read>(
    reader: &csv::Reader<R>,
    record: &csv::ByteRecord,
    break_unread: bool,
) -> u64 {
    let inside = record
        .iter()
        .map(|cell| cell.iter().filter(|&&byte| byte == b'\n').count() as u64)
        .sum::<u64>();
    // A line feed that ends the row has been counted; one after a carriage return has not been
    // read yet, and a row that the end of the file ends has none.
    let ended = u64::from(!break_unread);
    reader.position().line().saturating_sub(inside + ended)
}

fn next<R: Read>(
    reader: &mut csv::Reader<R>,
    record: &mut csv::ByteRecord,
    place: Option<Place>,
) -> Result<bool, TableFault> {
    reader.read_byte_record(record).map_err(|error| {
        let mut fault = fault(
            place,
            None,
            format!("it cannot be read: {error}"),
            "data.table.unreadable",
            "look at the row; an open quote is the usual cause",
        );
        fault.line = place.and(error.position().map(csv::Position::line));
        fault
    })
}
