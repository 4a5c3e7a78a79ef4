//! Queued runs get their turn: one per branch or dataset at a time, projects in turn.

use std::collections::BTreeMap;

use ondol_types::ProjectName;

use crate::error::PipelineError;
use crate::model::{Run, RunState};
use crate::{Inner, events, store};

/// How many queued runs are looked at in one tick.
const LOOK: u32 = 1_000;

/// Which runs start now: those of projects with the fewest running ones first, older first.
fn choose(running: &[Run], heads: Vec<Run>, most: usize) -> Vec<Run> {
    let mut load: BTreeMap<ProjectName, usize> = BTreeMap::new();
    for run in running {
        *load.entry(run.project.clone()).or_default() += 1;
    }
    let mut waiting = heads;
    let mut chosen = Vec::new();
    for _ in running.len()..most {
        let next = waiting
            .iter()
            .enumerate()
            .min_by_key(|(_, run)| (load.get(&run.project).copied().unwrap_or(0), run.seq))
            .map(|(index, _)| index);
        let Some(index) = next else { break };
        let run = waiting.remove(index);
        *load.entry(run.project.clone()).or_default() += 1;
        chosen.push(run);
    }
    chosen
}

impl Inner {
    /// Starts queued runs as far as there is room; returns how many.
    pub(super) async fn start_runs(&self) -> Result<u64, PipelineError> {
        let (running, heads) = self
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    Ok((
                        store::running_runs(tx).await?,
                        store::lane_heads(tx, LOOK).await?,
                    ))
                })
            })
            .await?;
        let mut started = 0;
        for run in choose(&running, heads, self.config.max_runs.max(1)) {
            self.reached("pipeline.run.before-start");
            started += u64::from(self.start_run(&run).await?);
            self.reached("pipeline.run.after-start");
        }
        Ok(started)
    }

    async fn start_run(&self, run: &Run) -> Result<bool, PipelineError> {
        let id = &run.id;
        let started = self
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let Some(mut run) = store::load_run(tx, id).await? else {
                        return Ok(false);
                    };
                    let taken = !store::running_in_lane(tx, &run.project, &run.lane)
                        .await?
                        .is_empty();
                    if run.state != RunState::Queued || taken {
                        return Ok(false);
                    }
                    run.start(tx.now())?;
                    store::save_run(tx, &run).await?;
                    tx.append(events::started(self.base(), &run).into()).await?;
                    Ok(true)
                })
            })
            .await?;
        if started {
            self.changed(run.id);
        }
        Ok(started)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_with_many_branches_does_not_hold_up_another() {
        let run = |project: &str, seq: i64| Run {
            project: project.parse().unwrap(),
            seq,
            ..crate::model::tests_support::run()
        };
        let heads: Vec<Run> = (1..9)
            .map(|seq| run("busy", seq))
            .chain([run("late", 100)])
            .collect();
        let chosen = choose(&[run("busy", 0)], heads, 3);
        let order: Vec<(&str, i64)> = chosen
            .iter()
            .map(|run| (run.project.as_str(), run.seq))
            .collect();
        assert_eq!(order, [("late", 100), ("busy", 1)]);
    }
}
