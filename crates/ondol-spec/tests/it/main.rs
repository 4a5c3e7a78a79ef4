//! The room from outside: a repository in memory, an effective specification or an error out.

mod compose;
mod docs;
mod errors;
mod layers;
mod properties;
mod stored;

use ondol_spec::{Effective, MemoryTree, Sources, SpecError, resolve};

/// A repository of a specification and some files.
fn tree(yaml: &str, files: &[(&str, &str)]) -> MemoryTree {
    let mut tree = MemoryTree::new();
    tree.insert("ondol.yaml".parse().unwrap(), yaml.as_bytes());
    for (path, content) in files {
        tree.insert(path.parse().unwrap(), content.as_bytes());
    }
    tree
}

fn read(yaml: &str) -> Result<Effective, SpecError> {
    resolve(&Sources::of(&tree(yaml, &[])))
}
