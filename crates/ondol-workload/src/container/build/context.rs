//! What is sent to an engine to build from: the files below one folder of a checkout.
//!
//! Whoever pushes decides what lies there, so nothing is followed and nothing is trusted: every
//! folder is opened from the one above it, links are sent as links and never looked through, and a
//! link that leads out of the context, a second name of a file, a socket or a device is refused by
//! name. What was listed is what is sent: a file that is another one meanwhile ends the build.
//!
//! The same files give the same bytes: order by name, one owner, two modes, one time. That is what
//! lets an engine use again what it has built before, for another commit or branch too.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use ondol_types::{RelPath, Secret};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags};

use super::error::BuildError;
use super::ignore::{BadPattern, Ignore, Standing};
use crate::container::archive::{Pieces, pieces_of};

/// What the Dockerfile is called on its way, whatever it is called in the repository.
pub(super) const DOCKERFILE: &str = ".ondol.dockerfile";
/// The beginning of the names of secrets on their way.
pub(super) const SECRET: &str = ".ondol.secret.";

/// The largest Dockerfile and the largest file of patterns.
const MAX_TEXT: u64 = 1 << 20;
/// More files than this are a mistake.
const MAX_ENTRIES: usize = 500_000;
/// The deepest tree that is sent.
const MAX_DEPTH: usize = 256;

/// A second day of 1980: no tool finds it before the beginning of its own time.
pub(super) const NO_TIME: u64 = 315_619_200;

/// Where the patterns stand, best first; the first is beside the Dockerfile, under its name.
const IGNORE_FILES: [&str; 2] = [".containerignore", ".dockerignore"];

/// A folder of a checkout, listed.
#[derive(Debug)]
pub(super) struct Context {
    root: OwnedFd,
    entries: Vec<Entry>,
    /// The Dockerfile's text.
    pub(super) dockerfile: String,
    /// Bytes of all files.
    pub(super) bytes: u64,
    time: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Entry {
    path: PathBuf,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File {
        size: u64,
        executable: bool,
        inode: u64,
    },
    Link(PathBuf),
}

fn unreadable(path: &str) -> impl FnOnce(rustix::io::Errno) -> BuildError {
    let path = path.to_owned();
    move |error| BuildError::Context {
        path,
        problem: match error {
            rustix::io::Errno::XDEV | rustix::io::Errno::LOOP => {
                "it leads out of the repository".to_owned()
            }
            error => io::Error::from(error).to_string(),
        },
    }
}

impl Context {
    /// Lists a context. `time` is what every file is dated with, in seconds.
    pub(super) fn list(
        source: &Path,
        folder: Option<&RelPath>,
        dockerfile: &RelPath,
        limit: u64,
        time: u64,
    ) -> Result<Self, BuildError> {
        let repository = rustix::fs::openat(
            CWD,
            source,
            OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(unreadable("."))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = folder.map_or(".", RelPath::as_str);
        let root = rustix::fs::openat2(
            &repository,
            inside,
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        )
        .map_err(unreadable(inside))?;
        let text =
            text(&repository, dockerfile.as_str())?.ok_or_else(|| BuildError::Dockerfile {
                path: dockerfile.to_string(),
                line: None,
                problem: "there is no such file in the repository".to_owned(),
            })?;
        let ignore = patterns(&repository, &root, dockerfile, inside)?;
        let mut context = Self {
            root,
            entries: Vec::new(),
            dockerfile: text,
            bytes: 0,
            time,
        };
        let root = context
            .root
            .try_clone()
            .map_err(|error| BuildError::Context {
                path: inside.to_owned(),
                problem: error.to_string(),
            })?;
        context.walk(root, Path::new(""), &ignore, &ignore.root(), limit, 0)?;
        Ok(context)
    }

    fn walk(
        &mut self,
        folder: OwnedFd,
        path: &Path,
        ignore: &Ignore,
        standing: &Standing,
        limit: u64,
        depth: usize,
    ) -> Result<bool, BuildError> {
        let shown = path.display().to_string();
        if depth > MAX_DEPTH {
            return Err(BuildError::Context {
                path: shown,
                problem: format!("the tree is deeper than {MAX_DEPTH} folders"),
            });
        }
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(unreadable(&shown))? {
            let entry = entry.map_err(unreadable(&shown))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(OsStr::from_bytes(name).to_owned());
            }
            if self.entries.len() + names.len() > MAX_ENTRIES {
                return Err(BuildError::TooLarge {
                    limit: MAX_ENTRIES as u64,
                    unit: "files",
                });
            }
        }
        names.sort();
        let mut any = false;
        for name in names {
            let at_root = path.as_os_str().is_empty();
            if at_root && never_sent(&name) {
                continue;
            }
            let path = path.join(&name);
            let shown = path.display().to_string();
            let (left_out, standing) = ignore.judge(&shown, standing);
            let stat = rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(unreadable(&shown))?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory {
                if left_out && !ignore.may_bring_back_below(&shown) {
                    continue;
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(&folder, &name, flags, Mode::empty())
                    .map_err(unreadable(&shown))?;
                let place = self.entries.len();
                self.entries.push(Entry {
                    path: path.clone(),
                    kind: Kind::Folder,
                });
                let kept = self.walk(below, &path, ignore, &standing, limit, depth + 1)?;
                if left_out && !kept {
                    self.entries.truncate(place);
                } else {
                    any = true;
                }
                continue;
            }
            if left_out {
                continue;
            }
            any = true;
            let refused = |problem: String| BuildError::Context {
                path: shown.clone(),
                problem,
            };
            let kind = match kind {
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&folder, &name, Vec::new())
                        .map_err(unreadable(&shown))?;
                    let target = PathBuf::from(OsStr::from_bytes(target.as_bytes()));
                    if leads_out(&path, &target) {
                        return Err(refused(format!(
                            "this link leaves the build context (it points at {})",
                            target.display()
                        )));
                    }
                    Kind::Link(target)
                }
                FileType::RegularFile if stat.st_nlink > 1 => {
                    return Err(refused(
                        "this file has a second name (a hard link), which may be outside of the repository; copy it, or leave it out with a .dockerignore".to_owned(),
                    ));
                }
                FileType::RegularFile => {
                    let size = u64::try_from(stat.st_size).unwrap_or(0);
                    self.bytes = self.bytes.saturating_add(size);
                    if self.bytes > limit {
                        return Err(BuildError::TooLarge {
                            limit,
                            unit: "bytes",
                        });
                    }
                    Kind::File {
                        size,
                        executable: stat.st_mode & 0o111 != 0,
                        inode: stat.st_ino,
                    }
                }
                _ => {
                    return Err(refused(
                        "only files, folders and links can be built from; leave it out with a .dockerignore".to_owned(),
                    ));
                }
            };
            self.entries.push(Entry { path, kind });
        }
        Ok(any)
    }

