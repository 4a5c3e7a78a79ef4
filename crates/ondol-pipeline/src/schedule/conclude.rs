//! The end of a command step: what its exit means, what its tests reported, and the end of the
//! workspace.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ondol_types::{Digest, ErrorKind, Problem, StepId};
use ondol_workload::Exit;

use super::launch::{blocking, pause, work_dir};
use crate::artifacts::Kept;
use crate::error::PipelineError;
use crate::model::{Conclusion, Run, RunState, Step, StepOutcome, StepState, TestReport};
use crate::plan::{Verdict, built_in, called_off, flaky, judge, only_quarantined};
use crate::workspace::{Caches, cache, remove_tree};
use crate::{Inner, events, junit, store};

/// Files that are this much older than the start of the attempt are still believed: file
/// systems and clocks are not exact.
const FILE_SLACK: Duration = Duration::from_secs(2);

impl Inner {
    pub(super) async fn judge_command(
        &self,
        run: &Run,
        step: &Step,
        exit: Option<Exit>,
    ) -> Result<(), PipelineError> {
        self.end_services(step).await?;
        let (report, kept) = match &exit {
            Some(exit) if !exit.lost => {
                let report = self.read_reports(run, step).await?;
                let kept = self.read_artifacts(run, step, exit, &report).await?;
                (report, kept)
            }
            _ => Default::default(),
        };
        self.reached("pipeline.step.before-finish");
        self.record_end(&step.id, step.attempt, exit.as_ref(), &report, &kept)
            .await?;
        self.reached("pipeline.step.after-finish");
        Ok(())
    }

    async fn read_reports(&self, run: &Run, step: &Step) -> Result<TestReport, PipelineError> {
        let Some(work) = step.definition.as_command() else {
            return Ok(TestReport::default());
        };
        let workspace = self.workspace(&run.id);
        let (reports, folder) = (
            workspace.reports(&step.name),
            work_dir(&workspace, step, work),
        );
        let (name, patterns) = (step.name.to_string(), work.junit.clone());
        let since = step.started_at.map_or(UNIX_EPOCH, |began| {
            UNIX_EPOCH + Duration::from_micros(began.as_micros().max(0) as u64)
        });
        let since: SystemTime = since.checked_sub(FILE_SLACK).unwrap_or(UNIX_EPOCH);
        // Only the test stage is searched in the usual places; other steps name their files.
        let stage = step
            .definition
            .matrix
            .as_ref()
            .map_or(&step.name, |of| &of.group);
        let usual = stage.as_str() == built_in::TEST || !patterns.is_empty();
        blocking(move || {
            let folder = if usual { folder } else { reports.clone() };
            Ok(junit::collect(&name, &reports, &folder, &patterns, since))
        })
        .await
    }

    /// Stores what the step left behind, unless it is about to be tried again.
    async fn read_artifacts(
        &self,
        run: &Run,
        step: &Step,
        exit: &Exit,
        report: &TestReport,
    ) -> Result<Kept, PipelineError> {
        let done = spared(step, Some(exit), report).is_some()
            || matches!(judge(step, Some(exit), None), Verdict::Done(_));
        match (step.definition.as_command(), done) {
            (Some(work), true) => {
                let dir = work_dir(&self.workspace(&run.id), step, work);
                self.keep_artifacts(step, dir).await
            }
            _ => Ok(Kept::default()),
        }
    }

