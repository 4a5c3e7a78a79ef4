//! One JSON line for each request, written off the hot path.
//!
//! Workers push entries into bounded buffers of their own; one thread gathers, formats and writes
//! them in batches. When it cannot keep up, entries are dropped and counted: logging never slows
//! an answer, and never takes more disk than its files may.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Uri};
use ondol_types::{Clock, Timestamp};

use crate::config::AccessLogConfig;
use crate::error::GatewayError;
use crate::routing::{WorkerReplica, WorkerRoute};

/// Entries each worker may have waiting.
const MAX_WAITING: usize = 16 * 1024;

/// How long entries gather before they are written.
const GATHER: Duration = Duration::from_millis(100);

/// What is known about a finished request.
pub(crate) struct Entry {
    pub(crate) started: Instant,
    pub(crate) duration: Duration,
    pub(crate) waited: Option<Duration>,
    pub(crate) route: Option<Arc<WorkerRoute>>,
    pub(crate) replica: Option<Arc<WorkerReplica>>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) status: u16,
    pub(crate) truncated: bool,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) client: IpAddr,
    pub(crate) request_id: HeaderValue,
}

/// Where workers put their entries.
pub(crate) struct AccessLog {
    waiting: Vec<Mutex<Vec<Entry>>>,
    pub(crate) dropped: AtomicU64,
    awake: Mutex<bool>,
    signal: Condvar,
    stopping: AtomicBool,
}

impl AccessLog {
    pub(crate) fn new(workers: usize) -> Self {
        Self {
            waiting: (0..workers).map(|_| Mutex::default()).collect(),
            dropped: AtomicU64::new(0),
            awake: Mutex::new(false),
            signal: Condvar::new(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Enters a request. Never waits for the disk.
    pub(crate) fn push(&self, worker: usize, entry: Entry) {
        let mut waiting = self.waiting[worker]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_WAITING {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.push(entry);
        // The writer gathers for a while, so one signal stands for many entries.
        if waiting.len() == 1 {
            drop(waiting);
            self.wake();
        }
    }

    fn wake(&self) {
        *self.awake.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.signal.notify_one();
    }

    /// Lets the writer finish what is there and end.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }
}

/// Starts the thread that writes.
pub(crate) fn start_writer(
    log: Arc<AccessLog>,
    config: AccessLogConfig,
    clock: Arc<dyn Clock>,
) -> Result<JoinHandle<()>, GatewayError> {
    let path = config.path.clone();
    let mut file = RotatingFile::open(config.clone())
        .map_err(|source| GatewayError::io("open the access log", path.clone(), source))?;
    std::thread::Builder::new()
        .name("access-log".into())
        .spawn(move || {
            let mut lines = Lines {
                with_query: config.with_query,
                ..Lines::default()
            };
            let mut batch = Vec::new();
            loop {
                let stopping = log.stopping.load(Ordering::Acquire);
                for waiting in &log.waiting {
                    batch.append(&mut waiting.lock().unwrap_or_else(PoisonError::into_inner));
                }
                if !batch.is_empty() {
                    let (wall, now) = (clock.now(), Instant::now());
                    batch.iter().for_each(|entry| {
                        lines.add(entry, wall.minus(now.duration_since(entry.started)))
                    });
                    let written = file.write(&lines.text);
                    lines.text.clear();
                    if written.is_err() {
                        log.dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    }
                    batch.clear();
                }
                if stopping {
                    return;
                }
                let mut awake = log.awake.lock().unwrap_or_else(PoisonError::into_inner);
                while !*awake {
                    awake = log
                        .signal
                        .wait(awake)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                *awake = false;
                drop(awake);
                if !log.stopping.load(Ordering::Acquire) {
                    std::thread::sleep(GATHER);
                }
            }
        })
        .map_err(|source| GatewayError::io("start the writer of", path, source))
}

/// Formats entries; remembers the text of the last second.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    with_query: bool,
    second: i64,
    second_text: String,
}

impl Lines {
    fn add(&mut self, entry: &Entry, moment: Timestamp) {
        let second = moment.as_micros().div_euclid(1_000_000);
        if self.second != second || self.second_text.is_empty() {
            self.second = second;
            let whole = Timestamp::from_micros(second * 1_000_000).to_string();
            self.second_text = whole.split('.').next().unwrap_or(&whole).to_owned();
        }
        let micros = moment.as_micros().rem_euclid(1_000_000);
        let text = &mut self.text;
        let _ = write!(text, "{{\"time\":\"{}.{micros:06}Z\"", self.second_text);
        if let Some(route) = &entry.route {
            let _ = write!(
                text,
                ",\"project\":\"{}\",\"environment\":\"{}\"",
                route.spec.project, route.spec.environment
            );
        }
        if let Some(replica) = &entry.replica {
            let _ = write!(
                text,
                ",\"release\":\"{}\",\"replica\":\"{}\"",
                replica.shared.release, replica.shared.id
            );
        }
        text.extend_from_slice(b",\"method\":\"");
        escape(text, entry.method.as_str().as_bytes());
        text.extend_from_slice(b"\",\"path\":\"");
        escape(text, cut(entry.uri.path().as_bytes()));
        if let Some(query) = entry.uri.query() {
            text.push(b'?');
            if self.with_query {
                escape(text, cut(query.as_bytes()));
            } else {
                for (index, pair) in query.split('&').take(32).enumerate() {
                    if index > 0 {
                        text.push(b'&');
                    }
                    escape(text, cut(pair.split('=').next().unwrap_or("").as_bytes()));
                    if pair.contains('=') {
                        text.push(b'=');
                    }
                }
            }
        }
        let _ = write!(
            text,
            "\",\"status\":{},\"bytes_in\":{},\"bytes_out\":{},\"duration_seconds\":{:.6}",
            entry.status,
            entry.received,
            entry.sent,
            entry.duration.as_secs_f64()
        );
        if let Some(waited) = entry.waited {
            let _ = write!(text, ",\"upstream_seconds\":{:.6}", waited.as_secs_f64());
        }
        if entry.truncated {
            text.extend_from_slice(b",\"truncated\":true");
        }
        let _ = write!(text, ",\"client\":\"{}\",\"request_id\":\"", entry.client);
        escape(text, entry.request_id.as_bytes());
        text.extend_from_slice(b"\"}\n");
    }
}

/// The most bytes of a path or a query's part that a line keeps: a stranger chooses them, and could
/// push everything else out of the log.
const MAX_TEXT: usize = 2 * 1024;

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(MAX_TEXT)]
}

fn escape(text: &mut Vec<u8>, bytes: &[u8]) {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', byte]),
            0x20..0x7f => text.push(byte),
            _ => {
                let _ = write!(text, "\\u{byte:04x}");
            }
        }
    }
}

