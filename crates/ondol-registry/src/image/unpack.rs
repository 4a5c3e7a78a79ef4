//! From an image back to the folder it was made of, as hostile as its layers may be.
//!
//! Only what stands below `/app` is unpacked: the process engine takes the rest from the host.
//! Every path is checked as text, nothing is written through a link, devices and the like are
//! refused, and bytes and entries are bounded.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use ondol_auth::Ctx;
use ondol_types::Digest;

use super::build::APP_DIR;
use super::extensions::{Bounded, Extensions};
use super::layer::link_stays_inside;
use super::parts::{Described, configuration, described};
use crate::error::RegistryError;
use crate::model::Repository;
use crate::service::RegistryService;

const MAX_BYTES: u64 = 20 << 30;
const MAX_ENTRIES: u64 = 1_000_000;
/// What all of an archive may unpack to, with everything that is not kept.
const MAX_UNPACKED: u64 = 4 * MAX_BYTES;

impl RegistryService {
    /// Writes the `/app` of an image into `destination`, which must not exist yet or be empty.
    /// A crash on the way leaves a folder that the caller must not use: unpack beside the final
    /// place and rename.
    ///
    /// # Errors
    /// [`RegistryError::ManifestUnknown`], [`RegistryError::Tree`] for entries that would leave
    /// the folder, [`RegistryError::Store`] when bytes are missing or corrupted.
    pub async fn unpack(
        &self,
        ctx: &Ctx,
        repository: &Repository,
        image: &Digest,
        destination: &Path,
    ) -> Result<Described, RegistryError> {
        let parts = self.image_parts(ctx, repository, image).await?;
        let said = described(&configuration(&parts.config)?);
        fs::create_dir_all(destination).map_err(RegistryError::io(destination.display()))?;
        let mut budget = Budget {
            bytes: MAX_BYTES,
            entries: MAX_ENTRIES,
        };
        for layer in &parts.layers {
            self.blobs().verify(&layer.digest).await?;
            let (file, _) = self.blobs().open_file(&layer.digest).await?;
            let file = file.into_std().await;
            let (destination, gzip) = (destination.to_owned(), layer.media_type.ends_with("gzip"));
            let plain = layer.media_type.ends_with(".tar");
            if !gzip && !plain {
                return Err(RegistryError::ManifestInvalid(format!(
                    "layers of type {} are not supported",
                    layer.media_type
                )));
            }
            budget = tokio::task::spawn_blocking(move || {
                let reader: Box<dyn Read> = if gzip {
                    Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::new(file)))
                } else {
                    Box::new(io::BufReader::new(file))
                };
                apply(reader, &destination, budget)
            })
            .await
            .map_err(|error| RegistryError::io("a layer")(io::Error::other(error)))??;
        }
        Ok(said)
    }
}

/// What is left to write before a layer counts as a bomb.
#[derive(Clone, Copy, Debug)]
struct Budget {
    bytes: u64,
    entries: u64,
}

fn refuse(path: &Path, problem: &str) -> RegistryError {
    RegistryError::Tree {
        path: path.display().to_string(),
        problem: problem.to_owned(),
    }
}

/// The path below the application's folder, if the entry is there at all.
fn inside(path: &Path) -> Result<Option<PathBuf>, RegistryError> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => clean.push(part),
            Component::CurDir => {}
            Component::RootDir => return Err(refuse(path, "an absolute path in a layer")),
            _ => return Err(refuse(path, "a path in a layer that leaves its root")),
        }
    }
    Ok(clean.strip_prefix(APP_DIR).ok().map(Path::to_owned))
}

/// Makes the folders on the way, never through a link.
fn prepare(root: &Path, folder: &Path) -> Result<PathBuf, RegistryError> {
    let mut path = root.to_owned();
    for part in folder.components() {
        path.push(part);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(refuse(
                    folder,
                    "an entry of a layer stands below something that is not a folder",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir(&path).map_err(RegistryError::io(path.display()))?;
            }
            Err(error) => return Err(RegistryError::io(path.display())(error)),
        }
    }
    Ok(path)
}

fn clear(path: &Path) -> Result<(), RegistryError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            fs::remove_dir_all(path).map_err(RegistryError::io(path.display()))
        }
        Ok(_) => fs::remove_file(path).map_err(RegistryError::io(path.display())),
        Err(_) => Ok(()),
    }
}

