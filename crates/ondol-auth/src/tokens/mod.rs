//! Access tokens: what they look like, how they are kept, and how they become a principal.

mod derived;
mod first;
mod format;
mod service;

use ondol_types::{Timestamp, TokenId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use first::FirstToken;
pub use format::TokenText;
pub(crate) use service::MAX_DERIVED_LIFE;
pub use service::Tokens;

use crate::model::Grant;

/// A token as lists show it: never its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Its public id.
    pub id: TokenId,
    /// What its maker called it; events and audit show this.
    pub name: String,
    /// What it opens.
    pub grant: Grant,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// When it was last used, within ten minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl Token {
    /// Whether it opens what its grant says at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|end| now < end)
    }
}

/// What a new token shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    /// A name for people: 1 to 100 printable characters.
    pub name: String,
    /// What it shall open; not more than its maker may open.
    pub grant: Grant,
    /// When it shall end; not later than its maker ends.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

#[derive(Clone)]
pub(crate) struct StoredToken {
    pub(crate) token: Token,
    pub(crate) hash: blake3::Hash,
}

/// No text opens without the key, and none makes the reader panic.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_derived(text: &str) {
    let key = crate::keys::Key::generate();
    assert!(derived::open(&key, text).is_none());
}
