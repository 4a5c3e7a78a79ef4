//! Key files: 256-bit keys as text, one per line, the first one current.
//!
//! A file is always replaced as a whole (temporary name, fsync, rename, fsync of the folder), so
//! a crash leaves either the old keys or the new ones. Rotation writes the new key above the old
//! one, and drops the old one when nothing is sealed with it any more.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use ondol_store::StoreError;
use zeroize::{Zeroize, Zeroizing};

use crate::error::AuthError;

const HEADER: &str = "ondol-key-v1 ";

/// A 256-bit key that is wiped when dropped.
#[derive(Clone)]
pub(crate) struct Key(Zeroizing<[u8; 32]>);

impl Key {
    /// A new random key.
    pub(crate) fn generate() -> Self {
        let mut bytes = Zeroizing::new([0u8; 32]);
        rand::fill(&mut *bytes);
        Self(bytes)
    }

    /// A key from its bytes, when there are exactly 32.
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// A public name for the key, from which the key cannot be found.
    pub(crate) fn id(&self) -> String {
        let hash = blake3::derive_key("ondol 2026 key id v1", self.bytes());
        data_encoding::HEXLOWER.encode(&hash[..8])
    }
}

/// The keys of one file.
#[derive(Clone)]
pub(crate) struct KeyRing {
    pub(crate) path: PathBuf,
    keys: Vec<Key>,
}

impl KeyRing {
    /// Reads the keys of `path`, making one when there is no file.
    pub(crate) fn open(path: PathBuf) -> Result<Self, AuthError> {
        match fs::read_to_string(&path) {
            Ok(mut text) => {
                let keys = parse(&text).map_err(|problem| AuthError::BadFile {
                    path: path.clone(),
                    what: "key file",
                    problem,
                });
                text.zeroize();
                Ok(Self { path, keys: keys? })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let ring = Self {
                    path,
                    keys: vec![Key::generate()],
                };
                ring.save()?;
                Ok(ring)
            }
            Err(error) => Err(StoreError::io("read", path)(error).into()),
        }
    }

    pub(crate) fn current(&self) -> &Key {
        &self.keys[0]
    }

    pub(crate) fn find(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id() == id)
    }

    /// Whether older keys wait to be dropped.
    pub(crate) fn is_rotating(&self) -> bool {
        self.keys.len() > 1
    }

    /// The same ring with a new current key.
    pub(crate) fn rotated(&self) -> Result<Self, AuthError> {
        let mut next = self.clone();
        next.keys.insert(0, Key::generate());
        next.save()?;
        Ok(next)
    }

    /// The same ring with its current key alone.
    pub(crate) fn settled(&self) -> Result<Self, AuthError> {
        let mut next = self.clone();
        next.keys.truncate(1);
        next.save()?;
        Ok(next)
    }

    fn save(&self) -> Result<(), AuthError> {
        let mut text = Zeroizing::new(String::new());
        for key in &self.keys {
            text.push_str(HEADER);
            text.push_str(&data_encoding::HEXLOWER.encode(key.bytes()));
            text.push('\n');
        }
        write_private(&self.path, text.as_bytes())
    }
}

fn parse(text: &str) -> Result<Vec<Key>, String> {
    let keys = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.strip_prefix(HEADER)
                .and_then(|hex| data_encoding::HEXLOWER.decode(hex.as_bytes()).ok())
                .and_then(|bytes| Key::from_slice(&Zeroizing::new(bytes)))
                .ok_or_else(|| "a line is not `ondol-key-v1` and 64 hexadecimal digits".to_owned())
        })
        .collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() {
        return Err("it holds no key".to_owned());
    }
    Ok(keys)
}

/// Replaces a file that only its owner may read, durably and as a whole.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), AuthError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(StoreError::io("create", folder))?;
    let mut suffix = [0u8; 6];
    rand::fill(&mut suffix);
    let temporary = path.with_extension(format!("{}.tmp", data_encoding::HEXLOWER.encode(&suffix)));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&temporary);
        StoreError::io("write", path)(error).into()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_ring_survives_reopening_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/root.key");
        let first = KeyRing::open(path.clone()).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = KeyRing::open(path.clone()).unwrap();
        assert_eq!(first.current().id(), again.current().id());
        let rotated = again.rotated().unwrap();
        assert_ne!(rotated.current().id(), first.current().id());
        let reread = KeyRing::open(path.clone()).unwrap();
        assert!(reread.find(&first.current().id()).is_some() && reread.is_rotating());
        reread.settled().unwrap();
        let settled = KeyRing::open(path).unwrap();
        assert!(settled.find(&first.current().id()).is_none() && !settled.is_rotating());
        assert_eq!(fs::read_dir(dir.path().join("keys")).unwrap().count(), 1);
    }

    #[test]
    fn a_broken_file_is_named_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        for text in [
            "",
            "junk\n",
            "ondol-key-v1 00\n",
            "ondol-key-v1 0102\nondol-key-v1\n",
        ] {
            fs::write(&path, text).unwrap();
            let error = KeyRing::open(path.clone()).err().unwrap();
            assert!(error.to_string().contains("root.key"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
