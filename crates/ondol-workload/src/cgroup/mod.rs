//! Control groups: limits, accounting, and the one sure way to end everything a program started.
//!
//! The engine finds out once where it may make groups ([`Base::detect`]); each shim makes one
//! group per incarnation below that, puts its child in before exec, and removes it at the end.

mod base;
mod mounts;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::model::{CgroupVersion, Limits, Usage};
use crate::procfs;

pub(crate) use base::Base;
pub use base::CgroupPreference;

/// The period over which processor time is shared out, in microseconds.
const CPU_PERIOD: u64 = 100_000;

/// Directories of one group per controller; v2 has the single key `unified`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Dirs {
    pub(crate) version: CgroupVersion,
    pub(crate) dirs: BTreeMap<String, PathBuf>,
    /// The v2 controllers that groups made here have.
    pub(crate) controllers: BTreeSet<String>,
}

impl Dirs {
    /// The groups that a process is in, for reading what they count. For processes that others
    /// have put into groups; they are never changed here.
    pub(crate) fn of_process(pid: i32) -> Option<Self> {
        let mounts = mounts::Mounts::of_process(pid)?;
        let v1: BTreeMap<String, PathBuf> = ["cpuacct", "memory", "pids"]
            .iter()
            .filter_map(|name| Some((name.to_string(), mounts.controller(name)?)))
            .collect();
        if v1.contains_key("memory") {
            return Some(Self {
                version: CgroupVersion::V1,
                dirs: v1,
                controllers: BTreeSet::new(),
            });
        }
        let unified = mounts.unified()?;
        let controllers = fs::read_to_string(unified.join("cgroup.controllers")).ok()?;
        Some(Self {
            version: CgroupVersion::V2,
            dirs: [("unified".to_owned(), unified)].into(),
            controllers: controllers.split_whitespace().map(str::to_owned).collect(),
        })
    }

