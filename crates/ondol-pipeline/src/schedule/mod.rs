//! The loop that brings runs to their end.
//!
//! One tick reads what is running, asks the engine about workloads, lets
//! [`plan`](crate::plan) decide, and carries the decisions out: small ones in a transaction here,
//! long ones in a task. Nothing that a crash could lose is in memory; a task that vanished is
//! simply decided upon again.

mod act;
mod change;
mod checkout;
mod conclude;
mod launch;
mod services;
mod start;
mod tasks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use ondol_background::{Reconciler, Report};
use ondol_types::{Problem, StepId};
use ondol_workload::{StopPolicy, WorkloadState};

use crate::Inner;
use crate::error::PipelineError;
use crate::model::{Place, Run, Step, StepKind, StepState};
use crate::plan::{Candidate, Decision, Occupied, Seen, admit, decide, wants_observation};
use crate::store;

pub(crate) use launch::blocking;
pub(crate) use tasks::{Key, Tasks};

/// How many workspaces are removed in one tick.
const CLEAN_BATCH: u32 = 8;

pub(crate) struct Scheduler(pub(crate) Arc<Inner>);

#[async_trait]
impl Reconciler for Scheduler {
    fn name(&self) -> &'static str {
        "pipeline.schedule"
    }

    fn period(&self) -> Duration {
        self.0.config.period
    }

    async fn tick(&self) -> Result<Report, Problem> {
        let inner = &self.0;
        inner.tasks.reap();
        let mut changed = inner.start_runs().await?;
        let running = inner.load_running().await?;
        let mut occupied = Occupied::default();
        let mut candidates = Vec::new();
        for (run, steps) in &running {
            occupy(run, steps, &mut occupied);
            let seen = inner.look_at(steps).await;
            let now = inner.deps.clock.now();
            for decision in decide(run, steps, &seen, now) {
                if let Decision::Admit(id) = decision {
                    candidates.extend(find(steps, &id).map(|step| candidate(run, step)));
                } else {
                    changed += inner.carry_out(run, steps, decision).await?;
                }
            }
        }
        for id in admit(candidates, occupied, inner.config.max_steps) {
            changed += inner.claim(id).await?;
        }
        inner.clean_up().await?;
        Ok(report(&running, changed))
    }
}

fn report(running: &[(Run, Vec<Step>)], changed: u64) -> Report {
    let working = running
        .iter()
        .flat_map(|(_, steps)| steps)
        .filter(|step| matches!(step.state, StepState::Ready | StepState::Running))
        .count();
    Report {
        seen: running.len() as u64,
        changed,
        note: (!running.is_empty())
            .then(|| format!("{} runs, {working} steps at work", running.len())),
        more: changed > 0,
    }
}

fn find<'a>(steps: &'a [Step], id: &StepId) -> Option<&'a Step> {
    steps.iter().find(|step| step.id == *id)
}

fn place(step: &Step) -> Option<Place> {
    step.definition.as_command().map(|work| work.place)
}

fn candidate(run: &Run, step: &Step) -> Candidate {
    Candidate {
        step: step.id,
        run: run.id,
        run_seq: run.seq,
        ordinal: step.ordinal,
        project: run.project.clone(),
        waits: step.definition.waits,
        place: place(step),
    }
}

fn occupy(run: &Run, steps: &[Step], occupied: &mut Occupied) {
    for step in steps {
        if !matches!(step.state, StepState::Ready | StepState::Running) {
            continue;
        }
        if !step.definition.waits {
            *occupied.projects.entry(run.project.clone()).or_default() += 1;
        }
        match (place(step), step.state) {
            (Some(Place::Source), _) => {
                occupied.changing.insert(run.id);
            }
            (Some(Place::Copy), StepState::Ready) => {
                occupied.copying.insert(run.id);
            }
            _ => {}
        }
    }
}

