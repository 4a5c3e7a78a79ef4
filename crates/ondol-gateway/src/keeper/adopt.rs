//! Takes the listening socket back from a gateway that outlived its keeper.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::control::{CONTROL_VERSION, GatewayStatus, Reply, Request, RequestBody};
use crate::error::GatewayError;
use crate::run_dir::RunDir;

const WAIT: Duration = Duration::from_secs(3);

/// A gateway that lives already, and its socket.
#[derive(Debug)]
pub(super) struct Survivor {
    pub(super) instance: String,
    pub(super) process: u32,
    pub(super) listener: TcpListener,
}

/// The newest living gateway that is not on its way out.
pub(super) fn find_survivor(run_dir: &RunDir) -> Result<Option<Survivor>, GatewayError> {
    let mut best: Option<(f64, Survivor)> = None;
    for instance in run_dir.list("gateway-", ".sock")? {
        if !run_dir.is_held(&format!("gateway-{instance}.lock")) {
            continue;
        }
        match ask(run_dir, &instance) {
            Ok((status, listener)) if !status.retiring => {
                let survivor = Survivor {
                    instance,
                    process: status.process,
                    listener,
                };
                if best
                    .as_ref()
                    .is_none_or(|(uptime, _)| status.uptime_seconds < *uptime)
                {
                    best = Some((status.uptime_seconds, survivor));
                }
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(gateway.instance = %instance, error = %error, "a living gateway does not answer");
            }
        }
    }
    Ok(best.map(|(_, survivor)| survivor))
}

fn ask(run_dir: &RunDir, instance: &str) -> Result<(GatewayStatus, TcpListener), GatewayError> {
    let silent = |error: std::io::Error| GatewayError::NotAnswering {
        instance: instance.to_owned(),
        operation: "listener",
        reason: error.to_string(),
    };
    let mut stream = UnixStream::connect(run_dir.socket_path(&format!("gateway-{instance}.sock")))
        .map_err(silent)?;
    stream.set_read_timeout(Some(WAIT)).map_err(silent)?;
    stream.set_write_timeout(Some(WAIT)).map_err(silent)?;
    send(&mut stream, RequestBody::Status).map_err(silent)?;
    let mut line = Vec::new();
    let mut byte = [0u8; 1];
    // Byte by byte: nothing of the next message may be taken, since a descriptor travels with it.
    while line.last() != Some(&b'\n') && line.len() < 64 * 1024 {
        stream.read_exact(&mut byte).map_err(silent)?;
        line.push(byte[0]);
    }
    let Ok(Reply::Status { status }) = serde_json::from_slice(&line) else {
        return Err(GatewayError::protocol("a gateway did not tell its status"));
    };
    send(&mut stream, RequestBody::Listener).map_err(silent)?;
    let mut text = [0u8; 4_096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        &stream,
        &mut [IoSliceMut::new(&mut text)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(|errno| silent(errno.into()))?;
    let mut socket: Option<OwnedFd> = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            socket = descriptors.into_iter().next().or(socket);
        }
    }
    match socket {
        Some(socket) => Ok((*status, TcpListener::from(socket))),
        None => Err(GatewayError::protocol(
            "a gateway did not pass on its listening socket",
        )),
    }
}

fn send(stream: &mut UnixStream, body: RequestBody) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(&Request {
        version: CONTROL_VERSION,
        body,
    })?;
    line.push(b'\n');
    stream.write_all(&line)
}
