//! Schema and statistics of a whole version, made when it is pushed.
//!
//! They are stored as one document beside the tree. A table that the parent version has, too, is
//! not read again: its profile is taken over by the identity of its content.

use std::collections::HashMap;
use std::path::Path;

use bytes::Bytes;
use ondol_store::blobs::Blobs;
use ondol_types::{Digest, RelPath};
use serde::{Deserialize, Serialize};

use crate::chunk::ChunkRef;
use crate::content::{Located, SMALL_BYTES, blocking, each_row, whole};
use crate::error::{DataError, DataResult};
use crate::table::{self, Format, Profiler, Source, TableProfile};
use crate::tree::{Content, StoredFile};

/// Tables with full statistics per version; those beyond keep kinds, ranges and rows.
pub(crate) const DETAILED_TABLES: usize = 1_000;
/// Bytes of small tables that are read together.
const TOGETHER_BYTES: u64 = 8 * 1024 * 1024;
/// The largest statistics document that is read back.
const MAX_DOCUMENT_BYTES: u64 = 256 * 1024 * 1024;

/// The profiles of a version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profiles {
    version: u32,
    /// Tables by path, each with the identity of its content.
    tables: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    content: Digest,
    profile: TableProfile,
}

/// What two files with the same bytes, cut alike, have in common.
fn identity(file: &StoredFile) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&file.size.to_le_bytes());
    match &file.content {
        Content::Inline(chunks) => {
            for chunk in chunks {
                hasher.update(chunk.key.as_bytes());
            }
        }
        Content::List { root, .. } => {
            hasher.update(b"list");
            hasher.update(root.as_bytes());
        }
    }
    Digest::from_bytes(ondol_types::Algorithm::Blake3, hasher.finalize().as_bytes())
}

impl Profiles {
    /// Profiles the tables among `files`; `chunks` has the chunks of each of them.
    ///
    /// # Errors
    /// [`DataError::Table`] for the first file that is not the table its name promises.
    pub(crate) async fn make(
        blobs: &Blobs,
        scratch: &Path,
        files: &[StoredFile],
        chunks: &HashMap<RelPath, Vec<ChunkRef>>,
        parent: &Profiles,
    ) -> DataResult<Self> {
        let known: HashMap<(&Digest, Format), &TableProfile> = parent
            .tables
            .iter()
            .map(|entry| ((&entry.content, entry.profile.format), &entry.profile))
            .collect();
        let tables: Vec<(&StoredFile, Format)> = files
            .iter()
            .filter_map(|file| Some((file, Format::of(&file.path)?)))
            .collect();
        let mut made: Vec<Option<Entry>> = Vec::with_capacity(tables.len());
        let mut together: Vec<(usize, Located, Format)> = Vec::new();
        let mut together_bytes = 0;
        for (at, (file, format)) in tables.iter().enumerate() {
            let content = identity(file);
            if let Some(profile) = known.get(&(&content, *format)) {
                let mut profile = (*profile).clone();
                profile.path = file.path.clone();
                made.push(Some(Entry { content, profile }));
                continue;
            }
            made.push(None);
            let located = Located {
                file: (*file).clone(),
                chunks: chunks.get(&file.path).cloned().unwrap_or_default(),
            };
            if file.size > SMALL_BYTES {
                let profiler = Profiler::new(at < DETAILED_TABLES);
                let profiler = each_row(blobs, scratch, &located, *format, profiler).await?;
                let profile = profiler.finish(file.path.clone(), *format);
                made[at] = Some(Entry { content, profile });
                continue;
            }
            together_bytes += file.size;
            together.push((at, located, *format));
            if together_bytes >= TOGETHER_BYTES {
                small(blobs, std::mem::take(&mut together), &mut made).await?;
                together_bytes = 0;
            }
        }
        small(blobs, together, &mut made).await?;
        Ok(Self {
            version: 1,
            tables: made.into_iter().flatten().collect(),
        })
    }

    /// Rows of all tables together; `None` without a table.
    pub(crate) fn rows(&self) -> Option<u64> {
        let rows = self.tables.iter().map(|entry| entry.profile.rows);
        (!self.tables.is_empty()).then(|| rows.sum())
    }

    /// The tables by path.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &TableProfile> {
        self.tables.iter().map(|entry| &entry.profile)
    }

    pub(crate) fn into_tables(self) -> Vec<TableProfile> {
        self.tables.into_iter().map(|entry| entry.profile).collect()
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub(crate) async fn read(blobs: &Blobs, digest: &Digest) -> DataResult<Self> {
        let bytes = blobs
            .read(digest, MAX_DOCUMENT_BYTES)
            .await
            .map_err(|error| DataError::in_file(error, "the statistics of the version"))?;
        serde_json::from_slice(&bytes).map_err(|error| DataError::Stored {
            what: "a statistics document",
            key: digest.clone(),
            problem: error.to_string(),
        })
    }
}

/// Profiles small tables that are read and parsed together.
async fn small(
    blobs: &Blobs,
    tables: Vec<(usize, Located, Format)>,
    made: &mut [Option<Entry>],
) -> DataResult<()> {
    if tables.is_empty() {
        return Ok(());
    }
    let located: Vec<Located> = tables
        .iter()
        .map(|(_, located, _)| located.clone())
        .collect();
    let contents = whole(blobs, &located).await?;
    let profiles = blocking(move || {
        let mut profiles = Vec::with_capacity(tables.len());
        for ((at, located, format), bytes) in tables.into_iter().zip(contents) {
            let path = located.file.path.clone();
            let mut profiler = Profiler::new(at < DETAILED_TABLES);
            table::read(format, Source::Bytes(bytes), &mut profiler).map_err(|fault| {
                DataError::Table {
                    file: path.clone(),
                    fault: Box::new(fault),
                }
            })?;
            let content = identity(&located.file);
            let profile = profiler.finish(path, format);
            profiles.push((at, Entry { content, profile }));
        }
        Ok::<_, DataError>(profiles)
    })
    .await??;
    for (at, entry) in profiles {
        made[at] = Some(entry);
    }
    Ok(())
}
