//! Repositories on disk.
//!
//! `<root>/<project>.git` is a bare repository. Beside the projects stand folders whose names no
//! project can have: `.home` (an empty home for git), `.hooks`, `.empty.git` (what a project
//! that does not exist yet looks like to a pusher), `.incoming` and `.trash`. A repository is
//! made in `.incoming` and renamed into place, and renamed into `.trash` before it is deleted.

mod child;
mod command;
mod stale;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ondol_types::{CommitId, ProjectName};

pub(crate) use child::GitChild;
pub(crate) use command::{GitCommand, read_bounded, readable};
pub(crate) use stale::{has_live_process, sweep_stale};

use crate::error::GitError;
use crate::plan::Refs;

const LIST_BYTES: usize = 64 << 20;
const PLUMBING_TIME: Duration = Duration::from_secs(60);
/// Files that the size of a repository is counted over, at most.
const COUNTED_FILES: usize = 200_000;

/// The folder of all repositories.
#[derive(Clone, Debug)]
pub(crate) struct Repositories {
    root: PathBuf,
    git: PathBuf,
    path: OsString,
}

impl Repositories {
    /// Makes the folder and its helpers, and checks that git is there and new enough.
    pub(crate) async fn open(
        root: &Path,
        git: &Path,
        path: &OsStr,
        hook_program: &Path,
    ) -> Result<Self, GitError> {
        make_folder(root)?;
        // Git runs elsewhere, so every path that it is given must be absolute.
        let root = &root.canonicalize().map_err(GitError::io("find", root))?;
        let this = Self {
            root: root.clone(),
            git: git.to_owned(),
            path: path.to_owned(),
        };
        for folder in [".home", ".hooks", ".incoming", ".trash"] {
            make_folder(&root.join(folder))?;
        }
        // What a crash left half-made belongs to nobody.
        for folder in [".incoming", ".trash"] {
            empty_folder(&root.join(folder))?;
        }
        this.link_hook(hook_program)?;
        this.check_version().await?;
        let empty = this.empty();
        if !empty.exists() {
            let made = this.make_incoming("empty").await?;
            fs::rename(&made, &empty).map_err(GitError::io("make", &empty))?;
        }
        Ok(this)
    }

    fn link_hook(&self, program: &Path) -> Result<(), GitError> {
        let link = self.hooks().join("post-receive");
        let temporary = self.hooks().join("post-receive.new");
        let _ = fs::remove_file(&temporary);
        symlink(program, &temporary)
            .and_then(|()| fs::rename(&temporary, &link))
            .map_err(GitError::io("link", link))
    }

