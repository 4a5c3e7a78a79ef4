//! What happens to models over time: old versions go, a deleted project takes its models along,
//! and the collection of blobs learns what the rest refers to.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_store::blobs::{BlobOwner, Marks};
use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::event::MODEL_VERSION_REMOVED;
use ondol_types::{ModelName, Problem, ProjectName};

use crate::error::MlError;
use crate::model::VersionState;
use crate::service::{Models, append};
use crate::store::{self, Stored};

/// Versions looked at in one tick.
const STEP: u32 = 200;
/// Digests marked per page.
const PAGE: u32 = 1_000;
/// Former champions of each model that retention leaves alone, so that there is a way back.
const KEEP_CHAMPIONS: u32 = 5;

/// Who still needs versions of models: what the deploy domain knows of its releases.
#[async_trait]
pub trait VersionsInUse: Send + Sync + 'static {
    /// The versions of a project's models that a current, draining or kept release refers to.
    ///
    /// # Errors
    /// Any problem leaves all versions of the project alone until the next tick.
    async fn in_use(&self, project: &ProjectName) -> Result<Vec<(ModelName, i64)>, Problem>;
}

/// Removes versions beyond their retention.
pub struct Housekeeping {
    models: Models,
    in_use: Arc<dyn VersionsInUse>,
    /// Where the next look for old versions begins, after one that stopped at its bound.
    resume: Mutex<Option<store::Key>>,
}

impl Housekeeping {
    /// The housekeeping of `models`, which asks `in_use` before it removes a version.
    pub fn new(models: Models, in_use: Arc<dyn VersionsInUse>) -> Self {
        Self {
            models,
            in_use,
            resume: Mutex::default(),
        }
    }

    /// Looks at one page of old versions, beginning where the last tick ended, so that versions
    /// that have to stay do not hide those behind them.
    async fn prune(&self) -> Result<(u64, u64), Problem> {
        let keep = self.models.config.keep_versions;
        let after = self
            .resume
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let from = after.as_ref();
        let old = self
            .models
            .store
            .read::<_, MlError, _>(|tx| {
                Box::pin(async move { store::beyond_retention(tx, keep, from, STEP).await })
            })
            .await?;
        let mut removed = 0;
        let mut spared: Option<(ProjectName, BTreeSet<(ModelName, i64)>)> = None;
        for (project, model, version) in &old {
            if spared.as_ref().is_none_or(|(of, _)| of != project) {
                spared = Some((
                    project.clone(),
                    self.in_use.in_use(project).await?.into_iter().collect(),
                ));
            }
            if spared
                .as_ref()
                .is_some_and(|(_, spared)| spared.contains(&(model.clone(), *version)))
            {
                continue;
            }
            removed += self
                .models
                .store
                .write(|tx| {
                    Box::pin(async move {
                        let champions =
                            store::promotions(tx, project, model, KEEP_CHAMPIONS).await?;
                        if champions
                            .iter()
                            .any(|promotion| promotion.version == *version)
                        {
                            return Ok(0);
                        }
                        let Stored { version, chain } =
                            match store::find_version(tx, project, model, *version).await {
                                // Its project went in the meantime.
                                Err(MlError::NotFound(_)) => return Ok(0),
                                found => found?,
                            };
                        if !matches!(
                            version.state,
                            VersionState::Archived | VersionState::Refused
                        ) {
                            return Ok(0);
                        }
                        store::delete_version(tx, &version).await?;
                        let reason = Some("older than its retention".to_owned());
                        append(tx, MODEL_VERSION_REMOVED, &version, reason, chain, "ondol").await?;
                        Ok(1)
                    })
                })
                .await
                .map_err(|error: MlError| Problem::from(error))?;
        }
        if old.len() == STEP as usize {
            *self.resume.lock().unwrap_or_else(PoisonError::into_inner) = old.last().cloned();
        }
        Ok((old.len() as u64, removed))
    }
}

#[async_trait]
impl Reconciler for Housekeeping {
    fn name(&self) -> &'static str {
        "ml.housekeeping"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(300)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let (old, versions) = self.prune().await?;
        Ok(Report {
            seen: old,
            changed: versions,
            note: (versions > 0).then(|| format!("removed {versions} old versions")),
            more: old == u64::from(STEP),
        })
    }
}

#[async_trait]
impl ForgetProject for Models {
    fn name(&self) -> &'static str {
        "models"
    }

    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        let project = &hold.name;
        self.store
            .write::<_, MlError, _>(|tx| {
                Box::pin(async move { store::delete_project(tx, project).await })
            })
            .await?;
        Ok(Forgotten::Entirely)
    }
}

#[async_trait]
impl BlobOwner for Models {
    fn name(&self) -> &'static str {
        "models"
    }

    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem> {
        let mut after = String::new();
        loop {
            let from = after.as_str();
            let page = self
                .store
                .read::<_, MlError, _>(|tx| {
                    Box::pin(async move { store::digests_after(tx, from, PAGE).await })
                })
                .await?;
            page.iter().for_each(|digest| marks.add(digest));
            match page.last() {
                Some(last) if page.len() == PAGE as usize => after = last.to_string(),
                _ => return Ok(()),
            }
        }
    }
}
