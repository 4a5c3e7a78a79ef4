//! A connection to a replica, and the idle ones a worker keeps.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// An idle connection older than this is not used again: many servers close theirs after a few
/// seconds, and a request must not race with that.
pub(crate) const MAX_IDLE: Duration = Duration::from_secs(1);

/// A waiting exchange looks this often whether its replica has been cut off.
const TICK: Duration = Duration::from_secs(1);

const FIRST_READ: usize = 8 * 1024;
const LARGEST_READ: usize = 128 * 1024;
const KEPT_BUFFER: usize = 16 * 1024;

/// Why waiting for a replica ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// Its time was over.
    TimedOut,
    /// The replica's drain deadline passed.
    Cut,
}

/// One HTTP/1.1 connection to a replica.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) stream: Arc<TcpStream>,
    pub(crate) read: BytesMut,
    /// A spare buffer for the next request's head.
    pub(crate) out: BytesMut,
    /// Whether an earlier exchange ended on it, so that the replica may have closed it meanwhile.
    pub(crate) reused: bool,
    read_size: usize,
    sleep: Pin<Box<Sleep>>,
    deadline: Instant,
}

/// Opens a connection.
pub(crate) async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Connection> {
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(connected) => connected?,
        Err(_) => {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "no answer to the connection attempt",
            ));
        }
    };
    stream.set_nodelay(true)?;
    let now = Instant::now();
    Ok(Connection {
        stream: Arc::new(stream),
        read: BytesMut::new(),
        out: BytesMut::with_capacity(1_024),
        reused: false,
        read_size: FIRST_READ,
        sleep: Box::pin(tokio::time::sleep_until(now + TICK)),
        deadline: now,
    })
}

impl Connection {
    /// Reads more into the buffer; zero is the end of the stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            if self.read.capacity() - self.read.len() < self.read_size / 2 {
                self.read.reserve(self.read_size);
            }
            match self.stream.try_read_buf(&mut self.read) {
                Ok(count) => {
                    if self.read.len() == self.read.capacity() {
                        self.read_size = (self.read_size * 2).min(LARGEST_READ);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.stream.poll_read_ready(cx))?
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Starts the time that the next wait may take. Moving a timer further away costs nothing,
    /// which is why it belongs to the connection and ticks.
    pub(crate) fn arm(&mut self, timeout: Duration) {
        let now = Instant::now();
        self.deadline = now + timeout;
        self.sleep.as_mut().reset(self.deadline.min(now + TICK));
    }

    /// Whether the wait is over.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>, cut: &AtomicBool) -> Poll<Expired> {
        loop {
            ready!(self.sleep.as_mut().poll(cx));
            if cut.load(Ordering::Acquire) {
                return Poll::Ready(Expired::Cut);
            }
            let now = Instant::now();
            if now >= self.deadline {
                return Poll::Ready(Expired::TimedOut);
            }
            let next = self.deadline.min(now + TICK);
            self.sleep.as_mut().reset(next);
        }
    }

    /// Whether an idle connection is still good: open, and silent since its last answer.
    fn is_quiet(&mut self) -> bool {
        let mut probe = [0u8; 1];
        self.read.is_empty()
            && matches!(self.stream.try_read(&mut probe), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// The idle connections of one worker to one replica. Only that worker takes and returns them, so
/// the lock is never contended.
#[derive(Debug)]
pub(crate) struct Pool {
    idle: Mutex<Vec<(Connection, Instant)>>,
    max_idle: usize,
}

impl Pool {
    pub(crate) fn new(max_idle: usize) -> Self {
        Self {
            idle: Mutex::new(Vec::new()),
            max_idle,
        }
    }

    /// The connection used last, if it is young and quiet.
    pub(crate) fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((mut connection, since)) = idle.pop() {
            if since.elapsed() >= MAX_IDLE {
                // All others are older still.
                idle.clear();
                return None;
            }
            if connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange ended cleanly.
    pub(crate) fn give_back(&self, mut connection: Connection) {
        connection.reused = true;
        if connection.read.capacity() > KEPT_BUFFER {
            connection.read = BytesMut::new();
        }
        connection.read_size = FIRST_READ;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push((connection, Instant::now()));
        }
    }

    /// Closes what is too old; the number of those left.
    pub(crate) fn sweep(&self) -> usize {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(_, since)| since.elapsed() < MAX_IDLE);
        idle.len()
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
