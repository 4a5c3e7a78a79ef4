//! One control group over all containers of a build: its limits, and its sure end. No engine kills
//! a command that runs when whoever asked for the build goes away.
//!
//! There is one where the engine makes groups in the file system of this host. Elsewhere the
//! engine limits each command by itself, and a cancelled build ends with its current command.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::probe::Facts;
use super::request::CPU_SHARES;
use crate::cgroup::Dirs;
use crate::fleet::blocking;
use crate::model::Limits;

/// How long what was cancelled may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a group without processes and containers counts as ended: the engine may be between
/// two commands.
const QUIET: Duration = Duration::from_millis(1_500);

fn beginning(installation: &str) -> String {
    format!("ondol-build-{installation}-")
}

pub(super) struct Group {
    dirs: Option<Dirs>,
    name: String,
    notice: Option<String>,
}

impl Group {
    pub(super) async fn make(facts: &Facts, limits: &Limits, installation: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The last part is the process, by which what a dead one left is known.
        let beginning = beginning(installation);
        let name = format!("{beginning}{number}-{}", std::process::id());
        let none = |why: String| Self {
            dirs: None,
            name: String::new(),
            notice: Some(format!(
                "the number of processes of this build is not limited: {why}"
            )),
        };
        if !facts.groups_here {
            return none("its control groups are not of this host's file system".to_owned());
        }
        let (limits, path) = (*limits, name.clone());
        let made = blocking(move || {
            let made = Dirs::roots()
                .ok_or_else(|| "this host shows no control groups".to_owned())
                .and_then(|roots| {
                    roots.clear_left_behind(&beginning);
                    roots
                        .make(&path, &limits)
                        .map_err(|error| error.to_string())
                });
            if let Ok((group, _)) = &made {
                group.weigh(CPU_SHARES);
            }
            made
        })
        .await;
        match made {
            Ok((dirs, notices)) => Self {
                dirs: Some(dirs),
                // The engine makes and removes the group that it is given, so it gets one below.
                name: format!("/{name}/commands"),
                notice: notices.into_iter().next(),
            },
            Err(why) => none(why),
        }
    }

    /// Ends what builds of an earlier process of this installation have left running. There is one
    /// control plane at a time, so what is not of this process is of nobody.
    pub(super) async fn clear(facts: &Facts, installation: &str) {
        if facts.groups_here {
            let beginning = beginning(installation);
            blocking(move || {
                if let Some(roots) = Dirs::roots() {
                    roots.clear_left_behind(&beginning);
                }
            })
            .await;
        }
    }

    /// What to tell whoever builds.
    pub(super) fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    /// Its path as the engine takes it.
    pub(super) fn parent(&self) -> Option<&str> {
        self.dirs.is_some().then_some(self.name.as_str())
    }

    /// Whether something in it had to wait or die for want of memory.
    pub(super) fn short_of_memory(&self) -> bool {
        self.dirs.as_ref().is_some_and(Dirs::short_of_memory)
    }

    /// After the engine has ended the build.
    pub(super) async fn end(mut self) {
        if let Some(dirs) = self.dirs.take() {
            blocking(move || dirs.remove()).await;
        }
    }

    /// After the engine has given up, or is gone: nothing may be left.
    pub(super) async fn kill(mut self) {
        if let Some(dirs) = self.dirs.take() {
            blocking(move || {
                dirs.kill_all(PATIENCE);
                dirs.remove();
            })
            .await;
        }
    }
}

impl Drop for Group {
    /// The build was cancelled: the engine still works on it.
    fn drop(&mut self) {
        if let Some(dirs) = self.dirs.take() {
            std::thread::spawn(move || {
                let (begin, mut quiet) = (Instant::now(), Instant::now());
                while begin.elapsed() < PATIENCE && quiet.elapsed() < QUIET {
                    if !dirs.pids().is_empty() {
                        dirs.kill_all(Duration::from_secs(1));
                        quiet = Instant::now();
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                dirs.remove();
            });
        }
    }
}
