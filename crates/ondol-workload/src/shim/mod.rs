//! `ondol shim`: the parent of one workload. It lives as long as the workload, whatever becomes
//! of the control plane, and is the only writer of its log and exit.
//!
//! It is one process with one thread: the kernel kills the program when the thread that started
//! it ends, and a hundred idle replicas must cost next to nothing. It must never allocate without
//! a bound or wait for anything but its one `poll`. Only the shim of a container
//! ([`contained`]) has a runtime, of that one thread, because it speaks HTTP.

mod child;
mod contained;
mod control;
mod netns;
mod relay;
mod supervise;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use ondol_types::Clock;
use rustix::process::{Signal, set_child_subreaper, setsid};

use crate::home::Home;
use crate::sys::SignalFd;
use crate::wire::{LaunchOrder, LaunchReply, write_line};

/// The body of the hidden subcommand `ondol shim`; `args` are those behind that word. To be
/// called before any thread is started.
///
/// `run DIR` carries out the order on its standard input. `relay`, `probe` and `remove` are helpers
/// that the shim and the engine start.
pub fn shim_main(args: impl IntoIterator<Item = OsString>, clock: &dyn Clock) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let text = |index: usize| {
        args.get(index)
            .and_then(|arg| arg.to_str())
            .unwrap_or_default()
    };
    let result = match text(0) {
        "run" if args.len() == 2 => run(PathBuf::from(&args[1]), clock),
        "relay" if args.len() == 4 => relay::main(text(1), text(2), text(3) == "user"),
        "remove" if args.len() == 3 => contained::remove_main(text(1), text(2)),
        "probe" if args.len() == 2 => netns::probe_main(text(1) == "user"),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "usage: shim run DIR < ORDER",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is a file in the workload's directory.
            let _ = io::Write::write_all(&mut io::stderr(), format!("shim: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

fn run(dir: PathBuf, clock: &dyn Clock) -> io::Result<()> {
    // A session of its own, so that neither Ctrl-C nor a closing terminal reaches it.
    let _ = setsid();
    set_child_subreaper(Some(rustix::process::getpid()))?;
    let signals = SignalFd::open(&[Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP])?;
    let order = LaunchOrder::read(io::stdin().lock())?;
    let home = Home::new(dir);
    let fail = |what: &str, error: io::Error| {
        let text = format!("{what}: {error}");
        let _ = write_line(io::stdout().lock(), &LaunchReply::Failed(text.clone()));
        io::Error::new(error.kind(), text)
    };
    let _lock = home
        .lock()
        .map_err(|error| fail("another shim holds the lock", error))?;
    if let Some(container) = order.container.clone() {
        return contained::run(home, order, container, signals, clock);
    }
    let supervisor = supervise::Supervisor::start(home, order, signals, clock)
        .map_err(|error| fail("cannot prepare the workload", error))?;
    // An engine that died meanwhile will find the files.
    let _ = write_line(io::stdout().lock(), &LaunchReply::Started);
    close_standard_streams();
    supervisor.run()
}

/// The engine waits for the end of the reply.
fn close_standard_streams() {
    if let Ok(null) = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
