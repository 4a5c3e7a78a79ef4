//! Paths and git names from outside, checked as types: rows 1, 4 and 6 of every attack list
//! begin with a text that was used before it was read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::text_type;

/// Why a text is not a safe path, ref or commit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not a path that stays below its root.
    #[error("`{0}` is not a relative path that stays inside its folder")]
    Escapes(String),
    /// Not a ref name that `git check-ref-format` allows.
    #[error("`{0}` is not a valid git ref name")]
    Ref(String),
    /// Not a full object name.
    #[error("`{0}` is not a full git object name (40 or 64 hexadecimal digits)")]
    Commit(String),
}

fn cut(text: &str) -> String {
    text.chars().take(120).collect()
}

/// A relative path with `/` between components, none of them empty, `.` or `..`; no NUL, no
/// backslash, at most 4,096 bytes. It can be joined below any root without leaving it, as long
/// as the root holds no symbolic links that somebody else made.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(Box<str>);

impl RelPath {
    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path below `root`.
    pub fn below(&self, root: &Path) -> PathBuf {
        root.join(&*self.0)
    }

    /// The components in order.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }
}

impl FromStr for RelPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad_component =
            |part: &str| part.is_empty() || part == "." || part == ".." || part.len() > 255;
        if text.len() > 4_096 || text.contains(['\0', '\\']) || text.split('/').any(bad_component) {
            return Err(PathError::Escapes(cut(text)));
        }
        Ok(Self(text.into()))
    }
}

/// A full ref name such as `refs/heads/main`, by the rules of git-check-ref-format(1), and
/// never beginning with `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(Box<str>);

impl RefName {
    /// The full name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The branch name when this is a branch.
    pub fn branch(&self) -> Option<&str> {
        self.0.strip_prefix("refs/heads/")
    }

    /// The ref of a branch.
    pub fn of_branch(branch: &str) -> Result<Self, PathError> {
        format!("refs/heads/{branch}").parse()
    }
}

impl FromStr for RefName {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || PathError::Ref(cut(text));
        let forbidden = |c: char| c.is_control() || " ~^:?*[\\\x7f".contains(c);
        let bad_part = |part: &str| {
            part.is_empty()
                || part.starts_with('.')
                || part.starts_with('-')
                || part.ends_with(".lock")
                || part.ends_with('.')
        };
        if text.len() > 1_024 || !text.starts_with("refs/") || text.split('/').count() < 3 {
            return Err(bad());
        }
        if text.contains(forbidden)
            || text.contains("..")
            || text.contains("@{")
            || text.split('/').any(bad_part)
        {
            return Err(bad());
        }
        Ok(Self(text.into()))
    }
}

/// A full git object name in lower-case hexadecimal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId(Box<str>);

impl CommitId {
    /// The object name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first seven digits, for people.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }

    /// Whether this is the all-zero name that git uses for "nothing".
    pub fn is_null(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'0')
    }
}

impl FromStr for CommitId {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hexadecimal = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if !(text.len() == 40 || text.len() == 64) || !hexadecimal {
            return Err(PathError::Commit(cut(text)));
        }
        Ok(Self(text.into()))
    }
}

macro_rules! shown {
    ($name:ident, $description:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        text_type!($name, stringify!($name), $description);
    };
}

shown!(RelPath, "relative path with `/` between components");
shown!(RefName, "full git ref name");
shown!(CommitId, "full git object name");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refs_follow_check_ref_format() {
        for good in [
            "refs/heads/main",
            "refs/heads/feature/x",
            "refs/tags/v1.0",
            "refs/heads/한글",
        ] {
            assert!(good.parse::<RefName>().is_ok(), "{good}");
        }
        for bad in [
            "main",
            "refs/heads/",
            "refs/heads/-x",
            "refs/heads/a..b",
            "refs/heads/a b",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a@{b",
            "refs/heads/a\n",
            "refs/heads/a~1",
            "refs//heads/a",
            "--upload-pack=x",
            "refs/heads/a.",
        ] {
            assert!(bad.parse::<RefName>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn relative_paths_never_leave_their_root(text in "\\PC{0,40}") {
            if let Ok(path) = text.parse::<RelPath>() {
                let joined = path.below(Path::new("/root/dir"));
                prop_assert!(joined.starts_with("/root/dir") && joined != Path::new("/root/dir"));
                prop_assert!(!joined.components().any(|part| part == std::path::Component::ParentDir));
            }
        }
    }
}
