//! Files that steps leave behind, from a work directory into blobs and out again.
//!
//! What a step wrote is not trusted: links are never followed, neither when files are looked for
//! nor when they are laid out, only regular files are taken, and their number and bytes are
//! bounded. Bytes come first and the rows that own them afterwards, in the transaction that ends
//! the step; nothing is laid out over a file that differs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use ondol_spec::model::Pattern;
use ondol_store::blobs::{BlobOwner, Blobs, Hasher, Marks, PACKED_MAX_BYTES};
use ondol_types::{Algorithm, ErrorKind, Problem, RelPath, RunId, StepName};
use rustix::fs::OFlags;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::error::PipelineError;
use crate::model::{Artifact, Run, Step};
use crate::schedule::blocking;
use crate::{Inner, Pipeline, store};

/// The most entries that are looked at for one step.
const MAX_ENTRIES: usize = 500_000;
const MAX_DEPTH: usize = 64;
const MAX_NOTES: usize = 5;
/// What a file is called until it is whole.
const PARTIAL: &str = ".ondol-artifact-partial";
const BUFFER: usize = 256 << 10;
/// Rows that are read at once.
const PAGE: u32 = 500;

/// What a step may leave behind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
}

/// A file that is to be kept.
#[derive(Debug)]
pub(crate) struct Found {
    path: RelPath,
    file: PathBuf,
}

/// What was found in a work directory.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    files: Vec<Found>,
    /// What people should know, such as a pattern that nothing matches.
    pub(crate) notes: Vec<String>,
}

/// Artifacts whose bytes are stored, and what people should know of them.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) artifacts: Vec<Artifact>,
    pub(crate) notes: Vec<String>,
    /// Why nothing is kept, when the step left more than it may.
    pub(crate) excess: Option<String>,
}

fn beyond(most: usize) -> PipelineError {
    PipelineError::Artifacts(format!("its artifacts are more than {most} files"))
}

/// The files below `root` that match, by path.
pub(crate) fn find(
    root: &Path,
    patterns: &[Pattern],
    most: usize,
) -> Result<Finding, PipelineError> {
    let mut finding = Finding::default();
    let mut matched = vec![false; patterns.len()];
    let mut folders = vec![(root.to_owned(), String::new(), 0)];
    let mut entries = 0;
    let left_out = |finding: &mut Finding, what: String| {
        if finding.notes.len() < MAX_NOTES {
            finding.notes.push(what);
        }
    };
    while let Some((folder, prefix, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder).map_err(PipelineError::io("read", &folder))? {
            let entry = entry.map_err(PipelineError::io("read", &folder))?;
            entries += 1;
            if entries > MAX_ENTRIES {
                let what = format!(
                    "its work directory has more than {MAX_ENTRIES} entries to look for artifacts in"
                );
                return Err(PipelineError::Artifacts(what));
            }
            let kind = entry
                .file_type()
                .map_err(PipelineError::io("look at", &entry.path()))?;
            let name = entry.file_name();
            let path = format!("{prefix}{}", name.to_string_lossy());
            if kind.is_dir() {
                let wanted = patterns
                    .iter()
                    .any(|pattern| pattern.may_match_below(&path));
                if wanted && depth < MAX_DEPTH {
                    folders.push((entry.path(), format!("{path}/"), depth + 1));
                }
                continue;
            }
            let mut wanted = false;
            for (pattern, matched) in patterns.iter().zip(&mut matched) {
                if pattern.matches(&path) {
                    (*matched, wanted) = (true, true);
                }
            }
            if !wanted {
                continue;
            }
            let shown: String = path.chars().take(200).collect();
            if !kind.is_file() {
                left_out(
                    &mut finding,
                    format!("`{shown}` is no regular file and was not kept"),
                );
                continue;
            }
            match (name.to_str(), path.parse::<RelPath>()) {
                (Some(_), Ok(path)) => finding.files.push(Found {
                    path,
                    file: entry.path(),
                }),
                _ => left_out(
                    &mut finding,
                    format!("the name of `{shown}` is not one that can be kept"),
                ),
            }
            if finding.files.len() > most {
                return Err(beyond(most));
            }
        }
    }
    finding
        .files
        .sort_by(|one, other| one.path.cmp(&other.path));
    for (pattern, _) in patterns
        .iter()
        .zip(&matched)
        .filter(|(_, matched)| !**matched)
    {
        left_out(
            &mut finding,
            format!("no file matches the artifacts `{pattern}`"),
        );
    }
    Ok(finding)
}

