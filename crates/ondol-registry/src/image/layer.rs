//! A folder as a reproducible layer: the same files give the same bytes on every machine.
//!
//! Entries are sorted by path; times, owners and the umask of the builder leave no trace; the
//! gzip header has no time and no name.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder, write::GzEncoder};
use ondol_store::blobs::Hasher;
use ondol_types::{Algorithm, Digest};

use super::relocate;
use crate::error::RegistryError;

/// Names that are never part of an image: history, caches, what a person's tools leave behind.
const LEFT_OUT: &[&str] = &[
    ".git",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".DS_Store",
    ".ondol",
];

/// Names whose content changes with the lockfile and not with the code: a layer of their own.
const DEPENDENCIES: &[&str] = &[".venv", "node_modules", "vendor"];

/// Which files of the folder go into the image, by their path below it.
pub type Keep = std::sync::Arc<dyn Fn(&Path) -> bool + Send + Sync>;

const MAX_ENTRIES: usize = 500_000;

/// Which part of the folder a layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Dependencies,
    Code,
}

/// A finished layer in a temporary file.
pub(super) struct Layer {
    pub(super) file: tempfile::NamedTempFile,
    /// Digest of the compressed bytes: its address.
    pub(super) digest: Digest,
    /// Digest of the plain tar: its `diff_id`.
    pub(super) diff_id: Digest,
    pub(super) size: u64,
    pub(super) entries: usize,
}

/// Writes on, counts and hashes.
pub(super) struct Tee<W> {
    inner: W,
    hasher: Hasher,
    written: u64,
}

impl<W: Write> Tee<W> {
    pub(super) fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(Algorithm::Sha256),
            written: 0,
        }
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Where it wrote to, and the digest of all of it.
    pub(super) fn finish(self) -> (W, Digest) {
        (self.inner, self.hasher.finish())
    }
}

impl<W: Write> Write for Tee<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..length]);
        self.written += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Lists the entries of a part, sorted, as paths relative to `root`.