    async fn check_version(&self) -> Result<(), GitError> {
        let output = self
            .command("version", &self.root)
            .arg("version")
            .run(4_096, PLUMBING_TIME)
            .await
            .map_err(|error| match error {
                GitError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
                    GitError::NoGit(format!("there is no program `{}`", self.git.display()))
                }
                other => other,
            })?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let mut numbers = text
            .trim_start_matches("git version ")
            .split('.')
            .map_while(|part| part.parse::<u32>().ok());
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version < (2, 36) {
            return Err(GitError::NoGit(format!("`{text}` is older than 2.36")));
        }
        Ok(())
    }

    /// Where hooks are, for `core.hooksPath`.
    pub(crate) fn hooks(&self) -> PathBuf {
        self.root.join(".hooks")
    }

    /// A repository without anything in it.
    pub(crate) fn empty(&self) -> PathBuf {
        self.root.join(".empty.git")
    }

    /// Where a project's repository is.
    pub(crate) fn of(&self, project: &ProjectName) -> PathBuf {
        self.root.join(format!("{project}.git"))
    }

    /// A git command that runs in a repository.
    pub(crate) fn command(&self, verb: &'static str, repository: &Path) -> GitCommand {
        GitCommand::new(
            verb,
            &self.git,
            &self.path,
            &self.root.join(".home"),
            &self.hooks(),
            repository,
        )
    }

    async fn make_incoming(&self, name: &str) -> Result<PathBuf, GitError> {
        let path = self.scratch(".incoming", name);
        self.command("init", &self.root)
            .args([
                "init",
                "--quiet",
                "--bare",
                "--template=",
                "--initial-branch=main",
                "--",
            ])
            .arg(&path)
            .run(4_096, PLUMBING_TIME)
            .await?
            .checked("init")?;
        Ok(path)
    }

    fn scratch(&self, folder: &str, name: &str) -> PathBuf {
        self.root
            .join(folder)
            .join(format!("{name}-{:016x}", rand::random::<u64>()))
    }

    /// Makes an empty repository in the place of a project. What stands there already is not
    /// this project's (its row says that it was not made), so it goes to the trash.
    pub(crate) async fn make(&self, project: &ProjectName) -> Result<(), GitError> {
        let made = self.make_incoming(project.as_str()).await?;
        self.discard(project)?;
        let place = self.of(project);
        fs::rename(&made, &place).map_err(GitError::io("make", &place))?;
        sync_folder(&self.root)
    }

    /// Moves a project's repository to the trash, if it is there. [`Repositories::empty_trash`]
    /// deletes it.
    pub(crate) fn discard(&self, project: &ProjectName) -> Result<(), GitError> {
        let place = self.of(project);
        match fs::rename(&place, self.scratch(".trash", project.as_str())) {
            Ok(()) => sync_folder(&self.root),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(GitError::io("delete", place)(error)),
        }
    }

    /// Deletes what was discarded.
    pub(crate) fn empty_trash(&self) -> Result<(), GitError> {
        empty_folder(&self.root.join(".trash"))
    }

    /// The names of all repositories on disk.
    pub(crate) fn on_disk(&self) -> Result<Vec<ProjectName>, GitError> {
        let entries = fs::read_dir(&self.root).map_err(GitError::io("read", &self.root))?;
        Ok(entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name();
                name.to_str()?.strip_suffix(".git")?.parse().ok()
            })
            .collect())
    }

    /// Branches and tags as they are on disk.
    pub(crate) async fn refs(&self, repository: &Path) -> Result<Refs, GitError> {
        let output = self
            .command("for-each-ref", repository)
            .args([
                "for-each-ref",
                "--format=%(objectname) %(refname)",
                "refs/heads",
                "refs/tags",
            ])
            .run(LIST_BYTES, PLUMBING_TIME)
            .await?
            .checked("for-each-ref")?;
        let mut refs = Refs::new();
        for line in output.stdout.split(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(line);
            let Some((target, name)) = line.split_once(' ') else {
                continue;
            };
            match (name.parse(), target.parse::<CommitId>()) {
                (Ok(name), Ok(target)) => {
                    refs.insert(name, target);
                }
                _ => {
                    tracing::warn!(repository = %repository.display(), git.r#ref = name, "a ref that cannot have come by a push is ignored");
                }
            }
        }
        Ok(refs)
    }

    /// Points `HEAD` to a branch, which need not exist.
    pub(crate) async fn set_head(
        &self,
        repository: &Path,
        branch: &ondol_types::RefName,
    ) -> Result<(), GitError> {
        self.command("symbolic-ref", repository)
            .args(["symbolic-ref", "HEAD", branch.as_str()])
            .run(4_096, PLUMBING_TIME)
            .await?
            .checked("symbolic-ref")?;
        Ok(())
    }
}

/// What a repository holds on disk, in bytes, and how many packs it has.
pub(crate) fn measure(repository: &Path) -> (u64, usize) {
    let (mut bytes, mut packs, mut files) = (0, 0, 0);
    let mut open = vec![repository.to_owned()];
    while let Some(folder) = open.pop() {
        // Files come and go while git works; what is gone has no size.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            files += 1;
            if files > COUNTED_FILES {
                return (bytes, packs);
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) => {
                    bytes += entry.metadata().map_or(0, |metadata| metadata.len());
                    packs += usize::from(
                        entry
                            .path()
                            .extension()
                            .is_some_and(|extension| extension == "pack"),
                    );
                }
                Err(_) => {}
            }
        }
    }
    (bytes, packs)
}

fn make_folder(path: &Path) -> Result<(), GitError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(GitError::io("create", path))
}

fn empty_folder(path: &Path) -> Result<(), GitError> {
    for entry in fs::read_dir(path)
        .map_err(GitError::io("read", path))?
        .flatten()
    {
        let entry = entry.path();
        fs::remove_dir_all(&entry).map_err(GitError::io("delete", entry))?;
    }
    Ok(())
}

fn sync_folder(path: &Path) -> Result<(), GitError> {
    fs::File::open(path)
        .and_then(|folder| folder.sync_all())
        .map_err(GitError::io("sync", path))
}
