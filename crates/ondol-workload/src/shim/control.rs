//! The control socket: a few clients, one line at a time, never a wait.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use crate::home::{Home, VERSION};
use crate::wire::{MAX_REQUEST_BYTES, Operation, Request, Response, write_line};

/// More clients than these at one time are a mistake; the oldest is dropped.
pub(super) const MAX_CLIENTS: usize = 16;

struct Client {
    stream: UnixStream,
    input: Vec<u8>,
}

/// The listening socket and its clients.
pub(super) struct Control {
    listener: UnixListener,
    clients: Vec<Client>,
}

impl Control {
    /// Binds the socket.
    pub(super) fn bind(home: &Home) -> io::Result<Self> {
        Ok(Self {
            listener: listen(home)?,
            clients: Vec::new(),
        })
    }

    /// What to poll for reading.
    pub(super) fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        std::iter::once(self.listener.as_fd())
            .chain(self.clients.iter().map(|client| client.stream.as_fd()))
    }

    /// Takes what has arrived; `answer` is called for each operation.
    pub(super) fn serve(&mut self, mut answer: impl FnMut(Operation) -> Response) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() {
                if self.clients.len() == MAX_CLIENTS {
                    self.clients.remove(0);
                }
                self.clients.push(Client {
                    stream,
                    input: Vec::new(),
                });
            }
        }
        self.clients.retain_mut(|client| client.serve(&mut answer));
    }
}

/// Binds the socket of a workload, in place of one that a dead shim left.
pub(super) fn listen(home: &Home) -> io::Result<UnixListener> {
    let listener = home.with_socket_path(|path| {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

impl Client {
    /// False when the client is done for.
    fn serve(&mut self, answer: &mut impl FnMut(Operation) -> Response) -> bool {
        let mut chunk = [0u8; 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return false,
                Ok(read) => self.input.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
            if self.input.len() > MAX_REQUEST_BYTES {
                return false;
            }
        }
        while let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let response = understand(&line).map_or_else(|refusal| refusal, &mut *answer);
            // A client that does not read its answers is not waited for.
            if write_line(&self.stream, &response).is_err() {
                return false;
            }
        }
        true
    }
}

/// What one line asks for, or what to answer when it is not understood.
pub(super) fn understand(line: &[u8]) -> Result<Operation, Response> {
    match serde_json::from_slice::<Request>(line) {
        Ok(Request { v: VERSION, op }) => Ok(op),
        Ok(Request { v, .. }) => Err(refusal(format!(
            "protocol version {v} is not known, only {VERSION}"
        ))),
        Err(error) => Err(refusal(format!("not a request: {error}"))),
    }
}

fn refusal(error: String) -> Response {
    Response {
        v: VERSION,
        ok: false,
        error: Some(error),
        pid: None,
    }
}
