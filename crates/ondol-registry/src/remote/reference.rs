//! Images as people write them.

use ondol_types::Digest;

/// Where Docker Hub answers.
const HUB: &str = "registry-1.docker.io";

/// A reference as people write it: `python:3.12-slim`, `ghcr.io/org/image@sha256:…`,
/// `127.0.0.1:5000/base:1`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    /// Where it answers.
    pub(crate) host: String,
    /// The repository there.
    pub(crate) name: String,
    /// Tag or digest.
    pub(crate) reference: String,
}

impl Remote {
    /// Reads a reference; `None` when it is not one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (path, reference) = match text.split_once('@') {
            Some((path, digest)) => (path, digest.to_owned()),
            None => match text.rsplit_once(':') {
                Some((path, tag)) if !tag.contains('/') => (path, tag.to_owned()),
                _ => (text, "latest".to_owned()),
            },
        };
        // Whoever pins bytes must not get others because of a mistyped digest.
        if text.contains('@') && reference.parse::<Digest>().is_err() {
            return None;
        }
        // A tag beside a digest says nothing that the digest does not.
        let path = if text.contains('@') {
            path.rsplit_once(':')
                .filter(|(_, tag)| !tag.contains('/'))
                .map_or(path, |(path, _)| path)
        } else {
            path
        };
        let (host, name) = match path.split_once('/') {
            Some((host, name)) if host.contains(['.', ':']) || host == "localhost" => {
                (host.to_owned(), name.to_owned())
            }
            Some(_) => (HUB.to_owned(), path.to_owned()),
            None => (HUB.to_owned(), format!("library/{path}")),
        };
        let host = if host == "docker.io" {
            HUB.to_owned()
        } else {
            host
        };
        let valid = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"._-/:".contains(&b))
        };
        (valid(&name)
            && valid(&host)
            && valid(&reference)
            && !name.contains("..")
            && !name.ends_with('/'))
        .then_some(Self {
            host,
            name,
            reference,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_docker_reads_them() {
        let parse = |text: &str| {
            Remote::parse(text).map(|remote| (remote.host, remote.name, remote.reference))
        };
        let hub = "registry-1.docker.io".to_owned();
        assert_eq!(
            parse("python:3.12-slim"),
            Some((hub.clone(), "library/python".into(), "3.12-slim".into()))
        );
        assert_eq!(
            parse("org/app"),
            Some((hub, "org/app".into(), "latest".into()))
        );
        assert_eq!(
            parse("127.0.0.1:5000/base:1"),
            Some(("127.0.0.1:5000".into(), "base".into(), "1".into()))
        );
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(
            parse(&format!("ghcr.io/o/i:v1@{digest}")),
            Some(("ghcr.io".into(), "o/i".into(), digest))
        );
        for bad in ["", "a b", "host.io/../x:1", "host.io/x?y"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("python@sha256:abc"), None, "a pin that pins nothing");
    }
}
