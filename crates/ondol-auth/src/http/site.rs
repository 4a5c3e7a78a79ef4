//! Requests that a page of another site makes in a person's browser.
//!
//! Browsers add credentials that they know by themselves, such as Basic ones that were once typed
//! in. They also say where a request comes from, which programs other than browsers do not.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderName, Method};

/// Set by browsers on every request, and by nobody else.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a browser makes this request for a page of another site, and it could change something.
pub fn is_from_another_site(method: &Method, headers: &HeaderMap) -> bool {
    if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return false;
    }
    let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text(SEC_FETCH_SITE) {
        return !matches!(site, "same-origin" | "none");
    }
    let Some(origin) = text(ORIGIN) else {
        return false;
    };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    match (authority, text(HOST)) {
        (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn pages_of_other_sites_change_nothing_and_programs_are_not_asked() {
        let cases: [(&[(&str, &str)], bool); 9] = [
            (&[], false),
            (&[("origin", "http://ondol.example.org")], false),
            (&[("origin", "http://evil.example")], true),
            (&[("origin", "null")], true),
            (&[("origin", "http://ondol.example.org:8080")], true),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (
                &[
                    ("sec-fetch-site", "cross-site"),
                    ("origin", "http://ondol.example.org"),
                ],
                true,
            ),
        ];
        for (fields, refused) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, HeaderValue::from_static("ondol.example.org"));
            for (name, value) in fields {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            assert_eq!(
                is_from_another_site(&Method::POST, &headers),
                refused,
                "{fields:?}"
            );
            assert!(!is_from_another_site(&Method::GET, &headers));
        }
    }
}
