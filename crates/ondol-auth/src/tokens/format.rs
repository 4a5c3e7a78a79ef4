//! The text of a token: `ondol_<id>_<secret>_<checksum>`.
//!
//! The id is public and finds the row, the secret is 32 random bytes, and the checksum lets
//! secret scanners and our own door refuse a mistyped token without asking the database.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_DNSSEC, HEXLOWER};
use ondol_types::{Clock, Secret, TokenId};
use zeroize::Zeroizing;

const PREFIX: &str = "ondol_";
const ID_LENGTH: usize = 26;
const SECRET_LENGTH: usize = 52;
const CHECKSUM_LENGTH: usize = 8;
const LENGTH: usize = PREFIX.len() + ID_LENGTH + 1 + SECRET_LENGTH + 1 + CHECKSUM_LENGTH;

/// A whole token: id and secret. It prints only its id.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenText {
    id: TokenId,
    secret: Secret<Vec<u8>>,
}

/// A text is not a token. It never repeats the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not an Ondol token, or it was mistyped")]
pub struct FormatError;

impl TokenText {
    /// A new token.
    pub fn generate(clock: &dyn Clock) -> Self {
        let mut secret = vec![0u8; 32];
        rand::fill(secret.as_mut_slice());
        Self {
            id: TokenId::generate(clock),
            secret: Secret::new(secret),
        }
    }

    /// The public part.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// The text to give to its owner, once.
    pub fn reveal(&self) -> Secret<String> {
        let id = self.id.to_string();
        let id = id.strip_prefix("tok_").unwrap_or(&id);
        let secret = Zeroizing::new(BASE32_DNSSEC.encode(self.secret.expose()));
        let mut text = format!("{PREFIX}{id}_{}", *secret);
        let checksum = crc32(text.as_bytes());
        text.push('_');
        text.push_str(&HEXLOWER.encode(&checksum.to_be_bytes()));
        Secret::new(text)
    }

    /// What is kept instead of the secret. A fast hash is right, because the secret has 256 bits.
    /// Comparing two takes the same time wherever they differ.
    pub(crate) fn hash(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_derive_key("ondol 2026 access token v1");
        hasher.update(self.secret.expose());
        hasher.finalize()
    }
}

impl FromStr for TokenText {
    type Err = FormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let well_formed = text.len() == LENGTH
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !well_formed {
            return Err(FormatError);
        }
        let (body, checksum) = text.rsplit_once('_').ok_or(FormatError)?;
        let (id, secret) = body
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .ok_or(FormatError)?;
        if HEXLOWER.encode(&crc32(body.as_bytes()).to_be_bytes()) != checksum {
            return Err(FormatError);
        }
        let id = format!("tok_{id}").parse().map_err(|_| FormatError)?;
        let secret = BASE32_DNSSEC
            .decode(secret.as_bytes())
            .map_err(|_| FormatError)?;
        if secret.len() != 32 {
            return Err(FormatError);
        }
        Ok(Self {
            id,
            secret: Secret::new(secret),
        })
    }
}

impl fmt::Debug for TokenText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenText({})", self.id)
    }
}

/// CRC-32 (IEEE 802.3), bit by bit: a token is short.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[cfg(test)]
mod tests {
    use ondol_types::{ManualClock, Timestamp};
    use proptest::prelude::*;

    use super::*;

    fn token() -> TokenText {
        TokenText::generate(&ManualClock::at(Timestamp::from_micros(
            1_700_000_000_000_000,
        )))
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn tokens_round_trip_and_hide() {
        let token = token();
        let text = token.reveal();
        assert_eq!(text.expose().len(), LENGTH);
        assert_eq!(text.expose().parse::<TokenText>().unwrap(), token);
        let shown = format!("{token:?}");
        assert!(!shown.contains(&text.expose()[40..60]), "{shown}");
    }

    #[test]
    fn every_single_typing_mistake_is_found() {
        let text = token().reveal();
        for index in 0..text.expose().len() {
            for replacement in [b'a', b'0', b'_', b'Z'] {
                let mut wrong = text.expose().clone().into_bytes();
                if wrong[index] == replacement {
                    continue;
                }
                wrong[index] = replacement;
                let wrong = String::from_utf8(wrong).unwrap();
                assert!(wrong.parse::<TokenText>().is_err(), "{index}");
            }
            let mut cut = text.expose().clone();
            cut.remove(index);
            assert!(cut.parse::<TokenText>().is_err());
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,120}", tail in "[a-z0-9_]{80,100}") {
            prop_assert!(text.parse::<TokenText>().is_err());
            let tail = format!("ondol_{tail}");
            prop_assert!(tail.parse::<TokenText>().is_err());
        }
    }
}
