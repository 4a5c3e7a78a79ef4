//! A network namespace for a program that insists on its port.
//!
//! A holder process makes the namespace; the relay (inbound) and `slirp4netns` (outbound and
//! DNS, where it is installed) attach to it; then the program joins it and the holder is done.
//! So the program never runs before its network is there.
//!
//! Inside, the host's own loopback is at 10.0.2.2 and the name server at 10.0.2.3, which
//! `/etc/resolv.conf` names in a mount namespace of the program's own.

use std::ffi::{CString, OsString};
use std::io::{self, BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::home::Home;
use crate::sys::{self, JoinPlan};

/// How long a helper may take to say that it is ready.
const HELPER_PATIENCE: Duration = Duration::from_secs(10);

/// What the program needs to enter, and the processes that serve it.
pub(super) struct Netns {
    pub(super) join: JoinPlan,
    pub(super) helpers: Vec<i32>,
    pub(super) notice: Option<String>,
    /// To be dropped when the program is in the namespace.
    pub(super) holder: Holder,
}

impl Netns {
    /// Makes the namespace, reachable at `host_port` of the host's loopback.
    pub(super) fn make(
        home: &Home,
        shim_command: &[OsString],
        user_namespace: bool,
        outbound: Option<&Path>,
        host_port: u16,
        port: u16,
    ) -> io::Result<Self> {
        let kind = if user_namespace { "user" } else { "root" };
        // Bound here, before anything starts: the engine has picked a port that was free.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, host_port))?;
        let mut holder = helper(shim_command, &["probe", kind]);
        // It ends when its standard input does.
        let mut holder = sys::spawn_helper(holder.stdin(Stdio::piped()))?;
        let result = (|| {
            wait_ready(&mut holder, "the namespace holder")?;
            let pid = holder.id();
            let mut helpers = Vec::new();
            let mut resolv_conf = None;
            let mut notice = None;
            if let Some(program) = outbound {
                // A service can do its work without a way out, so that is only told.
                match start_outbound(home, program, pid, user_namespace) {
                    Ok((child, overlay)) => {
                        helpers.push(child.id() as i32);
                        resolv_conf = overlay;
                    }
                    Err(error) => notice = Some(format!("it has no outbound network: {error}")),
                }
            }
            let mut relay = helper(
                shim_command,
                &["relay", &pid.to_string(), &port.to_string(), kind],
            );
            let mut relay = sys::spawn_helper(relay.stdin(Stdio::from(OwnedFd::from(listener))))?;
            helpers.push(relay.id() as i32);
            wait_ready(&mut relay, "the relay")?;
            Ok((
                JoinPlan::of(pid as i32, user_namespace, resolv_conf)?,
                helpers,
                notice,
            ))
        })();
        match result {
            Ok((join, helpers, notice)) => Ok(Self {
                notice,
                join,
                helpers,
                holder: Holder(holder),
            }),
            Err(error) => {
                end(&mut holder);
                Err(error)
            }
        }
    }
}

/// Keeps the namespace until the program is in it.
pub(super) struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn helper(shim_command: &[OsString], arguments: &[&str]) -> Command {
    let (program, first) = shim_command
        .split_first()
        .map_or((OsString::new(), &[][..]), |(p, rest)| (p.clone(), rest));
    let mut command = Command::new(program);
    command
        .args(first)
        .args(arguments)
        .env_clear()
        .stdout(Stdio::piped());
    command
}

fn wait_ready(child: &mut Child, what: &str) -> io::Result<()> {
    let failed = |why: String| io::Error::other(format!("{what} did not start: {why}"));
    let Some(stdout) = child.stdout.take() else {
        return Err(failed("no pipe".into()));
    };
    wait_readable(&stdout).map_err(|error| failed(error.to_string()))?;
    let mut line = String::new();
    BufReader::new(stdout.take(1_024)).read_line(&mut line)?;
    match line.trim() {
        "ready" => Ok(()),
        other => Err(failed(other.to_owned())),
    }
}

fn wait_readable(fd: impl AsFd) -> io::Result<()> {
    let patience = Timespec {
        tv_sec: HELPER_PATIENCE.as_secs() as i64,
        tv_nsec: 0,
    };
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    if poll(&mut fds, Some(&patience))? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

/// Starts `slirp4netns` and waits until its interface is configured.
fn start_outbound(
    home: &Home,
    program: &Path,
    pid: u32,
    user_namespace: bool,
) -> io::Result<(Child, Option<CString>)> {
    let overlay = home.path("resolv.conf");
    std::fs::write(&overlay, "nameserver 10.0.2.3\n")?;
    let mut command = Command::new(program);
    // Its standard output serves as the descriptor on which it says that it is ready.
    command.args(["--configure", "--mtu=65520", "--ready-fd=1"]);
    if user_namespace {
        command.arg(format!("--userns-path=/proc/{pid}/ns/user"));
    }
    command
        .arg(pid.to_string())
        .arg("tap0")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = sys::spawn_helper(&mut command)?;
    let Some(mut stdout) = child.stdout.take() else {
        return Err(io::Error::other("no pipe"));
    };
    let mut byte = [0u8; 1];
    if wait_readable(&stdout).is_err() || stdout.read(&mut byte)? == 0 {
        end(&mut child);
        return Err(io::Error::other(
            "slirp4netns did not configure the namespace's interface",
        ));
    }
    // It goes on to print there; the pipe must not break.
    std::mem::forget(stdout);
    // What is not there cannot be overlaid.
    let overlay = Path::new("/etc/resolv.conf").exists().then_some(overlay);
    let overlay = overlay
        .map(|path| CString::new(path.as_os_str().as_bytes()))
        .transpose()?;
    Ok((child, overlay))
}

/// `shim probe`: makes a namespace, says so, and holds it until standard input ends.
pub(super) fn probe_main(user_namespace: bool) -> io::Result<()> {
    let reply = sys::make_netns(user_namespace)
        .map_or_else(|error| error.to_string(), |()| "ready".to_owned());
    io::Write::write_all(&mut io::stdout(), format!("{reply}\n").as_bytes())?;
    let mut rest = [0u8; 64];
    while io::stdin().read(&mut rest)? > 0 {}
    Ok(())
}
