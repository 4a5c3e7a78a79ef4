//! What a signal means: SIGINT and SIGHUP come from a terminal and stop everything; SIGTERM
//! comes from a supervisor and stops the control plane alone.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How much ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The control plane; applications and the gateway go on.
    ControlPlane,
    /// Everything.
    Everything,
}

pub(super) struct Signals {
    interrupt: Signal,
    hangup: Signal,
    terminate: Signal,
}

pub(super) fn listen() -> std::io::Result<Signals> {
    Ok(Signals {
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
        terminate: signal(SignalKind::terminate())?,
    })
}

impl Signals {
    pub(super) async fn wait(mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Everything,
            _ = self.hangup.recv() => Ending::Everything,
            _ = self.terminate.recv() => Ending::ControlPlane,
        }
    }
}
