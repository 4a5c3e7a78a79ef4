//! Reading trees from the blob store, a level at a time.

use std::collections::{HashSet, VecDeque};

use ondol_store::blobs::Blobs;
use ondol_types::{Digest, RelPath};

use super::node::{Child, Content, LIST, MAX_NODE_BYTES, Node, StoredFile};
use crate::chunk::ChunkRef;
use crate::error::{DataError, DataResult};
use crate::key::Key;

/// Nodes read at once.
const BATCH: usize = 64;
/// Levels a tree may have; a stored tree that is deeper is not one of ours.
const MAX_LEVELS: usize = 32;

/// Reads the files of one tree in order, a batch of leaves at a time.
pub(crate) struct Tree<'a> {
    blobs: &'a Blobs,
    leaves: VecDeque<Key>,
    /// Keys of the nodes above the leaves and of the leaves themselves.
    pub(crate) nodes: Vec<Key>,
}

async fn nodes(blobs: &Blobs, keys: &[Key]) -> DataResult<Vec<Node>> {
    let digests: Vec<Digest> = keys.iter().map(Key::digest).collect();
    let read = blobs
        .read_many(&digests, MAX_NODE_BYTES)
        .await
        .map_err(|error| DataError::in_file(error, "the tree of the version"))?;
    read.iter()
        .zip(digests)
        .map(|(bytes, key)| {
            Node::decode(bytes).map_err(|problem| DataError::Stored {
                what: "a tree node",
                key,
                problem,
            })
        })
        .collect()
}

fn misplaced(key: Key) -> DataError {
    DataError::Stored {
        what: "a tree node",
        key: key.digest(),
        problem: "it is of another level than its parent says".to_owned(),
    }
}

/// One step down: the children of every inner node of a level.
async fn children(blobs: &Blobs, keys: &[Key]) -> DataResult<Vec<Child>> {
    let mut all = Vec::new();
    for batch in keys.chunks(BATCH) {
        for (node, key) in nodes(blobs, batch).await?.into_iter().zip(batch) {
            match node {
                Node::Children { children, .. } => all.extend(children),
                _ => return Err(misplaced(*key)),
            }
        }
    }
    Ok(all)
}

/// The level of a root, 0 for a leaf.
async fn level(blobs: &Blobs, root: Key) -> DataResult<u8> {
    match nodes(blobs, &[root]).await?.pop() {
        Some(Node::Children { level, .. }) => Ok(level & !LIST),
        _ => Ok(0),
    }
}

impl<'a> Tree<'a> {
    /// Opens the tree below `root`; nodes in `skip` and all below them are left out, and every
    /// node met is added to it.
    pub(crate) async fn open(
        blobs: &'a Blobs,
        root: Key,
        skip: Option<&mut HashSet<Key>>,
    ) -> DataResult<Self> {
        let mut none = HashSet::new();
        let skip = skip.unwrap_or(&mut none);
        let mut seen = Vec::new();
        let mut here = vec![root];
        here.retain(|key| skip.insert(*key));
        seen.extend(here.iter().copied());
        let mut levels = match here.is_empty() {
            true => 0,
            false => level(blobs, root).await?,
        };
        while levels > 0 {
            if usize::from(levels) > MAX_LEVELS {
                return Err(misplaced(root));
            }
            here = children(blobs, &here)
                .await?
                .into_iter()
                .map(|child| child.key)
                .filter(|key| skip.insert(*key))
                .collect();
            seen.extend(here.iter().copied());
            levels -= 1;
        }
        Ok(Self {
            blobs,
            leaves: here.into(),
            nodes: seen,
        })
    }

    /// The next files in order of their paths; `None` at the end.
    pub(crate) async fn next(&mut self) -> DataResult<Option<Vec<StoredFile>>> {
        if self.leaves.is_empty() {
            return Ok(None);
        }
        let count = self.leaves.len().min(BATCH);
        let keys: Vec<Key> = self.leaves.drain(..count).collect();
        let mut files = Vec::new();
        for (node, key) in nodes(self.blobs, &keys).await?.into_iter().zip(&keys) {
            match node {
                Node::Files(found) => files.extend(found),
                _ => return Err(misplaced(*key)),
            }
        }
        Ok(Some(files))
    }