    /// The roots of this host's hierarchies, below which container engines make their groups.
    pub(crate) fn roots() -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").is_file() {
            let text = fs::read_to_string(root.join("cgroup.subtree_control")).ok()?;
            return Some(Self {
                version: CgroupVersion::V2,
                dirs: [("unified".to_owned(), root.to_owned())].into(),
                controllers: text.split_whitespace().map(str::to_owned).collect(),
            });
        }
        let dirs: BTreeMap<String, PathBuf> = ["memory", "cpu", "cpuacct", "pids", "freezer"]
            .iter()
            .map(|name| ((*name).to_owned(), root.join(name)))
            .filter(|(_, dir)| dir.is_dir())
            .collect();
        dirs.contains_key("pids").then(|| Self {
            version: CgroupVersion::V1,
            dirs,
            controllers: BTreeSet::new(),
        })
    }

    /// Ends and removes groups below these whose names have a beginning, and an end that is not
    /// that of this process: an earlier one has left them.
    pub(crate) fn clear_left_behind(&self, beginning: &str) {
        let own = format!("-{}", std::process::id());
        let mut names = BTreeSet::new();
        for dir in self.dirs.values() {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            names.extend(entries.filter_map(|entry| entry.file_name().into_string().ok()));
        }
        let left = |name: &&String| name.starts_with(beginning) && !name.ends_with(&own);
        for name in names.iter().filter(left) {
            let mut group = self.clone();
            group.dirs.values_mut().for_each(|dir| dir.push(name));
            group.kill_all(Duration::from_secs(5));
            group.remove();
        }
    }

    /// How much processor time the group gets beside others, where 1024 is usual.
    pub(crate) fn weigh(&self, shares: u32) {
        let (file, value) = match self.version {
            CgroupVersion::V2 => ("cpu.weight", (shares * 100 / 1_024).max(1)),
            _ => ("cpu.shares", shares),
        };
        if let Some(dir) = self.of("cpu") {
            let _ = fs::write(dir.join(file), value.to_string());
        }
    }

    /// Whether the group has reached its limit on memory.
    pub(crate) fn short_of_memory(&self) -> bool {
        match self.version {
            CgroupVersion::V2 => self.oom_killed(),
            // Kills are counted where the process was, which is a group below that is gone.
            _ => {
                let limit = self.number("memory", "memory.limit_in_bytes");
                limit.is_some_and(|limit| self.peak_memory() >= Some(limit))
            }
        }
    }

    /// Whether groups made here have a controller.
    pub(crate) fn has(&self, controller: &str) -> bool {
        match self.version {
            CgroupVersion::V2 => self.controllers.contains(controller),
            _ => self.dirs.contains_key(controller),
        }
    }

    fn of(&self, controller: &str) -> Option<&Path> {
        match self.version {
            CgroupVersion::V2 if self.controllers.contains(controller) => self.dirs.get("unified"),
            CgroupVersion::V2 => None,
            _ => self.dirs.get(controller),
        }
        .map(PathBuf::as_path)
    }

    fn file(&self, controller: &str, name: &str) -> Option<String> {
        fs::read_to_string(self.of(controller)?.join(name)).ok()
    }

    fn number(&self, controller: &str, name: &str) -> Option<u64> {
        self.file(controller, name)?.trim().parse().ok()
    }

    fn field(&self, controller: &str, name: &str, field: &str) -> Option<u64> {
        let text = self.file(controller, name)?;
        text.lines()
            .find_map(|line| line.strip_prefix(field)?.trim().parse().ok())
    }

    /// Makes a group below this base and sets its limits. What is not enforced is told.
    pub(crate) fn make(&self, name: &str, limits: &Limits) -> io::Result<(Self, Vec<String>)> {
        let mut group = self.clone();
        for dir in group.dirs.values_mut() {
            dir.push(name);
            fs::create_dir_all(&*dir)?;
        }
        let notices = group.limit(limits);
        Ok((group, notices))
    }

    fn limit(&self, limits: &Limits) -> Vec<String> {
        let mut notices = Vec::new();
        let v2 = self.version == CgroupVersion::V2;
        let mut set = |controller: &str, file: &str, value: String, needed: bool| {
            let done = self
                .of(controller)
                .is_some_and(|dir| fs::write(dir.join(file), &value).is_ok());
            if !done && needed {
                notices.push(format!(
                    "the limit on {controller} is not enforced on this host"
                ));
            }
        };
        if let Some(bytes) = limits.memory_bytes {
            if v2 {
                set("memory", "memory.max", bytes.to_string(), true);
                set("memory", "memory.swap.max", "0".into(), false);
            } else {
                set("memory", "memory.limit_in_bytes", bytes.to_string(), true);
                set(
                    "memory",
                    "memory.memsw.limit_in_bytes",
                    bytes.to_string(),
                    false,
                );
            }
        }
        if let Some(cores) = limits.cpu_cores {
            let quota = ((cores * CPU_PERIOD as f64) as u64).max(1_000);
            if v2 {
                set("cpu", "cpu.max", format!("{quota} {CPU_PERIOD}"), true);
            } else {
                set("cpu", "cpu.cfs_period_us", CPU_PERIOD.to_string(), true);
                set("cpu", "cpu.cfs_quota_us", quota.to_string(), true);
            }
        }
        if let Some(most) = limits.pids {
            set("pids", "pids.max", most.to_string(), true);
        }
        notices
    }

    /// The files through which a process enters the group.
    pub(crate) fn entries(&self) -> io::Result<Vec<fs::File>> {
        let paths: BTreeSet<&PathBuf> = self.dirs.values().collect();
        paths
            .iter()
            .map(|dir| {
                fs::OpenOptions::new()
                    .write(true)
                    .open(dir.join("cgroup.procs"))
            })
            .collect()
    }

    /// Every process in the group and in groups below it.
    pub(crate) fn pids(&self) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        for dir in self.dirs.values() {
            tree(dir, 0, &mut |group| found.extend(read_pids(group)));
        }
        found
    }

    /// Kills everything in the group. False when something was left at the deadline.
    pub(crate) fn kill_all(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut pause = Duration::from_millis(1);
        loop {
            if self.pids().is_empty() {
                return true;
            }
            match self.version {
                CgroupVersion::V2 => self.kill_unified(),
                _ => self.kill_frozen(),
            }
            if Instant::now() >= deadline {
                return self.pids().is_empty();
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }

    fn kill_unified(&self) {
        let Some(dir) = self.dirs.get("unified") else {
            return;
        };
        if fs::write(dir.join("cgroup.kill"), "1").is_err() {
            // Kernels before 5.14.
            let _ = fs::write(dir.join("cgroup.freeze"), "1");
            procfs::signal_all(&self.pids(), Signal::KILL);
            let _ = fs::write(dir.join("cgroup.freeze"), "0");
        }
    }

    /// Frozen processes cannot fork, so none escapes between the listing and the signal.
    fn kill_frozen(&self) {
        let Some(freezer) = self
            .dirs
            .get("freezer")
            .map(|dir| dir.join("freezer.state"))
        else {
            procfs::kill_round(|| self.pids());
            return;
        };
        let _ = fs::write(&freezer, "FROZEN");
        for _ in 0..50 {
            if fs::read_to_string(&freezer).is_ok_and(|state| state.trim() == "FROZEN") {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        procfs::signal_all(&self.pids(), Signal::KILL);
        let _ = fs::write(&freezer, "THAWED");
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let file = if self.version == CgroupVersion::V2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        self.field("memory", file, "oom_kill ")
            .is_some_and(|count| count > 0)
    }

    /// What the group uses; `None` for what is not counted.
    pub(crate) fn usage(&self) -> (Option<f64>, Option<u64>, Option<u32>) {
        let v2 = self.version == CgroupVersion::V2;
        let cpu = if v2 {
            // cpu.stat exists without the controller.
            self.dirs
                .get("unified")
                .and_then(|dir| fs::read_to_string(dir.join("cpu.stat")).ok())
                .and_then(|text| {
                    text.lines()
                        .find_map(|line| line.strip_prefix("usage_usec ")?.parse::<u64>().ok())
                })
                .map(|micros| micros as f64 / 1e6)
        } else {
            self.number("cpuacct", "cpuacct.usage")
                .map(|nanos| nanos as f64 / 1e9)
        };
        // Page cache that can be dropped at once is not what the program needs.
        let (total, cache) = if v2 {
            (
                self.number("memory", "memory.current"),
                self.field("memory", "memory.stat", "inactive_file "),
            )
        } else {
            (
                self.number("memory", "memory.usage_in_bytes"),
                self.field("memory", "memory.stat", "total_inactive_file "),
            )
        };
        let memory = total.map(|total| total.saturating_sub(cache.unwrap_or(0)));
        let pids = self
            .number("pids", "pids.current")
            .and_then(|count| u32::try_from(count).ok());
        (cpu, memory, pids)
    }

    /// The most memory there was at one time.
    pub(crate) fn peak_memory(&self) -> Option<u64> {
        let file = if self.version == CgroupVersion::V2 {
            "memory.peak"
        } else {
            "memory.max_usage_in_bytes"
        };
        self.number("memory", file)
    }

    /// Removes the group, which must be empty, with groups that programs made below it.
    pub(crate) fn remove(&self) {
        for dir in self.dirs.values() {
            let mut groups = Vec::new();
            tree(dir, 0, &mut |group| groups.push(group.to_owned()));
            for group in groups.iter().rev() {
                // The kernel lets go of a dead process a moment after its parent has seen it.
                for _ in 0..50 {
                    match fs::remove_dir(group) {
                        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                            std::thread::sleep(Duration::from_millis(2));
                        }
                        _ => break,
                    }
                }
            }
        }
    }
}

/// What a workload uses now: by its group where that is counted, else by its processes, which
/// descend from its shim.
pub(crate) fn usage_now(group: Option<&Dirs>, shim: i32) -> Usage {
    let (cpu, memory, pids) = group.map_or((None, None, None), Dirs::usage);
    if let (Some(cpu_seconds), Some(memory_bytes), Some(pids)) = (cpu, memory, pids) {
        return Usage {
            cpu_seconds,
            memory_bytes,
            pids,
        };
    }
    let family = procfs::descendants(shim);
    let of_family = || -> f64 {
        let living: f64 = family
            .iter()
            .filter_map(|&pid| procfs::Stat::of(pid))
            .map(|stat| stat.cpu_seconds + stat.children_cpu_seconds)
            .sum();
        living + procfs::Stat::of(shim).map_or(0.0, |stat| stat.children_cpu_seconds)
    };
    Usage {
        cpu_seconds: cpu.unwrap_or_else(of_family),
        memory_bytes: memory
            .unwrap_or_else(|| family.iter().map(|&pid| procfs::resident_bytes(pid)).sum()),
        pids: pids.unwrap_or_else(|| u32::try_from(family.len()).unwrap_or(u32::MAX)),
    }
}

fn read_pids(group: &Path) -> BTreeSet<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    // Zero is a process outside this pid namespace.
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 0)
        .collect()
}

