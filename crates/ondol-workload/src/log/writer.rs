//! The one writer of a log: the shim. It never blocks its workload for want of space and never
//! fails it: what cannot be written is counted and reported once writing works again.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use ondol_types::Timestamp;

use super::{decode, encode, segment_path, segments};
use crate::model::{LogPolicy, LogStreamKind};

const FLUSH_BYTES: usize = 64 << 10;

/// Appends to a log and keeps it within its policy.
#[derive(Debug)]
pub(crate) struct LogWriter {
    dir: PathBuf,
    policy: LogPolicy,
    segments: VecDeque<u64>,
    file: File,
    file_len: u64,
    next_seq: u64,
    buffer: Vec<u8>,
    buffered_lines: u64,
    lost_lines: u64,
    lost_why: Option<io::ErrorKind>,
}

impl LogWriter {
    /// Opens a log behind its last whole record, making the directory if need be.
    pub(crate) fn open(dir: &Path, policy: LogPolicy) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut known: VecDeque<u64> = segments(dir)?.into();
        let first = match known.back() {
            Some(&first) => first,
            None => {
                known.push_back(1);
                1
            }
        };
        let path = segment_path(dir, first);
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let (file_len, next_seq) = end_of(&mut file, first)?;
        file.set_len(file_len)?;
        let policy = LogPolicy {
            max_bytes_per_file: policy.max_bytes_per_file.max(4 << 10),
            files: policy.files.max(2),
            ..policy
        };
        Ok(Self {
            dir: dir.to_owned(),
            policy,
            segments: known,
            file,
            file_len,
            next_seq,
            buffer: Vec::new(),
            buffered_lines: 0,
            lost_lines: 0,
            lost_why: None,
        })
    }

    /// Appends one record; it is on disk after [`LogWriter::flush`].
    pub(crate) fn append(
        &mut self,
        time: Timestamp,
        stream: LogStreamKind,
        goes_on: bool,
        text: &[u8],
    ) {
        if self.file_len + self.buffer.len() as u64 >= self.policy.max_bytes_per_file {
            self.flush(time);
            self.rotate(time);
        }
        self.record(time, stream, goes_on, text);
        if self.buffer.len() >= FLUSH_BYTES {
            self.flush(time);
        }
    }

    /// A line of Ondol's own.
    pub(crate) fn system(&mut self, time: Timestamp, text: &str) {
        self.append(time, LogStreamKind::System, false, text.as_bytes());
        self.flush(time);
    }

    /// Hands what is buffered to the operating system, so that it survives the shim.
    pub(crate) fn flush(&mut self, time: Timestamp) {
        if self.buffer.is_empty() {
            return;
        }
        if self.lost_lines > 0 {
            let why = self
                .lost_why
                .map_or_else(String::new, |why| format!(": {why}"));
            let note = format!("{} lines could not be written{why}", self.lost_lines);
            let mut record = Vec::new();
            // It takes the position of the last lost line, so that order holds.
            let seq = self.next_seq - self.buffered_lines - 1;
            encode(
                &mut record,
                seq,
                time,
                LogStreamKind::System,
                false,
                note.as_bytes(),
            );
            if self.write(&record).is_err() {
                self.lose(None);
                return;
            }
            (self.lost_lines, self.lost_why) = (0, None);
        }
        let buffer = std::mem::take(&mut self.buffer);
        match self.write(&buffer) {
            Ok(()) => self.buffered_lines = 0,
            Err(error) => self.lose(Some(error.kind())),
        }
        self.buffer = buffer;
        self.buffer.clear();
    }

    fn record(&mut self, time: Timestamp, stream: LogStreamKind, goes_on: bool, text: &[u8]) {
        encode(&mut self.buffer, self.next_seq, time, stream, goes_on, text);
        self.next_seq += 1;
        self.buffered_lines += 1;
    }

    fn lose(&mut self, why: Option<io::ErrorKind>) {
        self.lost_lines += self.buffered_lines;
        self.lost_why = why.or(self.lost_why);
        self.buffered_lines = 0;
        self.buffer.clear();
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.file_len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Half a record would make the next one unreadable.
                let _ = self.file.set_len(self.file_len);
                Err(error)
            }
        }
    }

    fn rotate(&mut self, time: Timestamp) {
        if self.segments.back() == Some(&self.next_seq) {
            return;
        }
        let path = segment_path(&self.dir, self.next_seq);
        // The oldest goes first: on a full disk that is what makes room for the next.
        let mut deleted = 0;
        while self.segments.len() >= self.policy.files as usize {
            let Some(oldest) = self.segments.pop_front() else {
                break;
            };
            let _ = fs::remove_file(segment_path(&self.dir, oldest));
            deleted += self.segments.front().copied().unwrap_or(self.next_seq) - oldest;
        }
        match OpenOptions::new().append(true).create(true).open(path) {
            Ok(file) => {
                self.file = file;
                self.file_len = 0;
                self.segments.push_back(self.next_seq);
            }
            // Stay in the old segment over its size; the next record tries again.
            Err(error) => self.lost_why = Some(error.kind()),
        }
        if deleted > 0 {
            let note = format!(
                "{deleted} older lines were deleted: at most {} files of {} bytes are kept",
                self.policy.files, self.policy.max_bytes_per_file
            );
            self.record(time, LogStreamKind::System, false, note.as_bytes());
        }
    }
}

