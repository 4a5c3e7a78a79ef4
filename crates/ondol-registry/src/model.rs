//! Repository names, references, and as much of manifests as a registry must understand.

use std::fmt;
use std::str::FromStr;

use ondol_types::{Algorithm, Digest, ProjectName};
use serde::{Deserialize, Serialize};

use crate::error::RegistryError;

/// Media types that appear in code.
pub(crate) mod media {
    /// An image manifest.
    pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image index.
    pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An image configuration.
    pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A gzip-compressed layer.
    pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// An artifact, as an earlier draft had it.
    pub(crate) const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
    /// Docker's manifest list.
    pub(crate) const DOCKER_LIST: &str =
        "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
}

/// A repository: `<project>` or `<project>/<name>…`, by the grammar of the distribution
/// specification, at most 255 characters. One that begins with a name with a dot, such as
/// `docker.io/library/python`, is of another registry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repository {
    name: Box<str>,
    owner: Owner,
}

/// Who decides about a repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Owner {
    /// A project of this installation.
    Project(ProjectName),
    /// Another registry, read through this one.
    Upstream(Box<str>),
}

impl Repository {
    /// The repository that belongs to a project as a whole.
    pub fn of(project: &ProjectName) -> Self {
        Self {
            name: project.as_str().into(),
            owner: Owner::Project(project.clone()),
        }
    }

    /// The whole name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// The project that decides who may read and write; `None` for what is read through from
    /// another registry.
    pub fn project(&self) -> Option<&ProjectName> {
        match &self.owner {
            Owner::Project(project) => Some(project),
            Owner::Upstream(_) => None,
        }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The name without the upstream's own.
    pub(crate) fn name_there(&self) -> Option<&str> {
        match &self.owner {
            Owner::Project(_) => None,
            Owner::Upstream(name) => self.name.strip_prefix(&**name)?.strip_prefix('/'),
        }
    }
}

impl FromStr for Repository {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || RegistryError::Name(text.chars().take(120).collect());
        // [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)* per component.
        let component = |part: &str| {
            let bytes = part.as_bytes();
            let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !bytes.is_empty()
                && alphanumeric(bytes[0])
                && alphanumeric(bytes[bytes.len() - 1])
                && bytes
                    .iter()
                    .all(|&byte| alphanumeric(byte) || b"._-".contains(&byte))
                && !["..", "._", "_.", ".-", "-.", "___", "_-", "-_"]
                    .iter()
                    .any(|pair| part.contains(pair))
        };
        if text.len() > 255 || !text.split('/').all(component) {
            return Err(bad());
        }
        let first = text.split('/').next().unwrap_or_default();
        let owner = if first.contains('.') && first.len() < text.len() {
            Owner::Upstream(first.into())
        } else {
            Owner::Project(first.parse().map_err(|_| bad())?)
        };
        Ok(Self {
            name: text.into(),
            owner,
        })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Whether a digest is of an algorithm that the specification knows.
pub(crate) fn is_oci(digest: &Digest) -> bool {
    matches!(digest.algorithm(), Algorithm::Sha256 | Algorithm::Sha512)
}

/// How a manifest is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// By tag.
    Tag(Box<str>),
    /// By digest.
    Digest(Digest),
}

impl FromStr for Reference {
    type Err = RegistryError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.contains(':') {
            return text
                .parse()
                .ok()
                .filter(is_oci)
                .map(Self::Digest)
                .ok_or_else(|| RegistryError::DigestInvalid(format!("`{text}` is not a digest")));
        }
        let bytes = text.as_bytes();
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let good = (1..=128).contains(&bytes.len())
            && word(bytes[0])
            && bytes
                .iter()
                .all(|&byte| word(byte) || byte == b'.' || byte == b'-');
        if good {
            Ok(Self::Tag(text.into()))
        } else {
            Err(RegistryError::Reference(text.chars().take(140).collect()))
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => f.write_str(tag),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

/// A descriptor as it stands in manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Type of the content.
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Type of the artifact, in referrer lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<serde_json::Map<String, serde_json::Value>>,
    /// Which machine it is for, in indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<serde_json::Value>,
    /// Where else the content can be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
}

impl Descriptor {
    /// A descriptor without optional fields.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            annotations: None,
            platform: None,
            urls: None,
        }
    }