/// Opens a regular file that no link stands for.
fn open(path: &Path) -> io::Result<(fs::File, bool)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok((file, metadata.permissions().mode() & 0o111 != 0))
}

/// Stores the files; they belong to nobody until their rows are committed.
async fn store_files(
    blobs: &Blobs,
    step: &StepName,
    finding: Finding,
    bounds: Bounds,
) -> Result<Kept, PipelineError> {
    let mut kept = Kept {
        notes: finding.notes,
        ..Kept::default()
    };
    let mut total = 0u64;
    let mut small = blobs.pack_writer();
    for found in finding.files {
        let file = found.file.clone();
        let opened = blocking(move || Ok(open(&file))).await?;
        let (file, executable) = opened.map_err(PipelineError::io("read", &found.file))?;
        let mut file = tokio::fs::File::from_std(file);
        let mut gathered = Vec::new();
        let mut writer = None;
        let mut buffer = vec![0; BUFFER];
        let mut bytes = 0u64;
        loop {
            let read = file.read(&mut buffer).await;
            let read = read.map_err(PipelineError::io("read", &found.file))?;
            if read == 0 {
                break;
            }
            bytes += read as u64;
            total += read as u64;
            if total > bounds.bytes {
                let excess = format!(
                    "its artifacts have more than {} MiB, with `{}` among them",
                    bounds.bytes >> 20,
                    found.path
                );
                return Err(PipelineError::Artifacts(excess));
            }
            if writer.is_none() {
                gathered.extend_from_slice(&buffer[..read]);
                if gathered.len() > PACKED_MAX_BYTES {
                    let mut begun = blobs.writer(Algorithm::Blake3).await?;
                    begun.write(&gathered).await?;
                    gathered = Vec::new();
                    writer = Some(begun);
                }
            } else if let Some(writer) = &mut writer {
                writer.write(&buffer[..read]).await?;
            }
        }
        let digest = match writer {
            Some(writer) => writer.finish(None).await?.digest,
            None => {
                let digest = Hasher::digest(Algorithm::Blake3, &gathered);
                small.add(digest.clone(), Bytes::from(gathered)).await?;
                digest
            }
        };
        kept.artifacts.push(Artifact {
            step: step.clone(),
            path: found.path,
            digest,
            bytes,
            executable,
        });
    }
    small.finish().await?;
    Ok(kept)
}

impl Inner {
    /// Stores what a step left in its work directory. More than it may leave is no error of the
    /// platform: then nothing is kept, and why is said.
    pub(crate) async fn keep_artifacts(
        &self,
        step: &Step,
        work_dir: PathBuf,
    ) -> Result<Kept, PipelineError> {
        let patterns = match step.definition.as_command() {
            Some(work) if !work.artifacts.is_empty() => work.artifacts.clone(),
            _ => return Ok(Kept::default()),
        };
        let bounds = Bounds {
            files: self.config.artifact_files,
            bytes: self.config.artifact_bytes,
        };
        let found = blocking(move || find(&work_dir, &patterns, bounds.files)).await;
        let kept = match found {
            Ok(finding) => store_files(&self.deps.blobs, &step.name, finding, bounds).await,
            Err(error) => Err(error),
        };
        match kept {
            Err(PipelineError::Artifacts(excess)) => Ok(Kept {
                excess: Some(excess),
                ..Kept::default()
            }),
            other => other,
        }
    }