/// Visits a group and those below it, parents first.
fn tree(dir: &Path, depth: usize, visit: &mut impl FnMut(&Path)) {
    if !dir.is_dir() || depth > 32 {
        return;
    }
    visit(dir);
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            tree(&entry.path(), depth + 1, visit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Makes a group, puts a process and its child in, kills all, removes it.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn kills_everything(preference: CgroupPreference) {
        let base = Base::detect(preference);
        let Some(dirs) = base.dirs else {
            eprintln!(
                "skipped: {preference:?} is not to be had here: {:?}",
                base.notices
            );
            return;
        };
        let name = format!("unit-{}-{preference:?}", std::process::id());
        let (group, _) = dirs.make(&name, &Limits::default()).unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read go; sleep 600 & setsid sleep 600 & wait"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        for mut entry in group.entries().unwrap() {
            io::Write::write_all(&mut entry, child.id().to_string().as_bytes()).unwrap();
        }
        io::Write::write_all(child.stdin.as_mut().unwrap(), b"go\n").unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while group.pids().len() < 3 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(group.pids().len() >= 3);
        assert!(group.kill_all(Duration::from_secs(10)));
        child.wait().unwrap();
        group.remove();
        assert!(group.dirs.values().all(|dir| !dir.exists()));
    }

    #[test]
    fn a_v1_group_ends_with_all_its_processes() {
        kills_everything(CgroupPreference::V1);
    }

    #[test]
    fn a_v2_group_ends_with_all_its_processes() {
        kills_everything(CgroupPreference::V2);
    }

    #[test]
    fn switched_off_means_none_and_says_so() {
        let base = Base::detect(CgroupPreference::Off);
        assert_eq!(base.version(), CgroupVersion::None);
        assert!(base.notices[0].contains("not enforced"));
    }
}
