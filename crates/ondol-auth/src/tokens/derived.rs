//! Derived tokens: short-lived, stateless, authenticated by a key of this installation.
//!
//! The registry's token endpoint answers with one, and workloads get one as their identity. One
//! that comes from an access token names it and never opens more than that token does now, so
//! revoking the access token ends it too; [`decide`](crate::decide) sees the same principal.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ondol_types::{Timestamp, TokenId, WorkloadId};
use serde::{Deserialize, Serialize};

use crate::keys::Key;
use crate::model::Grant;

pub(super) const PREFIX: &str = "ondold_";

/// What a derived token says. The format is versioned by [`CONTEXT`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Claims {
    /// Whom it speaks for.
    pub(super) subject: Subject,
    /// What it narrows the subject's grant to; all of it when absent.
    pub(super) grant: Option<Grant>,
    /// When it ends.
    pub(super) expires_at: Timestamp,
    /// When it was made; older builds did not say so.
    #[serde(default)]
    pub(super) issued_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Subject {
    /// An access token, whose row is asked again at each use.
    Token(TokenId),
    /// A workload, whose name and grant stand in the claims alone.
    Workload(WorkloadId, String),
}

const CONTEXT: &str = "ondol 2026 derived token v1";

fn mac(key: &Key, payload: &[u8]) -> blake3::Hash {
    blake3::keyed_hash(&blake3::derive_key(CONTEXT, key.bytes()), payload)
}

/// The text of a derived token.
pub(super) fn seal(key: &Key, claims: &Claims) -> String {
    let payload = serde_json::to_vec(claims).unwrap_or_default();
    format!(
        "{PREFIX}{}.{}",
        URL_SAFE_NO_PAD.encode(&payload),
        URL_SAFE_NO_PAD.encode(mac(key, &payload).as_bytes())
    )
}

/// The claims of a derived token, when this installation made it.
pub(super) fn open(key: &Key, text: &str) -> Option<Claims> {
    let (payload, tag) = text.strip_prefix(PREFIX)?.split_once('.')?;
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let tag: [u8; 32] = URL_SAFE_NO_PAD.decode(tag).ok()?.try_into().ok()?;
    // `blake3::Hash` compares in constant time.
    if mac(key, &payload) != blake3::Hash::from_bytes(tag) {
        return None;
    }
    serde_json::from_slice(&payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_that_made_it_opens_it() {
        let key = Key::generate();
        let claims = Claims {
            subject: Subject::Token(TokenId::derived("t")),
            grant: None,
            issued_at: Timestamp::default(),
            expires_at: Timestamp::from_micros(7),
        };
        let text = seal(&key, &claims);
        assert_eq!(open(&key, &text), Some(claims));
        assert_eq!(open(&Key::generate(), &text), None);
        for index in 0..text.len() {
            let mut forged = text.clone().into_bytes();
            forged[index] = if forged[index] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            assert_eq!(open(&key, &forged), None, "{index}");
        }
        for bad in [
            "",
            "ondold_",
            "ondold_.",
            "ondold_e30.e30",
            "Bearer nothing",
        ] {
            assert_eq!(open(&key, bad), None, "{bad}");
        }
    }
}
