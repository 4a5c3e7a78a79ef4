//! The folders of a run, and what is kept from one run to the next.
//!
//! ```text
//! <workspaces>/run-<id>/src        the checkout; `install` and `build` work in it
//!                       steps/     a copy of the checkout for every other command, in `<step>/work`
//!                       reports/   `$ONDOL_REPORTS` of each step
//!                       data/      datasets, laid out by `validate`
//!                       output/    the model
//!                       metrics.json
//! <cache>/<project>/tools          caches of package managers
//!                   folders/<key>  what `build.cache` names, by the content of `build.lock`
//! ```

pub(crate) mod cache;
mod copy;
pub(crate) mod env;

use std::path::{Path, PathBuf};

use ondol_types::{DatasetName, ProjectName, RelPath, RunId, StepName};

pub(crate) use copy::{Linked, copy_tree, place_data, remove_tree};

/// The folders of one run. Everything below is removed when the run has finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    root: PathBuf,
}

impl Workspace {
    pub(crate) fn of(workspaces: &Path, run: &RunId) -> Self {
        Self {
            root: workspaces.join(format!("run-{run}")),
        }
    }

    /// The folder of all the others.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The checkout, with what `install` and `build` made: what an image is packed from.
    pub fn source(&self) -> PathBuf {
        self.root.join("src")
    }

    /// Where `validate` lays out a dataset.
    pub fn data(&self, dataset: &DatasetName) -> PathBuf {
        self.root.join("data").join(dataset.as_str())
    }

    /// Where training leaves the model.
    pub fn output(&self) -> PathBuf {
        self.root.join("output")
    }

    /// Where training leaves its metrics, one JSON object of numbers.
    pub fn metrics(&self) -> PathBuf {
        self.root.join("metrics.json")
    }

    /// Where a step leaves its JUnit files.
    pub fn reports(&self, step: &StepName) -> PathBuf {
        self.root.join("reports").join(step.as_str())
    }

    /// The copy of the checkout that a step works in. Its own name says nothing: test runners
    /// take every file below a folder named `test` for a test.
    pub(crate) fn copy(&self, step: &StepName) -> PathBuf {
        self.root.join("steps").join(step.as_str()).join("work")
    }
}

/// What is kept between the runs of a project.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    root: PathBuf,
}

impl Caches {
    pub(crate) fn of(cache: &Path, project: &ProjectName) -> Self {
        Self {
            root: cache.join(project.as_str()),
        }
    }

    /// The folder of all of them.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    pub(crate) fn folders(&self) -> PathBuf {
        self.root.join("folders")
    }

    /// One kept folder: a flat name, so that `a/b` and `a` do not lie inside each other.
    pub(crate) fn folder(&self, key: &str, path: &RelPath) -> PathBuf {
        let name = path.as_str().replace('%', "%25").replace('/', "%2F");
        self.folders().join(key).join(name)
    }
}