    /// Its links, by path.
    pub(super) fn links(&self) -> BTreeSet<String> {
        let links = self.entries.iter();
        links
            .filter(|entry| matches!(entry.kind, Kind::Link(_)))
            .map(|entry| entry.path.to_string_lossy().into_owned())
            .collect()
    }

    /// How many files, folders and links there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The archive, made while it is read. `secrets` are files of their own, which the engine
    /// takes away before it builds.
    pub(super) fn send(self, secrets: Vec<Secret<String>>) -> Pieces {
        pieces_of(move |output| self.write(&secrets, output))
    }

    fn write(&self, secrets: &[Secret<String>], output: &mut dyn Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(output);
        let mut own = format!("{DOCKERFILE}\n.dockerignore\n");
        for number in 0..secrets.len() {
            own.push_str(&format!("{SECRET}{number}\n"));
        }
        // Engines look for patterns once more; these keep what is not of the repository out of
        // images and change nothing else.
        self.file(&mut archive, ".dockerignore".as_ref(), own.as_bytes())?;
        self.file(
            &mut archive,
            DOCKERFILE.as_ref(),
            self.dockerfile.as_bytes(),
        )?;
        for (number, secret) in secrets.iter().enumerate() {
            let name = format!("{SECRET}{number}");
            self.file(&mut archive, name.as_ref(), secret.expose().as_bytes())?;
        }
        for entry in &self.entries {
            match &entry.kind {
                Kind::Folder => {
                    let mut header = self.header(tar::EntryType::Directory, 0o755, 0);
                    archive.append_data(&mut header, &entry.path, io::empty())?;
                }
                Kind::Link(target) => {
                    let mut header = self.header(tar::EntryType::Symlink, 0o777, 0);
                    archive.append_link(&mut header, &entry.path, target)?;
                }
                Kind::File {
                    size,
                    executable,
                    inode,
                } => {
                    let file = self.open(&entry.path, *size, *inode)?;
                    let mode = if *executable { 0o755 } else { 0o644 };
                    let mut header = self.header(tar::EntryType::Regular, mode, *size);
                    let content = Whole {
                        file,
                        left: *size,
                        path: &entry.path,
                    };
                    archive.append_data(&mut header, &entry.path, content)?;
                }
            }
        }
        archive.finish()
    }

