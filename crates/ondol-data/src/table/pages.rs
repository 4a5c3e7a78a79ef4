//! What the pages of a Parquet file unfold to, found before any of them is read.
//!
//! A page says in its header how large it becomes, and the reader makes room for that at once; a
//! run of one value may be told to be a thousand million long. So a few kilobytes could take the
//! memory of the whole machine, or a processor for days. Here only headers are read: Thrift's
//! compact protocol, of which two numbers matter and all else is stepped over.

use std::io::{self, Read};

use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};
use parquet::file::reader::ChunkReader;

/// The most bytes that one page of every column may unfold to together: the reader holds so many.
const MAX_OPEN_BYTES: u64 = 512 << 20;
/// Rows that any file may have, and values of a column.
const FREE_VALUES: u64 = 16_000_000;
/// Values that each byte of the file allows beyond these.
const VALUES_PER_BYTE: u64 = 256;
/// Values of a column whose rows hold lists: all of a row are in memory.
const MAX_LISTED: u64 = 4_000_000;
/// The most bytes of one header.
const MAX_HEADER: u64 = 1 << 20;
const MAX_DEPTH: u32 = 16;

/// The kinds of fields that matter: a 32-bit number, and a structure.
const NUMBER: u8 = 5;
const STRUCTURE: u8 = 12;

/// What one header says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Header {
    bytes: u64,
    unfolded: u64,
    stored: u64,
    values: u64,
}

/// Refuses a file whose pages or rows are out of proportion.
pub(super) fn check(input: &impl ChunkReader, metadata: &ParquetMetaData) -> Result<(), String> {
    let allowed = FREE_VALUES.saturating_add(input.len().saturating_mul(VALUES_PER_BYTE));
    let told = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(u64::MAX);
    let rows = metadata
        .row_groups()
        .iter()
        .map(|group| u64::try_from(group.num_rows()).unwrap_or(u64::MAX))
        .fold(0u64, u64::saturating_add);
    if rows.max(told) > allowed {
        return Err(format!(
            "it tells of {} rows, more than its size allows",
            rows.max(told)
        ));
    }
    for group in metadata.row_groups() {
        let mut open = 0u64;
        for column in group.columns() {
            let (largest, values) = measure(input, column)?;
            open = open.saturating_add(largest);
            let listed = column.column_descr().max_rep_level() > 0;
            if values > allowed || (listed && values > MAX_LISTED) {
                return Err(format!(
                    "column `{}` tells of {values} values, more than its size allows",
                    column.column_path()
                ));
            }
        }
        if open > MAX_OPEN_BYTES {
            return Err(format!(
                "its pages unfold to {open} bytes at once, more than {MAX_OPEN_BYTES}"
            ));
        }
    }
    Ok(())
}

/// The largest page of a column, and how many values all of its pages have.
fn measure(input: &impl ChunkReader, column: &ColumnChunkMetaData) -> Result<(u64, u64), String> {
    let malformed = || format!("column `{}` lies outside the file", column.column_path());
    let place = |offset: i64| u64::try_from(offset).map_err(|_| malformed());
    // Where the library begins, whatever order the two have: what it reads is what is measured.
    let first = column
        .dictionary_page_offset()
        .unwrap_or(column.data_page_offset());
    let mut at = place(first)?;
    let end = at
        .checked_add(place(column.compressed_size())?)
        .filter(|end| *end <= input.len())
        .ok_or_else(malformed)?;
    let (mut largest, mut values) = (0, 0u64);
    while at < end {
        let header = input
            .get_read(at)
            .map_err(|error| error.to_string())
            .and_then(|reader| read_header(reader).map_err(|error| error.to_string()))
            .map_err(|error| format!("a page of column `{}`: {error}", column.column_path()))?;
        largest = largest.max(header.unfolded.max(header.stored));
        values = values.saturating_add(header.values);
        at = at
            .checked_add(header.bytes + header.stored)
            .ok_or_else(malformed)?;
    }
    Ok((largest, values))
}

struct Compact<R> {
    inner: R,
    taken: u64,
}