    /// Whether the content is by its type not pushed to registries: a layer that its publisher
    /// allows nobody to hand on.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.media_type.contains(".nondistributable.") || self.media_type.contains(".foreign.diff.")
    }
}

/// What a registry reads of a manifest or an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The media type it was pushed with.
    pub media_type: String,
    /// The type of the artifact, falling back to that of the configuration.
    pub artifact_type: Option<String>,
    /// Configuration and layers.
    pub blobs: Vec<Descriptor>,
    /// Manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// What it refers to.
    pub subject: Option<Descriptor>,
    /// Its annotations, shown in referrer lists.
    pub annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The most descriptors that one manifest may have.
const MAX_DESCRIPTORS: usize = 10_000;

impl Manifest {
    /// Reads a manifest that was pushed as `content_type`.
    ///
    /// # Errors
    /// [`RegistryError::ManifestInvalid`] when it is not one.
    pub fn parse(bytes: &[u8], content_type: &str) -> Result<Self, RegistryError> {
        let invalid = |problem: String| RegistryError::ManifestInvalid(problem);
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        let draft = raw.media_type.as_deref() == Some(media::ARTIFACT);
        match raw.schema_version {
            Some(2) => {}
            None if draft => {}
            Some(1) => return Err(RegistryError::Unsupported(
                "manifests of Docker's schema 1, which are unsafe by design; build the image again with any tool of today".to_owned(),
            )),
            _ => return Err(invalid("schemaVersion must be 2".to_owned())),
        }
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        if let Some(inner) = &raw.media_type
            && !content_type.is_empty()
            && inner != content_type
        {
            return Err(invalid(format!(
                "mediaType is {inner} and Content-Type {content_type}"
            )));
        }
        let media_type = raw
            .media_type
            .clone()
            .unwrap_or_else(|| match content_type {
                "" if raw.manifests.is_some() => media::INDEX.to_owned(),
                "" => media::MANIFEST.to_owned(),
                given => given.to_owned(),
            });
        let artifact_type = raw
            .artifact_type
            .or_else(|| raw.config.as_ref().map(|config| config.media_type.clone()));
        let manifests = raw.manifests.unwrap_or_default();
        let mut blobs: Vec<Descriptor> = raw.config.into_iter().collect();
        blobs.extend(raw.layers.unwrap_or_default());
        // The artifact manifest of an earlier draft, which some tools still push.
        blobs.extend(raw.blobs.unwrap_or_default());
        if blobs.len() + manifests.len() > MAX_DESCRIPTORS {
            return Err(invalid(format!(
                "it has more than {MAX_DESCRIPTORS} descriptors"
            )));
        }
        Ok(Self {
            media_type,
            artifact_type,
            blobs,
            manifests,
            subject: raw.subject,
            annotations: raw.annotations,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repository_names_follow_the_specification() {
        for good in ["web", "web/api", "web/a_b/c-d", "web/a__b", "web/a.b"] {
            assert_eq!(
                good.parse::<Repository>()
                    .unwrap()
                    .project()
                    .unwrap()
                    .as_str(),
                "web",
                "{good}"
            );
        }
        for bad in [
            "",
            "Web",
            "web/",
            "/web",
            "web//a",
            "web/../x",
            "web/-a",
            "web/a-",
            "web/a..b",
            "api/x",
            &format!("web/{}", "a".repeat(300)),
        ] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_name_with_a_dot_is_another_registry() {
        let there: Repository = "docker.io/library/python".parse().unwrap();
        assert_eq!(there.project(), None);
        assert_eq!(there.owner(), &Owner::Upstream("docker.io".into()));
        assert_eq!(there.name_there(), Some("library/python"));
        assert!("docker.io".parse::<Repository>().is_err());
        assert_eq!("web/a.b".parse::<Repository>().unwrap().name_there(), None);
    }

    #[test]
    fn references_are_tags_or_digests() {
        assert!(matches!("v1.0".parse(), Ok(Reference::Tag(_))));
        assert!(matches!(
            format!("sha256:{}", "0".repeat(64)).parse(),
            Ok(Reference::Digest(_))
        ));
        for bad in ["", "-a", ".a", "a b", "sha256:xyz", &"a".repeat(129)] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Manifest::parse(&bytes, "");
        }
    }
}