    /// Lays out the artifacts that a step is given, in the work directory that was made for it.
    pub(crate) async fn give_artifacts(
        &self,
        run: &Run,
        step: &Step,
        work_dir: &Path,
    ) -> Result<(), Problem> {
        let Some(work) = step.definition.as_command() else {
            return Ok(());
        };
        let mut placed: BTreeMap<RelPath, StepName> = BTreeMap::new();
        // Dated before the step begins: they are not taken for results of its own.
        let dated = step.started_at.map_or(UNIX_EPOCH, |began| {
            UNIX_EPOCH + Duration::from_micros(began.as_micros().max(0) as u64)
        });
        let dated = dated
            .checked_sub(Duration::from_secs(60))
            .unwrap_or(UNIX_EPOCH);
        for giver in &work.takes {
            let mut after = String::new();
            loop {
                let page = self.artifacts_of(&run.id, Some(giver), (giver.as_str(), &after), PAGE);
                let page = page.await?;
                let Some(last) = page.last() else { break };
                after = last.path.to_string();
                for artifact in &page {
                    self.lay_out(artifact, work_dir, dated, placed.get(&artifact.path))
                        .await?;
                    placed.insert(artifact.path.clone(), giver.clone());
                }
            }
        }
        Ok(())
    }

    async fn lay_out(
        &self,
        artifact: &Artifact,
        work_dir: &Path,
        dated: SystemTime,
        before: Option<&StepName>,
    ) -> Result<(), Problem> {
        let (root, path) = (work_dir.to_owned(), artifact.path.clone());
        let there = blocking(move || make_way(&root, &path)).await?;
        let target = artifact.path.below(work_dir);
        match there {
            Way::Free => {}
            Way::Taken(digest) if digest.as_ref() == Some(&artifact.digest) => return Ok(()),
            Way::Taken(_) => {
                let (step, path) = (&artifact.step, &artifact.path);
                let (other, hint) = match before {
                    Some(other) => (
                        format!("an artifact of `{other}`"),
                        "let each step write to a folder of its own",
                    ),
                    None => (
                        "something in the work directory".to_owned(),
                        "write it to a path that the repository and its build do not have",
                    ),
                };
                return Err(Problem::new(
                    ErrorKind::Conflict,
                    "pipeline.artifact.occupied",
                    format!(
                        "the artifact `{path}` of `{step}` differs from {other} at the same path"
                    ),
                )
                .with_hint(hint));
            }
        }
        let (mut reader, _) = self
            .deps
            .blobs
            .open_reader(&artifact.digest)
            .await
            .map_err(PipelineError::from)?;
        let io = |error| Problem::from(PipelineError::io("write", &target)(error));
        let mode = if artifact.executable { 0o755 } else { 0o644 };
        // Whole or not there: a work directory may outlive an attempt that was cut short.
        let partial = target.with_file_name(PARTIAL);
        let _ = fs::remove_file(&partial);
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&partial)
            .map_err(io)?;
        let mut file = tokio::fs::File::from_std(file);
        tokio::io::copy(&mut reader, &mut file).await.map_err(io)?;
        file.flush().await.map_err(io)?;
        let file = file.into_std().await;
        file.set_modified(dated).map_err(io)?;
        fs::rename(&partial, &target).map_err(io)
    }

    pub(crate) async fn artifacts_of(
        &self,
        run: &RunId,
        step: Option<&StepName>,
        after: (&str, &str),
        limit: u32,
    ) -> Result<Vec<Artifact>, PipelineError> {
        self.deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(
                    async move { Ok(store::list_artifacts(tx, run, step, after, limit).await?) },
                )
            })
            .await
    }
}

/// What stands where an artifact is to be laid out.
enum Way {
    Free,
    /// A file with this content, or something that is no file.
    Taken(Option<ondol_types::Digest>),
}

