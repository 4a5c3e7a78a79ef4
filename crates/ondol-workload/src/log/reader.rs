//! Reading a log while it is written: the reader holds its place by `seq` and by offset, sees
//! only whole records, and steps over segments that were deleted under it.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use ondol_types::Timestamp;

use super::{decode, segment_path, segments};
use crate::model::{LogLine, LogPosition};

const READ_BYTES: usize = 128 << 10;

/// Which lines a search is after. An empty search finds every line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSearch {
    /// Text that the line contains, compared byte by byte.
    pub contains: Option<String>,
    /// Not before this moment.
    pub from: Option<Timestamp>,
    /// Before this moment.
    pub until: Option<Timestamp>,
}

impl LogSearch {
    fn finds(&self, line: &LogLine) -> bool {
        self.from.is_none_or(|from| line.time >= from)
            && self.until.is_none_or(|until| line.time < until)
            && self
                .contains
                .as_deref()
                .is_none_or(|text| line.text.contains(text))
    }
}

#[derive(Debug)]
struct Segment {
    first: u64,
    file: File,
    offset: u64,
}

/// Reads a log from a position on.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    next_seq: u64,
    since: Option<Timestamp>,
    current: Option<Segment>,
    pending: std::collections::VecDeque<LogLine>,
}

impl LogReader {
    /// A reader of the log in `dir`, which need not exist yet.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn open(dir: &Path, from: LogPosition) -> io::Result<Self> {
        let mut reader = Self {
            dir: dir.to_owned(),
            next_seq: 0,
            since: None,
            current: None,
            pending: Default::default(),
        };
        match from {
            LogPosition::Start => {}
            LogPosition::After(seq) => reader.next_seq = seq.saturating_add(1),
            LogPosition::Since(moment) => reader.seek_time(moment)?,
            LogPosition::Tail(count) => {
                let last = reader.last_seq()?;
                reader.next_seq = (last + 1).saturating_sub(count);
            }
        }
        Ok(reader)
    }

    /// The next lines, at most `max`. Empty when there are none at the moment.
    ///
    /// # Errors
    /// A segment cannot be read.
    pub fn next_batch(&mut self, max: usize) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        while lines.len() < max {
            if let Some(line) = self.pending.pop_front() {
                lines.push(line);
            } else if !self.fill()? {
                break;
            }
        }
        Ok(lines)
    }

    /// The lines from here on that a search finds, as an iterator that ends where the log ends now.
    pub fn search(self, search: LogSearch) -> impl Iterator<Item = io::Result<LogLine>> {
        let mut reader = self;
        std::iter::from_fn(move || {
            loop {
                if let Some(line) = reader.pending.pop_front() {
                    if search.finds(&line) {
                        return Some(Ok(line));
                    }
                } else {
                    match reader.fill() {
                        Ok(true) => {}
                        Ok(false) => return None,
                        Err(error) => return Some(Err(error)),
                    }
                }
            }
        })
    }

    /// Reads on until there are pending lines; false at the end.
    fn fill(&mut self) -> io::Result<bool> {
        loop {
            if self.current.is_none() && !self.open_next(None)? {
                return Ok(false);
            }
            if self.read_current()? {
                if !self.pending.is_empty() {
                    return Ok(true);
                }
                continue;
            }
            // The end of this segment, or only of what is written so far. The writer may have
            // added to it between that read and the listing, so it is read once more.
            let Some(first) = self.current.as_ref().map(|segment| segment.first) else {
                return Ok(false);
            };
            if segments(&self.dir)?
                .last()
                .is_none_or(|&last| last <= first)
            {
                return Ok(false);
            }
            if !self.read_current()? {
                self.open_next(Some(first))?;
            } else if !self.pending.is_empty() {
                return Ok(true);
            }
        }
    }

    /// Opens the segment that holds `next_seq`, or the one behind `after`.
    fn open_next(&mut self, after: Option<u64>) -> io::Result<bool> {
        // A segment can be deleted between the listing and its opening; then the next one is due.
        for _ in 0..8 {
            let known = segments(&self.dir)?;
            let wanted = match after {
                Some(after) => known.iter().copied().find(|&first| first > after),
                None => known
                    .iter()
                    .copied()
                    .rfind(|&first| first <= self.next_seq)
                    .or(known.first().copied()),
            };
            let Some(first) = wanted else {
                return Ok(false);
            };
            match File::open(segment_path(&self.dir, first)) {
                Ok(file) => {
                    self.current = Some(Segment {
                        first,
                        file,
                        offset: 0,
                    });
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Takes whole records from the current segment; false when there is none.
    fn read_current(&mut self) -> io::Result<bool> {
        let Some(segment) = &mut self.current else {
            return Ok(false);
        };
        let mut size = READ_BYTES;
        loop {
            let mut chunk = Vec::new();
            segment.file.seek(SeekFrom::Start(segment.offset))?;
            (&segment.file).take(size as u64).read_to_end(&mut chunk)?;
            let Some(end) = chunk.iter().rposition(|&byte| byte == b'\n') else {
                // One record may be longer than a chunk, but never than what a line may be.
                if chunk.len() == size && size < 64 << 20 {
                    size *= 4;
                    continue;
                }
                return Ok(false);
            };
            segment.offset += end as u64 + 1;
            for line in chunk[..end].split(|&byte| byte == b'\n').filter_map(decode) {
                if line.seq < self.next_seq || self.since.is_some_and(|since| line.time < since) {
                    continue;
                }
                self.since = None;
                self.next_seq = line.seq + 1;
                self.pending.push_back(line);
            }
            return Ok(true);
        }
    }

    fn seek_time(&mut self, moment: Timestamp) -> io::Result<()> {
        self.since = Some(moment);
        for first in segments(&self.dir)?.into_iter().rev() {
            let mut probe = Self {
                dir: self.dir.clone(),
                next_seq: 0,
                since: None,
                current: None,
                pending: Default::default(),
            };
            let Ok(file) = File::open(segment_path(&self.dir, first)) else {
                continue;
            };
            probe.current = Some(Segment {
                first,
                file,
                offset: 0,
            });
            probe.read_current()?;
            self.next_seq = first;
            if probe.pending.front().is_some_and(|line| line.time < moment) {
                break;
            }
        }
        Ok(())
    }

    fn last_seq(&self) -> io::Result<u64> {
        for first in segments(&self.dir)?.into_iter().rev() {
            let Ok(mut file) = File::open(segment_path(&self.dir, first)) else {
                continue;
            };
            let length = file.seek(SeekFrom::End(0))?;
            for back in [READ_BYTES as u64, u64::MAX] {
                let start = length.saturating_sub(back);
                file.seek(SeekFrom::Start(start))?;
                let mut tail = Vec::new();
                (&file).take(length - start).read_to_end(&mut tail)?;
                let Some(end) = tail.iter().rposition(|&byte| byte == b'\n') else {
                    continue;
                };
                let last = tail[..end]
                    .rsplit(|&byte| byte == b'\n')
                    .next()
                    .and_then(decode);
                if let Some(line) = last {
                    return Ok(line.seq);
                }
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::LogWriter;
    use super::*;
    use crate::model::{LogPolicy, LogStreamKind};

    fn written(count: i64) -> (tempfile::TempDir, LogWriter) {
        let dir = tempfile::tempdir().unwrap();
        let policy = LogPolicy {
            max_bytes_per_file: 4 << 10,
            files: 100,
            max_line_bytes: 1 << 10,
        };
        let mut writer = LogWriter::open(dir.path(), policy).unwrap();
        for n in 1..=count {
            let time = Timestamp::from_micros(n * 1_000);
            writer.append(
                time,
                LogStreamKind::Stdout,
                false,
                format!("line {n} {}", "y".repeat(50)).as_bytes(),
            );
        }
        writer.flush(Timestamp::from_micros(count * 1_000));
        (dir, writer)
    }

    fn seqs(dir: &Path, from: LogPosition) -> Vec<u64> {
        LogReader::open(dir, from)
            .unwrap()
            .next_batch(10_000)
            .unwrap()
            .iter()
            .map(|line| line.seq)
            .collect()
    }

    #[test]
    fn every_position_finds_its_line() {
        let (dir, _writer) = written(500);
        assert_eq!(
            seqs(dir.path(), LogPosition::Start),
            (1..=500).collect::<Vec<_>>()
        );
        assert_eq!(
            seqs(dir.path(), LogPosition::After(321)),
            (322..=500).collect::<Vec<_>>()
        );
        assert_eq!(
            seqs(dir.path(), LogPosition::Tail(7)),
            (494..=500).collect::<Vec<_>>()
        );
        assert_eq!(seqs(dir.path(), LogPosition::Tail(9_999)).len(), 500);
        assert_eq!(
            seqs(
                dir.path(),
                LogPosition::Since(Timestamp::from_micros(250_000))
            ),
            (250..=500).collect::<Vec<_>>()
        );
        assert_eq!(
            seqs(dir.path(), LogPosition::Since(Timestamp::from_micros(1))).len(),
            500
        );
        assert!(seqs(dir.path(), LogPosition::After(500)).is_empty());
        assert!(seqs(&dir.path().join("nowhere"), LogPosition::Tail(3)).is_empty());
    }

    #[test]
    fn a_reader_goes_on_where_the_writer_goes_on() {
        let (dir, mut writer) = written(10);
        let mut reader = LogReader::open(dir.path(), LogPosition::After(8)).unwrap();
        assert_eq!(reader.next_batch(1).unwrap()[0].seq, 9);
        assert_eq!(reader.next_batch(9).unwrap()[0].seq, 10);
        assert!(reader.next_batch(9).unwrap().is_empty());
        for n in 11..=200 {
            writer.append(
                Timestamp::from_micros(n),
                LogStreamKind::Stderr,
                false,
                &[b'z'; 80],
            );
        }
        writer.flush(Timestamp::from_micros(200));
        let more: Vec<u64> = reader
            .next_batch(1_000)
            .unwrap()
            .iter()
            .map(|line| line.seq)
            .collect();
        assert_eq!(more, (11..=200).collect::<Vec<_>>());
    }

    #[test]
    fn search_is_by_substring_and_time() {
        let (dir, _writer) = written(300);
        let search = LogSearch {
            contains: Some("line 1".into()),
            from: Some(Timestamp::from_micros(100_000)),
            until: Some(Timestamp::from_micros(103_000)),
        };
        let reader = LogReader::open(dir.path(), LogPosition::Start).unwrap();
        let found: Vec<u64> = reader
            .search(search)
            .map(|line| line.unwrap().seq)
            .collect();
        assert_eq!(found, [100, 101, 102]);
    }
}
