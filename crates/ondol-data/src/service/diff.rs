//! Comparing two versions: files by their tree, tables by their rows.

use std::collections::HashSet;

use ondol_auth::Ctx;
use ondol_types::{DatasetName, ProjectName};

use super::DataService;
use crate::content::{Located, each_row};
use crate::error::DataResult;
use crate::model::{Change, Diff, FileChange, RowDiff, Version};
use crate::profiles::Profiles;
use crate::rows::{Comparison, EarlierAgain, Later};
use crate::table::{Format, TableProfile};
use crate::tree::{StoredFile, Tree};

/// Files that are listed at most.
const MAX_FILES: usize = 10_000;
/// Tables whose rows are compared.
const MAX_TABLES: usize = 20;

impl DataService {
    /// How version `to` differs from version `from`; `from` defaults to the version before.
    /// With `rows`, the first tables among the files are compared row by row.
    ///
    /// # Errors
    /// As [`DataService::version`].
    #[expect(
        clippy::too_many_arguments,
        reason = "two versions, two options and who asks for what"
    )]
    pub async fn diff(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        from: &str,
        to: &str,
        rows: bool,
        limit: usize,
    ) -> DataResult<Diff> {
        let to = self.version(ctx, project, dataset, to).await?;
        let from = self.version(ctx, project, dataset, from).await?;
        let before = self.commit_of(&from).await?.root()?;
        let after = self.commit_of(&to).await?.root()?;
        let changes = Tree::diff(&self.deps.blobs, Some(before), after).await?;
        let limit = limit.clamp(1, MAX_FILES);
        let mut diff = Diff {
            added: 0,
            removed: 0,
            modified: 0,
            files: Vec::new(),
            truncated: changes.len() > limit,
            from,
            to,
        };
        let profiles = match rows {
            true => Some((
                self.profiles(&diff.from).await?,
                self.profiles(&diff.to).await?,
            )),
            false => None,
        };
        let mut compared = 0;
        for (before, after) in changes {
            let change = match (&before, &after) {
                (None, _) => Change::Added,
                (_, None) => Change::Removed,
                _ => Change::Modified,
            };
            match change {
                Change::Added => diff.added += 1,
                Change::Removed => diff.removed += 1,
                Change::Modified => diff.modified += 1,
            }
            if diff.files.len() >= limit {
                continue;
            }
            let before = self.locate(before).await?;
            let after = self.locate(after).await?;
            let mut rows = None;
            if let Some(profiles) = &profiles
                && compared < MAX_TABLES
            {
                rows = self.rows(before.as_ref(), after.as_ref(), profiles).await?;
                compared += usize::from(rows.is_some());
            }
            let Some(path) = after
                .as_ref()
                .or(before.as_ref())
                .map(|located| located.file.path.clone())
            else {
                continue;
            };
            diff.files.push(FileChange {
                path,
                change,
                before: before.as_ref().map(|located| located.file.size),
                after: after.as_ref().map(|located| located.file.size),
                new_bytes: new_bytes(before.as_ref(), after.as_ref()),
                rows,
            });
        }
        Ok(diff)
    }

    async fn locate(&self, file: Option<StoredFile>) -> DataResult<Option<Located>> {
        match file {
            Some(file) => Located::of(&self.deps.blobs, file).await.map(Some),
            None => Ok(None),
        }
    }

    async fn rows(
        &self,
        before: Option<&Located>,
        after: Option<&Located>,
        profiles: &(Profiles, Profiles),
    ) -> DataResult<Option<RowDiff>> {
        let Some(path) = after.or(before).map(|located| &located.file.path) else {
            return Ok(None);
        };
        let Some(format) = Format::of(path) else {
            return Ok(None);
        };
        let find = |profiles: &Profiles| -> Option<TableProfile> {
            profiles.tables().find(|table| table.path == *path).cloned()
        };
        let (old, new) = (find(&profiles.0), find(&profiles.1));
        let count = |table: &Option<TableProfile>| table.as_ref().map_or(0, |table| table.rows);
        let names = |table: &Option<TableProfile>| -> Vec<String> {
            let columns = table.iter().flat_map(|table| &table.columns);
            columns.map(|column| column.name.clone()).collect()
        };
        let (ours, theirs) = (names(&old), names(&new));
        let mut diff = RowDiff {
            before: count(&old),
            after: count(&new),
            columns_added: missing_in(&theirs, &ours),
            columns_removed: missing_in(&ours, &theirs),
            ..RowDiff::default()
        };
        let (Some(before), Some(after)) = (before, after) else {
            (diff.added, diff.removed) = (diff.after, diff.before);
            return Ok(Some(diff));
        };
        let most = self.config.max_diff_rows;
        if diff.before.max(diff.after) > most {
            diff.note = Some(format!(
                "the table has more than {most} rows, so they were only counted"
            ));
            return Ok(Some(diff));
        }
        let common: Vec<String> = ours
            .into_iter()
            .filter(|name| theirs.contains(name))
            .collect();
        let (blobs, scratch) = (&self.deps.blobs, &self.deps.scratch);
        let earlier = each_row(blobs, scratch, before, format, Comparison::new(common)).await?;
        let later = each_row(blobs, scratch, after, format, Later::new(earlier)).await?;
        let again = each_row(blobs, scratch, before, format, EarlierAgain::new(later)).await?;
        again.finish(&mut diff);
        Ok(Some(diff))
    }

    /// The version before, for a comparison with it.
    ///
    /// # Errors
    /// As [`DataService::version`].
    pub async fn before(&self, ctx: &Ctx, version: &Version) -> DataResult<Option<Version>> {
        match &version.parent {
            None => Ok(None),
            Some(parent) => {
                let which = parent.to_string();
                let found = self
                    .version(ctx, &version.project, &version.dataset, &which)
                    .await;
                match found {
                    Ok(version) => Ok(Some(version)),
                    // It was forgotten since.
                    Err(crate::DataError::NoVersion { .. }) => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

fn missing_in(names: &[String], others: &[String]) -> Vec<String> {
    let others: HashSet<&String> = others.iter().collect();
    let missing = names.iter().filter(|name| !others.contains(name));
    missing.cloned().collect()
}

fn new_bytes(before: Option<&Located>, after: Option<&Located>) -> u64 {
    let old: HashSet<crate::Key> = before
        .iter()
        .flat_map(|located| &located.chunks)
        .map(|chunk| chunk.key)
        .collect();
    let mut seen = HashSet::new();
    after
        .iter()
        .flat_map(|located| &located.chunks)
        .filter(|chunk| !old.contains(&chunk.key) && seen.insert(chunk.key))
        .map(|chunk| u64::from(chunk.len))
        .sum()
}
