//! Which symbolic links stay inside the tree.
//!
//! The folder that holds a link is a real folder, so leading `..` go up through real folders and
//! can be counted. After a name, `..` would go up from wherever that name leads, which may be
//! another link; so it is refused there. By that rule every link leads into the tree, whatever
//! chain of links is followed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use ondol_types::RelPath;

/// The target of a link at `path`, when it stays inside the tree.
pub(super) fn inside<'a>(path: &RelPath, target: &'a [u8]) -> Option<&'a OsStr> {
    if target.is_empty() || target[0] == b'/' || target.contains(&0) {
        return None;
    }
    let mut depth = path.components().count() - 1;
    let mut named = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if named || depth == 0 => return None,
            b".." => depth -= 1,
            _ => named = true,
        }
    }
    Some(OsStr::from_bytes(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_may_lead_out_are_told_apart() {
        for (path, target, good) in [
            ("a", "b", true),
            ("a/b", "../c", true),
            ("a/b/c", "../../d/e", true),
            ("a", "./b/", true),
            ("a/b", ".", true),
            ("a", "..", false),
            ("a", "../x", false),
            ("a/b", "../../x", false),
            ("a", "/etc/passwd", false),
            ("a", "b/../../x", false),
            // Inside by its text, outside when `d` is a link to a shallower folder.
            ("p/q/e", "d/../../x", false),
            ("a", "", false),
            ("a", "b\0c", false),
        ] {
            let path: RelPath = path.parse().unwrap();
            assert_eq!(
                inside(&path, target.as_bytes()).is_some(),
                good,
                "{path} -> {target}"
            );
        }
    }
}
