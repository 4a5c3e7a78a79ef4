//! `shim relay`: carries TCP between a port of the host's loopback and a port inside a network
//! namespace. A socket belongs to the namespace it was made in, so one thread that enters the
//! namespace after it was handed the host's listener can hold both ends.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use crate::sys::JoinPlan;

/// Further connections wait in the listener's backlog.
const MAX_CONNECTIONS: usize = 1_024;

const BUFFER_BYTES: usize = 16 << 10;

/// One direction of a connection.
#[derive(Default)]
struct Flow {
    buffer: Vec<u8>,
    at: usize,
    ended: bool,
    shut: bool,
}

impl Flow {
    fn wants_input(&self) -> bool {
        !self.ended && self.buffer.is_empty()
    }

    fn has_output(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Moves what can be moved. An error ends the connection.
    fn carry(&mut self, from: &mut TcpStream, to: &mut TcpStream) -> io::Result<()> {
        if self.wants_input() {
            self.buffer.resize(BUFFER_BYTES, 0);
            let read = from.read(&mut self.buffer);
            self.buffer.truncate(*read.as_ref().unwrap_or(&0));
            self.at = 0;
            match read {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(error) if retry(&error) => {}
                Err(error) => return Err(error),
            }
        }
        while self.has_output() {
            match to.write(&self.buffer[self.at..]) {
                Ok(written) => self.at += written,
                Err(error) if retry(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
            if self.at == self.buffer.len() {
                self.buffer.clear();
            }
        }
        if self.ended && !self.shut {
            self.shut = true;
            to.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(())
    }
}

fn retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

struct Connection {
    client: TcpStream,
    upstream: TcpStream,
    connecting: bool,
    second_try: bool,
    inward: Flow,
    outward: Flow,
}

impl Connection {
    fn open(client: TcpStream, port: u16) -> io::Result<Self> {
        client.set_nonblocking(true)?;
        let _ = client.set_nodelay(true);
        let upstream = dial(port, false)?;
        Ok(Self {
            client,
            upstream,
            connecting: true,
            second_try: false,
            inward: Flow::default(),
            outward: Flow::default(),
        })
    }

    fn interest(&self) -> (PollFlags, PollFlags) {
        if self.connecting {
            return (PollFlags::empty(), PollFlags::OUT);
        }
        let side = |reads: &Flow, writes: &Flow| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, reads.wants_input());
            flags.set(PollFlags::OUT, writes.has_output());
            flags
        };
        (
            side(&self.inward, &self.outward),
            side(&self.outward, &self.inward),
        )
    }

    /// False when the connection is over.
    fn advance(&mut self, port: u16) -> bool {
        if self.connecting {
            match self.upstream.take_error() {
                Ok(None) => self.connecting = false,
                // A program that listens on IPv6 only.
                Ok(Some(_)) if !self.second_try => match dial(port, true) {
                    Ok(upstream) => {
                        (self.upstream, self.second_try) = (upstream, true);
                        return true;
                    }
                    Err(_) => return false,
                },
                _ => return false,
            }
            let _ = self.upstream.set_nodelay(true);
        }
        let carried = self
            .inward
            .carry(&mut self.client, &mut self.upstream)
            .and_then(|()| self.outward.carry(&mut self.upstream, &mut self.client));
        carried.is_ok() && !(self.inward.shut && self.outward.shut)
    }
}

/// Begins to connect to the port on the loopback of the current namespace.
fn dial(port: u16, ipv6: bool) -> io::Result<TcpStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, address): (_, std::net::SocketAddr) = if ipv6 {
        (
            AddressFamily::INET6,
            (std::net::Ipv6Addr::LOCALHOST, port).into(),
        )
    } else {
        (
            AddressFamily::INET,
            (std::net::Ipv4Addr::LOCALHOST, port).into(),
        )
    };
    let socket: OwnedFd = socket_with(family, SocketType::STREAM, flags, None)?;
    match connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(TcpStream::from(socket)),
        // On the loopback a refusal comes at once.
        Err(rustix::io::Errno::CONNREFUSED) if !ipv6 => dial(port, true),
        Err(error) => Err(error.into()),
    }
}

/// The body of `shim relay PID PORT KIND`; the listener is standard input.
pub(super) fn main(pid: &str, port: &str, user_namespace: bool) -> io::Result<()> {
    let number = |text: &str| {
        text.parse::<i32>()
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let port =
        u16::try_from(number(port)?).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let listener = TcpListener::from(rustix::io::dup(rustix::stdio::stdin())?);
    listener.set_nonblocking(true)?;
    JoinPlan::of(number(pid)?, user_namespace, None)?.apply()?;
    io::Write::write_all(&mut io::stdout(), b"ready\n")?;
    serve(&listener, port)
}

/// Carries connections until it is killed.
fn serve(listener: &TcpListener, port: u16) -> io::Result<()> {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let ready: Vec<bool> = {
            let accepting = connections.len() < MAX_CONNECTIONS;
            let mut fds = Vec::with_capacity(1 + connections.len() * 2);
            let accept = if accepting {
                PollFlags::IN
            } else {
                PollFlags::empty()
            };
            fds.push(PollFd::from_borrowed_fd(listener.as_fd(), accept));
            for connection in &connections {
                let (client, upstream) = connection.interest();
                fds.push(PollFd::from_borrowed_fd(connection.client.as_fd(), client));
                fds.push(PollFd::from_borrowed_fd(
                    connection.upstream.as_fd(),
                    upstream,
                ));
            }
            match poll(&mut fds, None) {
                Ok(_) => fds.iter().map(|fd| !fd.revents().is_empty()).collect(),
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
        };
        let mut pairs = ready[1..].chunks(2);
        connections.retain_mut(|connection| {
            let due = pairs.next().is_some_and(|pair| pair.contains(&true));
            !due || connection.advance(port)
        });
        while ready[0] && connections.len() < MAX_CONNECTIONS {
            match listener.accept() {
                Ok((client, _)) => connections.extend(Connection::open(client, port)),
                Err(_) => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_ends_are_carried_both_ways() {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = target.local_addr().unwrap().port();
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        front.set_nonblocking(true).unwrap();
        std::thread::spawn(move || serve(&front, port));
        let upper = std::thread::spawn(move || {
            let (mut stream, _) = target.accept().unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all.to_ascii_uppercase()).unwrap();
            all.len()
        });
        let sent = b"abc".repeat(400_000);
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert_eq!(upper.join().unwrap(), sent.len());
        assert_eq!(back, sent.to_ascii_uppercase());
    }

    #[test]
    fn a_port_where_nobody_listens_ends_the_connection() {
        let unused = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = front.local_addr().unwrap();
        front.set_nonblocking(true).unwrap();
        std::thread::spawn(move || serve(&front, unused));
        let mut client = TcpStream::connect(address).unwrap();
        let mut back = Vec::new();
        assert_eq!(client.read_to_end(&mut back).unwrap_or(0), 0);
    }
}
