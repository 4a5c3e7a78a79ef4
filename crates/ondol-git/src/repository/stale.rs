//! What a killed git leaves behind: locks that would block a ref for ever, quarantines, `.keep`
//! files and temporary packs. They are removed once per start and repository, and only when no
//! process works there: a receive that outlived its control plane may still be finishing.

use std::fs;
use std::path::Path;

const DEPTH: usize = 16;
const ENTRIES: usize = 200_000;

/// Whether a process has its working directory in the repository. When that cannot be known, the
/// answer is yes.
pub(crate) fn has_live_process(repository: &Path) -> bool {
    let Ok(repository) = repository.canonicalize() else {
        return false;
    };
    let Ok(processes) = fs::read_dir("/proc") else {
        return true;
    };
    processes.flatten().any(|process| {
        let is_process = process
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        is_process
            && fs::read_link(process.path().join("cwd"))
                .is_ok_and(|cwd| cwd.starts_with(&repository))
    })
}

/// Removes what a killed git left in a repository. Returns how many things that were.
pub(crate) fn sweep_stale(repository: &Path) -> usize {
    let mut removed = 0;
    for lock in [
        "HEAD.lock",
        "packed-refs.lock",
        "config.lock",
        "shallow.lock",
        "gc.pid.lock",
        "gc.pid",
    ] {
        removed += usize::from(fs::remove_file(repository.join(lock)).is_ok());
    }
    let mut seen = 0;
    sweep_refs(&repository.join("refs"), DEPTH, &mut seen, &mut removed);
    let objects = repository.join("objects");
    for entry in fs::read_dir(&objects).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let temporary = name
            .to_str()
            .is_some_and(|name| name.starts_with("tmp_objdir-") || name.starts_with("incoming-"));
        if temporary {
            removed += usize::from(fs::remove_dir_all(entry.path()).is_ok());
        }
    }
    for entry in fs::read_dir(objects.join("pack"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let stale = name
            .to_str()
            .is_some_and(|name| name.starts_with("tmp_") || name.ends_with(".keep"));
        if stale {
            removed += usize::from(fs::remove_file(entry.path()).is_ok());
        }
    }
    removed
}

fn sweep_refs(folder: &Path, depth: usize, seen: &mut usize, removed: &mut usize) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        *seen += 1;
        if *seen > ENTRIES {
            return;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => sweep_refs(&entry.path(), depth - 1, seen, removed),
            Ok(_) if entry.path().extension().is_some_and(|end| end == "lock") => {
                *removed += usize::from(fs::remove_file(entry.path()).is_ok());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_go_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let keep = [
            "HEAD",
            "refs/heads/main",
            "refs/heads/lock",
            "objects/pack/pack-1.pack",
        ];
        let drop = [
            "HEAD.lock",
            "refs/heads/main.lock",
            "refs/heads/a/b.lock",
            "objects/tmp_objdir-incoming-X1/pack/x",
            "objects/pack/tmp_pack_1",
            "objects/pack/pack-1.keep",
        ];
        for file in keep.iter().chain(&drop) {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        assert_eq!(sweep_stale(dir.path()), drop.len());
        assert!(keep.iter().all(|file| dir.path().join(file).exists()));
        assert!(!drop.iter().any(|file| dir.path().join(file).exists()));
        assert!(!has_live_process(dir.path()));
    }
}
