//! The directories of a workload before its shim starts.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use ondol_types::{RelPath, WorkloadId};

use crate::error::EngineError;
use crate::home::{Home, make_private_dir, remove_tree};
use crate::model::{WorkDir, WorkloadSpec};

/// The deepest tree that is copied; deeper ones are loops.
const MAX_DEPTH: usize = 256;

/// Makes the directories of an incarnation and returns the one it runs in.
pub(super) fn directories(home: &Home, spec: &WorkloadSpec) -> Result<PathBuf, EngineError> {
    make_private_dir(home.dir()).map_err(EngineError::io("make", home.dir()))?;
    for name in ["home", "tmp"] {
        let dir = home.path(name);
        remove_tree(&dir).map_err(EngineError::io("remove", &dir))?;
        make_private_dir(&dir).map_err(EngineError::io("make", &dir))?;
    }
    let own = home.path("work");
    let work = match &spec.work_dir {
        WorkDir::Fresh => {
            remove_tree(&own).map_err(EngineError::io("remove", &own))?;
            make_private_dir(&own).map_err(EngineError::io("make", &own))?;
            own
        }
        WorkDir::CopyOf(from) => {
            let from = existing(spec.id, from)?;
            remove_tree(&own).map_err(EngineError::io("remove", &own))?;
            copy_tree(&from, &own, 0).map_err(EngineError::io("copy to", &own))?;
            own
        }
        WorkDir::Existing(dir) => existing(spec.id, dir)?,
    };
    let is_own = !matches!(spec.work_dir, WorkDir::Existing(_));
    for (host, inside) in &spec.volumes {
        place_volume(&work, host, inside, is_own)?;
    }
    Ok(work)
}

fn existing(id: WorkloadId, dir: &Path) -> Result<PathBuf, EngineError> {
    match dir.canonicalize() {
        Ok(dir) if dir.is_dir() => Ok(dir),
        _ => Err(EngineError::Spec {
            id,
            problem: format!("there is no directory {}", dir.display()),
        }),
    }
}

/// Puts a host directory at a path inside the work directory. What the work directory brought
/// at that path becomes the content of a volume that is still empty.
fn place_volume(
    work: &Path,
    host: &Path,
    inside: &RelPath,
    is_own: bool,
) -> Result<(), EngineError> {
    fs::create_dir_all(host).map_err(EngineError::io("make", host))?;
    let host = host
        .canonicalize()
        .map_err(EngineError::io("resolve", host))?;
    let target = inside.below(work);
    // A symbolic link on the way could lead out of the work directory.
    let mut on_the_way = work.to_owned();
    for part in inside.components() {
        on_the_way.push(part);
        let link = fs::symlink_metadata(&on_the_way).is_ok_and(|metadata| metadata.is_symlink());
        if link && on_the_way != target {
            return Err(EngineError::VolumeOccupied(on_the_way));
        }
    }
    match fs::symlink_metadata(&target) {
        Ok(metadata) if metadata.is_symlink() => {
            if fs::read_link(&target).is_ok_and(|to| to == host) {
                return Ok(());
            }
            if !is_own {
                return Err(EngineError::VolumeOccupied(target));
            }
            fs::remove_file(&target).map_err(EngineError::io("remove", &target))?;
        }
        Ok(metadata) if metadata.is_dir() => {
            if is_own && is_empty(&host).map_err(EngineError::io("list", &host))? {
                copy_content(&target, &host, 0).map_err(EngineError::io("copy to", &host))?;
            }
            let removed = if is_own {
                remove_tree(&target)
            } else {
                fs::remove_dir(&target)
            };
            removed.map_err(|_| EngineError::VolumeOccupied(target.clone()))?;
        }
        Ok(_) if is_own => fs::remove_file(&target).map_err(EngineError::io("remove", &target))?,
        Ok(_) => return Err(EngineError::VolumeOccupied(target)),
        Err(_) => {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(EngineError::io("make", parent))?;
            }
        }
    }
    symlink(&host, &target).map_err(EngineError::io("link", &target))
}

fn is_empty(dir: &Path) -> io::Result<bool> {
    Ok(fs::read_dir(dir)?.next().is_none())
}

/// Copies a tree: files with their modes, links as links. Sockets and devices are left out.
fn copy_tree(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    make_private_dir(to)?;
    copy_content(from, to, depth)?;
    // Last, because a directory that may not be written must be filled first.
    let mode = fs::metadata(from)?.permissions();
    fs::set_permissions(to, mode)
}

fn copy_content(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the tree is nested too deeply",
        ));
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_tree(&entry.path(), &target, depth + 1)?;
        } else if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &target)?;
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rel(text: &str) -> RelPath {
        text.parse().unwrap()
    }

    #[test]
    fn an_empty_volume_takes_what_the_work_directory_brought() {
        let dir = tempfile::tempdir().unwrap();
        let (work, host) = (dir.path().join("work"), dir.path().join("volume"));
        fs::create_dir_all(work.join("data/deep")).unwrap();
        fs::write(work.join("data/deep/seed"), "s").unwrap();
        place_volume(&work, &host, &rel("data"), true).unwrap();
        assert_eq!(fs::read_to_string(host.join("deep/seed")).unwrap(), "s");
        assert!(
            fs::symlink_metadata(work.join("data"))
                .unwrap()
                .is_symlink()
        );
        fs::write(work.join("data/new"), "n").unwrap();
        assert!(host.join("new").exists());
        place_volume(&work, &host, &rel("data"), true).unwrap();
    }

    #[test]
    fn a_filled_volume_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let (work, host) = (dir.path().join("work"), dir.path().join("volume"));
        fs::create_dir_all(work.join("data")).unwrap();
        fs::create_dir_all(&host).unwrap();
        fs::write(work.join("data/file"), "from the release").unwrap();
        fs::write(host.join("file"), "from before").unwrap();
        place_volume(&work, &host, &rel("data"), true).unwrap();
        assert_eq!(
            fs::read_to_string(work.join("data/file")).unwrap(),
            "from before"
        );
    }

    #[test]
    fn files_of_the_caller_are_not_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let (work, host) = (dir.path().join("work"), dir.path().join("volume"));
        fs::create_dir_all(work.join("data")).unwrap();
        fs::write(work.join("data/precious"), "p").unwrap();
        let error = place_volume(&work, &host, &rel("data"), false).unwrap_err();
        assert!(matches!(error, EngineError::VolumeOccupied(_)));
        assert!(work.join("data/precious").exists());
    }

    #[test]
    fn a_link_cannot_lead_a_volume_out_of_the_work_directory() {
        let dir = tempfile::tempdir().unwrap();
        let (work, outside) = (dir.path().join("work"), dir.path().join("outside"));
        fs::create_dir_all(&work).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink(&outside, work.join("a")).unwrap();
        assert!(place_volume(&work, &dir.path().join("volume"), &rel("a/b"), true).is_err());
        assert!(is_empty(&outside).unwrap());
    }

    #[test]
    fn copies_keep_modes_and_links() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("bin")).unwrap();
        fs::write(from.join("bin/tool"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(from.join("bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("bin/tool", from.join("link")).unwrap();
        let to = dir.path().join("to");
        copy_tree(&from, &to, 0).unwrap();
        assert_eq!(
            fs::metadata(to.join("bin/tool"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_link(to.join("link")).unwrap(),
            Path::new("bin/tool")
        );
    }
}
