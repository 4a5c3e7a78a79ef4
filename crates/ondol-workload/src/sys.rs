//! All `unsafe` of Ondol. What is here runs between fork and exec, or talks to the kernel where
//! no safe wrapper exists. The rules:
//!
//! * A closure given to `pre_exec` runs in a copy of the process in which only this thread goes
//!   on. It must not allocate, lock or panic: everything it needs is prepared before, and it
//!   makes system calls only.
//! * Every other function here is sound for any argument; its `SAFETY` note says why.
#![expect(
    unsafe_code,
    reason = "the one audited module: fork hooks, signalfd, ioctl"
)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What a child does to itself before it becomes the program.
#[derive(Debug, Default)]
pub(crate) struct Preparation {
    /// `cgroup.procs` or `tasks` files to write itself into, opened for writing.
    pub(crate) cgroup_entries: Vec<File>,
    /// The soft limit on processes of the user, where no control group counts them.
    pub(crate) max_user_processes: Option<u64>,
    /// The namespaces it moves into.
    pub(crate) join: Option<JoinPlan>,
}

/// How a child enters a network namespace that a holder made.
#[derive(Debug)]
pub(crate) struct JoinPlan {
    /// The user namespace around it, where there is one.
    pub(crate) user: Option<OwnedFd>,
    /// The network namespace.
    pub(crate) net: OwnedFd,
    /// A file to put in place of `/etc/resolv.conf`, in a mount namespace of its own.
    pub(crate) resolv_conf: Option<CString>,
}

impl JoinPlan {
    /// Opens the namespaces of a process.
    pub(crate) fn of(pid: i32, with_user: bool, resolv_conf: Option<CString>) -> io::Result<Self> {
        let open = |name: &str| File::open(format!("/proc/{pid}/ns/{name}")).map(OwnedFd::from);
        let user = if with_user { Some(open("user")?) } else { None };
        Ok(Self {
            user,
            net: open("net")?,
            resolv_conf,
        })
    }

    /// Moves the calling thread, which must be the only one of its process.
    pub(crate) fn apply(&self) -> io::Result<()> {
        if let Some(user) = &self.user {
            move_into_link_name_space(user.as_fd(), Some(LinkNameSpaceType::User))?;
        }
        move_into_link_name_space(self.net.as_fd(), Some(LinkNameSpaceType::Network))?;
        if let Some(resolv_conf) = &self.resolv_conf {
            use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
            // SAFETY: the flags do not include FILES, so no descriptor table becomes a copy.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
            mount_change(
                c"/",
                MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
            )?;
            mount_bind(resolv_conf.as_c_str(), c"/etc/resolv.conf")?;
        }
        Ok(())
    }
}

/// Moves the calling thread, which must be the only one of its process, into a new network
/// namespace whose loopback is up. `with_user` makes a user namespace around it in which the
/// process keeps its ids: that is the way for those who are not root.
pub(crate) fn make_netns(with_user: bool) -> io::Result<()> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    let mut flags = UnshareFlags::NEWNET;
    if with_user {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: the flags do not include FILES, so no descriptor table becomes a copy.
    unsafe { rustix::thread::unshare_unsafe(flags)? };
    if with_user {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    }
    loopback_up()
}

