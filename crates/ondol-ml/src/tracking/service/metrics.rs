//! Histories of metrics.

use ondol_auth::{Action, Ctx};

use super::{scope, store};
use crate::tracking::Tracking;
use crate::tracking::error::{TrackingError, TrackingResult};
use crate::tracking::model::{Metric, Page};
use crate::tracking::plan::{page, sample};

/// Most runs of one question.
const MAX_RUNS: usize = 100;

/// A part of the history of a metric, of several runs.
pub(in crate::tracking) struct Interval {
    /// The runs.
    pub(in crate::tracking) runs: Vec<String>,
    /// The metric.
    pub(in crate::tracking) key: String,
    /// First step.
    pub(in crate::tracking) start: Option<i64>,
    /// Last step.
    pub(in crate::tracking) end: Option<i64>,
    /// Most points of each run.
    pub(in crate::tracking) limit: i64,
}

impl Tracking {
    /// The history of a metric of a run, oldest first.
    pub(in crate::tracking) async fn history(
        &self,
        ctx: &Ctx,
        run: &str,
        key: &str,
        limit: i64,
        token: Option<&str>,
    ) -> TrackingResult<Page<Metric>> {
        let offset = page::offset(token)?;
        let found = self
            .inner()
            .store
            .read::<_, TrackingError, _>(|tx| {
                Box::pin(async move {
                    let run = scope::run(tx, ctx, Action::Read, run).await?;
                    let window = store::Window {
                        start: None,
                        end: None,
                        offset,
                        limit: limit + 1,
                    };
                    Ok(store::history(tx, &run, key, &window).await?)
                })
            })
            .await?;
        let (items, next) = page::cut(found, offset, limit);
        Ok(Page { items, next })
    }

    /// Evenly spread points of the histories of several runs, each with its run.
    pub(in crate::tracking) async fn history_interval(
        &self,
        ctx: &Ctx,
        interval: Interval,
    ) -> TrackingResult<Vec<Metric>> {
        if interval.runs.is_empty() || interval.runs.len() > MAX_RUNS {
            return Err(TrackingError::invalid(format!(
                "GetMetricHistoryBulkInterval request must specify 1 to {MAX_RUNS} run_ids, got {}.",
                interval.runs.len()
            )));
        }
        match (interval.start, interval.end) {
            (Some(start), Some(end)) if start > end => {
                return Err(TrackingError::invalid(format!(
                    "end_step must be greater than start_step. Found start_step={start} and end_step={end}."
                )));
            }
            (Some(_), None) | (None, Some(_)) => {
                return Err(TrackingError::invalid(
                    "If either start step or end step are specified, both must be specified.",
                ));
            }
            _ => {}
        }
        let interval = &interval;
        self.inner()
            .store
            .read(|tx| {
                Box::pin(async move {
                    let mut found = Vec::new();
                    for id in &interval.runs {
                        let run = scope::run(tx, ctx, Action::Read, id).await?;
                        let window = store::Window {
                            start: interval.start,
                            end: interval.end,
                            offset: 0,
                            limit: interval.limit,
                        };
                        let count = store::history_length(tx, &run, &interval.key, &window).await?;
                        let mut metrics = if count <= interval.limit {
                            store::history(tx, &run, &interval.key, &window).await?
                        } else {
                            let places: Vec<i64> =
                                sample::evenly(count as usize, interval.limit.max(1) as usize)
                                    .into_iter()
                                    .map(|place| place as i64 + 1)
                                    .collect();
                            store::history_at(tx, &run, &interval.key, &window, &places).await?
                        };
                        for metric in &mut metrics {
                            metric.run_id = Some(run.id.clone());
                        }
                        found.append(&mut metrics);
                    }
                    Ok(found)
                })
            })
            .await
    }
}
