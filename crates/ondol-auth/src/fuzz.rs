//! Fuzz target over what a stranger shows at a door: credentials, tokens, host names.

use http::{HeaderMap, HeaderValue, Uri, header};

use crate::{Credential, HostPolicy, TokenText};

/// The first line is a token, the second an `Authorization` value, the third a host. A token is
/// written as it was read; no stranger's host is ours however it is spelled.
pub fn door(data: &[u8]) {
    let mut lines = data.splitn(3, |&byte| byte == b'\n');
    if let Some(Ok(text)) = lines.next().map(std::str::from_utf8) {
        if let Ok(token) = text.parse::<TokenText>() {
            assert_eq!(token.reveal().expose(), text);
            assert!(!format!("{token:?}").contains(&text[33..85]));
        }
        crate::tokens::fuzz_derived(text);
    }
    let mut headers = HeaderMap::new();
    if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
        headers.insert(header::AUTHORIZATION, value);
        if let Ok(Some(credential)) = Credential::from_headers(&headers) {
            assert!(format!("{credential:?}").len() < 60);
        }
    }
    if let Some(Ok(host)) = lines.next().map(HeaderValue::from_bytes) {
        headers.insert(header::HOST, host.clone());
        let policy = HostPolicy::new(["ondol.example.org", "*.ci.example.org"]);
        if policy.allows(&headers, &Uri::from_static("/")) {
            let text = host.to_str().unwrap_or_default().to_ascii_lowercase();
            let ours = ["localhost", "ondol.example.org", "ci.example.org"]
                .iter()
                .any(|name| text.contains(name));
            let address = text.starts_with('[') || text.starts_with(|c: char| c.is_ascii_digit());
            // An IPv6 address may begin with a letter.
            assert!(ours || address || text.contains(':'), "{text:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn corpora_and_mutations() {
        ondol_fuzzing::exercise("auth_door", super::door);
    }
}
