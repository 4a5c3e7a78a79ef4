//! Uploads under way.
//!
//! The bytes lie in a staged file whose name says which upload of which repository it is, so a
//! restart forgets nothing: the next request that names both finds the file and hashes it again.
//! What is here in memory is only the hash in progress and whose turn it is. An upload answers
//! only in the repository that it was begun in, because its file has another name elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ondol_store::blobs::StagedBlob;
use ondol_types::{Algorithm, ProjectName, UploadId};
use sha2::Digest as _;
use tokio::sync::Notify;

use crate::model::Repository;

/// Algorithms of uploads, the usual one first.
pub(crate) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// The name of the staged file of an upload.
pub(crate) fn file_name(id: &UploadId, repository: &Repository, algorithm: Algorithm) -> String {
    let owner = short_hash(first_part(repository.as_str()), 8);
    let whole = short_hash(repository.as_str(), 16);
    format!("{id}.{owner}{whole}.{}", algorithm.name())
}

/// Whether a staged file is of an upload to a repository of this project.
pub(crate) fn is_of(file: &str, project: &ProjectName) -> bool {
    let owner = short_hash(project.as_str(), 8);
    file.split('.')
        .nth(1)
        .is_some_and(|hashes| hashes.starts_with(&owner))
}

fn first_part(repository: &str) -> &str {
    repository.split('/').next().unwrap_or(repository)
}

fn short_hash(text: &str, bytes: usize) -> String {
    sha2::Sha256::digest(text.as_bytes())
        .iter()
        .take(bytes)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// One upload.
pub(crate) struct Upload {
    /// The staged file's name.
    pub(crate) file: String,
    /// Taken out when the upload ends. Only file work happens under this lock.
    pub(crate) staged: Mutex<Option<StagedBlob>>,
    /// Held by the request that appends, and by the writes that it left behind when it ended.
    pub(crate) turn: Arc<tokio::sync::Mutex<()>>,
    /// Tells the request that appends that another one has come: a client that was cut off goes
    /// on by a new connection while the old one is not known to be dead.
    pub(crate) overtaken: Notify,
}

impl Upload {
    pub(crate) fn staged(&self) -> MutexGuard<'_, Option<StagedBlob>> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The uploads that this process has seen.
#[derive(Default)]
pub(crate) struct Uploads {
    all: Mutex<HashMap<String, Arc<Upload>>>,
}

impl Uploads {
    fn all(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, file: &str) -> Option<Arc<Upload>> {
        self.all().get(file).cloned()
    }

    /// Adds an upload, or returns the one that was added meanwhile.
    pub(crate) fn insert(&self, file: String, staged: StagedBlob) -> Arc<Upload> {
        let fresh = Arc::new(Upload {
            file: file.clone(),
            staged: Mutex::new(Some(staged)),
            turn: Arc::default(),
            overtaken: Notify::new(),
        });
        self.all().entry(file).or_insert(fresh).clone()
    }

    pub(crate) fn remove(&self, file: &str) {
        self.all().remove(file);
    }

    /// Whether a request works on an upload right now.
    pub(crate) fn is_busy(&self, file: &str) -> bool {
        self.get(file)
            .is_some_and(|upload| upload.turn.try_lock().is_err())
    }
}

#[cfg(test)]
mod tests {
    use ondol_types::SystemClock;

    use super::*;

    #[test]
    fn a_file_belongs_to_one_upload_of_one_repository() {
        let id = UploadId::generate(&SystemClock);
        let name = |text: &str| file_name(&id, &text.parse().unwrap(), Algorithm::Sha256);
        assert_ne!(name("web"), name("web/api"));
        assert_eq!(name("web"), name("web"));
        assert!(name(&format!("web/{}", "a".repeat(250))).len() < 200);
        let project: ProjectName = "web".parse().unwrap();
        assert!(is_of(&name("web"), &project) && is_of(&name("web/api"), &project));
        assert!(!is_of(&name("web2"), &project) && !is_of(&name("other/web"), &project));
    }
}
