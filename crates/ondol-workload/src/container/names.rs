//! What Ondol calls its things in an engine, and how it knows them again.
//!
//! A thing is Ondol's when its labels say so, never by its name: whoever else uses the engine can
//! take any name. Things of another installation are as foreign as anybody's.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use ondol_types::{Digest, ProjectName, WorkloadId};
use sha2::{Digest as _, Sha256};

/// The labels.
pub(crate) const INSTALLATION: &str = "dev.ondol.installation";
const DIRECTORY: &str = "dev.ondol.directory";
const WORKLOAD: &str = "dev.ondol.workload";
const INCARNATION: &str = "dev.ondol.incarnation";
pub(crate) const PROJECT: &str = "dev.ondol.project";

/// Which installation this is.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    installation: String,
    directory: PathBuf,
    short: String,
}

impl Names {
    /// Names for the installation whose workloads are in a directory.
    pub(crate) fn new(installation: String, directory: PathBuf) -> Self {
        let short = hex(&format!("{installation}\n{}", directory.display()), 8);
        Self {
            installation,
            directory,
            short,
        }
    }

    pub(crate) fn installation(&self) -> &str {
        &self.installation
    }

    /// The installation in a few letters.
    pub(crate) fn short(&self) -> &str {
        &self.short
    }

    /// Labels of anything.
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        [
            (INSTALLATION.to_owned(), self.installation.clone()),
            (
                DIRECTORY.to_owned(),
                self.directory.to_string_lossy().into_owned(),
            ),
        ]
        .into()
    }

    /// Labels of what belongs to a project.
    pub(crate) fn project_labels(&self, project: &ProjectName) -> HashMap<String, String> {
        let mut labels = self.labels();
        labels.insert(PROJECT.to_owned(), project.to_string());
        labels
    }

    /// Labels of a workload's container.
    pub(crate) fn workload_labels(
        &self,
        project: &ProjectName,
        id: &WorkloadId,
        incarnation: u64,
    ) -> HashMap<String, String> {
        let mut labels = self.project_labels(project);
        labels.insert(WORKLOAD.to_owned(), id.to_string());
        labels.insert(INCARNATION.to_owned(), incarnation.to_string());
        labels
    }

    /// Whether labels are of this installation. A copy of the data directory has the same id, so
    /// the directory counts too, unless it is gone: then it was moved to here.
    pub(crate) fn own(&self, labels: Option<&HashMap<String, String>>) -> bool {
        let Some(labels) = labels else {
            return false;
        };
        if labels.get(INSTALLATION) != Some(&self.installation) {
            return false;
        }
        labels
            .get(DIRECTORY)
            .is_some_and(|dir| Path::new(dir) == self.directory || !Path::new(dir).exists())
    }

    /// The workload and incarnation that a container is for.
    pub(crate) fn workload(labels: &HashMap<String, String>) -> Option<(WorkloadId, u64)> {
        let id = labels.get(WORKLOAD)?.parse().ok()?;
        Some((id, labels.get(INCARNATION)?.parse().ok()?))
    }

    pub(crate) fn container(&self, id: &WorkloadId, incarnation: u64) -> String {
        format!("ondol-{}.{id}.{incarnation}", self.short)
    }

    /// The network of a project or of a part of it. A dot is in neither name.
    pub(crate) fn network(&self, project: &ProjectName, scope: Option<&str>) -> String {
        match scope {
            Some(scope) => format!("ondol-{}.{project}.{scope}", self.short),
            None => format!("ondol-{}.{project}", self.short),
        }
    }

    /// The network interface of a network on this host: 15 bytes is all there is. Its beginning is
    /// what [`super::firewall`] knows.
    pub(crate) fn interface(network: &str) -> String {
        format!("{}{}", super::firewall::INTERFACE_PREFIX, hex(network, 10))
    }

    pub(crate) fn volume(&self, project: &ProjectName, name: &str) -> String {
        format!("ondol-{}.{project}.{name}", self.short)
    }

    /// The repository of images that were loaded from this installation's store.
    pub(crate) fn repository(&self) -> String {
        format!("localhost/ondol-{}", self.short)
    }

    /// The tag of such an image.
    pub(crate) fn tag(digest: &Digest) -> String {
        digest.to_string().replace(':', "-")
    }
}

fn hex(text: &str, digits: usize) -> String {
    let mut out = data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()));
    out.truncate(digits);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &str) -> Names {
        Names::new("inst_1".into(), dir.into())
    }

    #[test]
    fn only_labels_make_a_thing_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let ours = names(path);
        assert!(ours.own(Some(&ours.labels())));
        assert!(!ours.own(None) && !ours.own(Some(&HashMap::new())));
        let other = Names::new("inst_2".into(), path.into());
        assert!(!ours.own(Some(&other.labels())));
        // A copy of the data directory that still lives elsewhere.
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = names(elsewhere.path().to_str().unwrap());
        assert!(!ours.own(Some(&copy.labels())));
        drop(elsewhere);
        assert!(ours.own(Some(&copy.labels())), "moved to here");
    }

    #[test]
    fn names_of_different_things_differ() {
        let names = names("/data");
        let project = |text: &str| text.parse::<ProjectName>().unwrap();
        assert_ne!(
            names.network(&project("a-b"), Some("c")),
            names.network(&project("a"), Some("b-c"))
        );
        let name = names.network(&project("a"), Some("production"));
        assert_eq!(Names::interface(&name).len(), 15);
    }

    #[test]
    fn a_container_says_whose_it_is() {
        let id = WorkloadId::derived("x");
        let labels = names("/data").workload_labels(&"p".parse().unwrap(), &id, 7);
        assert_eq!(Names::workload(&labels), Some((id, 7)));
        assert_eq!(Names::workload(&HashMap::new()), None);
    }
}
