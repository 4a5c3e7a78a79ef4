//! Which images of the engine come from builds of this installation. Engines keep what they build
//! on the way without a label, so nothing else says whose it is.
//!
//! A ledger that is lost or damaged costs nothing but space in the engine: what it does not name
//! is never removed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use ondol_types::{Digest, ProjectName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::fleet::blocking;

const FILE: &str = "builds.json";
const VERSION: u32 = 1;
/// More builds than this are forgotten, oldest first.
const MAX_BUILDS: usize = 2_000;

/// A build and the images that it made or used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Entry {
    /// For which project.
    pub(super) project: String,
    /// When it ended, in microseconds.
    pub(super) at: i64,
    /// The id of its image, unless it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) image: Option<String>,
    /// Beginnings of the ids of what led to it.
    pub(super) images: BTreeSet<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    version: u32,
    builds: Vec<Entry>,
}

pub(super) struct Ledger {
    path: PathBuf,
    turn: tokio::sync::Mutex<()>,
}

impl Ledger {
    pub(super) fn new(dir: &Path) -> Self {
        Self {
            path: dir.join(FILE),
            turn: tokio::sync::Mutex::default(),
        }
    }

    /// Notes a build. Of two that made the same, the later one counts.
    pub(super) async fn record(
        &self,
        project: &ProjectName,
        image: Option<&Digest>,
        images: BTreeSet<String>,
        now: Timestamp,
    ) {
        let entry = Entry {
            project: project.to_string(),
            at: now.as_micros(),
            image: image.map(|id| id.hex().to_owned()),
            images,
        };
        self.change(move |builds| {
            builds.retain(|old| {
                (&old.project, &old.image, &old.images)
                    != (&entry.project, &entry.image, &entry.images)
            });
            builds.push(entry);
            let surplus = builds.len().saturating_sub(MAX_BUILDS);
            builds.drain(..surplus);
        })
        .await;
    }

    /// Lets go of a project's builds: they are as old as can be, and none is the newest of
    /// anything.
    pub(super) async fn forget(&self, project: &ProjectName) {
        let project = project.to_string();
        self.change(move |builds| {
            for build in builds.iter_mut().filter(|build| build.project == project) {
                build.images.extend(build.image.take());
                build.at = 0;
            }
        })
        .await;
    }

    /// All of it, oldest first.
    pub(super) async fn all(&self) -> Vec<Entry> {
        let path = self.path.clone();
        let mut builds = blocking(move || read(&path)).await;
        builds.sort_by_key(|entry| entry.at);
        builds
    }

    /// Changes it; what is written is whole or not there.
    pub(super) async fn change(&self, change: impl FnOnce(&mut Vec<Entry>) + Send + 'static) {
        let _turn = self.turn.lock().await;
        let path = self.path.clone();
        let written = blocking(move || {
            let mut builds = read(&path);
            change(&mut builds);
            let stored = Stored {
                version: VERSION,
                builds,
            };
            let temporary = path.with_extension("tmp");
            std::fs::write(&temporary, serde_json::to_vec(&stored)?)?;
            std::fs::rename(&temporary, &path)
        })
        .await;
        if let Err(error) = written {
            let error: &io::Error = &error;
            tracing::warn!(workload.engine = "container", %error, "builds are not written down");
        }
    }
}

fn read(path: &Path) -> Vec<Entry> {
    let stored: Option<Stored> = std::fs::read(path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    stored
        .filter(|stored| stored.version == VERSION)
        .map(|stored| stored.builds)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_knows_builds_and_survives_damage() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::new(dir.path());
        let project: ProjectName = "web".parse().unwrap();
        let images = |name: &str| BTreeSet::from([name.to_owned()]);
        for (name, at) in [("a", 1), ("b", 2), ("a", 3)] {
            let at = Timestamp::from_micros(at);
            ledger.record(&project, None, images(name), at).await;
        }
        let all = Ledger::new(dir.path()).all().await;
        let seen: Vec<_> = all
            .iter()
            .map(|entry| (entry.images.clone(), entry.at))
            .collect();
        assert_eq!(seen, [(images("b"), 2), (images("a"), 3)]);
        ledger.forget(&project).await;
        assert!(ledger.all().await.iter().all(|entry| entry.at == 0));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(ledger.all().await.is_empty());
        ledger
            .record(&project, None, images("c"), Timestamp::from_micros(4))
            .await;
        assert_eq!(ledger.all().await.len(), 1);
    }
}
