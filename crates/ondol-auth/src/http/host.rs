//! The Host header against DNS rebinding: a page of a stranger's domain that resolves to our
//! address still sends the stranger's name.

use std::net::IpAddr;

use http::header::HOST;
use http::{HeaderMap, Uri};

/// The names under which this installation may be addressed.
#[derive(Clone, Debug, Default)]
pub struct HostPolicy {
    names: Vec<String>,
}

impl HostPolicy {
    /// Addresses, `localhost` and names below it are always allowed; `configured` adds names,
    /// `*.example.org` for everything below one.
    pub fn new<S: AsRef<str>>(configured: impl IntoIterator<Item = S>) -> Self {
        Self {
            names: configured
                .into_iter()
                .map(|name| name.as_ref().trim_end_matches('.').to_ascii_lowercase())
                .collect(),
        }
    }

    /// Whether a request may be answered. A request that names no host at all (HTTP/1.0) is not
    /// from a browser and may.
    pub fn allows(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        let named = hosts.next();
        if hosts.next().is_some() {
            return false;
        }
        let header = match named.map(|value| value.to_str()) {
            Some(Ok(text)) => Some(text),
            Some(Err(_)) => return false,
            None => None,
        };
        header
            .into_iter()
            .chain(uri.authority().map(|authority| authority.as_str()))
            .all(|host| self.allowed_host(host))
    }

    /// Whether a host, with or without port, is one of ours.
    pub fn allowed_host(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let name = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, port)) if is_port_or_nothing(port) => address,
                _ => return false,
            },
            None => match host.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
                Some(_) => return false,
                None => &host,
            },
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if !name.bytes().all(plain) {
            return false;
        }
        let name = name.trim_end_matches('.');
        if name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost") {
            return true;
        }
        self.names.iter().any(|allowed| {
            name == allowed
                || allowed
                    .strip_prefix('*')
                    .is_some_and(|suffix| name.len() > suffix.len() && name.ends_with(suffix))
        })
    }
}

fn is_port_or_nothing(text: &str) -> bool {
    match text.strip_prefix(':') {
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => text.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_our_names_are_answered() {
        let policy = HostPolicy::new(["Ondol.example.org", "*.apps.example.org"]);
        for good in [
            "localhost",
            "localhost:7070",
            "web.localhost:8080",
            "127.0.0.1:7070",
            "[::1]:7070",
            "ONDOL.example.org",
            "ondol.example.org.:443",
            "web.apps.example.org",
        ] {
            assert!(policy.allowed_host(good), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:7070",
            "localhost.evil.example",
            "xlocalhost",
            "apps.example.org",
            ".apps.example.org.evil",
            "ondol.example.org:x",
            "[::1",
            "a@localhost:x",
            "a@web.localhost",
            "[::1].evil.example",
            "[::1]:evil",
            "",
        ] {
            assert!(!policy.allowed_host(bad), "{bad}");
        }
    }

    #[test]
    fn header_and_target_must_both_be_ours() {
        let policy = HostPolicy::default();
        let mut headers = HeaderMap::new();
        let here = Uri::from_static("http://localhost/x");
        assert!(policy.allows(&headers, &Uri::from_static("/x")));
        assert!(policy.allows(&headers, &here));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(!policy.allows(&headers, &here));
        headers.insert(HOST, HeaderValue::from_static("localhost"));
        assert!(policy.allows(&headers, &here));
        headers.append(HOST, HeaderValue::from_static("localhost"));
        assert!(!policy.allows(&headers, &here));
    }
}
