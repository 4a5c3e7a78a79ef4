//! Which route a host and a path belong to. Pure: tested against a naive model.
//!
//! The most specific host pattern that has a fitting prefix wins: an exact name before the longest
//! `*.suffix` before `*`; below one pattern, the longest path prefix.

use std::borrow::Cow;
use std::collections::HashMap;

/// Routes by host pattern and path prefix.
#[derive(Debug)]
pub(crate) struct Matcher<T> {
    exact: HashMap<Box<str>, Prefixes<T>>,
    suffixes: HashMap<Box<str>, Prefixes<T>>,
    any: Prefixes<T>,
}

type Prefixes<T> = Vec<(Box<str>, T)>;

/// What a path found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found<'m, T> {
    /// The route that takes the request.
    Route(&'m T),
    /// The path is a prefix without its last slash: the client should ask for this one instead.
    Slash(&'m str),
}

impl<T> Default for Matcher<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            suffixes: HashMap::new(),
            any: Vec::new(),
        }
    }
}

impl<T> Matcher<T> {
    /// Adds a route. `pattern` and `prefix` were validated with their snapshot.
    pub(crate) fn insert(&mut self, pattern: &str, prefix: &str, value: T) {
        let prefixes = if pattern == "*" {
            &mut self.any
        } else if let Some(suffix) = pattern.strip_prefix("*.") {
            self.suffixes.entry(suffix.into()).or_default()
        } else {
            self.exact.entry(pattern.into()).or_default()
        };
        let place = prefixes.partition_point(|(known, _)| known.len() >= prefix.len());
        prefixes.insert(place, (prefix.into(), value));
    }

    /// The route for a normalized host and a path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Found<'_, T>> {
        if let Some(found) = self
            .exact
            .get(host)
            .and_then(|prefixes| longest(prefixes, path))
        {
            return Some(found);
        }
        if !self.suffixes.is_empty() {
            let mut rest = host;
            while let Some((_, parent)) = rest.split_once('.') {
                if let Some(found) = self
                    .suffixes
                    .get(parent)
                    .and_then(|prefixes| longest(prefixes, path))
                {
                    return Some(found);
                }
                rest = parent;
            }
        }
        longest(&self.any, path)
    }
}

fn longest<'m, T>(prefixes: &'m Prefixes<T>, path: &str) -> Option<Found<'m, T>> {
    prefixes.iter().find_map(|(prefix, value)| {
        if path.starts_with(&**prefix) {
            Some(Found::Route(value))
        } else if path.len() + 1 == prefix.len() && prefix.starts_with(path) && !path.is_empty() {
            Some(Found::Slash(prefix))
        } else {
            None
        }
    })
}

/// A host as routes name it: without port and final dot, in lower case. None if it is no host.
pub(crate) fn normalize_host(text: &str) -> Option<Cow<'_, str>> {
    if text.is_empty() || text.len() > 260 {
        return None;
    }
    let name = if text.starts_with('[') {
        let end = text.find(']')? + 1;
        port_or_nothing(&text[end..])?;
        let inner = &text[1..end - 1];
        inner.parse::<std::net::Ipv6Addr>().ok()?;
        &text[..end]
    } else {
        let end = text.find(':').unwrap_or(text.len());
        port_or_nothing(&text[end..])?;
        let name = text[..end].strip_suffix('.').unwrap_or(&text[..end]);
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if name.is_empty() || !name.bytes().all(allowed) {
            return None;
        }
        name
    };
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Some(Cow::Owned(name.to_ascii_lowercase()))
    } else {
        Some(Cow::Borrowed(name))
    }
}

fn port_or_nothing(rest: &str) -> Option<()> {
    match rest.strip_prefix(':') {
        None => rest.is_empty().then_some(()),
        Some(port) => {
            (port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit())).then_some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule in its plainest form: score every route and take the best.
    fn naive<'m>(
        routes: &'m [(String, String)],
        host: &str,
        path: &str,
    ) -> Option<(usize, &'m str, bool)> {
        type Scored<'m> = ((usize, usize, usize), (usize, &'m str, bool));
        let mut best: Option<Scored<'m>> = None;
        for (index, (pattern, prefix)) in routes.iter().enumerate() {
            let specificity = match pattern.strip_prefix("*.") {
                _ if pattern == host => (2, 0),
                _ if pattern == "*" => (0, 0),
                Some(suffix) if host.ends_with(&format!(".{suffix}")) => (1, suffix.len()),
                _ => continue,
            };
            let slash = format!("{path}/") == *prefix;
            if !path.starts_with(prefix.as_str()) && !slash {
                continue;
            }
            let score = (specificity.0, specificity.1, prefix.len());
            if best.is_none_or(|(known, _)| score > known) {
                best = Some((score, (index, prefix, slash)));
            }
        }
        best.map(|(_, found)| found)
    }

    proptest! {
        #[test]
        fn finds_what_the_naive_model_finds(
            routes in prop::collection::btree_set(
                ("(\\*|(\\*\\.)?(a|b)(\\.(a|b|c)){0,2})", "/((a|ab|b)/){0,3}"), 0..12),
            host in "(a|b|c)(\\.(a|b|c)){0,3}",
            path in "/((a|ab|b|c)/?){0,4}",
        ) {
            let routes: Vec<(String, String)> = routes.into_iter().collect();
            let mut matcher = Matcher::default();
            for (index, (pattern, prefix)) in routes.iter().enumerate() {
                matcher.insert(pattern, prefix, index);
            }
            let expected = naive(&routes, &host, &path);
            match matcher.find(&host, &path) {
                None => prop_assert!(expected.is_none(), "{expected:?}"),
                Some(Found::Route(&index)) => prop_assert_eq!(expected.map(|(i, _, slash)| (i, slash)), Some((index, false))),
                Some(Found::Slash(prefix)) => prop_assert_eq!(expected.map(|(_, p, slash)| (p, slash)), Some((prefix, true))),
            }
        }

        #[test]
        fn hosts_never_panic(text in ".{0,40}") {
            let _ = normalize_host(&text);
        }
    }

    #[test]
    fn hosts_lose_port_case_and_final_dot() {
        for (text, expected) in [
            ("web.localhost:8080", Some("web.localhost")),
            ("WEB.Localhost.", Some("web.localhost")),
            ("[::1]:8080", Some("[::1]")),
            ("127.0.0.1", Some("127.0.0.1")),
            ("web.localhost:80a", None),
            ("a@b", None),
            ("a/b", None),
            ("[::1", None),
            ("[::1]x", None),
            ("", None),
            (":80", None),
            ("a:1:2", None),
        ] {
            assert_eq!(normalize_host(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_prefix_ends_at_a_segment() {
        let mut matcher = Matcher::default();
        matcher.insert("*", "/apps/web/", 1);
        assert_eq!(matcher.find("x", "/apps/web/a"), Some(Found::Route(&1)));
        assert_eq!(
            matcher.find("x", "/apps/web"),
            Some(Found::Slash("/apps/web/"))
        );
        assert_eq!(matcher.find("x", "/apps/website/"), None);
        assert_eq!(matcher.find("x", "/apps/"), None);
    }
}