impl Inner {
    async fn load_running(&self) -> Result<Vec<(Run, Vec<Step>)>, PipelineError> {
        self.deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let mut running = Vec::new();
                    for run in store::running_runs(tx).await? {
                        let steps = store::load_steps(tx, &run.id).await?;
                        running.push((run, steps));
                    }
                    Ok(running)
                })
            })
            .await
    }

    async fn look_at(&self, steps: &[Step]) -> BTreeMap<StepId, Seen> {
        let mut all = BTreeMap::new();
        for step in steps {
            let seen = if self.tasks.is_busy(&Key::Work(step.id)) {
                Seen::Busy
            } else if wants_observation(step) {
                self.observe(step).await
            } else {
                Seen::Absent
            };
            all.insert(step.id, seen);
        }
        all
    }

    async fn observe(&self, step: &Step) -> Seen {
        let Some(workload) = &step.workload else {
            return Seen::Absent;
        };
        match self.deps.engine.observe(workload).await {
            Ok(Some(observation)) if observation.incarnation == u64::from(step.attempt) => {
                match observation.state {
                    WorkloadState::Exited(exit) => Seen::Exited(exit),
                    WorkloadState::Starting | WorkloadState::Running { .. } => Seen::Alive,
                    // Nothing is concluded from the silence of what runs it.
                    WorkloadState::Unknown { .. } => Seen::Busy,
                }
            }
            Ok(_) => Seen::Absent,
            Err(error) => {
                // An engine that does not answer now is asked again; nothing is concluded from silence.
                tracing::warn!(step.id = %step.id, %error, "cannot observe a step");
                Seen::Busy
            }
        }
    }

    /// Carries out what one tick decided; returns how many rows changed.
    async fn carry_out(
        self: &Arc<Self>,
        run: &Run,
        steps: &[Step],
        decision: Decision,
    ) -> Result<u64, PipelineError> {
        match decision {
            Decision::Admit(_) => Ok(0),
            Decision::FinishRun(outcome, reason) => self.finish_run(run, outcome, reason).await,
            Decision::Conclude(id, conclusion) => self.conclude(&id, conclusion).await,
            Decision::Adopt(id) => self.record_start(&id).await,
            Decision::Launch(id) => Ok(self.spawn_launch(run, find(steps, &id))),
            Decision::Act(id) => self.take_and_act(&id).await,
            Decision::Judge(id, exit) => Ok(self.spawn_judgement(run, find(steps, &id), exit)),
            Decision::Stop(id) => Ok(self.spawn_stop(find(steps, &id), false)),
            Decision::Kill(id) => Ok(self.spawn_stop(find(steps, &id), true)),
            Decision::Interrupt(id) => {
                self.tasks.interrupt(&Key::Work(id));
                Ok(0)
            }
        }
    }

    fn spawn_launch(self: &Arc<Self>, run: &Run, step: Option<&Step>) -> u64 {
        if let Some(step) = step {
            let (inner, run, step) = (self.clone(), run.clone(), step.clone());
            self.tasks.spawn(
                Key::Work(step.id),
                &self.scheduling,
                move |called_off| async move {
                    inner.launch(&run, &step, &called_off).await;
                },
            );
        }
        0
    }

    fn spawn_judgement(
        self: &Arc<Self>,
        run: &Run,
        step: Option<&Step>,
        exit: Option<ondol_workload::Exit>,
    ) -> u64 {
        if let Some(step) = step {
            let (inner, run, step) = (self.clone(), run.clone(), step.clone());
            self.tasks.spawn(Key::Work(step.id), &self.scheduling, move |_| async move {
                if let Err(error) = inner.judge_command(&run, &step, exit).await {
                    tracing::warn!(step.id = %step.id, error = %Problem::from(error).chain(), "cannot record the end of a step");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        0
    }

    fn spawn_stop(self: &Arc<Self>, step: Option<&Step>, kill: bool) -> u64 {
        let Some((step, workload)) = step.and_then(|step| Some((step, step.workload?))) else {
            return 0;
        };
        let (inner, id) = (self.clone(), step.id);
        self.tasks
            .spawn(Key::Stop(id), &self.scheduling, move |_| async move {
                let ended = if kill {
                    inner.deps.engine.kill(&workload).await
                } else {
                    inner
                        .deps
                        .engine
                        .stop(&workload, StopPolicy::default())
                        .await
                };
                if let Err(error) = ended {
                    tracing::warn!(step.id = %id, %error, "cannot stop a step");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        0
    }

    /// Gives a step its place and sets it going.
    async fn claim(self: &Arc<Self>, id: StepId) -> Result<u64, PipelineError> {
        self.reached("pipeline.step.before-claim");
        let claimed = self
            .change(&id, |run, step, now| {
                if step.state != StepState::Pending || run.cancel.is_some() {
                    return Ok(None);
                }
                step.claim(now)?;
                Ok(Some(Vec::new()))
            })
            .await?;
        let Some((run, step)) = claimed else {
            return Ok(0);
        };
        self.reached("pipeline.step.after-claim");
        match step.kind {
            StepKind::Command => Ok(1 + self.spawn_launch(&run, Some(&step))),
            StepKind::Action => Ok(1 + self.take_and_act(&id).await?),
        }
    }

    /// Removes workspaces of finished runs.
    async fn clean_up(self: &Arc<Self>) -> Result<(), PipelineError> {
        let dirty = self
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::dirty_runs(tx, CLEAN_BATCH).await?) })
            })
            .await?;
        for run in dirty {
            let inner = self.clone();
            self.tasks.spawn(Key::Clean(run.id), &self.scheduling, move |_| async move {
                if let Err(error) = inner.remove_workspace(&run).await {
                    tracing::warn!(run.id = %run.id, error = %Problem::from(error).chain(), "cannot remove a workspace");
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            });
        }
        Ok(())
    }
}
