//! From events to runs.
//!
//! The cursor moves in the transaction that makes the runs, so every push and every data
//! version becomes exactly one run, whenever the process dies.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_spec::model::{Concurrency, ConcurrencyPolicy};
use ondol_store::Tx;
use ondol_store::events::{Event, EventFilter};
use ondol_types::event::{self, DatasetCommitted, EventType, PushReceived};
use ondol_types::{ManualClock, Problem, ProjectName, RunId, Timestamp};

use crate::error::PipelineError;
use crate::model::{CancelRequest, Conclusion, Run, RunOutcome, Step, StepOutcome, Trigger};
use crate::plan::built_in;
use crate::store::{self, NewRun};
use crate::{Inner, events};

const BATCH: u32 = 200;

/// The most runs that wait for each other where all are kept.
const MAX_QUEUED: usize = 100;

/// How far behind the log the stored cursor may fall while nothing in between concerns this room.
const SLACK: i64 = 2_000;

/// The events that become runs or end them, and the deletion of a project, behind which the
/// stored cursor must come before the project counts as forgotten.
const FOLLOWED: [EventType; 3] = [
    event::PUSH_RECEIVED,
    event::DATASET_COMMITTED,
    event::REPOSITORY_DELETED,
];

/// The second field is how far this process has looked without finding anything, so that not
/// every event of another room costs a write here.
pub(crate) struct Follower(pub(crate) Arc<Inner>, pub(crate) AtomicI64);

struct Batch {
    /// Runs that were made or ended.
    touched: Vec<RunId>,
    more: bool,
    seen: u64,
}

#[async_trait]
impl Reconciler for Follower {
    fn name(&self) -> &'static str {
        "pipeline.follow"
    }

    fn period(&self) -> Duration {
        self.0.config.period
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let inner = &self.0;
        if !inner.has_news(&self.1).await? {
            return Ok(Report::default());
        }
        let batch = inner.follow(&self.1).await?;
        inner.reached("pipeline.follow.after-commit");
        for run in &batch.touched {
            inner.changed(*run);
        }
        Ok(Report {
            seen: batch.seen,
            changed: batch.touched.len() as u64,
            note: None,
            more: batch.more,
        })
    }
}

impl Inner {
    /// Whether anything behind the cursor concerns this room, or the cursor is far behind.
    async fn has_news(&self, looked: &AtomicI64) -> Result<bool, PipelineError> {
        loop {
            let from = looked.load(Ordering::Relaxed);
            let (cursor, place, found, more) = self
                .deps
                .store
                .read::<_, PipelineError, _>(|tx| {
                    Box::pin(async move {
                        let cursor = store::cursor(tx).await?;
                        let newest = tx.newest_event().await?;
                        let events = tx
                            .events_after(cursor.max(from), &EventFilter::default(), BATCH)
                            .await?;
                        let place = events.last().map_or(newest, |event| event.seq);
                        let found = events
                            .iter()
                            .any(|event| FOLLOWED.contains(&event.event_type.as_str()));
                        Ok((cursor, place, found, place < newest))
                    })
                })
                .await?;
            if found {
                return Ok(true);
            }
            looked.store(place, Ordering::Relaxed);
            if place - cursor > SLACK {
                return Ok(true);
            }
            if !more {
                return Ok(false);
            }
        }
    }

