//! What can go wrong with images, with the code that OCI clients expect.

use ondol_auth::Denied;
use ondol_store::StoreError;
use ondol_types::{Classified, Digest, ErrorKind};

/// An error of the registry or the image builder.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Not allowed.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The stores failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The repository name is not one.
    #[error("`{0}` is not a repository name: expected <project> or <project>/<name> in lower case")]
    Name(String),
    /// The tag or digest is not one.
    #[error("`{0}` is neither a tag nor a digest")]
    Reference(String),
    /// The repository has no such manifest.
    #[error("{repository} has no manifest {reference}")]
    ManifestUnknown {
        /// Where it was looked for.
        repository: String,
        /// The tag or digest.
        reference: String,
    },
    /// The repository has no such blob.
    #[error("{repository} has no blob {digest}")]
    BlobUnknown {
        /// Where it was looked for.
        repository: String,
        /// The digest.
        digest: Digest,
    },
    /// The manifest is not what it says.
    #[error("the manifest is not valid: {0}")]
    ManifestInvalid(String),
    /// The manifest names a blob or manifest that is not here.
    #[error("the manifest names {0}, which was not pushed to this repository")]
    ManifestBlobUnknown(Digest),
    /// The digest does not fit the bytes, or is not a digest.
    #[error("{0}")]
    DigestInvalid(String),
    /// There is no such upload.
    #[error("there is no upload {0}: it was never begun, has ended, or was left alone too long")]
    UploadUnknown(String),
    /// The bytes do not continue the upload.
    #[error("the upload has {have} bytes, so the next chunk begins there, not at {got}")]
    Range {
        /// Bytes received so far.
        have: u64,
        /// Where the chunk says it begins.
        got: u64,
    },
    /// Over a ceiling.
    #[error("{what} has more than {limit} bytes")]
    TooLarge {
        /// Which thing.
        what: String,
        /// The ceiling in bytes.
        limit: u64,
    },
    /// Too many uploads at once.
    #[error("too many uploads at once ({0})")]
    Busy(usize),
    /// The manifest is in use by a release.
    #[error("{0} is in use by a release that can be rolled back to")]
    InUse(Digest),
    /// Something else in the repository names it.
    #[error("{digest} is part of {by}")]
    Named {
        /// What was to go.
        digest: Digest,
        /// The manifest that names it.
        by: Digest,
    },
    /// This registry does not do it.
    #[error("this registry does not take {0}")]
    Unsupported(String),
    /// Too many wrong passwords from one address.
    #[error("too many failed attempts from this address; try again in {0} s")]
    TooManyAttempts(u64),
    /// Another registry is away, slow or wrong.
    #[error("{upstream}: {problem}")]
    Upstream {
        /// Which one.
        upstream: String,
        /// What is wrong.
        problem: String,
    },
    /// A page cannot have this size.
    #[error("n=`{0}` is not a number of entries")]
    PageSize(String),
    /// Another request goes on with the upload.
    #[error("another request goes on with this upload")]
    Overtaken,
    /// A folder cannot become an image or the other way round.
    #[error("{path}: {problem}")]
    Tree {
        /// The file, inside the image or folder.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The base image cannot be had.
    #[error("base image {reference}: {problem}")]
    Base {
        /// What was asked for.
        reference: String,
        /// Why not.
        problem: String,
        /// Whether the same request can succeed later without anybody changing anything.
        passing: bool,
    },
    /// The client broke off.
    #[error("the client broke off: {0}")]
    Broken(String),
}

