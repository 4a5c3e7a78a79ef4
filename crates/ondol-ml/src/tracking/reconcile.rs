//! What happens to tracking over time: the bin is emptied, what belonged to deleted projects
//! goes, and the collection of blobs learns which files the rest refers to.
//!
//! The log of the platform is in another database, so the cursor is kept here, beside what it
//! governs: a tick that dies between the two reads the same events again, which changes nothing.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_store::Store;
use ondol_store::blobs::{BlobOwner, Marks};
use ondol_store::events::EventFilter;
use ondol_types::event::REPOSITORY_DELETED;
use ondol_types::{Problem, ProjectName, Timestamp};

use super::Tracking;
use super::error::{TrackingError, TrackingResult};
use super::store;

/// Events read, and things removed, in one tick.
const STEP: u32 = 100;
/// Series of a run whose points are removed in one transaction.
const SERIES: usize = 50;
/// Digests marked per page.
const PAGE: u32 = 1_000;
const CURSOR: &str = "cursor:projects";

/// Empties the bin and follows the deletion of projects.
pub struct TrackingHousekeeping {
    tracking: Tracking,
    /// The platform's database, whose log says which projects are no more.
    platform: Store,
}

impl TrackingHousekeeping {
    /// The housekeeping of `tracking`, which follows the log of `platform`.
    pub fn new(tracking: Tracking, platform: Store) -> Self {
        Self { tracking, platform }
    }

    async fn follow(&self) -> TrackingResult<(u64, u64)> {
        let own = &self.tracking.0.store;
        let after = own
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move { Ok(store::cursor(tx, CURSOR).await?) })
            })
            .await?;
        let (newest, events) = self
            .platform
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let newest = tx.newest_event().await?;
                    let filter = EventFilter {
                        type_prefix: Some(REPOSITORY_DELETED.to_owned()),
                        ..EventFilter::default()
                    };
                    Ok((newest, tx.events_after(after, &filter, STEP).await?))
                })
            })
            .await?;
        if newest == after {
            return Ok((0, 0));
        }
        let last = match events.last() {
            Some(last) if events.len() == STEP as usize => last.seq,
            _ => newest,
        };
        let deleted: Vec<(ProjectName, Timestamp)> = events
            .iter()
            .filter_map(|event| Some((event.project.clone()?, event.time)))
            .collect();
        let deleted = &deleted;
        let abandoned = own
            .write::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let mut abandoned = 0;
                    for (project, time) in deleted {
                        abandoned += store::abandon_project(tx, project, time.as_millis()).await?;
                    }
                    store::set_cursor(tx, CURSOR, last).await?;
                    Ok(abandoned)
                })
            })
            .await?;
        Ok((events.len() as u64, abandoned))
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
        let (events, abandoned) = self.follow().await?;
        let (removed, more) = self.empty_bin().await?;
        self.count().await?;
        Ok(Report {
            seen: events,
            changed: abandoned + removed,
            note: (removed > 0).then(|| format!("removed {removed} runs, models and experiments")),
            more: more || events == u64::from(STEP),
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
