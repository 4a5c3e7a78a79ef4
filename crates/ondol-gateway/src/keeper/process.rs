//! One gateway process: started with the listening socket as standard input, watched to its end.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::run::Event;
use crate::error::GatewayError;
use crate::run_dir::RunDir;

const MAX_WORD: u64 = 4_096;

/// Starts a gateway and waits until it serves. One that does not is ended.
pub(super) async fn start(
    exe: &Path,
    args: &[OsString],
    listener: &TcpListener,
    timeout: Duration,
) -> Result<Child, String> {
    let socket = listener
        .try_clone()
        .map_err(|error| format!("cannot share the listening socket: {error}"))?;
    let mut child = Command::new(exe)
        .args(args)
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|error| format!("cannot start `{}`: {error}", exe.display()))?;
    let ready = tokio::time::timeout(timeout, first_word(&mut child)).await;
    match ready {
        Ok(Ok(())) => Ok(child),
        Ok(Err(reason)) => {
            let _ = child.start_kill();
            let ended = child
                .wait()
                .await
                .map_or_else(|error| error.to_string(), |status| status.to_string());
            Err(format!("{reason} ({ended})"))
        }
        Err(_) => {
            let _ = child.kill().await;
            Err(format!(
                "it did not serve within {} s",
                timeout.as_secs_f64()
            ))
        }
    }
}

/// The gateway says `ready …` or `error …` on its standard output, once.
async fn first_word(child: &mut Child) -> Result<(), String> {
    let Some(output) = child.stdout.take() else {
        return Err("its output is not connected".into());
    };
    let mut lines = BufReader::new(output.take(MAX_WORD)).lines();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) if line.starts_with("ready") => return Ok(()),
            Ok(Some(line)) => {
                if let Some(reason) = line.strip_prefix("error ") {
                    return Err(reason.to_owned());
                }
            }
            Ok(None) => return Err("it ended before it served".into()),
            Err(error) => return Err(format!("its output cannot be read: {error}")),
        }
    }
}

/// Reports the end of a child.
pub(super) fn watch_child(mut child: Child, process: u32, events: mpsc::Sender<Event>) {
    tokio::spawn(async move {
        let how = child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        let _ = events.send(Event::Ended { process, how }).await;
    });
}

/// Reports the end of a gateway that is not our child: its lock becomes free then.
pub(super) fn watch_survivor(
    run_dir: &RunDir,
    instance: &str,
    process: u32,
    events: mpsc::Sender<Event>,
) -> Result<(), GatewayError> {
    let path = run_dir.join(&format!("gateway-{instance}.lock"));
    let lock =
        File::open(&path).map_err(|source| GatewayError::io("watch", path.clone(), source))?;
    std::thread::Builder::new()
        .name("gateway-watch".into())
        .spawn(move || {
            while let Err(rustix::io::Errno::INTR) =
                rustix::fs::flock(&lock, FlockOperation::LockShared)
            {}
            let _ = events.blocking_send(Event::Ended {
                process,
                how: "ended".into(),
            });
        })
        .map(drop)
        .map_err(|source| GatewayError::io("watch", path, source))
}
