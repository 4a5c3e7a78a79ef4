//! Where a volume appears.

use std::fmt;
use std::str::FromStr;

use ondol_types::RelPath;

use super::text::{TextError, text_form};

const EXPECTED: &str =
    "a folder inside the work directory, such as `data`, or an absolute path of a container";

/// Parts of a root filesystem that belong to its kernel.
const KERNEL: [&str; 3] = ["proc", "sys", "dev"];

/// A folder inside the work directory, or an absolute path, which needs a root filesystem of the
/// service's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumePath {
    absolute: bool,
    path: RelPath,
}

impl VolumePath {
    /// The folder inside the work directory; `None` for an absolute path.
    pub fn inside(&self) -> Option<&RelPath> {
        (!self.absolute).then_some(&self.path)
    }

    /// Whether it needs a root filesystem of the service's own.
    pub fn is_absolute(&self) -> bool {
        self.absolute
    }

    /// The absolute path for a program that starts in `work_dir`.
    pub fn at(&self, work_dir: &str) -> String {
        let root = if self.absolute { "" } else { work_dir };
        format!("{}/{}", root.trim_end_matches('/'), self.path)
    }

    /// Whether one of the two lies in the other, as far as that can be said without knowing the
    /// work directory.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.absolute == other.absolute
            && self
                .path
                .components()
                .zip(other.path.components())
                .all(|(a, b)| a == b)
    }

    pub(crate) fn first(&self) -> Option<&str> {
        self.path.components().next()
    }
}

impl From<RelPath> for VolumePath {
    fn from(path: RelPath) -> Self {
        Self {
            absolute: false,
            path,
        }
    }
}

impl FromStr for VolumePath {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let bad = || TextError::new(text, EXPECTED);
        let absolute = text.starts_with('/');
        let path: RelPath = text
            .strip_prefix('/')
            .unwrap_or(text)
            .trim_end_matches('/')
            .parse()
            .map_err(|_| bad())?;
        let kernel = path
            .components()
            .next()
            .is_some_and(|first| KERNEL.contains(&first));
        // A colon or a comma ends a path in the notations of container engines.
        if absolute && (kernel || path.as_str().contains([':', ','])) {
            return Err(bad());
        }
        Ok(Self { absolute, path })
    }
}

impl fmt::Display for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = if self.absolute { "/" } else { "" };
        write!(f, "{root}{}", self.path)
    }
}

impl fmt::Debug for VolumePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

text_form!(
    VolumePath,
    "a folder inside the work directory, or an absolute path of a container"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_inside_or_absolute() {
        let at = |text: &str| text.parse::<VolumePath>().unwrap().at("/app");
        assert_eq!(at("data"), "/app/data");
        assert_eq!(at("data/"), "/app/data");
        assert_eq!(at("/var/lib/postgresql/data"), "/var/lib/postgresql/data");
        for bad in [
            "", "/", "..", "/a/../b", "/proc/1", "/dev", "a//b", "/a:ro", "/sys",
        ] {
            assert!(bad.parse::<VolumePath>().is_err(), "{bad}");
        }
        let volume: VolumePath = "/srv".parse().unwrap();
        assert!(volume.is_absolute() && volume.inside().is_none());
        assert_eq!(volume.to_string(), "/srv");
    }
}
