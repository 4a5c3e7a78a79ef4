//! Validation of a version by the rules of `ondol.yaml`.

use std::collections::HashMap;

use ondol_auth::Ctx;
use ondol_types::{DatasetName, ProjectName, RelPath};

use super::DataService;
use crate::content::{Located, each_row};
use crate::error::DataResult;
use crate::table::{Format, TableProfile};
use crate::tree::Tree;
use crate::validate::{Checker, Findings, Rules, Severity, ValidationReport, compare, finding};

impl DataService {
    /// Asks every rule of every row of a version, and notes what changed in its schema since the
    /// version before.
    ///
    /// # Errors
    /// As [`DataService::version`], and [`crate::DataError::Rule`] when a rule makes no sense. A
    /// version that breaks rules is not an error: the report says so.
    pub async fn validate(
        &self,
        ctx: &Ctx,
        project: &ProjectName,
        dataset: &DatasetName,
        which: &str,
        rules: &ondol_spec::model::Dataset,
    ) -> DataResult<ValidationReport> {
        let version = self.version(ctx, project, dataset, which).await?;
        let mut checked = Rules::new(rules)?;
        let mut findings = Findings::default();
        let profiles = self.profiles(&version).await?;
        let rows = profiles.rows().unwrap_or(0);
        let tables: HashMap<RelPath, TableProfile> = profiles
            .tables()
            .map(|table| (table.path.clone(), table.clone()))
            .collect();
        if tables.is_empty() && (!rules.schema.is_empty() || rules.min_rows.is_some()) {
            findings.add(finding(
                Severity::Error,
                None,
                None,
                "table",
                "the version has no table (.csv, .tsv, .jsonl, .parquet), and the schema has rules for one",
            ));
        }
        if let Some(min) = rules.min_rows.filter(|min| rows < *min) {
            findings.add(finding(
                Severity::Error,
                None,
                None,
                "min_rows",
                &format!("the version has {rows} rows, and at least {min} are required"),
            ));
        }
        let commit = self.commit_of(&version).await?;
        let mut tree = Tree::open(&self.deps.blobs, commit.root()?, None).await?;
        while let Some(files) = tree.next().await? {
            for file in files {
                let (Some(format), Some(profile)) =
                    (Format::of(&file.path), tables.get(&file.path))
                else {
                    continue;
                };
                checked.check_columns(profile, &mut findings);
                if rules.schema.is_empty() {
                    continue;
                }
                let located = Located::of(&self.deps.blobs, file).await?;
                let checker = Checker::new(located.file.path.clone(), checked, findings);
                let (blobs, scratch) = (&self.deps.blobs, &self.deps.scratch);
                let checker = each_row(blobs, scratch, &located, format, checker).await?;
                (checked, findings, _) = checker.finish();
            }
        }
        if let Some(before) = self.before(ctx, &version).await? {
            let before = self.profiles(&before).await?;
            for old in before.tables() {
                match tables.get(&old.path) {
                    Some(new) => compare(old, new, &mut findings),
                    None => findings.add(finding(
                        Severity::Note,
                        Some(&old.path),
                        None,
                        "schema",
                        "was in the version before and is gone",
                    )),
                }
            }
        }
        Ok(ValidationReport {
            version: version.id,
            number: version.number,
            passed: findings.errors == 0,
            tables: tables.len() as u64,
            rows,
            errors: findings.errors,
            findings: findings.into_list(),
        })
    }
}
