//! A BLAKE3 digest as 32 bytes: manifests hold many, and a text for each would cost twice.

use std::fmt;

use ondol_types::{Algorithm, Digest};

/// The BLAKE3 digest of a chunk, a tree node or a commit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// A key from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The key as a digest.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(Algorithm::Blake3, &self.0)
    }

    /// The key that a digest stands for, when it is a BLAKE3 digest.
    pub fn from_digest(digest: &Digest) -> Option<Self> {
        if digest.algorithm() != Algorithm::Blake3 {
            return None;
        }
        digest.to_bytes().try_into().ok().map(Self)
    }

    /// Bits that decide about node boundaries.
    pub(crate) fn bits(&self) -> u32 {
        u32::from_le_bytes([self.0[0], self.0[1], self.0[2], self.0[3]])
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digest().short())
    }
}
