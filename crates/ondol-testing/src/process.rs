//! What runs, read from `/proc`: the processes of one data directory, and their memory.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A process and its command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Process id.
    pub pid: i32,
    /// Its program and arguments.
    pub arguments: Vec<String>,
}

impl Running {
    /// Whether it is this role of the binary, such as `gateway`.
    pub fn is_role(&self, role: &str) -> bool {
        self.arguments
            .get(1)
            .is_some_and(|argument| argument == role)
    }
}

/// The processes that belong to a directory: it stands in their command line, or they work in it.
/// The caller's own process and zombies do not count.
pub fn of_directory(directory: &Path) -> Vec<Running> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let text = directory.to_string_lossy().into_owned();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut found: Vec<Running> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own && is_alive(*pid))
        .filter_map(|pid| {
            let arguments = arguments(pid)?;
            let named = arguments.iter().any(|argument| argument.contains(&text));
            let inside = || {
                fs::read_link(format!("/proc/{pid}/cwd"))
                    .is_ok_and(|cwd| cwd.starts_with(directory))
            };
            (named || inside()).then_some(Running { pid, arguments })
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found
}

fn arguments(pid: i32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(
        text.trim_end_matches('\0')
            .split('\0')
            .map(str::to_owned)
            .collect(),
    )
}

/// Whether a process lives; a zombie does not.
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !matches!(
            stat.rsplit(')')
                .next()
                .map(|rest| rest.trim_start().as_bytes()),
            Some([b'Z' | b'X', ..])
        )
    })
}

/// Sends a signal; a process that is gone already is no error.
pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends everything of a directory by SIGKILL and says what there was. Programs that fork while
/// they are being ended are met again, up to a few seconds.
pub fn end_all_of(directory: &Path) -> Vec<Running> {
    let mut ended = Vec::new();
    for _ in 0..50 {
        let running = of_directory(directory);
        if running.is_empty() {
            break;
        }
        for process in running {
            send(process.pid, Signal::KILL);
            ended.push(process);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    ended
}

/// Proportional set size of a process in bytes, when the kernel tells it.
pub fn proportional_bytes(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Processes whose parent, or its parent in turn, is `pid`.
pub fn descendants(pid: i32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let parents: Vec<(i32, i32)> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter_map(|child| {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
            let parent = stat
                .rsplit(')')
                .next()?
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()?;
            Some((child, parent))
        })
        .collect();
    let mut found = vec![pid];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        next += 1;
        let children = parents
            .iter()
            .filter(|(_, of)| *of == parent)
            .map(|(child, _)| *child);
        let new: Vec<i32> = children.filter(|child| !found.contains(child)).collect();
        found.extend(new);
    }
    found.remove(0);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_found_by_its_directory_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = std::process::Command::new("sleep")
            .arg("600")
            .current_dir(dir.path())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        assert!(
            of_directory(dir.path())
                .iter()
                .any(|process| process.pid == pid)
        );
        let ended = end_all_of(dir.path());
        assert_eq!(ended[0].pid, pid);
        child.wait().unwrap();
        assert!(!is_alive(pid));
        assert!(of_directory(dir.path()).is_empty());
    }

    #[test]
    fn own_memory_can_be_read() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(proportional_bytes(own).is_none_or(|bytes| bytes > 100_000));
    }
}
