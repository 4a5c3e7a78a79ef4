//! Reading commits, files and folders, and checking out.

use std::path::Path;
use std::time::Duration;

use ondol_auth::{Action, Ctx};
use ondol_types::{CommitId, ProjectName, RefName, RelPath, Timestamp};

use super::Git;
use crate::checkout::{self, CheckedOut, CheckoutLimits};
use crate::error::GitError;
use crate::model::{Commit, Entry, EntryKind};
use crate::store;

const PATIENCE: Duration = Duration::from_secs(60);
const LOG_BYTES: usize = 16 << 20;
const LOG_LIMIT: u32 = 500;
const TREE_ENTRIES: usize = 10_000;

impl Git {
    /// The newest commit of the default branch, if there is one. For Ondol's own use: it asks
    /// nobody's permission.
    ///
    /// # Errors
    /// [`GitError::NoProject`], [`GitError::Store`].
    pub async fn head(&self, project: &ProjectName) -> Result<Option<CommitId>, GitError> {
        Ok(self.known(project).await?.head)
    }

    /// The default branch. For Ondol's own use.
    ///
    /// # Errors
    /// [`GitError::NoProject`], [`GitError::Store`].
    pub async fn default_branch(&self, project: &ProjectName) -> Result<String, GitError> {
        Ok(self.known(project).await?.default_branch)
    }

    /// The commit behind a branch, a tag, or a commit's name of at least seven digits.
    ///
    /// # Errors
    /// [`GitError::NoCommit`], [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn resolve(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        revision: &str,
    ) -> Result<CommitId, GitError> {
        ctx.require(Action::Read, project)?;
        self.known(project).await?;
        let mut candidates: Vec<String> = [
            revision.to_owned(),
            format!("refs/heads/{revision}"),
            format!("refs/tags/{revision}"),
        ]
        .into_iter()
        .filter_map(|name| Some(name.parse::<RefName>().ok()?.to_string()))
        .collect();
        let digits = (7..=64).contains(&revision.len())
            && revision
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if digits {
            candidates.push(revision.to_owned());
        }
        let path = self.repository(project).await?;
        for candidate in candidates {
            let output = self
                .0
                .repositories
                .command("rev-parse", &path)
                .args(["rev-parse", "--quiet", "--verify", "--end-of-options"])
                .arg(format!("{candidate}^{{commit}}"))
                .run(4_096, PATIENCE)
                .await?;
            let found = String::from_utf8_lossy(&output.stdout).trim().parse();
            if let (true, Ok(commit)) = (output.status.success(), found) {
                return Ok(commit);
            }
        }
        Err(GitError::NoCommit {
            project: project.clone(),
            revision: revision.chars().take(120).collect(),
        })
    }

    /// One commit.
    ///
    /// # Errors
    /// [`GitError::NoCommit`], [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn commit(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        id: &CommitId,
    ) -> Result<Commit, GitError> {
        self.log(ctx, project, id, 0, 1)
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| no_commit(project, id))
    }

    /// Commits from `from` backwards, after the first `skip`, at most `limit`.
    ///
    /// # Errors
    /// [`GitError::NoCommit`], [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn log(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        from: &CommitId,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<Commit>, GitError> {
        ctx.require(Action::Read, project)?;
        let path = self.repository(project).await?;
        let output = self
            .0
            .repositories
            .command("log", &path)
            .args([
                "log",
                "-z",
                "--no-show-signature",
                "--no-mailmap",
                "--encoding=UTF-8",
                "--format=%H%x00%P%x00%an%x00%ae%x00%at%x00%B",
            ])
            .arg(format!("--skip={skip}"))
            .arg(format!("--max-count={}", limit.clamp(1, LOG_LIMIT)))
            .args(["--end-of-options", from.as_str(), "--"])
            .run(LOG_BYTES, PATIENCE)
            .await?;
        if !output.status.success() {
            return Err(no_commit(project, from));
        }
        Ok(parse_log(&output.stdout))
    }

    async fn entries(
        &self,
        path: &Path,
        commit: &CommitId,
        within: &str,
    ) -> Result<Vec<(Entry, String)>, GitError> {
        let mut command = self
            .0
            .repositories
            .command("ls-tree", path)
            .args(["ls-tree", "-z", "-l", "--full-tree"])
            .arg(commit.as_str());
        if !within.is_empty() {
            command = command.arg("--").arg(within);
        }
        let output = command.run(LOG_BYTES, PATIENCE).await?.checked("ls-tree")?;
        Ok(output
            .stdout
            .split(|byte| *byte == 0)
            .filter_map(parse_entry)
            .take(TREE_ENTRIES)
            .collect())
    }

    /// The entries of a folder of a commit (its root when `folder` is `None`), at most 10,000.
    ///
    /// # Errors
    /// [`GitError::NoFile`] when there is no such folder, [`GitError::NoCommit`],
    /// [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn tree(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        commit: &CommitId,
        folder: Option<&RelPath>,
    ) -> Result<Vec<Entry>, GitError> {
        ctx.require(Action::Read, project)?;
        let path = self.repository(project).await?;
        self.require_commit(&path, project, commit).await?;
        let within = folder.map_or(String::new(), |folder| format!("{folder}/"));
        let entries = self.entries(&path, commit, &within).await?;
        match folder {
            Some(folder) if entries.is_empty() => Err(no_file(commit, folder)),
            _ => Ok(entries.into_iter().map(|(entry, _)| entry).collect()),
        }
    }

    /// The bytes of a file of a commit. Links are not followed.
    ///
    /// # Errors
    /// [`GitError::NoFile`] when there is none, or it is no file; [`GitError::FileTooLarge`],
    /// [`GitError::NoCommit`], [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn read_file(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        commit: &CommitId,
        file: &RelPath,
        limit: u64,
    ) -> Result<Vec<u8>, GitError> {
        ctx.require(Action::Read, project)?;
        let path = self.repository(project).await?;
        self.require_commit(&path, project, commit).await?;
        let found = self.entries(&path, commit, file.as_str()).await?;
        let Some((entry, object)) = found.into_iter().find(|(entry, _)| {
            entry.path == *file && matches!(entry.kind, EntryKind::File | EntryKind::Executable)
        }) else {
            return Err(no_file(commit, file));
        };
        let size = entry.size.unwrap_or(0);
        if size > limit {
            return Err(GitError::FileTooLarge {
                path: file.clone(),
                size,
                limit,
            });
        }
        let output = self
            .0
            .repositories
            .command("cat-file", &path)
            .args(["cat-file", "blob", &object])
            .run(usize::try_from(size).unwrap_or(usize::MAX), PATIENCE)
            .await?
            .checked("cat-file")?;
        Ok(output.stdout)
    }

    async fn require_commit(
        &self,
        path: &Path,
        project: &ProjectName,
        commit: &CommitId,
    ) -> Result<(), GitError> {
        let output = self
            .0
            .repositories
            .command("cat-file", path)
            .args(["cat-file", "-t", commit.as_str()])
            .run(4_096, PATIENCE)
            .await?;
        if output.status.success() && output.stdout == b"commit\n" {
            Ok(())
        } else {
            Err(no_commit(project, commit))
        }
    }

    /// Writes a commit into `dest`, a folder that must not exist; it appears complete or not at
    /// all. For Ondol's own use: it asks nobody's permission.
    ///
    /// # Errors
    /// [`GitError::Checkout`] when the tree is hostile or over a limit, [`GitError::NoCommit`],
    /// [`GitError::NoProject`].
    pub async fn checkout(
        &self,
        project: &ProjectName,
        commit: &CommitId,
        dest: &Path,
        limits: &CheckoutLimits,
    ) -> Result<CheckedOut, GitError> {
        let path = self.repository(project).await?;
        self.require_commit(&path, project, commit).await?;
        let (repositories, commit) = (self.0.repositories.clone(), commit.clone());
        let (dest, limits) = (dest.to_owned(), *limits);
        tokio::task::spawn_blocking(move || {
            checkout::checkout(&repositories, &path, &commit, &dest, &limits)
        })
        .await
        .map_err(|error| GitError::Git {
            command: "checkout",
            message: error.to_string(),
        })?
    }

    /// One branch or tag.
    ///
    /// # Errors
    /// [`GitError::NoProject`], [`GitError::Denied`].
    pub async fn show_ref(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        name: &RefName,
    ) -> Result<Option<crate::model::Ref>, GitError> {
        ctx.require(Action::Read, project)?;
        self.known(project).await?;
        self.0
            .store
            .read(|tx| Box::pin(async move { Ok(store::one_ref(tx, project, name).await?) }))
            .await
    }
}

