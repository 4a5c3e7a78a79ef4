//! The bytes of a node.
//!
//! A node begins with the format version and its level; level 0 holds files, higher levels hold
//! children with the last path below each. Levels from [`LIST`] on hold the chunks of one large
//! file. Paths share their beginning with the one before.

use bytes::Bytes;
use ondol_types::RelPath;

use crate::chunk::ChunkRef;
use crate::key::Key;
use crate::wire::{Parts, put_chunk_ref, put_number};

const VERSION: u8 = 1;
/// Added to the level of nodes that hold chunks instead of files.
pub(super) const LIST: u8 = 0x80;
/// A file with more chunks keeps them in nodes of their own.
pub(crate) const INLINE_CHUNKS: usize = 16;
/// The largest encoded node that is accepted.
pub(crate) const MAX_NODE_BYTES: u64 = 4 * 1024 * 1024;

/// Where the chunks of a stored file are written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Here.
    Inline(Vec<ChunkRef>),
    /// In a tree of its own.
    List {
        /// Its root.
        root: Key,
        /// How many chunks there are.
        count: u64,
    },
}

/// A file as a version stores it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredFile {
    pub(crate) path: RelPath,
    pub(crate) executable: bool,
    pub(crate) size: u64,
    pub(crate) content: Content,
}

/// A child with the last path below it; in a list the path is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) last: String,
    pub(crate) key: Key,
    /// Files, or chunks of a list, below it.
    pub(crate) count: u64,
}

/// A decoded node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Files(Vec<StoredFile>),
    Children { level: u8, children: Vec<Child> },
    Chunks(Vec<ChunkRef>),
}

fn put_path(out: &mut Vec<u8>, before: &str, path: &str) {
    let shared = before
        .bytes()
        .zip(path.bytes())
        .take_while(|(a, b)| a == b)
        .count();
    put_number(out, shared as u64);
    put_number(out, (path.len() - shared) as u64);
    out.extend_from_slice(&path.as_bytes()[shared..]);
}

fn path(parts: &mut Parts<'_>, before: &str) -> Result<String, String> {
    let shared = parts.number()? as usize;
    let length = parts.number()? as usize;
    let mut bytes = before
        .as_bytes()
        .get(..shared)
        .ok_or("a path shares more than there is")?
        .to_vec();
    bytes.extend_from_slice(parts.take(length)?);
    String::from_utf8(bytes).map_err(|_| "a path is not UTF-8".to_owned())
}

/// Appends one file; its bytes after the path decide about boundaries, too.
pub(super) fn put_file(out: &mut Vec<u8>, before: &str, file: &StoredFile) {
    put_path(out, before, file.path.as_str());
    let listed = matches!(file.content, Content::List { .. });
    out.push(u8::from(file.executable) | u8::from(listed) << 1);
    put_number(out, file.size);
    match &file.content {
        Content::Inline(chunks) => {
            put_number(out, chunks.len() as u64);
            for chunk in chunks {
                put_chunk_ref(out, chunk);
            }
        }
        Content::List { root, count } => {
            put_number(out, *count);
            out.extend_from_slice(root.as_bytes());
        }
    }
}

fn header(level: u8, count: usize) -> Vec<u8> {
    let mut out = vec![VERSION, level];
    put_number(&mut out, count as u64);
    out
}

impl Node {
    pub(crate) fn encode(&self) -> Bytes {
        let out = match self {
            Self::Files(files) => {
                let mut out = header(0, files.len());
                let mut before = "";
                for file in files {
                    put_file(&mut out, before, file);
                    before = file.path.as_str();
                }
                out
            }
            Self::Chunks(chunks) => {
                let mut out = header(LIST, chunks.len());
                for chunk in chunks {
                    put_chunk_ref(&mut out, chunk);
                }
                out
            }
            Self::Children { level, children } => {
                let mut out = header(*level, children.len());
                let mut before = "";
                for child in children {
                    put_path(&mut out, before, &child.last);
                    out.extend_from_slice(child.key.as_bytes());
                    put_number(&mut out, child.count);
                    before = &child.last;
                }
                out
            }
        };
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut parts = Parts(bytes);
        if parts.byte()? != VERSION {
            return Err("it has an unknown format".to_owned());
        }
        let level = parts.byte()?;
        let count = parts.number()?;
        // The shortest entry decides how many there can be, before room is made for them.
        let shortest = if level == 0 { 5 } else { 33 };
        if count > bytes.len() as u64 / shortest {
            return Err("it has fewer bytes than entries".to_owned());
        }
        let mut before = String::new();
        let node = match level {
            0 => {
                let mut files = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    let file = file(&mut parts, &before)?;
                    before = file.path.as_str().to_owned();
                    files.push(file);
                }
                Self::Files(files)
            }
            LIST => Self::Chunks(
                (0..count)
                    .map(|_| parts.chunk())
                    .collect::<Result<_, _>>()?,
            ),
            _ => {
                let mut children = Vec::with_capacity(count as usize);
                for _ in 0..count {
                    let last = path(&mut parts, &before)?;
                    let child = Child {
                        key: parts.key()?,
                        count: parts.number()?,
                        last,
                    };
                    before = child.last.clone();
                    children.push(child);
                }
                Self::Children { level, children }
            }
        };
        if parts.0.is_empty() {
            Ok(node)
        } else {
            Err("other bytes follow it".to_owned())
        }
    }
}

fn file(parts: &mut Parts<'_>, before: &str) -> Result<StoredFile, String> {
    let path: RelPath = path(parts, before)?
        .parse()
        .map_err(|error| format!("{error}"))?;
    let flags = parts.byte()?;
    if flags > 3 {
        return Err(format!("`{path}` has unknown flags"));
    }
    let size = parts.number()?;
    let count = parts.number()?;
    let content = if flags & 2 != 0 {
        Content::List {
            root: parts.key()?,
            count,
        }
    } else {
        if count > INLINE_CHUNKS as u64 {
            return Err(format!("`{path}` has too many chunks for one entry"));
        }
        Content::Inline(
            (0..count)
                .map(|_| parts.chunk())
                .collect::<Result<_, _>>()?,
        )
    };
    Ok(StoredFile {
        path,
        executable: flags & 1 != 0,
        size,
        content,
    })
}
