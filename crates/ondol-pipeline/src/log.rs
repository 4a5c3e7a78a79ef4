//! Logs of actions.
//!
//! A log is one text file with a record per line, in the form of workload logs: `<seq>
//! <microseconds> s. <text>`. It ends at a ceiling, and says so. A record without its newline
//! is torn: readers ignore it, and the next writer cuts it off.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ondol_types::{Clock, Timestamp};
use ondol_workload::{LogLine, LogPosition, LogStreamKind};

/// The most bytes that the log of one step may have.
pub(crate) const MAX_LOG_BYTES: u64 = 8 << 20;
const MAX_LINE_BYTES: usize = 16 << 10;

struct Writer {
    file: Option<File>,
    length: u64,
    next: u64,
}

/// Writes lines that people read while the action runs and afterwards. Cheap to clone.
#[derive(Clone)]
pub struct ActionLog {
    writer: Arc<Mutex<Writer>>,
    clock: Arc<dyn Clock>,
    path: Arc<Path>,
}

impl ActionLog {
    /// Opens the log behind its last whole record. Where that fails the log drops its lines:
    /// a full disk must not fail a release.
    pub(crate) fn open(path: &Path, clock: Arc<dyn Clock>) -> Self {
        let writer = Writer::open(path).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "cannot open the log of a step");
            Writer {
                file: None,
                length: 0,
                next: 1,
            }
        });
        Self {
            writer: Arc::new(Mutex::new(writer)),
            clock,
            path: path.into(),
        }
    }

    /// Appends text, one record per line of it. Never pass a secret.
    pub fn line(&self, text: impl AsRef<str>) {
        let now = self.clock.now();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.as_ref().lines() {
            if let Err(error) = writer.append(now, line) {
                tracing::warn!(path = %self.path.display(), %error, "cannot write the log of a step");
                writer.file = None;
            }
        }
    }
}

impl Writer {
    fn open(path: &Path) -> io::Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)?;
        let mut bytes = Vec::new();
        (&mut file)
            .take(MAX_LOG_BYTES * 2)
            .read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        file.set_len(whole as u64)?;
        let last = bytes[..whole]
            .split(|byte| *byte == b'\n')
            .filter_map(decode)
            .next_back();
        Ok(Self {
            file: Some(file),
            length: whole as u64,
            next: last.map_or(1, |line| line.seq + 1),
        })
    }

    fn append(&mut self, now: Timestamp, text: &str) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let mut end = text.len().min(MAX_LINE_BYTES);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut record = format!("{} {} s. {}\n", self.next, now.as_micros(), &text[..end]);
        let full = self.length + record.len() as u64 > MAX_LOG_BYTES;
        if full {
            record = format!(
                "{} {} s. this log is full: further lines are not kept\n",
                self.next,
                now.as_micros()
            );
        }
        file.write_all(record.as_bytes())?;
        self.length += record.len() as u64;
        self.next += 1;
        if full {
            self.file = None;
        }
        Ok(())
    }
}

fn decode(record: &[u8]) -> Option<LogLine> {
    let text = String::from_utf8_lossy(record);
    let mut parts = text.splitn(4, ' ');
    let seq = parts.next()?.parse().ok()?;
    let micros = parts.next()?.parse().ok()?;
    if parts.next()? != "s." {
        return None;
    }
    Some(LogLine {
        seq,
        time: Timestamp::from_micros(micros),
        stream: LogStreamKind::System,
        text: parts.next()?.to_owned(),
        truncated: false,
    })
}

/// Reads the log of an action, while it is written or later.
#[derive(Debug)]
pub(crate) struct ActionLogReader {
    path: PathBuf,
    offset: u64,
}

impl ActionLogReader {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, offset: 0 }
    }

    /// The records that were added since the last call.
    pub(crate) fn read(&mut self) -> io::Result<Vec<LogLine>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::new();
        file.take(MAX_LOG_BYTES * 2).read_to_end(&mut bytes)?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        self.offset += whole as u64;
        Ok(bytes[..whole]
            .split(|byte| *byte == b'\n')
            .filter_map(decode)
            .collect())
    }
}

/// Leaves out what stands before the position.
pub(crate) fn from_position(mut lines: Vec<LogLine>, from: LogPosition) -> Vec<LogLine> {
    match from {
        LogPosition::Start => {}
        LogPosition::After(seq) => lines.retain(|line| line.seq > seq),
        LogPosition::Since(moment) => lines.retain(|line| line.time >= moment),
        LogPosition::Tail(count) => {
            let drop = lines
                .len()
                .saturating_sub(usize::try_from(count).unwrap_or(usize::MAX));
            lines.drain(..drop);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use ondol_types::ManualClock;

    use super::*;

    fn clock() -> Arc<dyn Clock> {
        Arc::new(ManualClock::at(Timestamp::from_micros(7)))
    }

    #[test]
    fn lines_are_numbered_across_writers_and_a_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b.log");
        ActionLog::open(&path, clock()).line("one\ntwo");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"3 9 s. to")
            .unwrap();
        let log = ActionLog::open(&path, clock());
        let mut reader = ActionLogReader::new(path);
        assert_eq!(reader.read().unwrap().len(), 2);
        log.line("three");
        let more = reader.read().unwrap();
        assert_eq!((more[0].seq, more[0].text.as_str()), (3, "three"));
        assert!(reader.read().unwrap().is_empty());
    }

    #[test]
    fn a_log_ends_at_its_ceiling_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        let log = ActionLog::open(&path, clock());
        let line = "é".repeat(MAX_LINE_BYTES);
        for _ in 0..700 {
            log.line(&line);
        }
        let size = fs::metadata(&path).unwrap().len();
        assert!(size <= MAX_LOG_BYTES + 200, "{size}");
        let lines = ActionLogReader::new(path).read().unwrap();
        assert!(lines.last().unwrap().text.contains("log is full"));
        let tail = from_position(lines.clone(), LogPosition::Tail(2));
        assert_eq!(tail.len(), 2);
        assert_eq!(
            from_position(lines.clone(), LogPosition::After(lines.len() as u64 - 1)).len(),
            1
        );
    }
}