/// A file that is put aside when it has grown.
struct RotatingFile {
    config: AccessLogConfig,
    file: File,
    length: u64,
}

impl RotatingFile {
    fn open(config: AccessLogConfig) -> io::Result<Self> {
        if let Some(parent) = config.path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append(&config.path)?;
        let length = file.metadata()?.len();
        Ok(Self {
            config,
            file,
            length,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        // While one gateway replaces another, both append; the one that finds the file put aside
        // by the other follows it to the new one.
        if self.length >= self.config.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(bytes)?;
        self.length = self.file.metadata()?.len();
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let current = fs::metadata(&self.config.path)
            .map(|metadata| metadata.len())
            .unwrap_or(0);
        if current >= self.config.max_bytes {
            for number in (1..self.config.max_files).rev() {
                let _ = fs::rename(self.numbered(number), self.numbered(number + 1));
            }
            if self.config.max_files == 0 {
                fs::remove_file(&self.config.path)?;
            } else {
                fs::rename(&self.config.path, self.numbered(1))?;
            }
        }
        self.file = append(&self.config.path)?;
        self.length = self.file.metadata()?.len();
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.config.path.clone().into_os_string();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    }
}

fn append(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            started: Instant::now(),
            duration: Duration::from_millis(12),
            waited: Some(Duration::from_millis(11)),
            route: None,
            replica: None,
            method: Method::GET,
            uri: path.parse().unwrap(),
            status: 200,
            truncated: false,
            received: 0,
            sent: 5,
            client: "127.0.0.1".parse().unwrap(),
            request_id: HeaderValue::from_static("req_1"),
        }
    }

    #[test]
    fn a_line_is_json_and_hides_query_values() {
        let mut lines = Lines::default();
        lines.add(
            &entry("/a%22b?token=hunter2&plain"),
            Timestamp::from_micros(1_700_000_000_000_042),
        );
        let text = String::from_utf8(lines.text).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["time"], "2023-11-14T22:13:20.000042Z");
        assert_eq!(line["path"], "/a%22b?token=&plain");
        assert_eq!(line["duration_seconds"].as_f64(), Some(0.012));
        assert!(!text.contains("hunter2"));
    }

    #[test]
    fn escaping_keeps_lines_whole() {
        let mut text = Vec::new();
        escape(&mut text, b"a\"b\\c\n\xff");
        assert_eq!(text, b"a\\\"b\\\\c\\u000a\\u00ff");
    }

    #[test]
    fn files_are_put_aside_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("logs/access.log");
        let config = AccessLogConfig {
            max_bytes: 100,
            max_files: 2,
            ..AccessLogConfig::new(&path)
        };
        let mut file = RotatingFile::open(config).unwrap();
        for _ in 0..50 {
            file.write(&[b'x'; 40]).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["access.log", "access.log.1", "access.log.2"]);
        assert!(fs::metadata(&path).unwrap().len() <= 140);
    }
}