    async fn record_end(
        &self,
        id: &StepId,
        attempt: u32,
        exit: Option<&Exit>,
        report: &TestReport,
        kept: &Kept,
    ) -> Result<(), PipelineError> {
        // From here on until the rows are there the collection leaves the bytes alone.
        let _hold = self.deps.blobs.hold().await;
        let digests: Vec<Digest> = kept
            .artifacts
            .iter()
            .map(|artifact| artifact.digest.clone())
            .collect();
        if self.deps.blobs.touch_many(&digests).await?.contains(&false) {
            // Collected in between, which takes a day; the next look stores them again.
            return Err(PipelineError::Elsewhere(Problem::new(
                ErrorKind::Unavailable,
                "pipeline.artifact.lost",
                "bytes of an artifact are gone before it was recorded",
            )));
        }
        let changed = self
            .deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    let Some(mut step) = store::load_step(tx, id).await? else {
                        return Ok(None);
                    };
                    let Some(mut run) = store::load_run(tx, &step.run).await? else {
                        return Ok(None);
                    };
                    let current = step.state == StepState::Running && step.attempt == attempt;
                    if run.state != RunState::Running || !current {
                        return Ok(None);
                    }
                    let beside = match &step.definition.matrix {
                        Some(_) => store::load_steps(tx, &run.id).await?,
                        None => Vec::new(),
                    };
                    let called_off = called_off(&run, &step, &beside);
                    let now = tx.now();
                    self.compare_tests(tx, &run, &step, report).await?;
                    let verdict = match spared(&step, exit, report) {
                        Some(conclusion) => Verdict::Done(conclusion),
                        None => judge(&step, exit, called_off.as_deref()),
                    };
                    match verdict {
                        Verdict::Again { fault, reason } => {
                            // What this attempt reported is compared with what the next one does.
                            if report.tests > 0 {
                                store::save_report(tx, &run.id, &step.id, report).await?;
                            }
                            let moment = if fault {
                                now.plus(pause(step.faults))
                            } else {
                                now
                            };
                            step.again(moment, fault, reason)?;
                            store::save_step(tx, &step).await?;
                            return Ok(Some(step));
                        }
                        Verdict::Done(mut conclusion) => {
                            if conclusion.outcome == StepOutcome::Failure && report.tests > 0 {
                                let said = conclusion.reason.take().unwrap_or_default();
                                conclusion.reason = Some(format!("{said}; {}", report.describe()));
                            }
                            if let (StepOutcome::Success, Some(excess)) =
                                (conclusion.outcome, &kept.excess)
                            {
                                conclusion.outcome = StepOutcome::Failure;
                                conclusion.reason = Some(excess.clone());
                            }
                            step.finish(conclusion, now)?;
                        }
                    }
                    store::save_step(tx, &step).await?;
                    if !kept.artifacts.is_empty() {
                        store::save_artifacts(tx, &run.id, &step.name, &kept.artifacts).await?;
                    }
                    for note in &kept.notes {
                        run.note(format!("{}: {note}", step.title()));
                    }
                    if !kept.notes.is_empty() {
                        store::save_run(tx, &run).await?;
                    }
                    if !report.is_empty() {
                        store::save_report(tx, &run.id, &step.id, report).await?;
                    } else if step.attempt > 1 {
                        store::drop_report(tx, &step.id).await?;
                    }
                    if report.tests > 0 {
                        tx.append(events::tests_finished(&run, &step, report).into())
                            .await?;
                    }
                    let ended = events::step_finished(&run, &step).with_artifacts(&kept.artifacts);
                    tx.append(ended.into()).await?;
                    Ok(Some(step))
                })
            })
            .await?;
        if let Some(step) = changed {
            if step.state == StepState::Finished {
                self.counters
                    .steps_finished
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            self.changed(step.run);
        }
        Ok(())
    }

    /// Counts tests that failed in this attempt or in an earlier one of the same commit, and not in
    /// both.
    async fn compare_tests(
        &self,
        tx: &mut ondol_store::Tx<'_>,
        run: &Run,
        step: &Step,
        report: &TestReport,
    ) -> Result<(), PipelineError> {
        let (Some(commit), true) = (&run.commit, report.tests > 0) else {
            return Ok(());
        };
        let before = store::earlier_reports(tx, &run.project, commit, &run.id, &step.name).await?;
        // The newest one that tells anything is enough: older ones were compared with it.
        let Some(names) = before.first().map(|before| flaky(report, before)) else {
            return Ok(());
        };
        let stage = step
            .definition
            .matrix
            .as_ref()
            .map_or(&step.name, |of| &of.group);
        for name in names {
            store::count_flaky(tx, &run.project, stage, &name, &run.id).await?;
        }
        Ok(())
    }

    /// Keeps what the next run can use, and removes the rest of a workspace.
    pub(super) async fn remove_workspace(&self, run: &Run) -> Result<(), PipelineError> {
        let id = &run.id;
        let (steps, spec) = self
            .deps
            .store
            .read::<_, PipelineError, _>(|tx| {
                Box::pin(async move {
                    Ok((
                        store::load_steps(tx, id).await?,
                        store::load_spec(tx, id).await?,
                    ))
                })
            })
            .await?;
        let spec =
            spec.and_then(|(spec, _)| serde_json::from_value::<ondol_spec::model::Spec>(spec).ok());
        for step in &steps {
            self.end_services(step).await?;
        }
        let workspace = self.workspace(&run.id);
        let caches = Caches::of(&self.config.cache, &run.project);
        let built = built_well(&steps);
        blocking(move || {
            if let (true, Some(spec)) = (built, spec)
                && let Err(error) = cache::keep(
                    &caches,
                    &workspace.source(),
                    &spec.build.cache,
                    &spec.build.lock,
                )
            {
                tracing::warn!(%error, "cannot keep a folder for the next run");
            }
            remove_tree(workspace.root())
        })
        .await?;
        self.deps
            .store
            .write::<_, PipelineError, _>(|tx| {
                Box::pin(async move { Ok(store::mark_clean(tx, id).await?) })
            })
            .await?;
        self.trim_later(&run.project);
        self.reached("pipeline.run.after-clean");
        Ok(())
    }
}

/// The end of a step of which only tests in quarantine failed.
fn spared(step: &Step, exit: Option<&Exit>, report: &TestReport) -> Option<Conclusion> {
    let work = step.definition.as_command()?;
    let exit = exit.filter(|exit| only_quarantined(&work.quarantine, exit, report))?;
    let names: Vec<&str> = report.cases.iter().map(|case| case.name.as_str()).collect();
    let reason = format!("failures in quarantine do not count: {}", names.join(", "));
    Some(Conclusion {
        exit_code: exit.code,
        ..Conclusion::because(StepOutcome::Success, reason)
    })
}

/// Whether `install` and `build`, as far as there are any, all passed.
fn built_well(steps: &[Step]) -> bool {
    let mut builds = steps.iter().filter(|step| {
        step.definition
            .as_command()
            .is_some_and(|work| work.place == crate::model::Place::Source)
    });
    builds.all(|step| step.outcome == Some(StepOutcome::Success))
}
