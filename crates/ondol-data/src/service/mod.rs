//! Operations on datasets: each authorizes, checks its input, and changes rows in one
//! transaction together with the event that says so.

mod check;
mod checkout;
mod commit;
mod diff;
mod forget;
mod manifest;
mod push;
mod read;
mod scope;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use ondol_auth::{Action, Ctx};
use ondol_store::Store;
use ondol_store::blobs::Blobs;
use ondol_types::{Clock, CrashPoints, DatasetName, Problem, ProjectName, UploadId};

pub use checkout::FileStream;

use crate::commit::Commit;
use crate::error::{DataError, DataResult};
use crate::model::Version;
use crate::store;
use scope::Scope;

/// What this room asks of the room that knows projects.
#[async_trait]
pub trait Projects: Send + Sync + 'static {
    /// Whether a project exists.
    ///
    /// # Errors
    /// A [`Problem`] when that cannot be found out.
    async fn exists(&self, project: &ProjectName) -> Result<bool, Problem>;
}

/// What the operations work with.
#[derive(Clone)]
pub struct Deps {
    /// The database.
    pub store: Store,
    /// The blobs.
    pub blobs: Blobs,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where a test may end the process.
    pub crash: Arc<dyn CrashPoints>,
    /// Who knows projects.
    pub projects: Arc<dyn Projects>,
    /// A folder for temporary files; what a crash leaves there may be deleted.
    pub scratch: PathBuf,
}

/// Ceilings of this room.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The most files of a version.
    pub max_files: usize,
    /// The most bytes of a version, and that one push may send.
    pub max_version_bytes: u64,
    /// The most bytes of one upload request.
    pub max_request_bytes: u64,
    /// The most bytes of the manifest of a commit.
    pub max_manifest_bytes: u64,
    /// The most digests asked for at once.
    pub max_keys: usize,
    /// How long a push may take.
    pub session: Duration,
    /// The most open pushes of a project.
    pub max_open_pushes: u64,
    /// The most requests in which one push may send its chunks.
    pub max_parts: u64,
    /// The most datasets of a project.
    pub max_datasets: u64,
    /// The most versions of a dataset. None goes by itself: whoever needs more removes some.
    pub max_versions: u64,
    /// The most rows per side that are compared row by row.
    pub max_diff_rows: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_files: 250_000,
            max_version_bytes: 1 << 40,
            max_request_bytes: 64 * 1024 * 1024,
            max_manifest_bytes: 256 * 1024 * 1024,
            max_keys: 65_536,
            session: Duration::from_secs(24 * 3_600),
            max_open_pushes: 256,
            max_parts: 100_000,
            max_datasets: 1_000,
            max_versions: 100_000,
            max_diff_rows: 1_000_000,
        }
    }
}

/// Push, log, diff, checkout, verify, validate. Cheap to clone.
#[derive(Clone)]
pub struct DataService {
    deps: Deps,
    config: Config,
    scopes: Arc<Mutex<HashMap<UploadId, Arc<Scope>>>>,
}

impl DataService {
    /// The operations over `deps`.
    pub fn new(deps: Deps, config: Config) -> Self {
        Self {
            deps,
            config,
            scopes: Arc::default(),
        }
    }

    /// A version by its number, `latest`, or (the beginning of) its id.
    ///
    /// # Errors
    /// [`DataError::Denied`], [`DataError::NoDataset`], [`DataError::NoVersion`].
    pub async fn version(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
    ) -> DataResult<Version> {
        ctx.require(Action::Read, project)?;
        let found = self
            .deps
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move {
                    let head = store::find_dataset(tx, project, dataset)
                        .await?
                        .ok_or_else(|| DataError::NoDataset {
                            project: project.to_string(),
                            dataset: dataset.to_string(),
                        })?;
                    let number = match which {
                        "latest" | "" => Some(head.number),
                        digits if digits.len() < 10 => digits.parse().ok(),
                        _ => None,
                    };
                    if let Some(number) = number {
                        let found = store::version_by_number(tx, project, dataset, number).await?;
                        if found.is_some() {
                            return Ok(found);
                        }
                    }
                    let prefix = which.strip_prefix("blake3:").unwrap_or(which);
                    let usable = (6..=64).contains(&prefix.len())
                        && prefix
                            .bytes()
                            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
                    if !usable {
                        return Ok(None);
                    }
                    let mut found = store::versions_by_prefix(tx, project, dataset, prefix).await?;
                    Ok(if found.len() == 1 { found.pop() } else { None })
                })
            })
            .await?;
        found.ok_or_else(|| DataError::NoVersion {
            dataset: dataset.to_string(),
            version: which.chars().take(80).collect(),
        })
    }

    async fn commit_of(&self, version: &Version) -> DataResult<Commit> {
        Commit::read(&self.deps.blobs, &version.id).await
    }
}