/// Where the last whole record ends, and the `seq` behind it.
fn end_of(file: &mut File, first: u64) -> io::Result<(u64, u64)> {
    let length = file.seek(SeekFrom::End(0))?;
    let mut start = length;
    loop {
        start = start.saturating_sub(256 << 10);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(length - start).read_to_end(&mut tail)?;
        let Some(newline) = tail.iter().rposition(|&byte| byte == b'\n') else {
            if start == 0 {
                return Ok((0, first));
            }
            continue;
        };
        let whole = &tail[..newline];
        let begin = whole
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        if begin == 0 && start > 0 {
            continue;
        }
        let next = decode(&whole[begin..]).map_or(first, |line| line.seq + 1);
        return Ok((start + newline as u64 + 1, next.max(first)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogReader;
    use super::*;
    use crate::model::LogPosition;

    const POLICY: LogPolicy = LogPolicy {
        max_bytes_per_file: 4 << 10,
        files: 3,
        max_line_bytes: 1 << 10,
    };

    fn at(n: i64) -> Timestamp {
        Timestamp::from_micros(n)
    }

    #[test]
    fn a_flood_stays_within_the_policy_and_says_what_was_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), POLICY).unwrap();
        for n in 0..5_000 {
            writer.append(
                at(n),
                LogStreamKind::Stdout,
                false,
                format!("line {n} {}", "x".repeat(40)).as_bytes(),
            );
        }
        writer.flush(at(5_000));
        let size: u64 = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        assert!(size <= 3 * (5 << 10), "{size}");
        let lines = LogReader::open(dir.path(), LogPosition::Start)
            .unwrap()
            .next_batch(10_000)
            .unwrap();
        assert!(lines.last().unwrap().text.starts_with("line 4999 "));
        assert!(lines.windows(2).all(|pair| pair[1].seq == pair[0].seq + 1));
        let note = lines
            .iter()
            .find(|line| line.stream == LogStreamKind::System)
            .unwrap();
        assert!(
            note.text.contains("older lines were deleted"),
            "{}",
            note.text
        );
    }

    #[test]
    fn a_torn_tail_is_cut_off_and_numbers_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), POLICY).unwrap();
        writer.append(at(1), LogStreamKind::Stdout, false, b"whole");
        writer.flush(at(1));
        drop(writer);
        let path = segment_path(dir.path(), 1);
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"2 17 o. tor")
            .unwrap();
        let mut writer = LogWriter::open(dir.path(), POLICY).unwrap();
        writer.append(at(2), LogStreamKind::Stderr, false, b"after");
        writer.flush(at(2));
        let lines = LogReader::open(dir.path(), LogPosition::Start)
            .unwrap()
            .next_batch(10)
            .unwrap();
        let seen: Vec<(u64, &str)> = lines
            .iter()
            .map(|line| (line.seq, line.text.as_str()))
            .collect();
        assert_eq!(seen, [(1, "whole"), (2, "after")]);
    }

    #[test]
    fn what_cannot_be_written_is_counted_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = LogWriter::open(dir.path(), POLICY).unwrap();
        let good = std::mem::replace(
            &mut writer.file,
            OpenOptions::new().write(true).open("/dev/full").unwrap(),
        );
        writer.append(at(1), LogStreamKind::Stdout, false, b"lost one");
        writer.flush(at(1));
        writer.append(at(2), LogStreamKind::Stdout, false, b"lost two");
        writer.flush(at(2));
        writer.file = good;
        writer.append(at(3), LogStreamKind::Stdout, false, b"kept");
        writer.flush(at(3));
        let lines = LogReader::open(dir.path(), LogPosition::Start)
            .unwrap()
            .next_batch(10)
            .unwrap();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].text.starts_with("2 lines could not be written"),
            "{}",
            lines[0].text
        );
        assert_eq!((lines[1].seq, lines[1].text.as_str()), (3, "kept"));
    }
}