/// Applies one layer, with whiteouts.
fn apply(reader: impl Read, root: &Path, mut budget: Budget) -> Result<Budget, RegistryError> {
    let mut archive = tar::Archive::new(Bounded::new(reader, MAX_UNPACKED));
    let broken = |error: io::Error| RegistryError::Tree {
        path: "a layer".to_owned(),
        problem: error.to_string(),
    };
    let mut written: BTreeSet<PathBuf> = BTreeSet::new();
    let mut extensions = Extensions::default();
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        budget.entries = budget
            .entries
            .checked_sub(1)
            .ok_or_else(|| RegistryError::TooLarge {
                what: "the image (entries)".to_owned(),
                limit: MAX_ENTRIES,
            })?;
        if extensions.take(&mut entry).map_err(broken)? {
            continue;
        }
        let said = std::mem::take(&mut extensions);
        said.check(entry.header()).map_err(broken)?;
        let path = match said.path {
            Some(path) => PathBuf::from(OsString::from_vec(path)),
            None => entry.path().map_err(broken)?.into_owned(),
        };
        let link = match said.link {
            Some(link) => Some(PathBuf::from(OsString::from_vec(link))),
            None => entry
                .link_name()
                .map_err(broken)?
                .map(std::borrow::Cow::into_owned),
        };
        let Some(relative) = inside(&path)? else {
            continue;
        };
        if relative.as_os_str().is_empty() {
            continue;
        }
        let folder = relative.parent().unwrap_or(Path::new(""));
        let name = relative
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if name == ".wh..wh..opq" {
            let kept = root.join(folder);
            if fs::symlink_metadata(&kept).is_ok_and(|metadata| metadata.is_dir()) {
                for child in fs::read_dir(&kept)
                    .map_err(RegistryError::io(kept.display()))?
                    .flatten()
                {
                    if !written.contains(&folder.join(child.file_name())) {
                        clear(&child.path())?;
                    }
                }
            }
            continue;
        }
        if let Some(gone) = name.strip_prefix(".wh.") {
            if gone.is_empty() || gone == "." || gone == ".." || gone.contains('/') {
                return Err(refuse(&path, "a whiteout that names nothing"));
            }
            prepare(root, folder)?;
            clear(&root.join(folder).join(gone))?;
            continue;
        }
        let target = prepare(root, folder)?.join(&name);
        written.insert(relative.clone());
        write_entry(&mut entry, link, root, &relative, &target, &mut budget)?;
    }
    Ok(budget)
}

fn write_entry<R: Read>(
    entry: &mut tar::Entry<'_, R>,
    link: Option<PathBuf>,
    root: &Path,
    relative: &Path,
    target: &Path,
    budget: &mut Budget,
) -> Result<(), RegistryError> {
    let broken = |error: io::Error| refuse(relative, &error.to_string());
    let mode = entry.header().mode().unwrap_or(0o644) & 0o777;
    match entry.header().entry_type() {
        tar::EntryType::Directory => {
            if !fs::symlink_metadata(target).is_ok_and(|metadata| metadata.is_dir()) {
                clear(target)?;
                fs::create_dir(target).map_err(broken)?;
            }
        }
        tar::EntryType::Regular | tar::EntryType::Continuous => {
            clear(target)?;
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode | 0o600)
                .open(target)
                .map_err(broken)?;
            let copied = io::copy(&mut entry.take(budget.bytes), &mut file).map_err(broken)?;
            budget.bytes -= copied;
            if budget.bytes == 0 {
                return Err(RegistryError::TooLarge {
                    what: "the image".to_owned(),
                    limit: MAX_BYTES,
                });
            }
            file.set_permissions(fs::Permissions::from_mode(mode | 0o600))
                .map_err(broken)?;
        }
        tar::EntryType::Symlink => {
            let link = link.ok_or_else(|| refuse(relative, "a link without a target"))?;
            if !relative.starts_with(".venv/bin") && !link_stays_inside(relative, &link) {
                return Err(refuse(
                    relative,
                    "a link that leaves the application's folder",
                ));
            }
            clear(target)?;
            symlink(&link, target).map_err(broken)?;
        }
        tar::EntryType::Link => {
            let link = link.ok_or_else(|| refuse(relative, "a link without a target"))?;
            let source = inside(&link)?.ok_or_else(|| {
                refuse(relative, "a hard link to outside the application's folder")
            })?;
            let folder = prepare(root, source.parent().unwrap_or(Path::new("")))?;
            let source = folder.join(source.file_name().unwrap_or_default());
            if !fs::symlink_metadata(&source).is_ok_and(|metadata| metadata.is_file()) {
                return Err(refuse(
                    relative,
                    "a hard link to something that is not a file",
                ));
            }
            clear(target)?;
            fs::hard_link(&source, target).map_err(broken)?;
        }
        _ => {
            return Err(refuse(
                relative,
                "a device, pipe or other special file in a layer",
            ));
        }
    }
    Ok(())
}

