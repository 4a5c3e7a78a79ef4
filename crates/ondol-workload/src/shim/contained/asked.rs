//! The control socket of a shim that has a runtime: the same lines as those of
//! [`super::super::control`], each answered at once and passed on.

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};

use crate::home::VERSION;
use crate::shim::control::{MAX_CLIENTS, understand};
use crate::wire::{MAX_REQUEST_BYTES, Operation, Response};

/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// The process that answers name, once it is known. A shim has one workload.
static PID: AtomicI32 = AtomicI32::new(0);

/// What answers say from now on.
pub(super) fn tell_pid(pid: Option<i32>) {
    PID.store(pid.unwrap_or(0), Ordering::Relaxed);
}

/// Serves the socket in tasks of its own; what is asked comes out of the channel.
pub(super) fn serve(listener: UnixListener) -> io::Result<mpsc::Receiver<Operation>> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let (sender, receiver) = mpsc::channel(MAX_CLIENTS);
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    tokio::spawn(async move {
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let sender = sender.clone();
                    tokio::spawn(async move {
                        let _place = place;
                        let _ = converse(stream, &sender).await;
                    });
                }
                // Too many open files; the listener itself does not break.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(receiver)
}

async fn converse(stream: UnixStream, sender: &mpsc::Sender<Operation>) -> io::Result<()> {
    let (input, mut output) = stream.into_split();
    let mut input = BufReader::new(input);
    loop {
        let mut line = Vec::new();
        let most = MAX_REQUEST_BYTES as u64 + 1;
        let read = tokio::time::timeout(
            PATIENCE,
            (&mut input).take(most).read_until(b'\n', &mut line),
        )
        .await??;
        if read == 0 || line.len() > MAX_REQUEST_BYTES {
            return Ok(());
        }
        let response = match understand(&line) {
            Ok(operation) => {
                let pid = PID.load(Ordering::Relaxed);
                let taken = sender.send(operation).await.is_ok();
                Response {
                    v: VERSION,
                    ok: taken,
                    error: (!taken).then(|| "it has ended".to_owned()),
                    pid: (pid != 0).then_some(pid),
                }
            }
            Err(refusal) => refusal,
        };
        let mut bytes = serde_json::to_vec(&response)?;
        bytes.push(b'\n');
        tokio::time::timeout(PATIENCE, output.write_all(&bytes)).await??;
    }
}
