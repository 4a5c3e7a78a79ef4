//! Content-addressed trees of files (prolly trees).
//!
//! The files of a version are sorted by path and cut into nodes where the entries themselves say
//! so, and so are the nodes of each level above. The root is a function of the files alone,
//! whatever was pushed in which order, so equal versions have one root, two versions share every
//! node that no change touched, and a comparison reads only what differs.

mod build;
mod node;
mod read;

pub(crate) use build::Built;
pub(crate) use node::Content;
#[cfg(test)]
pub(crate) use node::Node;
pub(crate) use node::StoredFile;
pub(crate) use read::{Tree, chunks_of};

/// A node is the same after it was written again, and no larger than its bytes allow.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    let Ok(decoded) = node::Node::decode(data) else {
        return;
    };
    let written = decoded.encode();
    assert!(written.len() <= data.len());
    assert_eq!(node::Node::decode(&written).as_ref(), Ok(&decoded));
}

#[cfg(test)]
mod tests;
