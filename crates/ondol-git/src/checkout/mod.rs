//! Writing a commit out as files.
//!
//! Trees come from strangers, so git does not check them out: no hook, filter or attribute runs,
//! and every byte is written here. The destination is fresh and ours alone. Folders and files
//! come first and are created exclusively, symbolic links last, so nothing is ever written
//! through a link; a link that would lead out of the tree becomes a plain file with its target
//! as text. The whole is built beside its destination and renamed, so a folder that exists is
//! complete.

mod links;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use ondol_types::{CommitId, RelPath};

use crate::error::GitError;
use crate::repository::Repositories;

/// What a checkout may take.
#[derive(Clone, Copy, Debug)]
pub struct CheckoutLimits {
    /// Bytes of all files.
    pub bytes: u64,
    /// Files, links and submodules.
    pub files: u64,
    /// Time from start to end.
    pub time: Duration,
}

impl Default for CheckoutLimits {
    fn default() -> Self {
        Self {
            bytes: 8 << 30,
            files: 500_000,
            time: Duration::from_secs(600),
        }
    }
}

/// What a checkout wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckedOut {
    /// How many files and links.
    pub files: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Links that would have led out of the tree; they are text files now.
    pub neutralised: Vec<RelPath>,
    /// Submodules, whose content is not fetched; they are empty folders.
    pub submodules: Vec<RelPath>,
}

struct Item {
    mode: Mode,
    object: String,
    path: RelPath,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Plain,
    Executable,
    Link,
    Submodule,
}

struct Problem {
    text: String,
    too_large: bool,
}

impl Problem {
    fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            too_large: false,
        }
    }

    fn too_large(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            too_large: true,
        }
    }

    fn at(action: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let place = format!("cannot {action} {}", path.display());
        move |error| Self::new(format!("{place}: {error}"))
    }
}

/// A process that is ended and waited for whatever happens.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Writes `commit` into `dest`, which must not exist. Blocks.
pub(crate) fn checkout(
    repositories: &Repositories,
    repository: &Path,
    commit: &CommitId,
    dest: &Path,
    limits: &CheckoutLimits,
) -> Result<CheckedOut, GitError> {
    let refuse = |problem: Problem| GitError::Checkout {
        commit: commit.clone(),
        problem: problem.text,
        too_large: problem.too_large,
    };
    if dest.symlink_metadata().is_ok() {
        return Err(refuse(Problem::new(format!(
            "{} exists already",
            dest.display()
        ))));
    }
    let deadline = Instant::now() + limits.time;
    let staging = staging_of(dest).map_err(refuse)?;
    // What a crash left of an earlier attempt.
    let _ = fs::remove_dir_all(&staging);
    let work = || -> Result<CheckedOut, Problem> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&staging)
            .map_err(Problem::at("create", &staging))?;
        let items = list(repositories, repository, commit, limits, deadline)?;
        let done = write(repositories, repository, &items, &staging, limits, deadline)?;
        fs::rename(&staging, dest).map_err(Problem::at("create", dest))?;
        Ok(done)
    };
    work().map_err(|problem| {
        let _ = fs::remove_dir_all(&staging);
        refuse(problem)
    })
}

fn staging_of(dest: &Path) -> Result<PathBuf, Problem> {
    let mut name = OsString::from(".");
    name.push(
        dest.file_name()
            .ok_or_else(|| Problem::new("the destination has no name"))?,
    );
    name.push(".checkout");
    Ok(dest.with_file_name(name))
}

