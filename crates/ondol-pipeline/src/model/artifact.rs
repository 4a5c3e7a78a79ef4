//! Files that a step leaves behind.

use ondol_types::{Digest, RelPath, StepName};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A file that is kept with a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// The step that wrote it.
    pub step: StepName,
    /// Where it stood in the step's work directory.
    pub path: RelPath,
    /// Its content.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// Whether it may be executed.
    pub executable: bool,
}
