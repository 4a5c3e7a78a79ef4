//! From sorted files to nodes.

use bytes::Bytes;

use super::node::{Child, Content, INLINE_CHUNKS, LIST, Node, StoredFile, put_file};
use crate::chunk::ChunkRef;
use crate::key::Key;
use crate::model::FileEntry;

/// How entries are gathered into nodes: a boundary after an entry whose bits end in zeros, not
/// before `min` entries and at the latest after `max`.
#[derive(Clone, Copy)]
struct Cut {
    mask: u32,
    min: usize,
    max: usize,
}

/// About 32 files per node: a changed file rewrites some two kilobytes.
const FILES: Cut = Cut {
    mask: 31,
    min: 4,
    max: 128,
};
/// About 64 children per node.
const CHILDREN: Cut = Cut {
    mask: 63,
    min: 2,
    max: 512,
};
/// About 256 chunks per node of a list.
const CHUNKS: Cut = Cut {
    mask: 255,
    min: 16,
    max: 1_024,
};

/// A tree that was built, with the nodes it is made of.
#[derive(Debug)]
pub(crate) struct Built {
    /// Its root.
    pub(crate) root: Key,
    /// Its nodes, children before parents. Some may be stored already.
    pub(crate) nodes: Vec<(Key, Bytes)>,
    /// The files as they are stored, in order.
    pub(crate) files: Vec<StoredFile>,
}

fn groups<T>(items: Vec<T>, cut: Cut, bits: impl Fn(&T) -> u32) -> Vec<Vec<T>> {
    let mut all = Vec::new();
    let mut group = Vec::new();
    for item in items {
        let boundary = bits(&item) & cut.mask == 0;
        group.push(item);
        if group.len() >= cut.max || (boundary && group.len() >= cut.min) {
            all.push(std::mem::take(&mut group));
        }
    }
    if !group.is_empty() || all.is_empty() {
        all.push(group);
    }
    all
}

fn keep(node: &Node, nodes: &mut Vec<(Key, Bytes)>) -> Key {
    let bytes = node.encode();
    let key = Key::of(&bytes);
    nodes.push((key, bytes));
    key
}

/// Puts levels on top until one node is left.
fn raise(mut level: Vec<Child>, first: u8, nodes: &mut Vec<(Key, Bytes)>) -> Key {
    let mut number = first;
    loop {
        if let [only] = level.as_slice() {
            return only.key;
        }
        let grouped = groups(level, CHILDREN, |child| child.key.bits());
        level = grouped
            .into_iter()
            .map(|children| {
                let last = children
                    .last()
                    .map_or(String::new(), |child| child.last.clone());
                let count = children.iter().map(|child| child.count).sum();
                let node = Node::Children {
                    level: number,
                    children,
                };
                Child {
                    last,
                    key: keep(&node, nodes),
                    count,
                }
            })
            .collect();
        number += 1;
    }
}

fn content(chunks: Vec<ChunkRef>, nodes: &mut Vec<(Key, Bytes)>) -> Content {
    if chunks.len() <= INLINE_CHUNKS {
        return Content::Inline(chunks);
    }
    let count = chunks.len() as u64;
    let leaves = groups(chunks, CHUNKS, |chunk| chunk.key.bits())
        .into_iter()
        .map(|chunks| {
            let count = chunks.len() as u64;
            Child {
                last: String::new(),
                key: keep(&Node::Chunks(chunks), nodes),
                count,
            }
        })
        .collect();
    Content::List {
        root: raise(leaves, LIST + 1, nodes),
        count,
    }
}

impl Built {
    /// Builds the tree of `files`, which may come in any order and have distinct paths.
    pub(crate) fn from_files(mut files: Vec<FileEntry>) -> Self {
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut nodes = Vec::new();
        let stored: Vec<StoredFile> = files
            .into_iter()
            .map(|file| StoredFile {
                path: file.path,
                executable: file.executable,
                size: file.size,
                content: content(file.chunks, &mut nodes),
            })
            .collect();
        let leaves = groups(stored.clone(), FILES, |file| {
            let mut bytes = Vec::new();
            put_file(&mut bytes, "", file);
            Key::of(&bytes).bits()
        })
        .into_iter()
        .map(|files| {
            let last = files
                .last()
                .map_or(String::new(), |file| file.path.as_str().to_owned());
            let count = files.len() as u64;
            Child {
                last,
                key: keep(&Node::Files(files), &mut nodes),
                count,
            }
        })
        .collect();
        Self {
            root: raise(leaves, 1, &mut nodes),
            nodes,
            files: stored,
        }
    }
}
