//! What a manifest must be before anything is made of it.

use std::collections::HashSet;

use super::DataService;
use super::push::at_most;
use super::scope::Scope;
use crate::chunk::ChunkRef;
use crate::error::{DataError, DataResult};
use crate::model::{CommitRequest, FileEntry};

/// The most bytes of a message: it stands in the event.
const MAX_MESSAGE_BYTES: usize = 4_096;

impl DataService {
    pub(super) fn check_manifest(&self, request: &CommitRequest) -> DataResult<()> {
        at_most(
            "the length of the message in bytes",
            request.head.message.len() as u64,
            MAX_MESSAGE_BYTES as u64,
        )?;
        at_most(
            "the number of files",
            request.files.len() as u64,
            self.config.max_files as u64,
        )?;
        if request.files.is_empty() {
            return Err(DataError::Wire("it has no files".to_owned()));
        }
        let mut paths = HashSet::with_capacity(request.files.len());
        let mut total = 0u64;
        for file in &request.files {
            let refuse = |problem: &str| DataError::Manifest {
                path: file.path.to_string(),
                problem: problem.to_owned(),
            };
            if !paths.insert(file.path.as_str()) {
                return Err(refuse("it is listed twice"));
            }
            let chunks: u64 = file.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
            if chunks != file.size {
                return Err(refuse("its chunks do not add up to its size"));
            }
            total = total.saturating_add(file.size);
        }
        at_most(
            "the size of the version in bytes",
            total,
            self.config.max_version_bytes,
        )?;
        for file in &request.files {
            let path = file.path.as_str();
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            for folder in above {
                if paths.contains(folder) {
                    return Err(DataError::Manifest {
                        path: path.to_owned(),
                        problem: format!("`{folder}` is a file as well as a folder"),
                    });
                }
            }
        }
        Ok(())
    }
}

/// The distinct chunks of a manifest, each of which the push may refer to.
pub(super) fn check_chunks(files: &[FileEntry], scope: &Scope) -> DataResult<Vec<ChunkRef>> {
    let mut seen = HashSet::new();
    let mut chunks = Vec::new();
    let mut unsent = 0;
    let mut first = None;
    for file in files {
        for chunk in &file.chunks {
            match scope.length(&chunk.key) {
                None => {
                    if seen.insert(chunk.key) {
                        unsent += 1;
                        first.get_or_insert_with(|| file.path.clone());
                    }
                }
                Some(len) if len != chunk.len => {
                    return Err(DataError::Manifest {
                        path: file.path.to_string(),
                        problem: format!(
                            "chunk {} has {len} bytes, not {}",
                            chunk.key.digest(),
                            chunk.len
                        ),
                    });
                }
                Some(_) => {
                    if seen.insert(chunk.key) {
                        chunks.push(*chunk);
                    }
                }
            }
        }
    }
    match first {
        Some(path) => Err(DataError::Incomplete {
            missing: unsent,
            path,
        }),
        None => Ok(chunks),
    }
}