fn list(
    repositories: &Repositories,
    repository: &Path,
    commit: &CommitId,
    limits: &CheckoutLimits,
    deadline: Instant,
) -> Result<Vec<Item>, Problem> {
    let command = repositories
        .command("ls-tree", repository)
        .args(["ls-tree", "-r", "-z", "--full-tree"])
        .arg(commit.as_str());
    let mut command = command.into_blocking();
    command.stderr(Stdio::null());
    let mut running = Running(
        command
            .spawn()
            .map_err(Problem::at("run", Path::new("git")))?,
    );
    let stdout = running.0.stdout.take();
    let mut reader = BufReader::new(stdout.ok_or_else(|| Problem::new("git has no output"))?);
    let mut items = Vec::new();
    let mut record = Vec::new();
    loop {
        record.clear();
        let read = reader
            .by_ref()
            .take(8_192)
            .read_until(0, &mut record)
            .map_err(|error| Problem::new(error.to_string()))?;
        if read == 0 {
            break;
        }
        if items.len() as u64 >= limits.files {
            return Err(Problem::too_large(format!(
                "it has more than {} files",
                limits.files
            )));
        }
        if Instant::now() > deadline {
            return Err(Problem::too_large("it took too long"));
        }
        items.push(parse_item(&record)?);
    }
    let status = running
        .0
        .wait()
        .map_err(|error| Problem::new(error.to_string()))?;
    if !status.success() {
        return Err(Problem::new("git cannot read its tree"));
    }
    Ok(items)
}

/// One `<mode> <type> <object>\t<path>\0` of `git ls-tree`.
fn parse_item(record: &[u8]) -> Result<Item, Problem> {
    let unreadable = || {
        Problem::new(format!(
            "its tree has an entry that is not readable: `{}`",
            String::from_utf8_lossy(record)
                .escape_debug()
                .take(200)
                .collect::<String>()
        ))
    };
    let text = std::str::from_utf8(record.strip_suffix(&[0]).ok_or_else(unreadable)?)
        .map_err(|_| unreadable())?;
    let (meta, path) = text.split_once('\t').ok_or_else(unreadable)?;
    let mut parts = meta.split(' ');
    let mode = match parts.next() {
        Some("100644" | "100664") => Mode::Plain,
        Some("100755") => Mode::Executable,
        Some("120000") => Mode::Link,
        Some("160000") => Mode::Submodule,
        _ => return Err(unreadable()),
    };
    let object = parts.nth(1).ok_or_else(unreadable)?;
    let path: RelPath = path.parse().map_err(|_| {
        Problem::new(format!(
            "the path `{}` would leave the folder",
            path.escape_debug()
        ))
    })?;
    if path
        .components()
        .any(|part| part.eq_ignore_ascii_case(".git"))
    {
        return Err(Problem::new(format!(
            "the path `{path}` names a git folder"
        )));
    }
    Ok(Item {
        mode,
        object: object.to_owned(),
        path,
    })
}

fn write(
    repositories: &Repositories,
    repository: &Path,
    items: &[Item],
    root: &Path,
    limits: &CheckoutLimits,
    deadline: Instant,
) -> Result<CheckedOut, Problem> {
    let mut done = CheckedOut::default();
    let mut folders = BTreeSet::new();
    for item in items {
        let path = match item.mode {
            Mode::Submodule => {
                done.submodules.push(item.path.clone());
                item.path.as_str()
            }
            _ => item
                .path
                .as_str()
                .rsplit_once('/')
                .map_or("", |(parent, _)| parent),
        };
        let mut end = 0;
        while let Some(next) = path.get(end..).filter(|rest| !rest.is_empty()) {
            end += next.find('/').map_or(next.len(), |at| at + 1);
            folders.insert(path[..end].trim_end_matches('/'));
        }
    }
    for folder in folders {
        let path = root.join(folder);
        fs::DirBuilder::new()
            .mode(0o755)
            .create(&path)
            .map_err(Problem::at("create", &path))?;
    }
    // Two passes over one `cat-file`: all files, then all links.
    let files = items
        .iter()
        .filter(|item| matches!(item.mode, Mode::Plain | Mode::Executable));
    let links = items.iter().filter(|item| item.mode == Mode::Link);
    let order: Vec<&Item> = files.chain(links).collect();
    let command = repositories
        .command("cat-file", repository)
        .args(["cat-file", "--batch", "--buffer"])
        .piped();
    let mut command = command.into_blocking();
    command.stderr(Stdio::null());
    let mut running = Running(
        command
            .spawn()
            .map_err(Problem::at("run", Path::new("git")))?,
    );
    let (Some(mut stdin), Some(stdout)) = (running.0.stdin.take(), running.0.stdout.take()) else {
        return Err(Problem::new("git has no pipes"));
    };
    let mut reader = BufReader::with_capacity(64 * 1024, stdout);
    std::thread::scope(|scope| {
        let order = &order;
        scope.spawn(move || {
            // A reader that gives up ends git, and with it this writer.
            for item in order {
                if writeln!(stdin, "{}", item.object).is_err() {
                    return;
                }
            }
        });
        let outcome = order.iter().try_for_each(|item| {
            if Instant::now() > deadline {
                return Err(Problem::too_large("it took too long"));
            }
            let size = read_header(&mut reader, item)?;
            done.files += 1;
            done.bytes += size;
            if done.bytes > limits.bytes {
                return Err(Problem::too_large(format!(
                    "its files have more than {} bytes",
                    limits.bytes
                )));
            }
            write_one(&mut reader, item, size, root, &mut done)?;
            let mut newline = [0u8; 1];
            reader
                .read_exact(&mut newline)
                .map_err(|error| Problem::new(error.to_string()))
        });
        if outcome.is_err() {
            let _ = running.0.kill();
        }
        outcome
    })?;
    Ok(done)
}

