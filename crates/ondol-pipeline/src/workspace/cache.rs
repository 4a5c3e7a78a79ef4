//! Folders that `install` and `build` fill, kept from one run to the next.
//!
//! A folder is moved into the checkout before `install` and moved back when the run has
//! finished, if its build passed. Two runs at once never share one: the second starts without.
//! A Python virtual environment knows its own place, so scripts in it are corrected on the way.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;

use ondol_types::{RelPath, Timestamp};

use super::{Caches, remove_tree};
use crate::error::PipelineError;

const KEY_FILE_LIMIT: u64 = 32 << 20;
const MOVED_FROM: &str = ".ondol-moved-from";

/// Names the state of the lock files: the same files give the same key.
pub(crate) fn key(source: &Path, locks: &[RelPath]) -> String {
    if locks.is_empty() {
        return "always".to_owned();
    }
    let mut hash = blake3::Hasher::new();
    for path in locks {
        hash.update(path.as_str().as_bytes());
        hash.update(&[0]);
        if let Ok(file) = fs::File::open(path.below(source)) {
            let _ = hash.update_reader(file.take(KEY_FILE_LIMIT));
        }
    }
    hash.finalize().to_hex()[..32].to_owned()
}

/// Moves kept folders into the checkout. What is there already stays.
pub(crate) fn restore(caches: &Caches, source: &Path, folders: &[RelPath], locks: &[RelPath]) {
    let key = key(source, locks);
    for path in folders {
        let (kept, target) = (caches.folder(&key, path), path.below(source));
        let fresh = fs::symlink_metadata(&target).is_err();
        if !fresh || !kept.is_dir() || !parents_are_folders(source, path) {
            continue;
        }
        if let Some(parent) = target.parent()
            && fs::create_dir_all(parent).is_err()
        {
            continue;
        }
        if fs::rename(&kept, &target).is_ok() {
            relocate(&target, source);
        }
    }
}

/// Moves folders of a checkout whose build passed back to where the next run finds them.
pub(crate) fn keep(
    caches: &Caches,
    source: &Path,
    folders: &[RelPath],
    locks: &[RelPath],
) -> Result<(), PipelineError> {
    let key = key(source, locks);
    for path in folders {
        let (kept, target) = (caches.folder(&key, path), path.below(source));
        if !fs::symlink_metadata(&target).is_ok_and(|found| found.is_dir())
            || !parents_are_folders(source, path)
        {
            continue;
        }
        if target.join("pyvenv.cfg").exists() {
            let _ = fs::write(
                target.join(MOVED_FROM),
                source.as_os_str().as_encoded_bytes(),
            );
        }
        remove_tree(&kept)?;
        if let Some(parent) = kept.parent() {
            fs::create_dir_all(parent).map_err(PipelineError::io("make", parent))?;
        }
        fs::rename(&target, &kept).map_err(PipelineError::io("keep", &target))?;
    }
    Ok(())
}

/// Whether nothing on the way to `path` is a link that the repository brought.
fn parents_are_folders(source: &Path, path: &RelPath) -> bool {
    let mut here = source.to_owned();
    let parts: Vec<&str> = path.components().collect();
    parts[..parts.len() - 1].iter().all(|part| {
        here.push(part);
        fs::symlink_metadata(&here).map_or(true, |found| found.is_dir())
    })
}

/// Corrects the places that a virtual environment remembers: first lines of its scripts, its
/// activation scripts and `.pth` files of editable installs.
fn relocate(folder: &Path, source: &Path) {
    let marker = folder.join(MOVED_FROM);
    let Ok(old) = fs::read_to_string(&marker) else {
        return;
    };
    let _ = fs::remove_file(&marker);
    let new = source.to_string_lossy();
    let mut files = list(&folder.join("bin"));
    for library in list(&folder.join("lib")) {
        files.extend(
            list(&library.join("site-packages"))
                .into_iter()
                .filter(|path| path.extension().is_some_and(|extension| extension == "pth")),
        );
    }
    for file in files {
        let regular =
            fs::symlink_metadata(&file).is_ok_and(|found| found.is_file() && found.len() < 1 << 20);
        let Some(text) = regular.then(|| fs::read_to_string(&file).ok()).flatten() else {
            continue;
        };
        if text.contains(&old) {
            // Written in place, so that the mode stays.
            let written = fs::OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(&file)
                .and_then(|mut open| open.write_all(text.replace(&old, &new).as_bytes()));
            if let Err(error) = written {
                tracing::warn!(path = %file.display(), %error, "cannot correct a script of a kept virtual environment");
            }
        }
    }
}