    async fn follow(&self, looked: &AtomicI64) -> Result<Batch, PipelineError> {
        let from = looked.load(Ordering::Relaxed);
        self.deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let after = store::cursor(tx).await?.max(from);
                    let newest = tx.newest_event().await?;
                    let events = tx
                        .events_after(after, &EventFilter::default(), BATCH)
                        .await?;
                    let mut touched = Vec::new();
                    for event in &events {
                        touched.extend(self.derive(tx, event).await?);
                    }
                    let place = events.last().map_or(newest, |event| event.seq);
                    store::set_cursor(tx, place).await?;
                    self.reached("pipeline.follow.before-commit");
                    Ok(Batch {
                        touched,
                        more: place < newest,
                        seen: events.len() as u64,
                    })
                })
            })
            .await
    }

    async fn derive(&self, tx: &mut Tx<'_>, event: &Event) -> Result<Vec<RunId>, PipelineError> {
        match event.event_type.as_str() {
            event::PUSH_RECEIVED => match event.content::<PushReceived>() {
                Some(push) => self.pushed(tx, event, push).await,
                None => Ok(unreadable(event)),
            },
            event::DATASET_COMMITTED => match event.content::<DatasetCommitted>() {
                Some(data) => self.committed(tx, event, data).await,
                None => Ok(unreadable(event)),
            },
            _ => Ok(Vec::new()),
        }
    }

    async fn pushed(
        &self,
        tx: &mut Tx<'_>,
        event: &Event,
        push: PushReceived,
    ) -> Result<Vec<RunId>, PipelineError> {
        let Some(branch) = push.ref_name.branch().map(str::to_owned) else {
            return Ok(Vec::new());
        };
        let Some(commit) = push.new.filter(|commit| !commit.is_null()) else {
            let reason = format!("branch `{branch}` was deleted");
            let waiting = store::queued_of_branch(tx, &push.project, &branch).await?;
            return self
                .end_all(tx, waiting, RunOutcome::Cancelled, &reason)
                .await;
        };
        let trigger = Trigger::Push {
            ref_name: push.ref_name,
            commit,
            default_branch: push.default_branch,
        };
        self.queue(tx, event, push.project, trigger, push.pusher)
            .await
    }

    async fn committed(
        &self,
        tx: &mut Tx<'_>,
        event: &Event,
        data: DatasetCommitted,
    ) -> Result<Vec<RunId>, PipelineError> {
        let trigger = Trigger::Data {
            dataset: data.dataset,
            version: data.version,
            number: data.number,
        };
        self.queue(tx, event, data.project, trigger, data.author)
            .await
    }

    async fn queue(
        &self,
        tx: &mut Tx<'_>,
        event: &Event,
        project: ProjectName,
        trigger: Trigger,
        author: String,
    ) -> Result<Vec<RunId>, PipelineError> {
        if tx.project_hold(&project).await?.is_some() {
            // The project was deleted since.
            return Ok(Vec::new());
        }
        let concurrency = concurrency(tx, &project, &trigger).await?;
        let lane = lane(&trigger, &concurrency);
        let reason = format!("superseded by a newer {}", trigger.describe());
        let mut waiting = store::queued_in_lane(tx, &project, &lane).await?;
        if concurrency.policy == ConcurrencyPolicy::KeepAll {
            // With the new one there are as many as may wait.
            waiting.truncate((waiting.len() + 1).saturating_sub(MAX_QUEUED));
        }
        let mut touched = self
            .end_all(tx, waiting, RunOutcome::Superseded, &reason)
            .await?;
        if self.config.cancel_running || concurrency.policy == ConcurrencyPolicy::CancelRunning {
            for mut running in store::running_in_lane(tx, &project, &lane).await? {
                if running.cancel.is_none() {
                    running.cancel = Some(CancelRequest {
                        by: author.clone(),
                        reason: reason.clone(),
                        superseded: true,
                        at: tx.now(),
                    });
                    store::save_run(tx, &running).await?;
                    touched.push(running.id);
                }
            }
        }
        let new = NewRun {
            id: new_id(tx.now()),
            project,
            commit: trigger.commit().cloned(),
            trigger,
            retry_of: None,
            lane,
            chain: event.chain.clone(),
            author,
        };
        let run = self.make_run(tx, new, Some(event.id)).await?;
        touched.push(run.id);
        Ok(touched)
    }

    /// Makes a queued run with its first step, `checkout`.
    pub(crate) async fn make_run(
        &self,
        tx: &mut Tx<'_>,
        new: NewRun,
        cause: Option<ondol_types::EventId>,
    ) -> Result<Run, PipelineError> {
        let run = store::insert_run(tx, new).await?;
        store::insert_step(tx, &checkout_step(&run)).await?;
        tx.append(events::queued(self.base(), &run, cause).into())
            .await?;
        Ok(run)
    }

    /// Ends queued runs.
    async fn end_all(
        &self,
        tx: &mut Tx<'_>,
        waiting: Vec<Run>,
        outcome: RunOutcome,
        reason: &str,
    ) -> Result<Vec<RunId>, PipelineError> {
        let mut ended = Vec::new();
        for run in waiting {
            ended.push(run.id);
            self.end_queued(tx, run, outcome, reason).await?;
        }
        Ok(ended)
    }

    /// Ends a run that has not been started.
    pub(crate) async fn end_queued(
        &self,
        tx: &mut Tx<'_>,
        mut run: Run,
        outcome: RunOutcome,
        reason: &str,
    ) -> Result<Run, PipelineError> {
        let now = tx.now();
        for mut step in store::load_steps(tx, &run.id).await? {
            step.finish(Conclusion::because(StepOutcome::Cancelled, reason), now)?;
            store::save_step(tx, &step).await?;
        }
        run.finish(outcome, Some(reason.to_owned()), now)?;
        store::save_run(tx, &run).await?;
        tx.append(events::finished(self.base(), &run).into())
            .await?;
        Ok(run)
    }

    /// Ends a queued run, or asks a running one to end; false when it has finished.
    pub(crate) async fn request_cancel(
        &self,
        tx: &mut Tx<'_>,
        id: &RunId,
        by: &str,
        reason: &str,
    ) -> Result<bool, PipelineError> {
        use crate::model::RunState;
        let Some(mut run) = store::load_run(tx, id).await? else {
            return Ok(false);
        };
        match run.state {
            RunState::Finished => return Ok(false),
            RunState::Queued => {
                self.end_queued(tx, run, RunOutcome::Cancelled, reason)
                    .await?;
            }
            RunState::Running => {
                run.cancel.get_or_insert_with(|| CancelRequest {
                    by: by.to_owned(),
                    reason: reason.to_owned(),
                    superseded: false,
                    at: tx.now(),
                });
                store::save_run(tx, &run).await?;
            }
        }
        Ok(true)
    }
}