fn read_header(reader: &mut impl BufRead, item: &Item) -> Result<u64, Problem> {
    let mut line = Vec::new();
    reader
        .by_ref()
        .take(256)
        .read_until(b'\n', &mut line)
        .map_err(|error| Problem::new(error.to_string()))?;
    let line = String::from_utf8_lossy(&line);
    let mut parts = line.trim_end().split(' ');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(object), Some("blob"), Some(size)) if object == item.object => size.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| Problem::new(format!("the content of `{}` is missing", item.path)))
}

fn write_one(
    reader: &mut impl BufRead,
    item: &Item,
    size: u64,
    root: &Path,
    done: &mut CheckedOut,
) -> Result<(), Problem> {
    let path = item.path.below(root);
    if item.mode == Mode::Link && size <= 4_096 {
        let mut target = vec![0u8; size as usize];
        reader
            .read_exact(&mut target)
            .map_err(|error| Problem::new(error.to_string()))?;
        if let Some(target) = links::inside(&item.path, &target) {
            return symlink(target, &path).map_err(Problem::at("link", &path));
        }
        done.neutralised.push(item.path.clone());
        return create(&path, 0o644)?
            .write_all(&target)
            .map_err(Problem::at("write", &path));
    }
    if item.mode == Mode::Link {
        done.neutralised.push(item.path.clone());
    }
    let mode = if item.mode == Mode::Executable {
        0o755
    } else {
        0o644
    };
    let mut file = create(&path, mode)?;
    let copied =
        std::io::copy(&mut reader.take(size), &mut file).map_err(Problem::at("write", &path))?;
    if copied != size {
        return Err(Problem::new(format!(
            "the content of `{}` is cut",
            item.path
        )));
    }
    Ok(())
}

fn create(path: &Path, mode: u32) -> Result<fs::File, Problem> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(Problem::at("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_folder_are_listed() {
        let id = "0".repeat(40);
        for (record, good) in [
            (format!("100644 blob {id}\ta/b.txt\0"), true),
            (format!("120000 blob {id}\tlink\0"), true),
            (format!("160000 commit {id}\tmodule\0"), true),
            (format!("100644 blob {id}\t../x\0"), false),
            (format!("100644 blob {id}\t/etc/passwd\0"), false),
            (format!("100644 blob {id}\ta/.git/config\0"), false),
            (format!("100644 blob {id}\t.GIT/hooks/x\0"), false),
            (format!("100644 blob {id}\ta//b\0"), false),
            (format!("040000 tree {id}\ta\0"), false),
            (format!("100644 blob {id} a\0"), false),
            (format!("100644 blob {id}\tcut"), false),
        ] {
            assert_eq!(parse_item(record.as_bytes()).is_ok(), good, "{record:?}");
        }
    }
}
