//! The loop around every reconciler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use ondol_types::{Clock, Problem, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;

/// Wakes one reconciler. Cheap to clone; made before the reconciler it wakes, so that a wake-up
/// of something that does not exist cannot be written.
#[derive(Clone, Debug, Default)]
pub struct Activator(Arc<Notify>);

impl Activator {
    /// An activator that nobody listens to yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for a tick soon. Many calls before the tick are one.
    pub fn wake(&self) {
        self.0.notify_one();
    }
}

/// What a tick found and did, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// How many things it looked at.
    pub seen: u64,
    /// How many it changed.
    pub changed: u64,
    /// One line about what matters now, such as what it waits for.
    pub note: Option<String>,
    /// Whether there is more to do at once, because the tick stopped at its bound.
    pub more: bool,
}

/// A loop that makes the world as it should be.
#[async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// Its name, such as `deploy.rollouts`.
    fn name(&self) -> &'static str;

    /// How long it sleeps at most between two ticks.
    fn period(&self) -> Duration;

    /// Looks and acts once. It must be idempotent and bounded.
    ///
    /// # Errors
    /// A [`Problem`] is shown in the status; the next tick tries again.
    async fn tick(&self) -> Result<Report, Problem>;
}

/// How the last tick ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "state")]
pub enum Outcome {
    /// It has not run yet.
    Pending,
    /// It ended well.
    Done {
        /// What it found and did.
        report: Report,
    },
    /// It failed.
    Failed {
        /// Why.
        error: String,
        /// How many times in a row.
        consecutive: u32,
    },
}

/// The state of one loop, for people.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoopStatus {
    /// The reconciler's name.
    pub name: String,
    /// How many ticks it has had.
    pub ticks: u64,
    /// When the last tick ended.
    pub last: Option<Timestamp>,
    /// How long the last tick took, in seconds.
    pub seconds: f64,
    /// How it ended.
    pub outcome: Outcome,
}

/// All loops of the process.
#[derive(Clone)]
pub struct Background {
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    tasks: TaskTracker,
    status: Arc<Mutex<BTreeMap<&'static str, LoopStatus>>>,
}

const RETRY_FLOOR: Duration = Duration::from_millis(200);

impl Background {
    /// No loops yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            status: Arc::default(),
        }
    }

    /// Ends with [`Background::stop`]; follow-up tasks may select on it.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a loop: one tick now, then one per wake-up or period.
    pub fn spawn(&self, reconciler: Arc<dyn Reconciler>, activator: Activator) {
        let name = reconciler.name();
        let pending = LoopStatus {
            name: name.to_owned(),
            ticks: 0,
            last: None,
            seconds: 0.0,
            outcome: Outcome::Pending,
        };
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, pending);
        let this = self.clone();
        self.tasks.spawn(async move {
            let mut failures = 0u32;
            while !this.stop.is_cancelled() {
                let began = std::time::Instant::now();
                // A panic in a tick is a failed tick, not the end of the loop.
                let ticking = reconciler.clone();
                let outcome = match tokio::spawn(async move { ticking.tick().await }).await {
                    Ok(outcome) => outcome,
                    Err(error) => Err(Problem::internal("the tick panicked", error)),
                };
                let pause = match &outcome {
                    Ok(report) if report.more => Duration::ZERO,
                    Ok(_) => reconciler.period(),
                    Err(_) => RETRY_FLOOR
                        .saturating_mul(1 << failures.min(8))
                        .min(reconciler.period().max(RETRY_FLOOR)),
                };
                failures = if outcome.is_err() { failures + 1 } else { 0 };
                this.record(name, began.elapsed(), outcome, failures);
                tokio::select! {
                    () = this.stop.cancelled() => {}
                    () = activator.0.notified() => {}
                    () = tokio::time::sleep(pause) => {}
                }
            }
        });
    }

    fn record(
        &self,
        name: &'static str,
        took: Duration,
        outcome: Result<Report, Problem>,
        consecutive: u32,
    ) {
        let mut all = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(status) = all.get_mut(name) else {
            return;
        };
        status.ticks += 1;
        status.last = Some(self.clock.now());
        status.seconds = took.as_secs_f64();
        status.outcome = match outcome {
            Ok(report) => Outcome::Done { report },
            Err(problem) => {
                tracing::warn!(reconciler.name = name, error = %problem.chain(), attempts = consecutive, "reconciler tick failed");
                Outcome::Failed {
                    error: problem.to_string(),
                    consecutive,
                }
            }
        };
    }

    /// The state of every loop.
    pub fn status(&self) -> Vec<LoopStatus> {
        self.status
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// Asks every loop to end and waits for running ticks, at most `patience`.
    pub async fn stop(&self, patience: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("some reconcilers did not stop in time");
        }
    }
}
