//! Questions to `/proc`: who descends from whom, and whether a pid still means the same process.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::fd::OwnedFd;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

/// Ticks per second of the times in `/proc/<pid>/stat`; Linux shows 100 on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process, told apart from a later one with the same pid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProcessIdentity {
    pub(crate) pid: i32,
    /// Clock ticks between boot and the start of the process.
    pub(crate) start_ticks: u64,
    pub(crate) boot_id: String,
}

impl ProcessIdentity {
    /// The identity of a process that exists now.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Some(Self {
            pid,
            start_ticks: Stat::of(pid)?.start_ticks,
            boot_id: boot_id()?,
        })
    }

    /// A descriptor that is readable when the process has ended, whoever its parent is. Inside a
    /// runtime only.
    pub(crate) fn watch(&self) -> std::io::Result<AsyncFd<OwnedFd>> {
        let raw = pid(self.pid)?;
        let fd: OwnedFd = pidfd_open(raw, PidfdFlags::NONBLOCK)
            .or_else(|_| pidfd_open(raw, PidfdFlags::empty()))?;
        // The pid may mean another process since the identity was written.
        if !self.is_alive() {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        crate::sys::async_readable(fd)
    }

    /// Whether the process exists and is not a zombie.
    pub(crate) fn is_alive(&self) -> bool {
        boot_id().as_ref() == Some(&self.boot_id)
            && Stat::of(self.pid)
                .is_some_and(|stat| stat.start_ticks == self.start_ticks && stat.state != 'Z')
    }
}

/// The identifier of this boot of the machine.
pub(crate) fn boot_id() -> Option<String> {
    Some(
        fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .ok()?
            .trim()
            .to_owned(),
    )
}

/// The fields of `/proc/<pid>/stat` that are needed here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    pub(crate) parent: i32,
    pub(crate) session: i32,
    pub(crate) start_ticks: u64,
    /// Processor time of the process, in seconds.
    pub(crate) cpu_seconds: f64,
    /// Processor time of its children that ended and were waited for, in seconds.
    pub(crate) children_cpu_seconds: f64,
}

impl Stat {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        // The program's name is in parentheses and may hold anything, parentheses and spaces too.
        let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
        let number = |index: usize| fields.get(index)?.parse::<i64>().ok();
        let seconds = |first: usize| {
            let ticks = number(first).unwrap_or(0) + number(first + 1).unwrap_or(0);
            ticks as f64 / TICKS_PER_SECOND
        };
        Some(Self {
            state: fields.first()?.chars().next()?,
            parent: i32::try_from(number(1)?).ok()?,
            session: i32::try_from(number(3)?).ok()?,
            start_ticks: u64::try_from(number(19)?).ok()?,
            cpu_seconds: seconds(11),
            children_cpu_seconds: seconds(13),
        })
    }
}

/// Every process, with its stat.
fn all() -> Vec<(i32, Stat)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((pid, Stat::of(pid)?))
        })
        .collect()
}

/// Every living process that descends from `root`, without `root`. Zombies are left out.
pub(crate) fn descendants(root: i32) -> BTreeSet<i32> {
    let processes = all();
    let mut children: HashMap<i32, Vec<(i32, char)>> = HashMap::new();
    for (pid, stat) in processes {
        children
            .entry(stat.parent)
            .or_default()
            .push((pid, stat.state));
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(parent) = open.pop() {
        for &(pid, state) in children.get(&parent).into_iter().flatten() {
            open.push(pid);
            if state != 'Z' && state != 'X' {
                found.insert(pid);
            }
        }
    }
    found
}

/// Living processes that carry `marker` in the environment they were started with, or belong to
/// `session` and are not older than its leader was. For workloads whose shim is gone.
pub(crate) fn left_behind(marker: &str, session: Option<&ProcessIdentity>) -> BTreeSet<i32> {
    let own = std::process::id() as i32;
    all()
        .into_iter()
        .filter(|(pid, stat)| {
            let in_session = session.is_some_and(|leader| {
                stat.session == leader.pid && stat.start_ticks >= leader.start_ticks && *pid != own
            });
            stat.state != 'Z' && *pid != own && (in_session || has_marker(*pid, marker))
        })
        .map(|(pid, _)| pid)
        .collect()
}

fn has_marker(pid: i32, marker: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ")).is_ok_and(|environ| {
        environ
            .split(|&byte| byte == 0)
            .any(|variable| variable == marker.as_bytes())
    })
}

/// Sends a signal to each; those that are gone are no matter.
pub(crate) fn signal_all(pids: &BTreeSet<i32>, signal: Signal) {
    for pid in pids.iter().filter_map(|&pid| Pid::from_raw(pid)) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends everything that `list` names, and what it starts meanwhile: stopped processes cannot
/// fork, so the set stands still before it is killed. One round; the caller repeats it.
pub(crate) fn kill_round(list: impl Fn() -> BTreeSet<i32>) {
    let mut known = BTreeSet::new();
    for _ in 0..20 {
        let now = list();
        let fresh: BTreeSet<i32> = now.difference(&known).copied().collect();
        if fresh.is_empty() {
            break;
        }
        signal_all(&fresh, Signal::STOP);
        known.extend(fresh);
    }
    signal_all(&known, Signal::KILL);
}

/// The pid in the kernel wrapper's type.
pub(crate) fn pid(raw: i32) -> std::io::Result<Pid> {
    Pid::from_raw(raw).ok_or_else(|| std::io::ErrorKind::InvalidInput.into())
}

/// Resident memory in bytes.
pub(crate) fn resident_bytes(pid: i32) -> u64 {
    status_field(pid, "VmRSS:").map_or(0, |kilobytes| kilobytes * 1_024)
}

fn status_field(pid: i32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The most processes and threads that this kernel can count.
pub(crate) fn pid_max() -> u64 {
    std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(u64::MAX)
}

/// How many threads the user of this process has, which is what `RLIMIT_NPROC` counts.
pub(crate) fn threads_of_own_user() -> u64 {
    use std::os::unix::fs::MetadataExt;
    let user = rustix::process::getuid().as_raw();
    all()
        .into_iter()
        .filter(|(pid, _)| {
            fs::metadata(format!("/proc/{pid}")).is_ok_and(|metadata| metadata.uid() == user)
        })
        .map(|(pid, _)| status_field(pid, "Threads:").unwrap_or(1))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_do_not_confuse_the_parser() {
        let text = "42 (a) b (c)) S 7 42 42 0 -1 4194304 1 2 3 4 150 50 25 25 20 0 1 0 98765 1 2";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            (stat.state, stat.parent, stat.session, stat.start_ticks),
            ('S', 7, 42, 98_765)
        );
        assert_eq!((stat.cpu_seconds, stat.children_cpu_seconds), (2.0, 0.5));
        assert!(Stat::parse("garbage").is_none());
    }

    #[test]
    fn an_identity_is_of_one_process_only() {
        let own = ProcessIdentity::of(std::process::id() as i32).unwrap();
        assert!(own.is_alive());
        assert!(
            !ProcessIdentity {
                start_ticks: own.start_ticks + 1,
                ..own.clone()
            }
            .is_alive()
        );
        assert!(
            !ProcessIdentity {
                boot_id: "another".into(),
                ..own
            }
            .is_alive()
        );
    }

    #[test]
    fn a_child_is_a_descendant_until_it_ends() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert!(descendants(std::process::id() as i32).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!descendants(std::process::id() as i32).contains(&pid));
    }
}
