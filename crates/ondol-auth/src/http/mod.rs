//! What HTTP headers say about who asks: the same answer for every protocol and header form.
//!
//! `Authorization: Bearer <token>` and `Authorization: Basic base64(<any user>:<token>)` are read;
//! a token never stands in a query, where logs and histories would keep it. No header is nobody,
//! which [`decide`](crate::decide) refuses; a header that cannot be read is an error, so that a
//! client with a broken token is told so instead of being treated as nobody.

mod host;
mod limiter;
mod site;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use ondol_types::Secret;
use zeroize::Zeroizing;

pub use host::HostPolicy;
use limiter::FailureLimiter;
pub use site::is_from_another_site;

use crate::error::AuthError;
use crate::model::Principal;
use crate::tokens::Tokens;

/// The longest `Authorization` value that is read, in bytes.
const MAX_HEADER_BYTES: usize = 16 * 1024;

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The token that a request shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential(Secret<String>);

impl Credential {
    /// Reads the credential of a request; `None` when it shows none.
    ///
    /// # Errors
    /// [`AuthError::BadCredentials`] when it shows something that cannot be read.
    pub fn from_headers(headers: &HeaderMap) -> Result<Option<Self>, AuthError> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        let bad = AuthError::BadCredentials;
        if values.next().is_some() {
            return Err(bad("there is more than one Authorization header"));
        }
        if value.len() > MAX_HEADER_BYTES {
            return Err(bad("the Authorization header is too long"));
        }
        let text = value
            .to_str()
            .map_err(|_| bad("the Authorization header is not plain text"))?;
        let (scheme, rest) = text
            .trim()
            .split_once(' ')
            .ok_or(bad("the Authorization header has no credentials"))?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Some(Self(Secret::new(rest.to_owned()))));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let decoded = Zeroizing::new(
                BASE64
                    .decode(rest)
                    .map_err(|_| bad("the Basic credentials are not base64"))?,
            );
            let pair = std::str::from_utf8(&decoded)
                .map_err(|_| bad("the Basic credentials are not UTF-8"))?;
            let (_, password) = pair
                .split_once(':')
                .ok_or(bad("the Basic credentials have no password"))?;
            return Ok(Some(Self(Secret::new(password.to_owned()))));
        }
        Err(bad("the Authorization scheme is neither Bearer nor Basic"))
    }
}

/// Turns headers into principals. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator {
    tokens: Tokens,
    failures: Arc<FailureLimiter>,
}

impl Authenticator {
    /// An authenticator over the tokens of this installation.
    pub fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            failures: Arc::default(),
        }
    }

    /// The tokens behind it.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Who asks. `peer` is the address that wrong credentials are counted for.
    ///
    /// Credentials are looked up whatever their address did before: a token has 256 random bits,
    /// so its look-up gives nothing to somebody who guesses, and whoever shares an address with
    /// that person is not locked out. Only wrong ones are counted, and over the limit they are
    /// told to wait.
    ///
    /// # Errors
    /// [`AuthError::BadCredentials`], [`AuthError::Expired`], [`AuthError::TooManyFailures`], or
    /// [`AuthError::Store`] when the database cannot be asked.
    pub fn authenticate<'a>(
        &'a self,
        headers: &'a HeaderMap,
        peer: Option<IpAddr>,
    ) -> Pin<Box<dyn Future<Output = Result<Principal, AuthError>> + Send + 'a>> {
        // Boxed, so that not every handler of every protocol compiles it again.
        Box::pin(async move {
            let outcome = match Credential::from_headers(headers) {
                Ok(None) => return Ok(Principal::anonymous()),
                Ok(Some(credential)) => self.tokens.verify(credential.0.expose()).await,
                Err(error) => Err(error),
            };
            if let (Err(AuthError::BadCredentials(_)), Some(peer)) = (&outcome, peer) {
                if let Some(left) = self.failures.blocked(peer) {
                    return Err(AuthError::TooManyFailures {
                        seconds: left.as_secs() + 1,
                    });
                }
                self.failures.note(peer);
            }
            outcome
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn read(value: &str) -> Result<Option<Credential>, AuthError> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        Credential::from_headers(&headers)
    }

    #[test]
    fn every_form_carries_the_same_token() {
        let expected = Some(Credential(Secret::new("abc:d".to_owned())));
        for form in [
            "Bearer abc:d",
            "bearer   abc:d",
            "Basic dXNlcjphYmM6ZA==",
            "basic dXNlcjphYmM6ZA",
            "Basic OmFiYzpk",
        ] {
            assert_eq!(read(form).unwrap(), expected, "{form}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_refused_not_ignored() {
        for form in [
            "",
            "Bearer",
            "Basic",
            "Basic !!!",
            "Basic dXNlcg==",
            "Basic /////w==",
            "Digest x",
            "Negotiate abc",
            "token abc",
            &format!("Bearer {}", "a".repeat(17_000)),
        ] {
            assert!(
                matches!(read(form), Err(AuthError::BadCredentials(_))),
                "{form}"
            );
        }
        let mut twice = HeaderMap::new();
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert!(Credential::from_headers(&twice).is_err());
        assert!(matches!(
            Credential::from_headers(&HeaderMap::new()),
            Ok(None)
        ));
    }

    proptest! {
        #[test]
        fn no_header_makes_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(AUTHORIZATION, value);
                let _ = Credential::from_headers(&headers);
            }
        }
    }
}
