//! What happens to tracking over time: the bin is emptied, also of what belonged to deleted
//! projects, and the collection of blobs learns which files the rest refers to.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_store::blobs::{BlobOwner, Marks};
use ondol_store::{ForgetProject, Forgotten, ProjectHold};
use ondol_types::Problem;

use super::Tracking;
use super::error::{TrackingError, TrackingResult};
use super::store;

/// Things removed in one tick.
const STEP: u32 = 100;
/// Series of a run whose points are removed in one transaction.
const SERIES: usize = 50;
/// Digests marked per page.
const PAGE: u32 = 1_000;

#[async_trait]
impl ForgetProject for Tracking {
    fn name(&self) -> &'static str {
        "tracking"
    }

    /// What bears the name goes into the bin, where nobody finds it, and is removed from there.
    async fn forget(&self, hold: &ProjectHold) -> Result<Forgotten, Problem> {
        let project = &hold.name;
        self.0
            .store
            .write::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let now = tx.now().as_millis();
                    Ok(store::abandon_project(tx, project, now).await?)
                })
            })
            .await?;
        Ok(Forgotten::Entirely)
    }
}

/// Empties the bin.
pub struct TrackingHousekeeping {
    tracking: Tracking,
}

impl TrackingHousekeeping {
    /// The housekeeping of `tracking`.
    pub fn new(tracking: Tracking) -> Self {
        Self { tracking }
    }

    async fn empty_bin(&self) -> TrackingResult<(u64, bool)> {
        let inner = &self.tracking.0;
        let before = inner
            .store
            .clock()
            .now()
            .minus(inner.config.keep_deleted)
            .as_millis();
        let runs = inner
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move { Ok(store::expired_runs(tx, before, STEP).await?) })
            })
            .await?;
        let mut removed = 0;
        for (no, id, experiment) in &runs {
            let mut more = true;
            while more {
                more = inner
                    .store
                    .write::<_, TrackingError, _>(|tx| {
                        Box::pin(async move {
                            for _ in 0..SERIES {
                                if !store::purge_series(tx, *no).await? {
                                    store::purge_run(tx, *no, id, *experiment).await?;
                                    return Ok(false);
                                }
                            }
                            Ok(true)
                        })
                    })
                    .await?;
            }
            removed += 1;
        }
        let (models, experiments) = inner
            .store
            .write::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let models = store::purge_models(tx, before, STEP).await?;
                    Ok((models, store::purge_experiments(tx, before, STEP).await?))
                })
            })
            .await?;
        let full = |count: u64| count >= u64::from(STEP);
        let more = full(removed) || full(models) || full(experiments);
        Ok((removed + models + experiments, more))
    }

    async fn count(&self) -> TrackingResult<()> {
        let inner = &self.tracking.0;
        let runs = inner
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move { Ok(store::count_all_runs(tx).await?) })
            })
            .await?;
        inner.runs.store(runs, Ordering::Relaxed);
        Ok(())
    }

    async fn sweep(&self) -> TrackingResult<Report> {
        let (removed, more) = self.empty_bin().await?;
        self.count().await?;
        Ok(Report {
            seen: removed,
            changed: removed,
            note: (removed > 0).then(|| format!("removed {removed} runs, models and experiments")),
            more,
        })
    }
}

#[async_trait]
impl Reconciler for TrackingHousekeeping {
    fn name(&self) -> &'static str {
        "ml.tracking"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(300)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        Ok(self.sweep().await?)
    }
}

#[async_trait]
impl BlobOwner for Tracking {
    fn name(&self) -> &'static str {
        "tracking"
    }

    async fn mark(&self, marks: &mut Marks) -> Result<(), Problem> {
        let mut after = String::new();
        loop {
            let from = after.as_str();
            let page = self
                .0
                .store
                .read::<_, TrackingError, _>(|tx| {
                    Box::pin(
                        async move { Ok(store::artifact_digests_after(tx, from, PAGE).await?) },
                    )
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
