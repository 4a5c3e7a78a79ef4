//! The commit object: what a version is, by its digest.

use bytes::Bytes;
use ondol_store::blobs::Blobs;
use ondol_types::{DatasetName, Digest, ProjectName, Timestamp};
use serde::{Deserialize, Serialize};

use crate::error::{DataError, DataResult};
use crate::key::Key;

const FORMAT: u32 = 1;
const MAX_BYTES: u64 = 1024 * 1024;

/// Everything that makes a version. Project, dataset and number are part of it, so that the
/// digest names one version of one dataset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Commit {
    pub(crate) format: u32,
    pub(crate) project: ProjectName,
    pub(crate) dataset: DatasetName,
    pub(crate) number: i64,
    pub(crate) tree: Digest,
    pub(crate) parent: Option<Digest>,
    pub(crate) statistics: Digest,
    pub(crate) author: String,
    pub(crate) message: String,
    pub(crate) time: Timestamp,
}

impl Commit {
    pub(crate) const FORMAT: u32 = FORMAT;

    pub(crate) fn encode(&self) -> (Digest, Bytes) {
        let bytes = Bytes::from(serde_json::to_vec(self).unwrap_or_default());
        (Key::of(&bytes).digest(), bytes)
    }

    pub(crate) async fn read(blobs: &Blobs, id: &Digest) -> DataResult<Self> {
        let bytes = blobs
            .read(id, MAX_BYTES)
            .await
            .map_err(|error| DataError::in_file(error, "the commit of the version"))?;
        let bad = |problem: String| DataError::Stored {
            what: "a commit",
            key: id.clone(),
            problem,
        };
        let commit: Self =
            serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if commit.format > FORMAT {
            return Err(bad(format!(
                "it has format {}, this build knows {FORMAT}",
                commit.format
            )));
        }
        Ok(commit)
    }

    pub(crate) fn root(&self) -> DataResult<Key> {
        Key::from_digest(&self.tree).ok_or_else(|| DataError::Stored {
            what: "a tree",
            key: self.tree.clone(),
            problem: "its digest is not BLAKE3".to_owned(),
        })
    }
}