impl RegistryError {
    pub(crate) fn io(path: impl ToString) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_string();
        move |source| {
            Self::Store(StoreError::Io {
                action: "use",
                path: path.into(),
                source,
            })
        }
    }

    /// The code of the distribution specification.
    pub(crate) fn oci_code(&self) -> &'static str {
        match self {
            Self::Denied(Denied::Unauthenticated) => "UNAUTHORIZED",
            Self::Denied(Denied::Invisible(_)) => "NAME_UNKNOWN",
            Self::Denied(Denied::Forbidden { .. }) | Self::InUse(_) | Self::Named { .. } => {
                "DENIED"
            }
            Self::Store(StoreError::Corrupted { .. }) | Self::DigestInvalid(_) => "DIGEST_INVALID",
            Self::Store(StoreError::NoBlob(_)) | Self::BlobUnknown { .. } => "BLOB_UNKNOWN",
            Self::Name(_) => "NAME_INVALID",
            Self::Reference(_) | Self::ManifestInvalid(_) => "MANIFEST_INVALID",
            Self::ManifestUnknown { .. } => "MANIFEST_UNKNOWN",
            Self::ManifestBlobUnknown(_) => "MANIFEST_BLOB_UNKNOWN",
            Self::UploadUnknown(_) => "BLOB_UPLOAD_UNKNOWN",
            Self::Range { .. } | Self::Broken(_) | Self::Overtaken => "BLOB_UPLOAD_INVALID",
            Self::TooLarge { .. } => "SIZE_INVALID",
            Self::Busy(_) | Self::TooManyAttempts(_) => "TOOMANYREQUESTS",
            Self::Unsupported(_) => "UNSUPPORTED",
            Self::PageSize(_) => "PAGINATION_NUMBER_INVALID",
            Self::Store(_) | Self::Tree { .. } | Self::Base { .. } | Self::Upstream { .. } => {
                "UNKNOWN"
            }
        }
    }
}

impl Classified for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Denied(denied) => denied.kind(),
            // A client's bytes that miss their announced digest are the client's mistake.
            Self::Store(StoreError::Corrupted { .. }) | Self::DigestInvalid(_) => {
                ErrorKind::InvalidInput
            }
            Self::Store(error) => error.kind(),
            Self::Name(_)
            | Self::Reference(_)
            | Self::ManifestInvalid(_)
            | Self::ManifestBlobUnknown(_)
            | Self::Range { .. }
            | Self::Tree { .. }
            | Self::PageSize(_)
            | Self::Broken(_) => ErrorKind::InvalidInput,
            Self::ManifestUnknown { .. } | Self::BlobUnknown { .. } | Self::UploadUnknown(_) => {
                ErrorKind::NotFound
            }
            Self::TooLarge { .. } => ErrorKind::TooLarge,
            Self::Busy(_) | Self::TooManyAttempts(_) => ErrorKind::RateLimited,
            Self::InUse(_) | Self::Named { .. } | Self::Overtaken => ErrorKind::Conflict,
            Self::Unsupported(_) => ErrorKind::Unsupported,
            Self::Base { passing: false, .. } => ErrorKind::InvalidInput,
            Self::Base { .. } | Self::Upstream { .. } => ErrorKind::Unavailable,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.code(),
            Self::Store(error) => error.code(),
            Self::Name(_) => "registry.name",
            Self::Reference(_) => "registry.reference",
            Self::ManifestUnknown { .. } => "registry.manifest.unknown",
            Self::BlobUnknown { .. } => "registry.blob.unknown",
            Self::ManifestInvalid(_) => "registry.manifest.invalid",
            Self::ManifestBlobUnknown(_) => "registry.manifest.blob-unknown",
            Self::DigestInvalid(_) => "registry.digest",
            Self::UploadUnknown(_) => "registry.upload.unknown",
            Self::Range { .. } => "registry.upload.range",
            Self::TooLarge { .. } => "registry.too-large",
            Self::Busy(_) => "registry.busy",
            Self::InUse(_) => "registry.in-use",
            Self::Named { .. } => "registry.named",
            Self::Unsupported(_) => "registry.unsupported",
            Self::TooManyAttempts(_) => "registry.attempts",
            Self::Upstream { .. } => "registry.upstream",
            Self::Overtaken => "registry.upload.overtaken",
            Self::PageSize(_) => "registry.page",
            Self::Tree { .. } => "registry.tree",
            Self::Base { .. } => "registry.base",
            Self::Broken(_) => "registry.upload.broken",
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Denied(denied) => denied.hint(),
            Self::Store(error) => error.hint(),
            Self::UploadUnknown(_) => {
                Some("push again: clients begin a new upload by themselves".to_owned())
            }
            Self::ManifestBlobUnknown(_) => Some("push its blobs first".to_owned()),
            Self::Named { by, .. } => Some(format!("delete {by} first")),
            Self::Upstream { .. } => Some(
                "what was pulled before is still served; check that the server can reach it"
                    .to_owned(),
            ),
            Self::Base { passing: false, .. } => {
                Some("check `build.base` of ondol.yaml".to_owned())
            }
            Self::Base { .. } => Some(
                "check the name and that its registry can be reached from the server".to_owned(),
            ),
            _ => None,
        }
    }
}
