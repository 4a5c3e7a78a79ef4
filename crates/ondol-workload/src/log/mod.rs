//! Workload logs on disk.
//!
//! A log is a directory of segments named by the `seq` of their first line. A segment is text:
//! one record per line, `<seq> <microseconds> <stream><flag> <text>`, where stream is `o`, `e`
//! or `s` and flag is `.` or, when the line goes on in the next record, `+`. A torn last record
//! has no newline; readers ignore it and the next writer cuts it off.

mod assembler;
mod reader;
mod writer;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ondol_types::Timestamp;

use crate::model::{LogLine, LogStreamKind};

pub(crate) use assembler::LineAssembler;
pub use reader::{LogReader, LogSearch};
pub(crate) use writer::LogWriter;

fn letter(stream: LogStreamKind) -> u8 {
    match stream {
        LogStreamKind::Stdout => b'o',
        LogStreamKind::Stderr => b'e',
        LogStreamKind::System => b's',
    }
}

/// Appends one record.
fn encode(
    out: &mut Vec<u8>,
    seq: u64,
    time: Timestamp,
    stream: LogStreamKind,
    goes_on: bool,
    text: &[u8],
) {
    use std::io::Write;
    let _ = write!(out, "{seq} {} ", time.as_micros());
    out.extend_from_slice(&[letter(stream), if goes_on { b'+' } else { b'.' }, b' ']);
    out.extend(
        text.iter()
            .map(|&byte| if byte == b'\n' { b' ' } else { byte }),
    );
    out.push(b'\n');
}

/// Reads one record without its newline; `None` when it is not one.
fn decode(record: &[u8]) -> Option<LogLine> {
    let mut parts = record.splitn(4, |&byte| byte == b' ');
    let number = |part: &[u8]| std::str::from_utf8(part).ok()?.parse::<i64>().ok();
    let seq = u64::try_from(number(parts.next()?)?).ok()?;
    let time = Timestamp::from_micros(number(parts.next()?)?);
    let (stream, goes_on) = match parts.next()? {
        [letter, flag @ (b'.' | b'+')] => {
            let stream = match letter {
                b'o' => LogStreamKind::Stdout,
                b'e' => LogStreamKind::Stderr,
                b's' => LogStreamKind::System,
                _ => return None,
            };
            (stream, *flag == b'+')
        }
        _ => return None,
    };
    let text = String::from_utf8_lossy(parts.next()?).into_owned();
    Some(LogLine {
        seq,
        time,
        stream,
        text,
        truncated: goes_on,
    })
}

/// The segments of a log by their first `seq`, in order. A log that does not exist has none.
fn segments(dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        if let Some(first) = name
            .to_str()
            .and_then(|name| name.strip_suffix(".log")?.parse().ok())
        {
            found.push(first);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn segment_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.log"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_round_trip(seq in 0u64..i64::MAX as u64, micros in 0i64..i64::MAX, text in "[^\n]{0,60}", goes_on: bool) {
            let time = Timestamp::from_micros(micros);
            let mut out = Vec::new();
            encode(&mut out, seq, time, LogStreamKind::Stderr, goes_on, text.as_bytes());
            prop_assert_eq!(out.pop(), Some(b'\n'));
            prop_assert!(!out.contains(&b'\n'));
            let expected = LogLine { seq, time, stream: LogStreamKind::Stderr, text, truncated: goes_on };
            prop_assert_eq!(decode(&out), Some(expected));
        }

        #[test]
        fn damaged_records_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode(&bytes);
        }
    }
}
