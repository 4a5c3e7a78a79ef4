//! Trees against the plain lists that they stand for.

use std::collections::BTreeMap;

use ondol_store::blobs::Blobs;
use proptest::prelude::*;

use super::*;
use crate::chunk::ChunkRef;
use crate::key::Key;
use crate::model::FileEntry;

fn entry(name: u32, content: u32) -> FileEntry {
    // One file in sixteen is large enough for a list of chunks of its own.
    let chunks = if name % 16 == 3 {
        40 + content % 900
    } else {
        content % 3
    };
    let chunks: Vec<ChunkRef> = (0..chunks)
        .map(|n| ChunkRef {
            key: Key::of(format!("{name} {content} {n}").as_bytes()),
            len: n + 1,
        })
        .collect();
    FileEntry {
        path: format!("dir{}/file-{name}", name % 7).parse().unwrap(),
        executable: content % 2 == 1,
        size: chunks.iter().map(|chunk| u64::from(chunk.len)).sum(),
        chunks,
    }
}

fn entries(files: &BTreeMap<u32, u32>) -> Vec<FileEntry> {
    files
        .iter()
        .map(|(name, content)| entry(*name, *content))
        .collect()
}

async fn stored(blobs: &Blobs, files: &BTreeMap<u32, u32>) -> Built {
    let built = Built::from_files(entries(files));
    let nodes = built
        .nodes
        .iter()
        .map(|(key, bytes)| (key.digest(), bytes.clone()))
        .collect();
    blobs.put_many(nodes).await.unwrap();
    built
}

async fn read(blobs: &Blobs, root: Key) -> Vec<FileEntry> {
    let mut tree = Tree::open(blobs, root, None).await.unwrap();
    let mut files = Vec::new();
    while let Some(batch) = tree.next().await.unwrap() {
        for file in batch {
            let chunks = chunks_of(blobs, &file.content, None).await.unwrap();
            files.push(FileEntry {
                path: file.path,
                executable: file.executable,
                size: file.size,
                chunks,
            });
        }
    }
    files
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn file_map(most: usize) -> impl Strategy<Value = BTreeMap<u32, u32>> {
    proptest::collection::btree_map(0u32..5_000, 0u32..2_000, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_tree_holds_its_files_whatever_their_order(files in file_map(600), seed in any::<u64>()) {
        runtime().block_on(async move {
            let dir = tempfile::tempdir().unwrap();
            let blobs = Blobs::open(dir.path()).unwrap();
            let built = stored(&blobs, &files).await;
            let mut shuffled = entries(&files);
            let length = shuffled.len().max(1);
            for at in 0..shuffled.len() {
                shuffled.swap(at, (seed as usize).wrapping_mul(at + 7) % length);
            }
            assert_eq!(Built::from_files(shuffled).root, built.root);
            let mut expected = entries(&files);
            expected.sort_by(|a, b| a.path.cmp(&b.path));
            assert_eq!(read(&blobs, built.root).await, expected);
            for file in expected.iter().step_by(17) {
                let found = Tree::find(&blobs, built.root, &file.path).await.unwrap().unwrap();
                assert_eq!(&found.path, &file.path);
            }
            assert!(Tree::find(&blobs, built.root, &"zzz/absent".parse().unwrap()).await.unwrap().is_none());
        });
    }

    #[test]
    fn a_diff_is_what_comparing_all_files_finds(
        mut files in file_map(400),
        edits in proptest::collection::vec((0u32..5_000, proptest::option::of(0u32..2_000)), 0..20),
    ) {
        runtime().block_on(async move {
            let dir = tempfile::tempdir().unwrap();
            let blobs = Blobs::open(dir.path()).unwrap();
            let before = files.clone();
            let old = stored(&blobs, &before).await;
            for (name, content) in edits {
                match content {
                    Some(content) => { files.insert(name, content); }
                    None => { files.remove(&name); }
                }
            }
            let new = stored(&blobs, &files).await;
            let by_path = |files: &BTreeMap<u32, u32>| -> BTreeMap<String, FileEntry> {
                entries(files).into_iter().map(|file| (file.path.as_str().to_owned(), file)).collect()
            };
            let (a, b) = (by_path(&before), by_path(&files));
            let mut naive: Vec<&String> = a.keys().chain(b.keys()).filter(|path| a.get(*path) != b.get(*path)).collect();
            naive.sort();
            naive.dedup();
            let changes = Tree::diff(&blobs, Some(old.root), new.root).await.unwrap();
            let found: Vec<&str> = changes
                .iter()
                .map(|(old, new)| old.as_ref().or(new.as_ref()).unwrap().path.as_str())
                .collect();
            assert_eq!(found, naive);
            for (old, new) in &changes {
                let path = old.as_ref().or(new.as_ref()).unwrap().path.as_str();
                assert_eq!(old.is_some(), a.contains_key(path));
                assert_eq!(new.is_some(), b.contains_key(path));
            }
        });
    }

    #[test]
    fn hostile_nodes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), level in any::<u8>()) {
        let _ = Node::decode(&bytes);
        let mut framed = vec![1, level];
        framed.extend_from_slice(&bytes);
        if let Ok(node) = Node::decode(&framed) {
            let again = Node::decode(&node.encode()).unwrap();
            assert_eq!(again, node);
        }
    }
}

#[test]
fn one_changed_file_of_ten_thousand_rewrites_a_few_kilobytes() {
    let files: BTreeMap<u32, u32> = (0..10_000).map(|name| (name, 1)).collect();
    let before = Built::from_files(entries(&files));
    let old: std::collections::HashSet<Key> = before.nodes.iter().map(|(key, _)| *key).collect();
    let mut changed = files.clone();
    changed.insert(4_001, 2);
    let after = Built::from_files(entries(&changed));
    let fresh: usize = after
        .nodes
        .iter()
        .filter(|(key, _)| !old.contains(key))
        .map(|(_, bytes)| bytes.len())
        .sum();
    assert!(fresh < 40_000, "{fresh} bytes of nodes are new");
    let leaves = after.nodes.len();
    assert!((150..2_000).contains(&leaves), "{leaves} nodes");
}