pub(super) fn list(root: &Path, part: Part, keep: &Keep) -> Result<Vec<PathBuf>, RegistryError> {
    let mut found = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(folder) = pending.pop() {
        let path = root.join(&folder);
        for entry in fs::read_dir(&path).map_err(RegistryError::io(path.display()))? {
            let entry = entry.map_err(RegistryError::io(path.display()))?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let top = folder.as_os_str().is_empty();
            let relative = folder.join(&name);
            if LEFT_OUT.contains(&&*text) {
                continue;
            }
            if top && (DEPENDENCIES.contains(&&*text) != (part == Part::Dependencies)) {
                continue;
            }
            let kind = entry
                .file_type()
                .map_err(RegistryError::io(relative.display()))?;
            if kind.is_dir() {
                pending.push(relative.clone());
            } else if !keep(&relative) {
                continue;
            }
            if kind.is_dir() || kind.is_file() || kind.is_symlink() {
                found.push(relative);
            }
            if found.len() > MAX_ENTRIES {
                return Err(RegistryError::TooLarge {
                    what: format!("the image ({MAX_ENTRIES} files)"),
                    limit: MAX_ENTRIES as u64,
                });
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a link at `from` that says `to` stays below the root of the image's folder. Steps up
/// come first: behind a name that is itself a link, `..` would lead anywhere.
pub(super) fn link_stays_inside(from: &Path, to: &Path) -> bool {
    let mut depth = from.components().count() as i64 - 1;
    let mut named = false;
    for part in to.components() {
        match part {
            std::path::Component::Normal(_) => named = true,
            std::path::Component::ParentDir if named => return false,
            std::path::Component::ParentDir => depth -= 1,
            std::path::Component::CurDir => {}
            std::path::Component::RootDir | std::path::Component::Prefix(_) => return false,
        }
        if depth < 0 {
            return false;
        }
    }
    true
}

/// Packs a part of `root` below `prefix` (such as `app`).
pub(super) fn pack(
    root: &Path,
    prefix: &str,
    part: Part,
    keep: &Keep,
) -> Result<Layer, RegistryError> {
    let file = tempfile::NamedTempFile::new().map_err(RegistryError::io("a temporary file"))?;
    let compressed = Tee::new(std::io::BufWriter::new(file));
    let gzip: GzEncoder<_> = GzBuilder::new()
        .mtime(0)
        .write(compressed, Compression::new(6));
    let mut tar = tar::Builder::new(Tee::new(gzip));
    let entries = list(root, part, keep)?;
    for (index, _) in prefix.match_indices('/').chain([(prefix.len(), "")]) {
        append(
            &mut tar,
            Path::new(&prefix[..index]),
            tar::EntryType::Directory,
            0o755,
            None,
            &[],
        )?;
    }
    for relative in &entries {
        let source = root.join(relative);
        let target = Path::new(prefix).join(relative);
        let metadata =
            fs::symlink_metadata(&source).map_err(RegistryError::io(relative.display()))?;
        if metadata.is_dir() {
            append(
                &mut tar,
                &target,
                tar::EntryType::Directory,
                0o755,
                None,
                &[],
            )?;
        } else if metadata.is_symlink() {
            let link = fs::read_link(&source).map_err(RegistryError::io(relative.display()))?;
            // The interpreter of a virtual environment is the one link that points at the host.
            let interpreter = relative.starts_with(".venv/bin");
            if !interpreter && !link_stays_inside(relative, &link) {
                return Err(RegistryError::Tree {
                    path: relative.display().to_string(),
                    problem: format!(
                        "this link leaves the repository (it points at {})",
                        link.display()
                    ),
                });
            }
            append(
                &mut tar,
                &target,
                tar::EntryType::Symlink,
                0o777,
                Some(&link),
                &[],
            )?;
        } else {
            let executable = metadata.permissions().mode() & 0o111 != 0;
            let mode = if executable { 0o755 } else { 0o644 };
            let mut bytes = Vec::with_capacity(metadata.len() as usize);
            fs::File::open(&source)
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .map_err(RegistryError::io(relative.display()))?;
            if executable && let Some(moved) = relocate::script(&bytes, root) {
                bytes = moved;
            }
            append(
                &mut tar,
                &target,
                tar::EntryType::Regular,
                mode,
                None,
                &bytes,
            )?;
        }
    }
    let io = |error| RegistryError::io("the layer")(error);
    let plain = tar.into_inner().map_err(io)?;
    let compressed = plain.inner.finish().map_err(io)?;
    let file = compressed
        .inner
        .into_inner()
        .map_err(|error| io(error.into_error()))?;
    Ok(Layer {
        file,
        digest: compressed.hasher.finish(),
        diff_id: plain.hasher.finish(),
        size: compressed.written,
        entries: entries.len(),
    })
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    kind: tar::EntryType,
    mode: u32,
    link: Option<&Path>,
    bytes: &[u8],
) -> Result<(), RegistryError> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    let problem = |error: std::io::Error| RegistryError::Tree {
        path: path.display().to_string(),
        problem: error.to_string(),
    };
    match link {
        Some(link) => tar.append_link(&mut header, path, link).map_err(problem),
        None => tar.append_data(&mut header, path, bytes).map_err(problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Keep {
        std::sync::Arc::new(|_: &Path| true)
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pkg/__pycache__")).unwrap();
        fs::create_dir_all(dir.path().join(".git")).unwrap();
        fs::create_dir_all(dir.path().join(".venv/bin")).unwrap();
        fs::write(dir.path().join(".git/config"), "x").unwrap();
        fs::write(dir.path().join("pkg/__pycache__/a.pyc"), "x").unwrap();
        fs::write(dir.path().join("pkg/a.py"), "print(1)").unwrap();
        fs::write(dir.path().join("app.py"), "import pkg").unwrap();
        std::os::unix::fs::symlink("app.py", dir.path().join("link.py")).unwrap();
        std::os::unix::fs::symlink("/usr/bin/python3", dir.path().join(".venv/bin/python3"))
            .unwrap();
        dir
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let (one, two) = (tree(), tree());
        fs::set_permissions(two.path().join("app.py"), fs::Permissions::from_mode(0o600)).unwrap();
        for part in [Part::Code, Part::Dependencies] {
            let a = pack(one.path(), "app", part, &all()).unwrap();
            let b = pack(two.path(), "app", part, &all()).unwrap();
            assert_eq!((&a.digest, &a.diff_id), (&b.digest, &b.diff_id));
        }
    }

    #[test]
    fn history_and_caches_stay_out_and_dependencies_have_their_own_layer() {
        let dir = tree();
        let code = list(dir.path(), Part::Code, &all()).unwrap();
        assert_eq!(
            code,
            ["app.py", "link.py", "pkg", "pkg/a.py"].map(PathBuf::from)
        );
        assert!(
            list(dir.path(), Part::Dependencies, &all())
                .unwrap()
                .iter()
                .all(|path| path.starts_with(".venv"))
        );
        assert_eq!(
            list(
                dir.path(),
                Part::Code,
                &(std::sync::Arc::new(|path: &Path| !path.starts_with("pkg")) as Keep)
            )
            .unwrap(),
            ["app.py", "link.py", "pkg"].map(PathBuf::from)
        );
    }

    #[test]
    fn links_out_of_the_tree_are_refused_by_name() {
        let dir = tree();
        std::os::unix::fs::symlink("../../etc/passwd", dir.path().join("pkg/out")).unwrap();
        let error = pack(dir.path(), "app", Part::Code, &all())
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("pkg/out") && error.contains("leaves the repository"),
            "{error}"
        );
    }
}