/// A layer leaves nothing outside its folder, and inside it only folders, files and links that
/// stay there.
#[cfg(any(test, fuzzing))]
pub fn fuzz(data: &[u8]) {
    fn look(root: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).expect("it was listed");
            if metadata.is_dir() {
                look(root, &path);
            } else if metadata.is_symlink() {
                let inside = path.strip_prefix(root).expect("it was found there");
                let link = fs::read_link(&path).expect("it is a link");
                assert!(inside.starts_with(".venv/bin") || link_stays_inside(inside, &link));
            } else {
                assert!(metadata.is_file() && metadata.permissions().mode() & 0o7000 == 0);
            }
        }
    }
    let Ok(outer) = tempfile::tempdir() else {
        return;
    };
    let root = outer.path().join("root");
    fs::create_dir(&root).expect("the folder is new");
    let budget = Budget {
        bytes: 1 << 20,
        entries: 200,
    };
    let gzip = data.starts_with(&[0x1f, 0x8b]);
    let _ = if gzip {
        let plain = flate2::read::MultiGzDecoder::new(data);
        apply(plain.take(4 << 20), &root, budget)
    } else {
        apply(data, &root, budget)
    };
    look(&root, &root);
    let around = fs::read_dir(outer.path()).expect("it is ours").count();
    assert_eq!(around, 1, "something was written beside the folder");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BUDGET: Budget = Budget {
        bytes: 1 << 20,
        entries: 100,
    };

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn add(
        builder: &mut tar::Builder<Vec<u8>>,
        path: &str,
        kind: tar::EntryType,
        link: Option<&str>,
        bytes: &[u8],
    ) {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(bytes.len() as u64);
        // The name goes in as raw bytes, because the library refuses what an attacker would write.
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        if let Some(link) = link {
            header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }

    #[test]
    fn hostile_layers_write_nothing_outside() {
        use tar::EntryType::{Char, Link, Regular, Symlink};
        let cases: Vec<(&str, Vec<u8>)> = vec![
            (
                "absolute",
                archive(|b| add(b, "/app/x", Regular, None, b"x")),
            ),
            (
                "dots",
                archive(|b| add(b, "app/../../x", Regular, None, b"x")),
            ),
            (
                "link out",
                archive(|b| add(b, "app/l", Symlink, Some("../../etc"), b"")),
            ),
            (
                "absolute link",
                archive(|b| add(b, "app/l", Symlink, Some("/etc"), b"")),
            ),
            (
                "hard link out",
                archive(|b| add(b, "app/l", Link, Some("etc/passwd"), b"")),
            ),
            (
                "hard link dots",
                archive(|b| add(b, "app/l", Link, Some("app/../../etc/passwd"), b"")),
            ),
            ("device", archive(|b| add(b, "app/d", Char, None, b""))),
            (
                "through a link",
                archive(|b| {
                    add(b, "app/l", Symlink, Some("sub"), b"");
                    add(b, "app/l/x", Regular, None, b"x");
                }),
            ),
            (
                "through an interpreter link",
                archive(|b| {
                    add(b, "app/.venv/bin/l", Symlink, Some("/tmp"), b"");
                    add(b, "app/.venv/bin/l/x", Regular, None, b"x");
                }),
            ),
            (
                "whiteout dots",
                archive(|b| add(b, "app/.wh...", Regular, None, b"")),
            ),
        ];
        for (name, bytes) in cases {
            let outer = tempfile::tempdir().unwrap();
            let root = outer.path().join("root");
            fs::create_dir(&root).unwrap();
            assert!(apply(&bytes[..], &root, BUDGET).is_err(), "{name}");
            assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "{name}");
        }
    }

    #[test]
    fn bombs_end_at_the_budget_and_other_folders_are_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let bomb = archive(|b| add(b, "app/x", tar::EntryType::Regular, None, &vec![0; 2 << 20]));
        assert!(matches!(
            apply(&bomb[..], root.path(), BUDGET),
            Err(RegistryError::TooLarge { .. })
        ));
        let many = archive(|b| {
            (0..200).for_each(|n| add(b, &format!("app/{n}"), tar::EntryType::Regular, None, b""))
        });
        assert!(matches!(
            apply(&many[..], root.path(), BUDGET),
            Err(RegistryError::TooLarge { .. })
        ));
        let other = archive(|b| add(b, "etc/passwd", tar::EntryType::Regular, None, b"x"));
        let fresh = tempfile::tempdir().unwrap();
        apply(&other[..], fresh.path(), BUDGET).unwrap();
        assert_eq!(fs::read_dir(fresh.path()).unwrap().count(), 0);
    }

    #[test]
    fn extensions_are_bounded_and_may_not_contradict_their_entry() {
        use tar::EntryType::{GNULongName, Regular, XGlobalHeader, XHeader};
        let long = format!("app/{}", "n".repeat(150));
        let named = archive(|b| {
            add(b, "long", GNULongName, None, format!("{long}\0").as_bytes());
            add(b, "app/short", Regular, None, b"1");
            let record = format!("{} path=app/pax\n", "00 path=app/pax\n".len());
            add(b, "pax", XHeader, None, record.as_bytes());
            add(b, "app/other", Regular, None, b"2");
            add(b, "app/third", Regular, None, b"3");
        });
        let root = tempfile::tempdir().unwrap();
        apply(&named[..], root.path(), BUDGET).unwrap();
        let mut names: Vec<String> = fs::read_dir(root.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["n".repeat(150).as_str(), "pax", "third"]);
        let refused: Vec<(&str, Vec<u8>)> = vec![
            (
                "a name of two mebibytes",
                archive(|b| {
                    add(b, "long", GNULongName, None, &vec![b'n'; 2 << 20]);
                    add(b, "app/x", Regular, None, b"");
                }),
            ),
            (
                "a size that the header contradicts",
                archive(|b| {
                    add(b, "pax", XHeader, None, b"12 size=700\n");
                    add(b, "app/x", Regular, None, b"1");
                }),
            ),
            (
                "a path for all that follows",
                archive(|b| {
                    add(b, "pax", XGlobalHeader, None, b"14 path=app/y\n");
                    add(b, "app/x", Regular, None, b"1");
                }),
            ),
            (
                "a way out in a pax record",
                archive(|b| {
                    add(b, "pax", XHeader, None, b"17 path=app/../x\n");
                    add(b, "app/x", Regular, None, b"1");
                }),
            ),
        ];
        for (name, bytes) in refused {
            let outer = tempfile::tempdir().unwrap();
            let root = outer.path().join("root");
            fs::create_dir(&root).unwrap();
            assert!(apply(&bytes[..], &root, BUDGET).is_err(), "{name}");
            assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "{name}");
        }
    }

    #[test]
    fn an_archive_that_goes_on_and_on_is_given_up() {
        let other = archive(|b| add(b, "etc/x", tar::EntryType::Regular, None, &[0; 4_096]));
        let mut bounded = Bounded::new(&other[..], 1_000);
        assert!(io::copy(&mut bounded, &mut io::sink()).is_err());
    }

    #[test]
    fn whiteouts_remove_what_earlier_layers_wrote() {
        let root = tempfile::tempdir().unwrap();
        let first = archive(|b| {
            add(b, "app/keep", tar::EntryType::Regular, None, b"1");
            add(b, "app/gone", tar::EntryType::Regular, None, b"1");
        });
        let second = archive(|b| add(b, "app/.wh.gone", tar::EntryType::Regular, None, b""));
        let budget = apply(&first[..], root.path(), BUDGET).unwrap();
        apply(&second[..], root.path(), budget).unwrap();
        assert!(root.path().join("keep").exists() && !root.path().join("gone").exists());
    }

    proptest! {
        #[test]
        fn any_bytes_are_unpacked_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let root = tempfile::tempdir().unwrap();
            let _ = apply(&bytes[..], root.path(), BUDGET);
        }
    }
}