    /// One file by its path, read along one way down.
    pub(crate) async fn find(
        blobs: &Blobs,
        root: Key,
        path: &RelPath,
    ) -> DataResult<Option<StoredFile>> {
        let mut key = root;
        for _ in 0..MAX_LEVELS {
            match nodes(blobs, &[key]).await?.pop() {
                Some(Node::Children { children, .. }) => {
                    let at = children.partition_point(|child| child.last.as_str() < path.as_str());
                    match children.get(at) {
                        Some(child) => key = child.key,
                        None => return Ok(None),
                    }
                }
                Some(Node::Files(files)) => {
                    return Ok(files.into_iter().find(|file| file.path == *path));
                }
                _ => return Err(misplaced(key)),
            }
        }
        Err(misplaced(root))
    }

    /// The files that differ between two trees, by path: before and after. Reads only the nodes
    /// that the trees do not share.
    pub(crate) async fn diff(
        blobs: &Blobs,
        before: Option<Key>,
        after: Key,
    ) -> DataResult<Vec<(Option<StoredFile>, Option<StoredFile>)>> {
        let Some(before) = before else {
            let mut tree = Tree::open(blobs, after, None).await?;
            let mut all = Vec::new();
            while let Some(files) = tree.next().await? {
                all.extend(files.into_iter().map(|file| (None, Some(file))));
            }
            return Ok(all);
        };
        let (mut left, mut right) = (vec![before], vec![after]);
        let (mut high, mut low) = (level(blobs, before).await?, level(blobs, after).await?);
        if usize::from(high.max(low)) > MAX_LEVELS {
            return Err(misplaced(after));
        }
        // The taller tree goes down first; on equal levels, what both have is left out.
        loop {
            if high == low {
                let ours: HashSet<Key> = left.iter().copied().collect();
                let theirs: HashSet<Key> = right.iter().copied().collect();
                left.retain(|key| !theirs.contains(key));
                right.retain(|key| !ours.contains(key));
                if high == 0 {
                    break;
                }
            }
            let deeper = high.max(low);
            if high == deeper {
                left = keys(children(blobs, &left).await?);
                high -= 1;
            }
            if low == deeper {
                right = keys(children(blobs, &right).await?);
                low -= 1;
            }
        }
        let left = leaf_files(blobs, left).await?;
        let right = leaf_files(blobs, right).await?;
        Ok(merge(left, right))
    }
}

fn keys(children: Vec<Child>) -> Vec<Key> {
    children.into_iter().map(|child| child.key).collect()
}

async fn leaf_files(blobs: &Blobs, leaves: Vec<Key>) -> DataResult<Vec<StoredFile>> {
    let mut tree = Tree {
        blobs,
        leaves: leaves.into(),
        nodes: Vec::new(),
    };
    let mut files = Vec::new();
    while let Some(batch) = tree.next().await? {
        files.extend(batch);
    }
    Ok(files)
}

fn merge(
    left: Vec<StoredFile>,
    right: Vec<StoredFile>,
) -> Vec<(Option<StoredFile>, Option<StoredFile>)> {
    let mut left = left.into_iter().peekable();
    let mut right = right.into_iter().peekable();
    let mut changes = Vec::new();
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return changes,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(a), Some(b)) => a.path.cmp(&b.path),
        };
        let change = match order {
            std::cmp::Ordering::Less => (left.next(), None),
            std::cmp::Ordering::Greater => (None, right.next()),
            std::cmp::Ordering::Equal => (left.next(), right.next()),
        };
        if change.0 != change.1 {
            changes.push(change);
        }
    }
}

/// The chunks of a file in order, and the nodes of the list when it has one.
pub(crate) async fn chunks_of(
    blobs: &Blobs,
    content: &Content,
    mut met: Option<&mut HashSet<Key>>,
) -> DataResult<Vec<ChunkRef>> {
    let (root, count) = match content {
        Content::Inline(chunks) => return Ok(chunks.clone()),
        Content::List { root, count } => (*root, *count),
    };
    let mut here = vec![root];
    let mut levels = level(blobs, root).await?;
    loop {
        if let Some(met) = &mut met {
            met.extend(here.iter().copied());
        }
        if levels == 0 {
            break;
        }
        here = keys(children(blobs, &here).await?);
        levels -= 1;
    }
    let mut chunks = Vec::with_capacity(count.min(1 << 20) as usize);
    for batch in here.chunks(BATCH) {
        for (node, key) in nodes(blobs, batch).await?.into_iter().zip(batch) {
            match node {
                Node::Chunks(found) => chunks.extend(found),
                _ => return Err(misplaced(*key)),
            }
        }
    }
    Ok(chunks)
}
