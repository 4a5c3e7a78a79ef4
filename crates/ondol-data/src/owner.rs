//! What the collection of blobs must keep for datasets.

use std::collections::HashSet;

use async_trait::async_trait;
use ondol_store::Store;
use ondol_store::blobs::{BlobOwner, Blobs, Marks};
use ondol_types::{Problem, Timestamp};

use crate::commit::Commit;
use crate::error::{DataError, DataResult};
use crate::key::Key;
use crate::store;
use crate::tree::{Tree, chunks_of};

const PAGE: u32 = 200;

/// Marks every commit with its statistics, tree and chunks, and pins what open pushes sent.
#[derive(Clone, Debug)]
pub struct DatasetOwner {
    store: Store,
    blobs: Blobs,
}

impl DatasetOwner {
    /// The owner of everything that versions in `store` refer to.
    pub fn new(store: Store, blobs: Blobs) -> Self {
        Self { store, blobs }
    }

    async fn mark_all(&self, marks: &mut Marks) -> DataResult<()> {
        // Versions share most of their nodes: each is walked once. This set must be exact, a
        // node wrongly taken for walked would lose what lies below it.
        let mut met: HashSet<Key> = HashSet::new();
        let mut after = String::new();
        loop {
            let cursor = after.as_str();
            let ids = self
                .store
                .read::<_, DataError, _>(|tx| {
                    Box::pin(async move { Ok(store::version_ids_after(tx, cursor, PAGE).await?) })
                })
                .await?;
            let Some(last) = ids.last() else {
                return Ok(());
            };
            let next = last.to_string();
            for id in &ids {
                let commit = Commit::read(&self.blobs, id).await?;
                marks.add(id);
                marks.add(&commit.tree);
                marks.add(&commit.statistics);
                let mut tree = Tree::open(&self.blobs, commit.root()?, Some(&mut met)).await?;
                for node in &tree.nodes {
                    marks.add(&node.digest());
                }
                while let Some(files) = tree.next().await? {
                    for file in files {
                        let mut lists = HashSet::new();
                        for chunk in chunks_of(&self.blobs, &file.content, Some(&mut lists)).await?
                        {
                            marks.add(&chunk.key.digest());
                        }
                        for node in lists {
                            marks.add(&node.digest());
                        }
                    }
                }
            }
            after = next;
        }
    }
}

#[async_trait]
impl BlobOwner for DatasetOwner {
    fn name(&self) -> &'static str {
        "datasets"
    }

    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem> {
        Ok(self.mark_all(marks).await?)
    }

    async fn pinned_since(&self) -> Result<Option<Timestamp>, Problem> {
        let oldest = self
            .store
            .read::<_, DataError, _>(|tx| {
                Box::pin(async move { Ok(store::oldest_open(tx).await?) })
            })
            .await?;
        Ok(oldest)
    }
}
