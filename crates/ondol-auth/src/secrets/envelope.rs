//! Envelope encryption: a random data key per version seals the value, the root key wraps the
//! data key. Both are XChaCha20-Poly1305 with random nonces and bind project, name and version,
//! so that a row moved elsewhere does not open. Rotating the root key rewraps data keys and never
//! touches values.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use ondol_types::{ProjectName, Secret, SecretName};
use zeroize::Zeroizing;

use crate::keys::Key;

const FORMAT: u8 = 1;
const NONCE: usize = 24;

/// What is stored of one version.
pub(crate) struct SealedVersion {
    /// Names the root key that wrapped the data key.
    pub(crate) key_id: String,
    /// The wrapped data key.
    pub(crate) wrapped: Vec<u8>,
    /// The sealed value.
    pub(crate) sealed: Vec<u8>,
}

/// What a version is bound to.
#[derive(Clone, Copy)]
pub(crate) struct Binding<'a> {
    pub(crate) project: &'a ProjectName,
    pub(crate) name: &'a SecretName,
    pub(crate) version: i64,
}

impl Binding<'_> {
    /// Names hold no NUL, so the parts cannot be shifted against each other.
    fn associated(&self, purpose: &str) -> Vec<u8> {
        format!(
            "ondol secret {purpose} v{FORMAT}\0{}\0{}\0{}",
            self.project, self.name, self.version
        )
        .into_bytes()
    }
}

/// A box was opened with the wrong key, or is not what was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotOpened;

fn seal_box(key: &Key, plain: &[u8], associated: &[u8]) -> Vec<u8> {
    let mut nonce = [0u8; NONCE];
    rand::fill(&mut nonce);
    let sealed = XChaCha20Poly1305::new(key.bytes().into())
        .encrypt(
            &XNonce::from(nonce),
            Payload {
                msg: plain,
                aad: associated,
            },
        )
        .unwrap_or_default();
    let mut out = Vec::with_capacity(1 + NONCE + sealed.len());
    out.push(FORMAT);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&sealed);
    out
}

fn open_box(key: &Key, bytes: &[u8], associated: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
    let (format, rest) = bytes.split_first().ok_or(NotOpened)?;
    if *format != FORMAT {
        return Err(NotOpened);
    }
    let (nonce, sealed) = rest.split_at_checked(NONCE).ok_or(NotOpened)?;
    let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| NotOpened)?;
    XChaCha20Poly1305::new(key.bytes().into())
        .decrypt(
            &XNonce::from(nonce),
            Payload {
                msg: sealed,
                aad: associated,
            },
        )
        .map(Zeroizing::new)
        .map_err(|_| NotOpened)
}

/// Seals a value for one place.
pub(crate) fn seal(root: &Key, value: &Secret<String>, binding: Binding<'_>) -> SealedVersion {
    let data = Key::generate();
    SealedVersion {
        key_id: root.id(),
        wrapped: seal_box(root, data.bytes(), &binding.associated("key")),
        sealed: seal_box(
            &data,
            value.expose().as_bytes(),
            &binding.associated("value"),
        ),
    }
}

/// Opens a version that was sealed for the same place.
pub(crate) fn open(
    root: &Key,
    version: &SealedVersion,
    binding: Binding<'_>,
) -> Result<Secret<String>, NotOpened> {
    let data = open_box(root, &version.wrapped, &binding.associated("key"))?;
    let data = Key::from_slice(&data).ok_or(NotOpened)?;
    let mut value = open_box(&data, &version.sealed, &binding.associated("value"))?;
    String::from_utf8(std::mem::take(&mut *value))
        .map(Secret::new)
        .map_err(|_| NotOpened)
}

/// Wraps the data key of a version with another root key.
pub(crate) fn rewrap(
    old: &Key,
    new: &Key,
    wrapped: &[u8],
    binding: Binding<'_>,
) -> Result<Vec<u8>, NotOpened> {
    let associated = binding.associated("key");
    let data = open_box(old, wrapped, &associated)?;
    Ok(seal_box(new, &data, &associated))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_opens_only_where_it_was_sealed() {
        let (project, other): (ProjectName, ProjectName) =
            ("web".parse().unwrap(), "api2".parse().unwrap());
        let (name, second): (SecretName, SecretName) =
            ("TOKEN_A".parse().unwrap(), "TOKEN_B".parse().unwrap());
        let place = Binding {
            project: &project,
            name: &name,
            version: 1,
        };
        let root = Key::generate();
        let value = Secret::new("s3cr3t-välue".to_owned());
        let sealed = seal(&root, &value, place);
        assert_eq!(open(&root, &sealed, place), Ok(value.clone()));
        for moved in [
            Binding {
                project: &other,
                ..place
            },
            Binding {
                name: &second,
                ..place
            },
            Binding {
                version: 2,
                ..place
            },
        ] {
            assert_eq!(open(&root, &sealed, moved), Err(NotOpened));
        }
        assert_eq!(open(&Key::generate(), &sealed, place), Err(NotOpened));
        for index in 0..sealed.sealed.len() {
            let mut bytes = sealed.sealed.clone();
            bytes[index] ^= 1;
            let touched = SealedVersion {
                key_id: sealed.key_id.clone(),
                wrapped: sealed.wrapped.clone(),
                sealed: bytes,
            };
            assert_eq!(open(&root, &touched, place), Err(NotOpened), "{index}");
        }
        let next = Key::generate();
        let rewrapped = SealedVersion {
            key_id: next.id(),
            wrapped: rewrap(&root, &next, &sealed.wrapped, place).unwrap(),
            sealed: sealed.sealed.clone(),
        };
        assert_eq!(open(&next, &rewrapped, place), Ok(value));
        assert!(!sealed.sealed.windows(6).any(|window| window == b"s3cr3t"));
    }
}