/// Keeps every descriptor that this process was started with, beside the standard three, from the
/// programs that it starts: what a supervisor or a shell left open is none of their business.
pub fn keep_inherited_descriptors() -> io::Result<()> {
    let first: libc::c_uint = 3;
    let flags = libc::CLOSE_RANGE_CLOEXEC as libc::c_int;
    // SAFETY: this only sets a flag on open descriptors; none is closed, and none that is not
    // open is touched.
    match unsafe { libc::close_range(first, libc::c_uint::MAX, flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts a program as leader of a session of its own, so that it has no terminal and its process
/// group can be signalled; the kernel kills it when this thread ends.
pub(crate) fn spawn(command: &mut Command, preparation: Preparation) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let before_exec = move || -> io::Result<()> {
        reset_signals()?;
        rustix::process::setsid()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // The parent may have died before the kernel was told to watch it.
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        for entry in &preparation.cgroup_entries {
            rustix::io::write(entry, b"0")?;
        }
        if let Some(most) = preparation.max_user_processes {
            let now = rustix::process::getrlimit(Resource::Nproc);
            let soft = now.maximum.map_or(most, |hard| hard.min(most));
            rustix::process::setrlimit(
                Resource::Nproc,
                Rlimit {
                    current: Some(soft),
                    maximum: now.maximum,
                },
            )?;
        }
        if let Some(join) = &preparation.join {
            join.apply()?;
            // Entering a user namespace resets it.
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        Ok(())
    };
    // SAFETY: the closure makes system calls on what was prepared before the fork. It neither
    // allocates nor locks; errors are built from raw error numbers.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

/// Starts a helper that the kernel kills when this thread ends.
pub(crate) fn spawn_helper(command: &mut Command) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    let before_exec = move || -> io::Result<()> {
        reset_signals()?;
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        if rustix::process::getppid() != Some(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: a few system calls, no allocation.
    unsafe { command.pre_exec(before_exec) };
    command.spawn()
}

/// Sets the loopback interface of the current network namespace up.
fn loopback_up() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `ifreq` is plain data for which zero bytes are a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the request is of the type that SIOCSIFFLAGS reads, and outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives every signal its default action and unblocks all: children inherit both what is blocked
/// and what is ignored (as under `nohup`), and exec keeps it. Runs between fork and exec.
fn reset_signals() -> io::Result<()> {
    const LAST_SIGNAL: libc::c_int = 64;
    // SAFETY: `signal` with SIG_DFL installs no code, and fails harmlessly for numbers that have
    // no action to set; the set is initialised by sigemptyset before it is read.
    let result = unsafe {
        for signal in 1..=LAST_SIGNAL {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, std::ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Signals of this thread as a descriptor that becomes readable. What [`spawn`] and
/// [`spawn_helper`] start does not inherit the blocking.
#[derive(Debug)]
pub(crate) struct SignalFd(File);

impl SignalFd {
    /// Blocks the signals and opens the descriptor. To be called while there is one thread.
    pub(crate) fn open(signals: &[Signal]) -> io::Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before it is read, and the descriptor
        // that signalfd returns is new and owned by nobody else.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, signal.as_raw());
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            let descriptor = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Self(File::from(OwnedFd::from_raw_fd(descriptor))))
        }
    }

    /// Another descriptor of the same, for waiting.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }

    /// The next pending signal's number.
    pub(crate) fn next(&self) -> Option<i32> {
        use std::io::Read;
        let mut record = [0u8; size_of::<libc::signalfd_siginfo>()];
        match (&self.0).read(&mut record) {
            Ok(read) if read == record.len() => {
                // `ssi_signo` is the first field, four bytes.
                Some(i32::from_ne_bytes([
                    record[0], record[1], record[2], record[3],
                ]))
            }
            _ => None,
        }
    }
}

impl std::os::fd::AsFd for SignalFd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Lets the async runtime wait until a descriptor is readable. To be called inside a runtime.
pub(crate) fn async_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor for as long as it lives, and the
    // `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{FdFlags, fcntl_getfd};

    #[test]
    fn what_was_inherited_is_not_passed_on() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        assert_eq!(fcntl_getfd(&reader).unwrap(), FdFlags::empty());
        keep_inherited_descriptors().unwrap();
        assert_eq!(fcntl_getfd(&reader).unwrap(), FdFlags::CLOEXEC);
        assert_eq!(fcntl_getfd(&writer).unwrap(), FdFlags::CLOEXEC);
        let stdout = rustix::stdio::stdout();
        assert_eq!(fcntl_getfd(stdout).unwrap(), FdFlags::empty());
    }
}
