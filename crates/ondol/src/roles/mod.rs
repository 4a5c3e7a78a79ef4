//! The roles beside `serve`: told apart by the first argument, each set up with no more than it
//! needs.

mod data_plane;
mod static_server;
mod train;

use std::ffi::OsString;
use std::process::ExitCode;

use ondol_types::SystemClock;

pub(crate) use data_plane::keeper_arguments;
pub(crate) use static_server::StaticServer;
pub(crate) use train::{ModelServer, TrainAuto, train_arguments};

/// Runs a light role, when the arguments name one.
pub(crate) fn light(arguments: &[OsString]) -> Option<ExitCode> {
    let program = arguments.first()?;
    if ondol_git::is_hook(program) {
        return Some(ondol_git::hook_main(std::env::vars_os()));
    }
    match arguments.get(1)?.to_str()? {
        "shim" => Some(ondol_workload::shim_main(
            arguments.iter().skip(2).cloned(),
            &SystemClock,
        )),
        "keeper" => Some(data_plane::keeper(&arguments[2..])),
        "gateway" => Some(data_plane::gateway(&arguments[2..])),
        _ => None,
    }
}

/// Completes at SIGTERM or SIGINT: how a server that is a workload is asked to stop.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
