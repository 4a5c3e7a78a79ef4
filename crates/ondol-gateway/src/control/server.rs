//! Answers questions on the gateway's control socket.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tokio::io::{BufReader, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{CONTROL_VERSION, Reply, Request, RequestBody, read_frame, write_frame};
use crate::error::GatewayError;
use crate::server::Core;

const MAX_CONNECTIONS: usize = 64;

/// Serves the socket for the life of the process.
pub(crate) async fn serve(core: Arc<Core>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let core = core.clone();
                tokio::spawn(async move {
                    if let Err(error) = converse(core, stream).await {
                        tracing::debug!(error = %error, "control connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(core: Arc<Core>, stream: UnixStream) -> Result<(), GatewayError> {
    let mut stream = BufReader::new(stream);
    loop {
        let request: Request = match read_frame(&mut stream).await {
            Ok(Some(request)) => request,
            Ok(None) => return Ok(()),
            Err(error) => {
                let _ = write_frame(&mut stream, &Reply::from(error)).await;
                return Ok(());
            }
        };
        if request.version != CONTROL_VERSION {
            let reason = format!(
                "version {} is spoken here, not {}",
                CONTROL_VERSION, request.version
            );
            write_frame(&mut stream, &Reply::from(GatewayError::protocol(reason))).await?;
            continue;
        }
        let reply = match request.body {
            RequestBody::Listener => {
                send_listener(&core, stream.get_ref()).await?;
                continue;
            }
            body => answer(&core, body).await.unwrap_or_else(Reply::from),
        };
        write_frame(&mut stream, &reply).await?;
    }
}

async fn answer(core: &Arc<Core>, body: RequestBody) -> Result<Reply, GatewayError> {
    Ok(match body {
        RequestBody::Apply { snapshot } => Reply::Applied {
            generation: core.apply(*snapshot).await?,
        },
        RequestBody::Status => Reply::Status {
            status: Box::new(core.status().await),
        },
        RequestBody::Counters => {
            let (counters, folded) = core.counters();
            Reply::Counters {
                instance: core.instance.clone(),
                folded,
                counters: Box::new(counters),
            }
        }
        RequestBody::Metrics => Reply::Metrics {
            text: core.counters().0.to_prometheus(),
        },
        RequestBody::Drain { replica, policy } => Reply::Draining {
            known: core.drain_by_order(replica, policy)?,
        },
        RequestBody::Retire(order) => {
            core.begin_retirement(order);
            Reply::Retiring
        }
        RequestBody::Listener => Reply::Listener,
    })
}

/// Sends the listening socket to a keeper that comes after one that died.
async fn send_listener(core: &Core, stream: &UnixStream) -> Result<(), GatewayError> {
    let mut line = serde_json::to_vec(&Reply::Listener)
        .map_err(|error| GatewayError::protocol(error.to_string()))?;
    line.push(b'\n');
    let failed = |error: std::io::Error| {
        GatewayError::io(
            "pass on the listening socket of",
            core.run_dir.path(),
            error,
        )
    };
    loop {
        stream.writable().await.map_err(failed)?;
        let sent = stream.try_io(Interest::WRITABLE, || {
            let sockets = [core.listener.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&sockets));
            Ok(rustix::net::sendmsg(
                stream,
                &[IoSlice::new(&line)],
                &mut ancillary,
                SendFlags::NOSIGNAL,
            )?)
        });
        match sent {
            Ok(count) if count == line.len() => return Ok(()),
            Ok(_) => {
                return Err(GatewayError::protocol(
                    "the listening socket's message was cut",
                ));
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
    }
}