/// How runs wait for each other, as far as a run before this one has read it. What waits for what
/// must be known before the new run reads its own file.
pub(crate) async fn concurrency(
    tx: &mut Tx<'_>,
    project: &ProjectName,
    trigger: &Trigger,
) -> Result<Concurrency, PipelineError> {
    let Some(branch) = trigger.branch() else {
        return Ok(Concurrency::default());
    };
    let spec = store::newest_spec(tx, project, branch).await?;
    let said = spec.and_then(|spec: serde_json::Value| {
        serde_json::from_value::<Concurrency>(spec.get("concurrency")?.clone()).ok()
    });
    Ok(said.unwrap_or_default())
}

/// What a run is worked off with, one after the other.
pub(crate) fn lane(trigger: &Trigger, concurrency: &Concurrency) -> String {
    match &concurrency.group {
        Some(group) => format!("group:{group}"),
        None => trigger.lane(),
    }
}

fn unreadable(event: &Event) -> Vec<RunId> {
    tracing::error!(event.seq = event.seq, event.r#type = %event.event_type, "an event does not have the content of its type");
    Vec::new()
}

pub(crate) fn new_id(now: Timestamp) -> RunId {
    RunId::generate(&ManualClock::at(now))
}

/// The step that every run begins with.
pub(crate) fn checkout_step(run: &Run) -> Step {
    let definition = crate::plan::checkout_definition();
    #[expect(
        clippy::expect_used,
        reason = "the name is a constant that a test parses"
    )]
    let name = built_in::CHECKOUT.parse().expect("a step name");
    Step::new(run.id, 0, name, definition, Vec::new())
}
