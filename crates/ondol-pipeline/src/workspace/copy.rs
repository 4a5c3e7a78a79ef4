//! Copies and removals of whole folders.
//!
//! Symbolic links are copied as links and never followed, so that a repository cannot make the
//! platform read or write outside the workspace.

use std::fs::{self, File, FileTimes};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use ondol_types::RelPath;

use crate::error::PipelineError;

/// The most entries that a copy may have.
const MAX_ENTRIES: usize = 1_000_000;

/// What becomes of folders that a copy does not need to have of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linked {
    /// Links to those of the original.
    Links,
    /// They are left out.
    Absent,
}

/// Makes `to` a copy of `from`, replacing what is there. The folders in `links` become links to
/// those of `from`, or are left out. Permissions and modification times are kept, because build tools judge by them.
pub(crate) fn copy_tree(
    from: &Path,
    to: &Path,
    links: &[RelPath],
    how: Linked,
) -> Result<(), PipelineError> {
    remove_tree(to)?;
    fs::create_dir_all(to).map_err(PipelineError::io("make", to))?;
    let linked: Vec<_> = links.iter().map(|path| path.below(from)).collect();
    let mut folders = vec![(from.to_owned(), to.to_owned())];
    let mut entries = 0usize;
    while let Some((source, target)) = folders.pop() {
        for entry in fs::read_dir(&source).map_err(PipelineError::io("read", &source))? {
            let entry = entry.map_err(PipelineError::io("read", &source))?;
            entries += 1;
            if entries > MAX_ENTRIES {
                let error = io::Error::other(format!("it has more than {MAX_ENTRIES} entries"));
                return Err(PipelineError::io("copy", from)(error));
            }
            let (path, copy) = (entry.path(), target.join(entry.file_name()));
            let kind = entry
                .file_type()
                .map_err(PipelineError::io("read", &path))?;
            if kind.is_symlink() {
                let points_to = fs::read_link(&path).map_err(PipelineError::io("read", &path))?;
                symlink(points_to, &copy).map_err(PipelineError::io("make", &copy))?;
            } else if kind.is_dir() {
                if linked.contains(&path) {
                    if how == Linked::Absent {
                        continue;
                    }
                    symlink(&path, &copy).map_err(PipelineError::io("make", &copy))?;
                    continue;
                }
                fs::create_dir(&copy).map_err(PipelineError::io("make", &copy))?;
                folders.push((path, copy));
            } else if kind.is_file() {
                copy_file(&path, &copy).map_err(PipelineError::io("copy", &path))?;
            }
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> io::Result<()> {
    fs::copy(from, to)?;
    let modified = fs::metadata(from)?.modified()?;
    let file = File::open(to)?;
    file.set_times(FileTimes::new().set_modified(modified))
}

/// Removes a folder with everything in it; one that is not there is no error. Folders that a
/// program made unwritable (Go's module cache does) are made writable on the way.
pub(crate) fn remove_tree(path: &Path) -> Result<(), PipelineError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            fs::remove_file(path).map_err(PipelineError::io("remove", path))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            make_writable(path);
            fs::remove_dir_all(path).map_err(PipelineError::io("remove", path))
        }
        Err(error) => Err(PipelineError::io("remove", path)(error)),
    }
}

fn make_writable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let _ = fs::set_permissions(&folder, fs::Permissions::from_mode(0o700));
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(entry.path());
            }
        }
    }
}

/// Makes the laid out dataset in `data` appear at `path` of a copy: the folder itself, or its
/// only file when `path` is named like a file.
pub(crate) fn place_data(data: &Path, copy: &Path, path: &RelPath) -> Result<(), PipelineError> {
    let mut parent = copy.to_owned();
    let components: Vec<&str> = path.components().collect();
    for component in &components[..components.len() - 1] {
        parent.push(component);
        match fs::symlink_metadata(&parent) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                let error =
                    io::Error::other("the repository has something there that is no folder");
                return Err(PipelineError::io("place the data below", &parent)(error));
            }
            Err(_) => fs::create_dir(&parent).map_err(PipelineError::io("make", &parent))?,
        }
    }
    let target = path.below(copy);
    remove_tree(&target)?;
    let files: Vec<_> = fs::read_dir(data)
        .map_err(PipelineError::io("read", data))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let like_a_file = Path::new(path.file_name()).extension().is_some();
    let source = match files.as_slice() {
        [only] if like_a_file && only.is_file() => only.as_path(),
        _ => data,
    };
    symlink(source, &target).map_err(PipelineError::io("make", &target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_links_modes_and_times_and_links_what_it_is_told() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("node_modules/x")).unwrap();
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc/passwd", from.join("outside")).unwrap();
        let to = dir.path().join("to");
        fs::create_dir_all(to.join("old")).unwrap();
        copy_tree(
            &from,
            &to,
            &["node_modules".parse().unwrap()],
            Linked::Absent,
        )
        .unwrap();
        assert!(!to.join("node_modules").exists());
        copy_tree(
            &from,
            &to,
            &["node_modules".parse().unwrap()],
            Linked::Links,
        )
        .unwrap();
        assert!(!to.join("old").exists());
        assert_eq!(
            fs::read_link(to.join("outside")).unwrap(),
            Path::new("/etc/passwd")
        );
        assert_eq!(
            fs::read_link(to.join("node_modules")).unwrap(),
            from.join("node_modules")
        );
        let (before, after) = (
            fs::metadata(from.join("bin/run")).unwrap(),
            fs::metadata(to.join("bin/run")).unwrap(),
        );
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        assert_eq!(after.permissions().mode() & 0o777, 0o755);
        remove_tree(&to).unwrap();
        assert!(
            from.join("node_modules/x").exists(),
            "a link is removed, not what it points to"
        );
        remove_tree(&to).unwrap();
    }

    #[test]
    fn data_replaces_a_file_of_the_repository_but_never_follows_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (data, copy) = (dir.path().join("data"), dir.path().join("copy"));
        fs::create_dir_all(&data).unwrap();
        fs::write(data.join("part.csv"), "a\n1\n").unwrap();
        fs::create_dir_all(copy.join("data")).unwrap();
        fs::write(copy.join("data/iris.csv"), "old").unwrap();
        place_data(&data, &copy, &"data/iris.csv".parse().unwrap()).unwrap();
        assert_eq!(
            fs::read_to_string(copy.join("data/iris.csv")).unwrap(),
            "a\n1\n"
        );
        place_data(&data, &copy, &"data/iris".parse().unwrap()).unwrap();
        assert!(copy.join("data/iris/part.csv").exists());
        symlink(dir.path(), copy.join("out")).unwrap();
        let refused = place_data(&data, &copy, &"out/copy".parse().unwrap()).unwrap_err();
        assert!(refused.to_string().contains("place the data"), "{refused}");
        assert!(copy.exists());
    }
}
