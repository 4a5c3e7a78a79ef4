//! What a push may refer to without sending it: what its own dataset holds, and what pushes to
//! this dataset have sent. Bytes are visible only through an owner's row, so knowing the digest
//! of somebody else's chunk gives neither its bytes nor the knowledge that it exists.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::DataService;
use crate::chunk::ChunkRef;
use crate::commit::Commit;
use crate::error::{DataError, DataResult};
use crate::key::Key;
use crate::store::{self, Upload};
use crate::tree::{Tree, chunks_of};

/// Scopes kept in memory; one that was dropped is built again.
const KEPT: usize = 8;
const RECORD: usize = 36;

/// Chunks with their lengths.
#[derive(Debug, Default)]
pub(super) struct Scope {
    /// Those of the newest version.
    head: HashMap<Key, u32>,
    /// Those that were sent.
    sent: RwLock<HashMap<Key, u32>>,
    /// Those that were seen in the blob store, with its epoch at that time: while the epoch
    /// stays, they need not be looked for again.
    seen: RwLock<HashMap<Key, u64>>,
}

impl Scope {
    /// The length of a chunk that may be referred to.
    pub(super) fn length(&self, key: &Key) -> Option<u32> {
        self.head.get(key).copied().or_else(|| {
            self.sent
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .get(key)
                .copied()
        })
    }

    /// Whether the newest version has the chunk.
    pub(super) fn in_head(&self, key: &Key) -> bool {
        self.head.contains_key(key)
    }

    /// Whether the blob store had the chunk in this epoch.
    pub(super) fn was_seen(&self, key: &Key, epoch: u64) -> bool {
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(key) == Some(&epoch)
    }

    pub(super) fn note_seen(&self, keys: impl Iterator<Item = Key>, epoch: u64) {
        let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
        seen.extend(keys.map(|key| (key, epoch)));
    }

    pub(super) fn note(&self, chunks: &[ChunkRef]) {
        self.sent
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(chunks.iter().map(|chunk| (chunk.key, chunk.len)));
    }
}

/// Chunks as a row of the database holds them.
pub(super) fn encode(chunks: &[ChunkRef]) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunks.len() * RECORD);
    for chunk in chunks {
        out.extend_from_slice(chunk.key.as_bytes());
        out.extend_from_slice(&chunk.len.to_le_bytes());
    }
    out
}

fn decode(bytes: &[u8]) -> impl Iterator<Item = (Key, u32)> + '_ {
    bytes.as_chunks::<RECORD>().0.iter().map(|record| {
        let (mut key, mut len) = ([0; 32], [0; 4]);
        key.copy_from_slice(&record[..32]);
        len.copy_from_slice(&record[32..]);
        (Key::from_bytes(key), u32::from_le_bytes(len))
    })
}

impl DataService {
    /// The scope of a push, from memory or made anew.
    pub(super) async fn scope(&self, upload: &Upload) -> DataResult<Arc<Scope>> {
        let kept = self
            .scopes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&upload.id)
            .cloned();
        if let Some(scope) = kept {
            return Ok(scope);
        }
        let (project, dataset) = (&upload.project, &upload.dataset);
        let (head, sent) = self
            .deps
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move {
                    let head = store::find_dataset(tx, project, dataset).await?;
                    let sent = store::sent_chunks(tx, project, dataset).await?;
                    Ok((head, sent))
                })
            })
            .await?;
        let mut scope = Scope {
            head: HashMap::new(),
            sent: RwLock::new(sent.iter().flat_map(|part| decode(part)).collect()),
            seen: RwLock::default(),
        };
        if let Some(head) = head {
            let commit = Commit::read(&self.deps.blobs, &head.head).await?;
            let mut tree = Tree::open(&self.deps.blobs, commit.root()?, None).await?;
            while let Some(files) = tree.next().await? {
                for file in files {
                    let chunks = chunks_of(&self.deps.blobs, &file.content, None).await?;
                    scope
                        .head
                        .extend(chunks.iter().map(|chunk| (chunk.key, chunk.len)));
                }
            }
        }
        let scope = Arc::new(scope);
        let mut kept = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        while kept.len() >= KEPT {
            // Ids sort by time: the oldest push makes room.
            let Some(oldest) = kept.keys().min().copied() else {
                break;
            };
            kept.remove(&oldest);
        }
        // Two requests of one push may have built it at once; both must write to the same.
        Ok(kept.entry(upload.id).or_insert(scope).clone())
    }

    /// Adds what was sent to the scope, when it is in memory.
    /// `epoch` is that of the blob store before they were stored.
    pub(super) fn note_sent(&self, upload: &Upload, chunks: &[ChunkRef], epoch: u64) {
        let kept = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(scope) = kept.get(&upload.id) {
            scope.note(chunks);
            scope.note_seen(chunks.iter().map(|chunk| chunk.key), epoch);
        }
    }

    pub(super) fn drop_scope(&self, upload: &Upload) {
        self.scopes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&upload.id);
    }
}