/// Makes the folders in front of a path, none of them a link.
fn make_way(root: &Path, path: &RelPath) -> Result<Way, PipelineError> {
    let mut parent = root.to_owned();
    let parts: Vec<&str> = path.components().collect();
    for part in &parts[..parts.len() - 1] {
        parent.push(part);
        match fs::symlink_metadata(&parent) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Ok(Way::Taken(None)),
            Err(_) => fs::create_dir(&parent).map_err(PipelineError::io("make", &parent))?,
        }
    }
    let target = path.below(root);
    match fs::symlink_metadata(&target) {
        Err(_) => Ok(Way::Free),
        Ok(found) if found.is_file() => {
            let (file, _) = open(&target).map_err(PipelineError::io("read", &target))?;
            let mut hash = blake3::Hasher::new();
            hash.update_reader(file)
                .map_err(PipelineError::io("read", &target))?;
            let digest = hash.finalize();
            Ok(Way::Taken(Some(ondol_types::Digest::from_bytes(
                Algorithm::Blake3,
                digest.as_bytes(),
            ))))
        }
        Ok(_) => Ok(Way::Taken(None)),
    }
}

#[async_trait]
impl BlobOwner for Pipeline {
    fn name(&self) -> &'static str {
        "pipeline"
    }

    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem> {
        let mut after = String::new();
        loop {
            let from = &after;
            let page = self
                .0
                .deps
                .store
                .read::<_, PipelineError, _>(|tx| {
                    Box::pin(async move { Ok(store::artifact_digests(tx, from, 1_000).await?) })
                })
                .await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = last.to_string();
            page.iter().for_each(|digest| marks.add(digest));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn only_regular_files_that_match_are_found_and_links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("work");
        fs::create_dir_all(root.join("dist/deep")).unwrap();
        fs::create_dir_all(dir.path().join("outside")).unwrap();
        for file in [
            "work/dist/a.js",
            "work/dist/deep/b.js",
            "work/src.js",
            "outside/secret",
        ] {
            fs::write(dir.path().join(file), file).unwrap();
        }
        symlink("/etc/passwd", root.join("dist/passwd")).unwrap();
        symlink(dir.path().join("outside"), root.join("dist/out")).unwrap();
        let finding = find(&root, &patterns(&["dist/**", "*.log"]), 10).unwrap();
        let paths: Vec<&str> = finding
            .files
            .iter()
            .map(|found| found.path.as_str())
            .collect();
        assert_eq!(paths, ["dist/a.js", "dist/deep/b.js"]);
        let notes = finding.notes.join("\n");
        assert!(
            notes.contains("`dist/passwd` is no regular file"),
            "{notes}"
        );
        assert!(notes.contains("`dist/out` is no regular file"), "{notes}");
        assert!(
            notes.contains("no file matches the artifacts `*.log`"),
            "{notes}"
        );
        let many = find(&root, &patterns(&["**"]), 2).unwrap_err();
        assert!(many.to_string().contains("more than 2 files"), "{many}");
    }

    #[test]
    fn a_way_never_leads_through_a_link_and_tells_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("work"), dir.path().join("outside"));
        fs::create_dir_all(&root).unwrap();
        fs::create_dir_all(&outside).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        fs::write(root.join("here"), "x").unwrap();
        let way = |path: &str| make_way(&root, &path.parse().unwrap()).unwrap();
        assert!(matches!(way("new/folder/file"), Way::Free));
        assert!(root.join("new/folder").is_dir());
        assert!(matches!(way("out/file"), Way::Taken(None)));
        assert!(matches!(way("out"), Way::Taken(None)));
        assert!(matches!(way("here/file"), Way::Taken(None)));
        let expected = Hasher::digest(Algorithm::Blake3, b"x");
        assert!(matches!(way("here"), Way::Taken(Some(digest)) if digest == expected));
    }

    #[test]
    fn a_link_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/etc/passwd", dir.path().join("link")).unwrap();
        assert!(open(&dir.path().join("link")).is_err());
        assert!(open(dir.path()).is_err());
    }
}
