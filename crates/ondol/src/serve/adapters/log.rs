//! The archive of the event log: who must have read an event before it moves, and the two loops.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_deploy::DeployService;
use ondol_pipeline::Pipeline;
use ondol_store::events::{EventArchive, EventFollower};
use ondol_types::{ErrorKind, Problem};

/// Every room that follows the log.
pub(in crate::serve) fn followers(
    pipeline: Pipeline,
    deploy: DeployService,
) -> Vec<Arc<dyn EventFollower>> {
    vec![
        Arc::new(PipelinePlace(pipeline)),
        Arc::new(DeployPlace(deploy)),
    ]
}

struct PipelinePlace(Pipeline);

#[async_trait]
impl EventFollower for PipelinePlace {
    fn name(&self) -> &'static str {
        "pipeline.follow"
    }

    async fn place(&self) -> Result<i64, Problem> {
        Ok(self.0.followed().await?)
    }
}

struct DeployPlace(DeployService);

#[async_trait]
impl EventFollower for DeployPlace {
    fn name(&self) -> &'static str {
        "deploy.follow"
    }

    async fn place(&self) -> Result<i64, Problem> {
        Ok(self.0.followed().await?)
    }
}

/// Moves old events into the archive.
pub(in crate::serve) struct Archiving(pub(in crate::serve) EventArchive);

#[async_trait]
impl Reconciler for Archiving {
    fn name(&self) -> &'static str {
        "events.archive"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let done = self.0.round().await?;
        let waits = done
            .waits_for
            .map(|(name, place)| format!("old events wait for {name}, which is at {place}"));
        Ok(Report {
            seen: done.events,
            changed: done.segments + done.dropped,
            note: waits.or_else(|| {
                (done.segments + done.dropped > 0).then(|| {
                    format!(
                        "{} events archived in {} segments, {} old segments given up",
                        done.events, done.segments, done.dropped
                    )
                })
            }),
            more: done.more,
        })
    }
}

/// Reads the archive again, so that damage is noticed before somebody needs what it hit.
pub(in crate::serve) struct Verification(pub(in crate::serve) EventArchive);

#[async_trait]
impl Reconciler for Verification {
    fn name(&self) -> &'static str {
        "events.verification"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3_600)
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let verified = self.0.verify().await?;
        if verified.damaged > 0 {
            let damage = verified.damage.unwrap_or_default();
            let message = format!(
                "{} of {} archived segments are damaged, the first: {damage}",
                verified.damaged, verified.segments
            );
            return Err(
                Problem::new(ErrorKind::Corrupted, "store.events.archive", message)
                    .with_hint("restore the folder blobs/ from a backup"),
            );
        }
        Ok(Report {
            seen: verified.segments,
            changed: verified.checked,
            note: (verified.segments > 0).then(|| {
                format!(
                    "{} events in {} archived segments, {} bytes, their chain is whole",
                    verified.events, verified.segments, verified.bytes
                )
            }),
            more: verified.more,
        })
    }
}