fn list(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    entries
        .flatten()
        .take(20_000)
        .map(|entry| entry.path())
        .collect()
}

/// Bytes of everything below a folder, and when something directly in it last changed.
fn measure(path: &Path) -> (u64, Timestamp) {
    let mut total = 0;
    let mut newest = Timestamp::from_micros(0);
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(found) = entry.metadata() else {
                continue;
            };
            if found.is_dir() {
                folders.push(entry.path());
            } else {
                total += found.len();
                let modified = found
                    .modified()
                    .ok()
                    .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
                if let Some(modified) = modified {
                    newest = newest.max(Timestamp::from_micros(modified.as_micros() as i64));
                }
            }
        }
    }
    (total, newest)
}

/// Deletes what was used least lately until the caches of a project fit. Returns the bytes freed.
/// Only called while no run of the project is under way.
pub(crate) fn trim(caches: &Caches, most_bytes: u64) -> u64 {
    let mut parts: Vec<_> = [caches.tools(), caches.folders()]
        .iter()
        .flat_map(|folder| list(folder))
        .map(|path| {
            let (bytes, newest) = measure(&path);
            (newest, bytes, path)
        })
        .collect();
    parts.sort();
    let mut total: u64 = parts.iter().map(|(_, bytes, _)| bytes).sum();
    let mut freed = 0;
    for (_, bytes, path) in parts {
        if total <= most_bytes {
            break;
        }
        match remove_tree(&path) {
            Ok(()) => {
                total -= bytes;
                freed += bytes;
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "cannot delete a cache"),
        }
    }
    freed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rel(text: &str) -> RelPath {
        text.parse().unwrap()
    }

    #[test]
    fn a_folder_comes_back_while_the_lock_file_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::of(dir.path(), &"web".parse().unwrap());
        let checkout = |name: &str, lock: &str| {
            let source = dir.path().join(name).join("src");
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join("package-lock.json"), lock).unwrap();
            source
        };
        let (folders, locks) = (
            vec![rel("web/node_modules")],
            vec![rel("package-lock.json")],
        );
        let first = checkout("one", "A");
        fs::create_dir_all(first.join("web/node_modules")).unwrap();
        fs::write(first.join("web/node_modules/x.js"), "x").unwrap();
        keep(&caches, &first, &folders, &locks).unwrap();
        let other = checkout("two", "B");
        restore(&caches, &other, &folders, &locks);
        assert!(!other.join("web").exists());
        let same = checkout("three", "A");
        restore(&caches, &same, &folders, &locks);
        assert!(same.join("web/node_modules/x.js").exists());
        let at_once = checkout("four", "A");
        restore(&caches, &at_once, &folders, &locks);
        assert!(
            !at_once.join("web").exists(),
            "two runs never share a folder"
        );
    }

    #[test]
    fn a_virtual_environment_learns_its_new_place() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::of(&dir.path().join("cache"), &"web".parse().unwrap());
        let (old, new) = (dir.path().join("one"), dir.path().join("two"));
        fs::create_dir_all(old.join(".venv/bin")).unwrap();
        fs::create_dir_all(&new).unwrap();
        fs::write(old.join(".venv/pyvenv.cfg"), "home = /usr/bin\n").unwrap();
        fs::write(
            old.join(".venv/bin/pytest"),
            format!("#!{}/.venv/bin/python\n", old.display()),
        )
        .unwrap();
        keep(&caches, &old, &[rel(".venv")], &[]).unwrap();
        restore(&caches, &new, &[rel(".venv")], &[]);
        let script = fs::read_to_string(new.join(".venv/bin/pytest")).unwrap();
        assert_eq!(script, format!("#!{}/.venv/bin/python\n", new.display()));
    }

    #[test]
    fn caches_are_trimmed_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let caches = Caches::of(dir.path(), &"web".parse().unwrap());
        for (name, age) in [("pip", 100), ("npm", 10)] {
            fs::create_dir_all(caches.tools().join(name)).unwrap();
            let path = caches.tools().join(name).join("f");
            fs::write(&path, vec![0u8; 1_000]).unwrap();
            let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 - age);
            fs::File::open(&path)
                .unwrap()
                .set_times(fs::FileTimes::new().set_modified(when))
                .unwrap();
        }
        assert_eq!(trim(&caches, 1_500), 1_000);
        assert!(!caches.tools().join("pip").exists() && caches.tools().join("npm").exists());
        assert_eq!(trim(&caches, 1_500), 0);
    }
}