fn no_commit(project: &ProjectName, id: &CommitId) -> GitError {
    GitError::NoCommit {
        project: project.clone(),
        revision: id.to_string(),
    }
}

fn no_file(commit: &CommitId, path: &RelPath) -> GitError {
    GitError::NoFile {
        commit: commit.clone(),
        path: path.clone(),
    }
}

/// One `<mode> <type> <object> <size>\t<path>` of `git ls-tree -l`.
fn parse_entry(record: &[u8]) -> Option<(Entry, String)> {
    let text = std::str::from_utf8(record).ok()?;
    let (meta, path) = text.split_once('\t')?;
    let mut parts = meta.split_ascii_whitespace();
    let kind = match parts.next()? {
        "100755" => EntryKind::Executable,
        "120000" => EntryKind::Link,
        "160000" => EntryKind::Submodule,
        "040000" => EntryKind::Folder,
        _ => EntryKind::File,
    };
    let object = parts.nth(1)?.to_owned();
    let size = parts.next().and_then(|size| size.parse().ok());
    let path = path.parse().ok()?;
    Some((Entry { path, kind, size }, object))
}

fn parse_log(bytes: &[u8]) -> Vec<Commit> {
    let fields: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    fields
        .chunks_exact(6)
        .filter_map(|record| {
            let text = |index: usize| String::from_utf8_lossy(record[index]).into_owned();
            let seconds: i64 = text(4).parse().unwrap_or(0);
            Some(Commit {
                id: text(0).parse().ok()?,
                parents: text(1)
                    .split_whitespace()
                    .filter_map(|parent| parent.parse().ok())
                    .collect(),
                author: text(2),
                email: text(3),
                time: Timestamp::from_micros(seconds.saturating_mul(1_000_000)),
                message: text(5).trim_end().to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_by_its_six_fields() {
        let id = "a".repeat(40);
        let one = format!("{id}\0{id} {id}\0Kim\0k@x\01700000000\0subject\n\nbody\n\0");
        let two = format!("{id}\0\0\0\0nonsense\0\0");
        let commits = parse_log(format!("{one}{two}").as_bytes());
        assert_eq!(commits.len(), 2);
        assert_eq!(commits[0].parents.len(), 2);
        assert_eq!(commits[0].subject(), "subject");
        assert_eq!(commits[0].time.as_micros(), 1_700_000_000_000_000);
        assert!(commits[1].parents.is_empty());
        assert!(parse_log(b"cut\0short").is_empty());
    }
}
