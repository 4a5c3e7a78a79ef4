//! Where this host lets the engine make control groups, found by trying.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::mounts::Mounts;
use super::{Dirs, read_pids};
use crate::model::CgroupVersion;
use crate::procfs;

/// The v2 group of the control plane itself, beside the one of the workloads.
const CONTROL_GROUP: &str = "ondol-control";

/// Which hierarchy the engine should use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupPreference {
    /// The best that the host allows: v2 with controllers, then v1, then v2 without.
    #[default]
    Auto,
    /// v1 only.
    V1,
    /// v2 only.
    V2,
    /// None.
    Off,
}

/// Where groups are made.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub(crate) dirs: Option<Dirs>,
    pub(crate) notices: Vec<String>,
}

impl Base {
    /// Finds a place for groups and makes it.
    pub(crate) fn detect(preference: CgroupPreference) -> Self {
        let none = |why: &str| Self {
            dirs: None,
            notices: vec![format!(
                "{why}: limits on memory and processor are not enforced, the number of processes only per user, and what a \
                 workload leaves behind is found by its ancestry"
            )],
        };
        if preference == CgroupPreference::Off {
            return none("control groups are switched off");
        }
        let Some(mounts) = Mounts::of_this_process() else {
            return none("this host shows no control groups");
        };
        let v2 = if preference == CgroupPreference::V1 {
            None
        } else {
            unified(&mounts)
        };
        let v1 = if preference == CgroupPreference::V2 {
            None
        } else {
            per_controller(&mounts)
        };
        let full = |dirs: &&Dirs| ["memory", "pids"].iter().all(|name| dirs.has(name));
        // A v2 group without controllers can still end everything in it.
        let best = v2
            .iter()
            .chain(&v1)
            .find(full)
            .or(v1.as_ref())
            .or(v2.as_ref())
            .cloned();
        if let Some(unused) = v2.as_ref().filter(|dirs| Some(*dirs) != best.as_ref()) {
            unused
                .dirs
                .values()
                .for_each(|dir| drop(fs::remove_dir(dir)));
        }
        let Some(dirs) = best else {
            return none("this user may not make control groups here");
        };
        sweep(&dirs);
        let missing: Vec<&str> = ["memory", "cpu", "pids"]
            .into_iter()
            .filter(|name| !dirs.has(name))
            .collect();
        let notices = if missing.is_empty() {
            Vec::new()
        } else {
            vec![format!(
                "limits on {} are not enforced: this control group has no such controller",
                missing.join(", ")
            )]
        };
        Self {
            dirs: Some(dirs),
            notices,
        }
    }

    /// Which version is in use.
    pub(crate) fn version(&self) -> CgroupVersion {
        self.dirs
            .as_ref()
            .map_or(CgroupVersion::None, |dirs| dirs.version)
    }
}

/// Removes groups whose shim is gone and which are empty: their workload's directory was deleted
/// before anybody settled it. The kernel refuses for a group that has processes.
fn sweep(base: &Dirs) {
    for entry in base
        .dirs
        .values()
        .filter_map(|dir| fs::read_dir(dir).ok())
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let shim = name
            .to_str()
            .and_then(|name| name.rsplit('-').next()?.parse::<i32>().ok());
        if shim.is_some_and(|pid| procfs::Stat::of(pid).is_none()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The v2 base below the own group, with as many controllers as can be had.
fn unified(mounts: &Mounts) -> Option<Dirs> {
    let mut own = mounts.unified()?;
    // Moved there by a former engine, or put there by systemd's `DelegateSubgroup`.
    if own.ends_with(CONTROL_GROUP) {
        own.pop();
    }
    let base = own.join("ondol");
    fs::create_dir_all(&base).ok()?;
    let enable = |dir: &Path| {
        for controller in ["cpu", "memory", "pids"] {
            // Each by itself, because one that cannot be had must not take the others with it.
            let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    };
    enable(&own);
    if controllers(&base).is_empty() && only_own_processes(&own) {
        // A group that has controllers for its children may not have processes of its own.
        let leaf = own.join(CONTROL_GROUP);
        if fs::create_dir_all(&leaf).is_ok() {
            for pid in read_pids(&own) {
                let _ = fs::write(leaf.join("cgroup.procs"), pid.to_string());
            }
            enable(&own);
        }
    }
    enable(&base);
    let controllers = read_words(&base.join("cgroup.subtree_control"));
    // Whether groups can be made and entered shows only by doing it.
    let probe = base.join(format!("probe-{}", std::process::id()));
    fs::create_dir(&probe).ok()?;
    let writable = fs::OpenOptions::new()
        .write(true)
        .open(probe.join("cgroup.procs"))
        .is_ok();
    let _ = fs::remove_dir(&probe);
    writable.then(|| Dirs {
        version: CgroupVersion::V2,
        dirs: BTreeMap::from([("unified".to_owned(), base)]),
        controllers,
    })
}

fn controllers(dir: &Path) -> BTreeSet<String> {
    read_words(&dir.join("cgroup.controllers"))
}

fn read_words(path: &Path) -> BTreeSet<String> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// Moving other people's processes would surprise them.
fn only_own_processes(group: &Path) -> bool {
    let own = std::process::id() as i32;
    let family = procfs::descendants(own);
    read_pids(group)
        .iter()
        .all(|pid| *pid == own || family.contains(pid))
}

/// The v1 bases below the own group of each controller that can be had.
fn per_controller(mounts: &Mounts) -> Option<Dirs> {
    let mut dirs = BTreeMap::new();
    for controller in ["memory", "cpu", "cpuacct", "pids", "freezer"] {
        let Some(own) = mounts.controller(controller) else {
            continue;
        };
        let base = own.join("ondol");
        let writable = fs::create_dir_all(&base).is_ok()
            && fs::OpenOptions::new()
                .write(true)
                .open(base.join("cgroup.procs"))
                .is_ok();
        if writable {
            dirs.insert(controller.to_owned(), base);
        }
    }
    (!dirs.is_empty()).then(|| Dirs {
        version: CgroupVersion::V1,
        dirs,
        controllers: BTreeSet::new(),
    })
}
