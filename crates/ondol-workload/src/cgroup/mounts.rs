//! Where the hierarchies are mounted and which groups this process is in. Paths in
//! `/proc/self/cgroup` count from the root of the hierarchy, while a mount may show only a part
//! of it, as in containers.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mounts {
    unified: Option<PathBuf>,
    controllers: HashMap<String, PathBuf>,
}

impl Mounts {
    pub(super) fn of_this_process() -> Option<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let cgroup = fs::read_to_string("/proc/self/cgroup").ok()?;
        Some(Self::parse(&mountinfo, &cgroup))
    }

    /// The groups of another process, as the mounts of this one show them.
    pub(super) fn of_process(pid: i32) -> Option<Self> {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(Self::parse(&mountinfo, &cgroup))
    }

    /// The own v2 group's directory.
    pub(super) fn unified(&self) -> Option<PathBuf> {
        self.unified.clone()
    }

    /// The own v1 group's directory of a controller.
    pub(super) fn controller(&self, name: &str) -> Option<PathBuf> {
        self.controllers.get(name).cloned()
    }

    fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mut own: HashMap<&str, &str> = HashMap::new();
        for line in cgroup.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(names), Some(path)) = (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            for name in names.split(',') {
                own.insert(name, path);
            }
        }
        let mut found = Self {
            unified: None,
            controllers: HashMap::new(),
        };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let left: Vec<&str> = left.split(' ').collect();
            let right: Vec<&str> = right.split(' ').collect();
            let (Some(root), Some(point), Some(kind)) = (left.get(3), left.get(4), right.first())
            else {
                continue;
            };
            match *kind {
                "cgroup2" => {
                    if let Some(path) = own.get("") {
                        found.unified.get_or_insert(group_dir(root, point, path));
                    }
                }
                "cgroup" => {
                    for name in right.get(2).unwrap_or(&"").split(',') {
                        if let Some(path) = own.get(name) {
                            found
                                .controllers
                                .entry(name.to_owned())
                                .or_insert_with(|| group_dir(root, point, path));
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }
}

fn group_dir(root: &str, point: &str, own: &str) -> PathBuf {
    let below = Path::new(own).strip_prefix(root).unwrap_or(Path::new(""));
    // A group outside the own namespace is shown with leading `..`; the mount's root is nearest.
    let outside = below
        .components()
        .any(|part| part == std::path::Component::ParentDir);
    let below = if outside { Path::new("") } else { below };
    let point = point.replace("\\040", " ");
    if below.as_os_str().is_empty() {
        PathBuf::from(point)
    } else {
        Path::new(&point).join(below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_hosts_and_containers_are_understood() {
        let hybrid = Mounts::parse(
            "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
             33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            "4:memory:/a/b\n3:cpu,cpuacct:/\n1:name=systemd:/x\n0::/init.scope\n",
        );
        assert_eq!(
            hybrid.controller("memory"),
            Some("/sys/fs/cgroup/memory/a/b".into())
        );
        assert_eq!(
            hybrid.controller("cpuacct"),
            Some("/sys/fs/cgroup/cpu,cpuacct".into())
        );
        assert_eq!(hybrid.controller("pids"), None);
        assert_eq!(
            hybrid.unified(),
            Some("/sys/fs/cgroup/unified/init.scope".into())
        );
        let container = Mounts::parse(
            "35 31 0:32 /docker/77 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
            "4:memory:/docker/77/inner\n",
        );
        assert_eq!(
            container.controller("memory"),
            Some("/sys/fs/cgroup/memory/inner".into())
        );
        let namespaced = Mounts::parse(
            "1 2 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n",
            "0::/../outside\n",
        );
        assert_eq!(namespaced.unified(), Some("/sys/fs/cgroup".into()));
    }
}
