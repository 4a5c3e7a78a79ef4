//! A keeper's surroundings: its address, its signals, and whoever started it.

use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};

use rustix::process::{Pid, Signal};
use tokio::sync::mpsc;

use super::ADDRESS;
use super::run::Event;
use crate::error::GatewayError;
use crate::gateway::bind;
use crate::run_dir::RunDir;

/// Says one line to whoever started us.
pub(super) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{}", line.replace('\n', " "));
    let _ = out.flush();
}

/// Sends a signal to a gateway.
pub(super) fn signal(process: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Port 0 means any port; after a full stop the one of last time is tried first, so that links and
/// open pages stay good.
pub(super) fn bind_as_before(
    run_dir: &RunDir,
    listen: SocketAddr,
) -> Result<TcpListener, GatewayError> {
    if listen.port() == 0 {
        let before = std::fs::read_to_string(run_dir.join(ADDRESS))
            .ok()
            .and_then(|text| text.trim().parse().ok());
        if let Some(before) = before
            && SocketAddr::ip(&before) == listen.ip()
            && let Ok(listener) = bind(before)
        {
            return Ok(listener);
        }
    }
    bind(listen)
}

pub(super) fn watch_signals(events: mpsc::Sender<Event>) {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let events = events.clone();
        tokio::spawn(async move {
            let Ok(mut signals) = signal(kind) else {
                return;
            };
            while signals.recv().await.is_some() {
                let _ = events.send(Event::Terminate).await;
            }
        });
    }
    // A closing terminal is not ours to follow.
    tokio::spawn(async {
        let Ok(mut hangups) = signal(SignalKind::hangup()) else {
            return;
        };
        while hangups.recv().await.is_some() {}
    });
}

/// Whoever started us reads one line and may then be gone.
pub(super) fn silence_output() {
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