    fn file<W: Write>(
        &self,
        archive: &mut tar::Builder<W>,
        path: &Path,
        bytes: &[u8],
    ) -> io::Result<()> {
        let mut header = self.header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
        archive.append_data(&mut header, path, bytes)
    }

    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(self.time);
        header.set_size(size);
        header
    }

    fn open(&self, path: &Path, size: u64, inode: u64) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let file = rustix::fs::openat2(&self.root, path, flags, Mode::empty(), resolve)
            .map_err(|_| changed(path))?;
        let stat = rustix::fs::fstat(&file)?;
        let same = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_ino == inode
            && stat.st_nlink == 1
            && u64::try_from(stat.st_size) == Ok(size);
        if same {
            Ok(file.into())
        } else {
            Err(changed(path))
        }
    }
}

fn changed(path: &Path) -> io::Error {
    io::Error::other(format!("{} changed while it was sent", path.display()))
}

/// Exactly the bytes that were announced.
struct Whole<'p> {
    file: File,
    left: u64,
    path: &'p Path,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Ok(0);
        }
        let most = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let length = self.file.read(&mut buffer[..most])?;
        if length == 0 && most > 0 {
            return Err(changed(self.path));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// History, what says what is left out, and names that are taken on the way.
fn never_sent(name: &OsStr) -> bool {
    let name = name.as_bytes();
    name == b".git"
        || IGNORE_FILES.iter().any(|file| file.as_bytes() == name)
        || name == DOCKERFILE.as_bytes()
        || name.starts_with(SECRET.as_bytes())
}

/// Whether a link that is read from inside the context can lead out of it. What begins at the
/// root means the root of whatever image it is in.
fn leads_out(from: &Path, to: &Path) -> bool {
    let mut depth = from.components().count().saturating_sub(1);
    let mut named = false;
    for part in to.components() {
        match part {
            Component::RootDir => return false,
            // Behind a name that may itself be a link, `..` would lead anywhere.
            Component::ParentDir if named => return true,
            Component::ParentDir if depth == 0 => return true,
            Component::ParentDir => depth -= 1,
            Component::Normal(_) => named = true,
            Component::CurDir | Component::Prefix(_) => {}
        }
    }
    false
}

/// A small text of the repository, links inside of it followed; `None` when there is none.
fn text(folder: impl AsFd, path: &str) -> Result<Option<String>, BuildError> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(folder, path, flags, Mode::empty(), resolve) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(unreadable(path)(error)),
    };
    let problem = |problem: &str| BuildError::Context {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let stat = rustix::fs::fstat(&file).map_err(unreadable(path))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink > 1 {
        return Err(problem("it is not a file of the repository"));
    }
    let mut bytes = Vec::new();
    let read = File::from(file).take(MAX_TEXT + 1).read_to_end(&mut bytes);
    read.map_err(|error| problem(&error.to_string()))?;
    if bytes.len() as u64 > MAX_TEXT {
        return Err(problem("it has more than 1 MiB"));
    }
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|_| problem("it is not UTF-8"))
}

/// The patterns that hold for a Dockerfile.
fn patterns(
    repository: &OwnedFd,
    root: &OwnedFd,
    dockerfile: &RelPath,
    inside: &str,
) -> Result<Ignore, BuildError> {
    let parse = |path: String, text: &str| {
        Ignore::parse(text).map_err(|BadPattern { line, problem }| BuildError::Context {
            path: format!("{path}:{line}"),
            problem,
        })
    };
    let beside = format!("{dockerfile}.dockerignore");
    if let Some(text) = text(repository, &beside)? {
        return parse(beside, &text);
    }
    for name in IGNORE_FILES {
        if let Some(text) = text(root, name)? {
            let shown = match inside {
                "." => name.to_owned(),
                inside => format!("{inside}/{name}"),
            };
            return parse(shown, &text);
        }
    }
    Ok(Ignore::default())
}