fn malformed(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

impl<R: Read> Compact<R> {
    fn byte(&mut self) -> io::Result<u8> {
        if self.taken >= MAX_HEADER {
            return Err(malformed("its header is too long"));
        }
        let mut byte = [0];
        self.inner.read_exact(&mut byte)?;
        self.taken += 1;
        Ok(byte[0])
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(malformed("a number in its header is too long"))
    }

    /// A signed number that may not be negative here.
    fn count(&mut self) -> io::Result<u64> {
        let folded = self.number()?;
        if folded & 1 == 1 {
            return Err(malformed("a size in its header is negative"));
        }
        Ok(folded >> 1)
    }

    /// Number and kind of the next field; none at the end of the structure.
    fn field(&mut self, last: &mut i64) -> io::Result<Option<u8>> {
        let byte = self.byte()?;
        if byte == 0 {
            return Ok(None);
        }
        *last = match byte >> 4 {
            0 => {
                let folded = self.number()?;
                ((folded >> 1) as i64) ^ -((folded & 1) as i64)
            }
            step => last.saturating_add(i64::from(step)),
        };
        Ok(Some(byte & 0x0f))
    }

    fn skip(&mut self, kind: u8, depth: u32) -> io::Result<()> {
        if depth > MAX_DEPTH {
            return Err(malformed("its header is nested too deep"));
        }
        match kind {
            // A field that is a truth value has it in its kind.
            1 | 2 => {}
            3 => drop(self.byte()?),
            4..=6 => drop(self.number()?),
            7 => (0..8).try_for_each(|_| self.byte().map(drop))?,
            8 => {
                for _ in 0..self.number()? {
                    self.byte()?;
                }
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => self.number()?,
                    few => u64::from(few),
                };
                for _ in 0..count {
                    match head & 0x0f {
                        // In a list, a truth value is a byte.
                        1 | 2 => drop(self.byte()?),
                        kind => self.skip(kind, depth + 1)?,
                    }
                    // Elements of no bytes would make this endless.
                    if self.taken >= MAX_HEADER {
                        return Err(malformed("its header is too long"));
                    }
                }
            }
            12 => {
                let mut last = 0;
                while let Some(kind) = self.field(&mut last)? {
                    self.skip(kind, depth + 1)?;
                }
            }
            _ => return Err(malformed("its header has a field of an unknown kind")),
        }
        Ok(())
    }
}

fn read_header(input: impl Read) -> io::Result<Header> {
    let mut compact = Compact {
        inner: input,
        taken: 0,
    };
    let (mut unfolded, mut stored, mut values) = (None, None, 0u64);
    let mut last = 0;
    while let Some(kind) = compact.field(&mut last)? {
        let is_number = kind == NUMBER;
        match last {
            // Where kind and place disagree, the library reads on in another way than this.
            1..=4 if !is_number => return Err(malformed("its header is malformed")),
            5 | 7 | 8 if kind != STRUCTURE => return Err(malformed("its header is malformed")),
            2 => unfolded = unfolded.max(Some(compact.count()?)),
            3 => stored = stored.max(Some(compact.count()?)),
            // Data, dictionary and data of the second version begin with their number of values.
            5 | 7 | 8 => {
                let mut inner = 0;
                while let Some(kind) = compact.field(&mut inner)? {
                    let fits = match (last, inner) {
                        (5, 1..=4) | (7, 1 | 2) | (8, 1..=6) => kind == NUMBER,
                        (5, 5) | (8, 8) => kind == STRUCTURE,
                        (7, 3) | (8, 7) => matches!(kind, 1 | 2),
                        _ => true,
                    };
                    if !fits {
                        return Err(malformed("its header is malformed"));
                    }
                    match (last, inner) {
                        (5 | 8, 1) => values = values.max(compact.count()?),
                        _ => compact.skip(kind, 1)?,
                    }
                }
            }
            _ => compact.skip(kind, 0)?,
        }
    }
    match (unfolded, stored) {
        (Some(unfolded), Some(stored)) => Ok(Header {
            bytes: compact.taken,
            unfolded,
            stored,
            values,
        }),
        _ => Err(malformed("its header gives no sizes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_what_they_hold_besides_is_stepped_over() {
        // Kind 0, 300 unfolded, 20 stored, a checksum, and a data header of 7 values that holds
        // an encoding and a structure with a text.
        let header = [
            0x15, 0x00, 0x15, 0xd8, 0x04, 0x15, 0x28, 0x15, 0x02, 0x1c, 0x15, 0x0e, 0x15, 0x00,
            0x3c, 0x18, 0x02, b'a', b'b', 0x00, 0x00, 0x00,
        ];
        let expected = Header {
            bytes: header.len() as u64,
            unfolded: 300,
            stored: 20,
            values: 7,
        };
        assert_eq!(read_header(&header[..]).unwrap(), expected);
        for cut in 0..header.len() {
            assert!(read_header(&header[..cut]).is_err(), "cut at {cut}");
        }
        let negative = [0x15, 0x00, 0x15, 0x03, 0x15, 0x28, 0x00];
        assert!(read_header(&negative[..]).is_err());
        let endless = [0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x0f];
        let zeros = endless
            .iter()
            .copied()
            .chain(std::iter::repeat_n(0, 3 << 20));
        let zeros: Vec<u8> = zeros.collect();
        assert!(read_header(&zeros[..]).is_err());
        let deep = [vec![0xac], vec![0x1c; 100]].concat();
        assert!(read_header(&deep[..]).is_err());
        // A byte where a number belongs, behind which another reader would go on elsewhere.
        let other = [0x15, 0x00, 0x13, 0x02, 0x15, 0x28, 0x00];
        assert!(read_header(&other[..]).is_err());
    }
}
